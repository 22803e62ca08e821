//! Devices that do not reach all memory: bounce buffers, and a virtual IOMMU.

mod bounce;
mod card;
mod disk;

use bounce::{Bounce, Work};
use disk::{Disk, config};
use frontends::block::{Block, Output, Rejection, Request, RequestError, Settings};
use frontends::fake::{FakeTransport, Memory};
use frontends::memory::{Direction, DmaBuffer, DmaMapper, DmaPages, PAGE_SIZE, RawPages};
use frontends::net::{Settings as NetSettings, TransmitChecksum};
use frontends::{Console, Driver, Violation};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use virtio_abi::blk::Features;
use virtio_abi::net::Header;
use virtio_abi::{CommonFeatures, DeviceType, Status};

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

fn filled(dma: &'static dyn DmaPages, bytes: &[u8]) -> DmaBuffer {
    let mut buffer = DmaBuffer::allocate(dma, bytes.len()).expect("memory for a buffer");
    buffer.copy_from(0, bytes);
    buffer
}

fn bounced(pages: usize, settings: Settings) -> (Block<FakeTransport>, Disk, &'static Bounce) {
    let dma = Bounce::leaked(pages);
    // Segments of a sector, three in a request: a large request has several parts, all in one mapping.
    let features = Features::SIZE_MAX | Features::SEG_MAX;
    let config = virtio_abi::blk::Config { size_max: 512, seg_max: 3, ..config(64) };
    let (block, disk) = disk::pair_with(dma, dma.arena, features.bits(), config, settings);
    (block, disk, dma)
}

fn translated() -> (Block<FakeTransport>, Disk) {
    let memory = Memory::leaked_with_iommu(32);
    disk::pair_with(memory, memory, 0, config(64), Settings::default())
}

/// Restarts the device, with the request in flight.
fn restart(block: &mut Block<FakeTransport>, disk: &mut Disk) {
    disk.transport.model().status |= Status::DEVICE_NEEDS_RESET;
    disk.transport.change_config(0, &[]);
    block.interrupt(frontends::InterruptSource::Shared);
    disk.queue = disk.transport.queue(disk.memory, 0);
}

#[test]
fn bounced_disk_requests_carry_every_byte_with_one_copy_each_way() {
    let (mut block, mut disk, dma) = bounced(64, Settings::default());
    let arena = dma.arena.allocated_pages();
    for sectors in [1, 3, 7, 16] {
        let (before, bytes) = (dma.work(), pattern(512 * sectors, sectors));
        block.submit(Request::Write { sector: 2, buffer: filled(dma, &bytes) }).unwrap();
        // Parts that find no room in the ring are sent as earlier ones end.
        let done = loop {
            disk.serve();
            if let Some(done) = block.poll() {
                break done;
            }
        };
        assert_eq!(done.result, Ok(Output::Done));
        assert_eq!(disk.data[1024..1024 + bytes.len()], bytes);
        let buffer = done.buffer.unwrap();
        assert_eq!(buffer.to_vec(), bytes, "a write leaves the buffer as it was");
        let expected = Work {
            maps: before.maps + 1,
            unmaps: before.unmaps + 1,
            copies_in: before.copies_in + 1,
            bytes_in: before.bytes_in + bytes.len(),
            ..before
        };
        assert_eq!(dma.work(), expected);

        disk.data[1024..1024 + bytes.len()].reverse();
        block.submit(Request::Read { sector: 2, buffer }).unwrap();
        let done = loop {
            disk.serve();
            if let Some(done) = block.poll() {
                break done;
            }
        };
        assert_eq!(done.buffer.unwrap().to_vec(), disk.data[1024..1024 + bytes.len()]);
        let expected = Work {
            maps: expected.maps + 1,
            unmaps: expected.unmaps + 1,
            copies_out: before.copies_out + 1,
            bytes_out: before.bytes_out + bytes.len(),
            ..expected
        };
        assert_eq!(dma.work(), expected, "a read is copied out once, and nothing in");
        assert_eq!(dma.arena.allocated_pages(), arena, "no bounce buffer is kept");
    }
}

#[test]
fn device_writes_after_the_completion_do_not_reach_the_driver() {
    let (mut block, mut disk, dma) = bounced(64, Settings::default());
    disk.data[..512].copy_from_slice(&pattern(512, 9));
    let buffer = DmaBuffer::allocate(dma, 512).unwrap();
    block.submit(Request::Read { sector: 0, buffer }).unwrap();
    disk.serve();
    let address = disk.chains[0].segments[1].address;
    let done = block.poll().unwrap();
    dma.arena.write(address, &[0xbb; 512]);
    assert_eq!(done.buffer.unwrap().to_vec(), pattern(512, 9));
}

#[test]
fn failed_reads_copy_nothing_and_free_their_bounce_buffer() {
    let (mut block, mut disk, dma) = bounced(64, Settings::default());
    let arena = dma.arena.allocated_pages();
    disk.fail_at = Some(0);
    block.submit(Request::Read { sector: 0, buffer: filled(dma, &[1; 512]) }).unwrap();
    disk.serve();
    let done = block.poll().unwrap();
    assert_eq!(done.result, Err(RequestError::Io));
    assert_eq!(done.buffer.unwrap().to_vec(), [1; 512]);
    assert_eq!(dma.work(), Work { maps: 1, unmaps: 1, ..Work::default() });
    assert_eq!(dma.arena.allocated_pages(), arena);
}

#[test]
fn request_without_a_bounce_buffer_is_rejected_whole_and_can_be_tried_again() {
    let (mut block, mut disk, dma) = bounced(64, Settings::default());
    let mut hoard: Vec<_> = std::iter::from_fn(|| DmaBuffer::allocate_shared(dma, 1)).collect();
    let pending = block.pending();
    let rejected = block.submit(Request::Write { sector: 0, buffer: filled(dma, &[3; 512]) }).unwrap_err();
    assert_eq!(rejected.reason, Rejection::NotMapped);
    assert_eq!((block.pending(), block.broken()), (pending, None));
    hoard.pop();
    block.submit(rejected.request).expect("a page is free again");
    disk.serve();
    assert_eq!(block.poll().unwrap().result, Ok(Output::Done));
    assert_eq!(disk.data[..512], [3; 512]);
}

#[test]
fn restarted_device_gets_the_bytes_of_a_write_again() {
    let (mut block, mut disk, dma) = bounced(64, Settings::default());
    block.submit(Request::Write { sector: 0, buffer: filled(dma, &[4; 512]) }).unwrap();
    block.kick();
    let chain = disk.queue.next_chain().unwrap();
    dma.arena.write(chain.segments[1].address, &[0xee; 512]);
    restart(&mut block, &mut disk);
    disk.serve();
    assert_eq!(block.poll().unwrap().result, Ok(Output::Done));
    assert_eq!(disk.data[..512], [4; 512], "not what the device left in its copy");
    assert_eq!(dma.work(), Work { maps: 1, unmaps: 1, copies_in: 2, bytes_in: 1024, ..Work::default() });
}

#[test]
fn bounce_buffer_of_a_device_that_does_not_confirm_its_reset_stays_its_own() {
    let (mut block, disk, dma) = bounced(64, Settings::default());
    block.submit(Request::Read { sector: 0, buffer: DmaBuffer::allocate(dma, 512).unwrap() }).unwrap();
    block.kick();
    disk.transport.model().ignores_reset = true;
    block.stop(Violation::NeedsReset);
    assert!(block.poll().unwrap().buffer.is_none());
    assert_eq!(dma.work(), Work { maps: 1, ..Work::default() }, "never unmapped");
}

#[test]
fn confirmed_stop_unmaps_requests_in_flight() {
    let (mut block, _disk, dma) = bounced(64, Settings::default());
    block.submit(Request::Write { sector: 0, buffer: filled(dma, &[5; 512]) }).unwrap();
    block.stop(Violation::ShutDown);
    assert_eq!(block.poll().unwrap().buffer.unwrap().to_vec(), [5; 512]);
    assert_eq!((dma.work().maps, dma.work().unmaps), (1, 1));
}

#[test]
fn frames_and_console_bytes_need_no_bounce_buffer() {
    let dma = Bounce::leaked(180);
    let (mut net, mut card) = card::pair_with(dma, dma.arena, 0, card::config(), NetSettings::default());
    for len in [60, 777, 1400] {
        let frame = pattern(len, len);
        card.deliver(Header { num_buffers: 1, ..Header::default() }, &frame);
        assert_eq!(net.receive().unwrap().bytes(), frame);
        net.transmit(len, TransmitChecksum::Complete, |bytes| bytes.copy_from_slice(&frame)).unwrap();
        assert_eq!(card.take_sent().pop().unwrap().1, frame);
    }
    let transport = FakeTransport::new(DeviceType::CONSOLE, 0, 2, &[0; 12]);
    let mut console = Console::new(transport.clone(), dma).unwrap();
    assert_eq!(console.transmit(b"out"), 3);
    let (mut input, mut output) = (transport.queue(dma.arena, 0), transport.queue(dma.arena, 1));
    assert_eq!(output.next_chain().unwrap().read(dma.arena), b"out");
    let chain = input.next_chain().unwrap();
    let len = chain.write(dma.arena, b"in");
    input.complete(&chain, len);
    let mut bytes = [0; 8];
    assert_eq!(console.receive(&mut bytes), 2);
    assert_eq!(dma.work(), Work::default(), "the drivers' own copy is the only one");
}

/// Memory that devices reach as it is; counts how often it is asked for a mapper.
struct Identity {
    memory: &'static Memory,
    asked: AtomicUsize,
}

// SAFETY: `Memory` keeps the contract.
unsafe impl DmaPages for Identity {
    fn allocate(&self, count: usize) -> Option<RawPages> {
        self.memory.allocate(count)
    }

    unsafe fn free(&self, pages: RawPages) {
        // SAFETY: from `allocate`, per the contract.
        unsafe { self.memory.free(pages) }
    }

    fn mapper(&self) -> Option<&dyn DmaMapper> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[test]
fn identity_mapped_requests_cost_no_call() {
    let memory = Memory::leaked(32);
    let dma: &'static Identity = Box::leak(Box::new(Identity { memory, asked: AtomicUsize::new(0) }));
    let (mut block, mut disk) = disk::pair_with(dma, memory, 0, config(64), Settings::default());
    let mut buffer = filled(dma, &[1; 512]);
    assert_eq!(dma.asked.load(Ordering::Relaxed), 1, "once for each buffer of a caller");
    for sector in 0..10 {
        block.submit(Request::Write { sector, buffer }).unwrap();
        disk.serve();
        buffer = block.poll().unwrap().buffer.unwrap();
    }
    drop((buffer, block));
    assert_eq!(dma.asked.load(Ordering::Relaxed), 1);
    assert_eq!(memory.allocated_pages(), 0);
}

#[test]
fn requests_behind_an_iommu_are_reachable_until_they_complete() {
    let (mut block, mut disk) = translated();
    for sector in 0..8 {
        let bytes = pattern(1024, sector as usize);
        block.submit(Request::Write { sector, buffer: filled(disk.memory, &bytes) }).unwrap();
        assert_eq!(disk.memory.mappings(), 1);
        disk.serve();
        let buffer = block.poll().unwrap().buffer.unwrap();
        assert_eq!(disk.memory.mappings(), 0);
        block.submit(Request::Read { sector, buffer }).unwrap();
        disk.serve();
        assert_eq!(block.poll().unwrap().buffer.unwrap().to_vec(), bytes);
        assert_eq!(disk.memory.mappings(), 0);
    }
}

#[test]
fn device_behind_an_iommu_faults_outside_its_mappings() {
    let (mut block, mut disk) = translated();
    let memory = disk.memory;
    let faults = |access: &dyn Fn()| {
        let outcome = catch_unwind(AssertUnwindSafe(access));
        outcome.is_err_and(|panic| panic.downcast_ref::<String>().is_some_and(|text| text.starts_with("device fault")))
    };
    let unmapped = filled(memory, &[8; 512]);
    assert_eq!(unmapped.device_address(), 0, "a buffer that is not mapped has no address");

    block.submit(Request::Read { sector: 0, buffer: DmaBuffer::allocate(memory, 512).unwrap() }).unwrap();
    block.kick();
    let chain = disk.queue.next_chain().unwrap();
    let address = chain.segments[1].address;
    memory.write(address, &[1; 512]);
    assert!(faults(&|| memory.write(address + 1, &[1; 512])), "past the end of the mapping");
    assert!(faults(&|| drop(memory.read(address, 1))), "reads what it may only write");
    let len = disk.execute(&chain);
    disk.queue.complete(&chain, len);
    drop(block.poll().unwrap());
    assert!(faults(&|| memory.write(address, &[1])), "after the completion");

    block.submit(Request::Write { sector: 0, buffer: unmapped }).unwrap();
    block.kick();
    let chain = disk.queue.next_chain().unwrap();
    assert_ne!(chain.segments[1].address, address);
    assert!(faults(&|| memory.write(chain.segments[1].address, &[1])), "writes what it may only read");
}

#[test]
fn dropping_a_mapped_buffer_unmaps_it_first() {
    let memory = Memory::leaked_with_iommu(4);
    let mut buffer = DmaBuffer::allocate(memory, PAGE_SIZE + 1).unwrap();
    let first = buffer.map(Direction::Both).unwrap();
    let second = buffer.map(Direction::ToDevice).unwrap();
    assert_ne!(first, second);
    assert_eq!((memory.mappings(), buffer.device_address()), (1, second), "the first mapping has ended");
    drop(buffer);
    assert_eq!((memory.mappings(), memory.allocated_pages()), (0, 0));
}

#[test]
#[should_panic(expected = "range beyond the mapping")]
fn sync_beyond_the_mapping_panics() {
    let dma = Bounce::leaked(4);
    let mut buffer = DmaBuffer::allocate(dma, 100).unwrap();
    buffer.map(Direction::ToDevice).unwrap();
    buffer.set_len(200);
    buffer.sync_for_device(0..200);
}

#[test]
fn rings_work_behind_an_iommu_with_indirect_descriptors() {
    let memory = Memory::leaked_with_iommu(64);
    let ring = (CommonFeatures::INDIRECT_DESC | CommonFeatures::EVENT_IDX).bits();
    let (mut block, mut disk) = disk::pair_with(memory, memory, ring, config(64), Settings::default());
    block.submit(Request::Id).unwrap();
    disk.serve();
    assert!(matches!(block.poll().unwrap().result, Ok(Output::Id(_))));
    assert!(disk.chains[0].indirect);
    drop(block);
    assert_eq!(memory.allocated_pages(), 0);
}
