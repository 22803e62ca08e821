//! The block driver against a disk that plays by the rules.

mod disk;

use disk::{Disk, PAGES, config, request_types};
use frontends::block::{Block, Output, Rejection, Request, RequestError, Settings, Unmap};
use frontends::device::{Driver, InterruptSource};
use frontends::memory::DmaBuffer;
use frontends::{Violation, fake::FakeTransport};
use virtio_abi::CommonFeatures;
use virtio_abi::blk::Features;

const RING: u64 = CommonFeatures::EVENT_IDX.bits() | CommonFeatures::INDIRECT_DESC.bits();

fn all(features: Features) -> u64 {
    features.bits() | RING
}

fn buffer(disk: &Disk, fill: u8, len: usize) -> DmaBuffer {
    let mut buffer = DmaBuffer::allocate(disk.memory, len).unwrap();
    buffer.fill(fill);
    buffer
}

/// Submits, lets the disk work until nothing is left, and returns the one completion.
fn run(
    block: &mut Block<FakeTransport>,
    disk: &mut Disk,
    request: Request,
) -> Result<(Output, Option<DmaBuffer>), RequestError> {
    let token = block.submit(request).expect("the request is taken");
    block.kick();
    for _ in 0..1000 {
        disk.serve();
        if let Some(completion) = block.poll() {
            assert_eq!((completion.token, block.pending()), (token, 0));
            return completion.result.map(|output| (output, completion.buffer));
        }
    }
    panic!("the request never ended");
}

#[test]
fn what_is_written_is_read_back() {
    for features in [0, RING, RING | Features::SEG_MAX.bits()] {
        let (mut block, mut disk) = disk::pair(features, config(64), Settings::default());
        let data = buffer(&disk, 0x5a, 1024);
        let (_, data) = run(&mut block, &mut disk, Request::Write { sector: 3, buffer: data }).unwrap();
        assert_eq!(disk.data[3 * 512..5 * 512], [0x5a; 1024]);
        let mut data = data.expect("the buffer comes back");
        data.fill(0);
        let (_, data) = run(&mut block, &mut disk, Request::Read { sector: 3, buffer: data }).unwrap();
        assert_eq!(data.unwrap().to_vec(), [0x5a; 1024]);
    }
}

#[test]
fn a_request_above_the_segment_limits_is_split_and_completes_once() {
    let features = all(Features::SIZE_MAX | Features::SEG_MAX);
    let limits = |config: &mut virtio_abi::blk::Config| {
        config.size_max = 1024;
        config.seg_max = 2;
    };
    let mut settings = config(256);
    limits(&mut settings);
    let (mut block, mut disk) =
        disk::pair(features, settings, Settings { queue_size: 4, segments: 30, ..Default::default() });
    let len = 4096 * 5 + 512;
    let mut data = buffer(&disk, 0, len);
    (0..len / 512).for_each(|index| data.copy_from(index * 512, &[index as u8; 512]));
    let expected = data.to_vec();
    let (_, data) = run(&mut block, &mut disk, Request::Write { sector: 7, buffer: data }).unwrap();
    assert_eq!(disk.data[7 * 512..][..len], expected);
    // 2 segments of 1024 bytes: 2048 bytes a part.
    assert_eq!(disk.chains.len(), len.div_ceil(2048));
    assert!(disk.chains.iter().all(|chain| chain.segments.len() <= 4 && chain.segments.iter().all(|s| s.len <= 1024)));

    let mut data = data.unwrap();
    data.fill(0);
    let (_, data) = run(&mut block, &mut disk, Request::Read { sector: 7, buffer: data }).unwrap();
    assert_eq!(data.unwrap().to_vec(), expected);
}

#[test]
fn parts_that_waited_for_room_are_notified_when_they_are_sent() {
    let features = all(Features::SIZE_MAX | Features::SEG_MAX);
    let settings = virtio_abi::blk::Config { size_max: 512, seg_max: 1, ..config(256) };
    let (mut block, mut disk) =
        disk::pair(features, settings, Settings { queue_size: 4, segments: 1, ..Default::default() });
    let data = buffer(&disk, 0, 512 * 20);
    block.submit(Request::Read { sector: 0, buffer: data }).unwrap();
    block.kick();
    let mut heard = 0;
    let completion = loop {
        let notified = disk.transport.model().notified[0];
        assert_ne!(notified, heard, "a disk that sleeps until it is notified never wakes again");
        heard = notified;
        disk.serve();
        if let Some(completion) = block.poll() {
            break completion;
        }
    };
    assert_eq!((completion.result, disk.chains.len()), (Ok(Output::Done), 20));
}

#[test]
fn a_failing_part_fails_the_whole_request_once() {
    let mut settings = config(256);
    settings.size_max = 512;
    let features = all(Features::SIZE_MAX | Features::SEG_MAX);
    settings.seg_max = 1;
    let (mut block, mut disk) =
        disk::pair(features, settings, Settings { queue_size: 4, segments: 1, ..Default::default() });
    disk.fail_at = Some(2);
    let data = buffer(&disk, 1, 4096);
    let error = run(&mut block, &mut disk, Request::Write { sector: 0, buffer: data });
    assert_eq!(error.err(), Some(RequestError::Io));
    assert!(block.poll().is_none());
    assert!(disk.chains.len() < 8, "parts after the failure are not sent");
    let data = buffer(&disk, 1, 512);
    assert!(run(&mut block, &mut disk, Request::Write { sector: 0, buffer: data }).is_ok());
}

#[test]
fn flush_discard_write_zeroes_and_id_reach_the_disk() {
    let mut settings = config(4096);
    settings.max_discard_sectors = 100;
    settings.discard_sector_alignment = 8;
    settings.max_write_zeroes_sectors = 64;
    settings.write_zeroes_may_unmap = 1;
    let features = all(Features::FLUSH | Features::DISCARD | Features::WRITE_ZEROES);
    let (mut block, mut disk) = disk::pair(features, settings, Settings::default());
    disk.data.fill(0xee);

    run(&mut block, &mut disk, Request::Flush).unwrap();
    assert_eq!(request_types(&disk), [4]);
    run(&mut block, &mut disk, Request::WriteZeroes { sector: 10, sectors: 130, unmap: Unmap::Allow }).unwrap();
    assert_eq!(disk.ranges, [(10, 64, 1), (74, 64, 1), (138, 2, 1)]);
    assert!(disk.data[10 * 512..140 * 512].iter().all(|byte| *byte == 0));
    disk.ranges.clear();
    run(&mut block, &mut disk, Request::Discard { sector: 1, sectors: 200 }).unwrap();
    assert_eq!(disk.ranges, [(1, 95, 0), (96, 96, 0), (192, 9, 0)]);
    let (id, _) = run(&mut block, &mut disk, Request::Id).unwrap();
    assert_eq!(id, Output::Id(*b"fake-disk\0\0\0\0\0\0\0\0\0\0\0"));
}

#[test]
fn a_flush_without_a_cache_completes_without_the_device() {
    let (mut block, mut disk) = disk::pair(RING, config(8), Settings::default());
    run(&mut block, &mut disk, Request::Flush).unwrap();
    assert!(disk.chains.is_empty());
    assert_eq!(block.notifications(), 0);
}

#[test]
fn requests_that_cannot_be_right_come_back_with_their_buffer() {
    let (mut block, disk) = disk::pair(RING, config(8), Settings::default());
    for (sector, len) in [(8, 512), (7, 1024), (u64::MAX, 512), (u64::MAX / 512, 512)] {
        let rejected = block.submit(Request::Read { sector, buffer: buffer(&disk, 0, len) }).unwrap_err();
        let sectors = len as u64 / 512;
        assert_eq!(rejected.reason, Rejection::OutOfRange { sector, sectors, capacity: 8 });
        assert_eq!(rejected.request.into_buffer().map(|buffer| buffer.len()), Some(len));
    }
    for len in [0, 1, 513] {
        let rejected = block.submit(Request::Write { sector: 0, buffer: buffer(&disk, 0, len) }).unwrap_err();
        assert_eq!(rejected.reason, Rejection::BadLength { len });
    }
    let rejected = block.submit(Request::Discard { sector: 0, sectors: 1 }).unwrap_err();
    assert_eq!(rejected.reason, Rejection::Unsupported);
    let rejected = block.submit(Request::WriteZeroes { sector: 0, sectors: 1, unmap: Unmap::Keep }).unwrap_err();
    assert_eq!(rejected.reason, Rejection::Unsupported);
    assert_eq!(block.pending(), 0);
}

#[test]
fn a_read_only_disk_takes_reads_only() {
    let features = all(Features::RO | Features::DISCARD | Features::FLUSH);
    let (mut block, mut disk) = disk::pair(features, config(8), Settings::default());
    assert!(block.read_only());
    let rejected = block.submit(Request::Write { sector: 0, buffer: buffer(&disk, 0, 512) }).unwrap_err();
    assert_eq!(rejected.reason, Rejection::ReadOnly);
    let rejected = block.submit(Request::Discard { sector: 0, sectors: 1 }).unwrap_err();
    assert_eq!(rejected.reason, Rejection::ReadOnly);
    let data = buffer(&disk, 0, 512);
    run(&mut block, &mut disk, Request::Read { sector: 0, buffer: data }).unwrap();
    run(&mut block, &mut disk, Request::Flush).unwrap();
}

#[test]
fn a_batch_is_notified_once_and_completes_in_the_devices_order() {
    let (mut block, mut disk) = disk::pair(RING, config(64), Settings::default());
    disk.queue.ask_for_notification();
    let tokens: Vec<_> =
        (0..8).map(|sector| block.submit(Request::Read { sector, buffer: buffer(&disk, 0, 512) }).unwrap()).collect();
    block.kick();
    block.kick();
    assert_eq!(block.notifications(), 1);
    disk.newest_first = true;
    disk.serve();
    let ended: Vec<_> = std::iter::from_fn(|| block.poll()).map(|completion| completion.token).collect();
    assert_eq!(ended, tokens.into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn requests_beyond_the_ring_are_refused_until_completions_are_taken() {
    let (mut block, mut disk) =
        disk::pair(RING, config(64), Settings { queue_size: 4, segments: 1, ..Default::default() });
    for _ in 0..4 {
        block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0, 512) }).unwrap();
    }
    let rejected = block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0, 512) }).unwrap_err();
    assert_eq!(rejected.reason, Rejection::Full);
    disk.serve();
    assert!(block.poll().is_some());
    assert!(block.submit(rejected.request).is_ok());
}

#[test]
fn requests_allocate_no_dma_memory() {
    let (mut block, mut disk) = disk::pair(RING, config(64), Settings::default());
    let mut data = buffer(&disk, 0, 4096);
    let before = disk.memory.allocations();
    for _ in 0..1000 {
        let (_, returned) = run(&mut block, &mut disk, Request::Read { sector: 8, buffer: data }).unwrap();
        data = returned.unwrap();
    }
    assert_eq!(disk.memory.allocations(), before);
}

#[test]
fn the_capacity_follows_the_device() {
    let (mut block, mut disk) = disk::pair(RING, config(8), Settings::default());
    let data = buffer(&disk, 0, 512);
    let rejected = block.submit(Request::Read { sector: 8, buffer: data }).unwrap_err();
    disk.data.resize(16 * 512, 7);
    disk.transport.change_config(0, &16_u64.to_le_bytes());
    block.interrupt(InterruptSource::Shared);
    assert_eq!(block.capacity(), 16);
    let (_, data) = run(&mut block, &mut disk, rejected.request).unwrap();
    assert_eq!(data.unwrap().to_vec(), [7; 512]);
}

#[test]
fn interrupts_are_asked_for_only_when_enabled_and_nothing_is_missed() {
    let (mut block, mut disk) = disk::pair(RING, config(8), Settings::default());
    block.disable_interrupts();
    block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0, 512) }).unwrap();
    disk.serve();
    assert!(!disk.queue.interrupt_wanted());
    assert!(block.enable_interrupts(), "a completion waits");
    assert!(block.poll().is_some());
    assert!(!block.enable_interrupts());
    block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0, 512) }).unwrap();
    disk.serve();
    assert!(disk.queue.interrupt_wanted());
}

#[test]
fn dropping_the_driver_resets_the_device_and_gives_all_memory_back() {
    let (mut block, disk) = disk::pair(RING, config(8), Settings::default());
    block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0, 512) }).unwrap();
    block.kick();
    drop(block);
    assert_eq!(disk.memory.allocated_pages(), 0);
    assert_eq!(disk.transport.model().resets, 2);
}

#[test]
fn shutting_down_returns_the_buffers_of_pending_requests() {
    let (mut block, disk) = disk::pair(RING, config(8), Settings::default());
    block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0, 512) }).unwrap();
    block.shut_down();
    let completion = block.poll().unwrap();
    assert_eq!(completion.result, Err(RequestError::Broken(Violation::ShutDown)));
    assert!(completion.buffer.is_some());
    assert!(block.poll().is_none());
    let rejected = block.submit(Request::Flush).unwrap_err();
    assert_eq!(rejected.reason, Rejection::Broken(Violation::ShutDown));
    assert!(PAGES > disk.memory.allocated_pages());
}

/// A disk of 4 KiB blocks that takes nothing else.
fn large_blocks() -> (Block<FakeTransport>, Disk) {
    let config = virtio_abi::blk::Config {
        blk_size: 4096,
        size_max: 6 * 512,
        seg_max: 4,
        max_discard_sectors: 21,
        max_write_zeroes_sectors: 9,
        ..config(64 + 7)
    };
    let features =
        Features::BLK_SIZE | Features::SIZE_MAX | Features::SEG_MAX | Features::DISCARD | Features::WRITE_ZEROES;
    disk::pair(all(features), config, Settings::default())
}

#[test]
fn ranges_that_are_no_whole_blocks_are_refused() {
    let (mut block, disk) = large_blocks();
    assert_eq!((block.block_size(), block.capacity()), (4096, 64), "the last sectors are no whole block");
    for (sector, sectors) in [(1, 8), (0, 1), (4, 8), (8, 12)] {
        let misaligned = Rejection::Misaligned { sector, sectors, block_size: 4096 };
        let buffer = || buffer(&disk, 0, sectors as usize * 512);
        let requests = [
            Request::Read { sector, buffer: buffer() },
            Request::Write { sector, buffer: buffer() },
            Request::Discard { sector, sectors },
            Request::WriteZeroes { sector, sectors, unmap: Unmap::Keep },
        ];
        for request in requests {
            assert_eq!(block.submit(request).unwrap_err().reason, misaligned);
        }
    }
    let request = Request::Read { sector: 64, buffer: buffer(&disk, 0, 4096) };
    assert!(matches!(block.submit(request).unwrap_err().reason, Rejection::OutOfRange { capacity: 64, .. }));
}

#[test]
fn requests_are_cut_between_blocks() {
    let (mut block, mut disk) = large_blocks();
    let data = buffer(&disk, 0x5a, 5 * 4096);
    run(&mut block, &mut disk, Request::Write { sector: 8, buffer: data }).unwrap();
    run(&mut block, &mut disk, Request::Discard { sector: 0, sectors: 40 }).unwrap();
    run(&mut block, &mut disk, Request::WriteZeroes { sector: 16, sectors: 24, unmap: Unmap::Keep }).unwrap();
    assert_eq!(disk.ranges, [(0, 16, 0), (16, 16, 0), (32, 8, 0), (16, 8, 0), (24, 8, 0), (32, 8, 0)]);
    for chain in &disk.chains[..2] {
        let data: u32 = chain.segments[1..chain.segments.len() - 1].iter().map(|segment| segment.len).sum();
        assert_eq!(data % 4096, 0, "a part is whole blocks");
    }
}

#[test]
fn blocks_that_no_request_can_hold_are_an_error() {
    let config = virtio_abi::blk::Config { blk_size: 4096, size_max: 512, seg_max: 4, ..config(64) };
    let transport = disk::transport(all(Features::BLK_SIZE | Features::SIZE_MAX | Features::SEG_MAX), config);
    let error = Block::new(transport, frontends::fake::Memory::leaked(64), Settings::default()).err();
    assert_eq!(error, Some(frontends::InitError::BadConfig { field: "blk_size", value: 4096 }));
}

#[test]
fn whole_blocks_lie_around_a_range() {
    use frontends::block::whole_blocks;
    assert_eq!(whole_blocks(3, 7, 512), Some((3, 7)));
    assert_eq!(whole_blocks(3, 4, 4096), Some((0, 8)));
    assert_eq!(whole_blocks(7, 2, 4096), Some((0, 16)));
    assert_eq!(whole_blocks(16, 8, 4096), Some((16, 8)));
    assert_eq!(whole_blocks(u64::MAX - 3, 2, 4096), None);
}
