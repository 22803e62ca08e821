//! Devices that lie: each lie is told to each driver, which reports it, resets the device, fails what was pending,
//! frees its memory if the reset was confirmed and gives it up if not.

mod card;
mod disk;

use card::Card;
use disk::Disk;
use frontends::block::{Block, Completion, Request, RequestError, Settings as BlockSettings};
use frontends::console::Console;
use frontends::device::{Driver, InterruptSource};
use frontends::fake::{DeviceQueue, FakeTransport, Memory};
use frontends::memory::DmaBuffer;
use frontends::net::{Net, Settings as NetSettings, TransmitChecksum};
use frontends::{InitError, Violation};
use virtio_abi::blk::Features as BlockFeatures;
use virtio_abi::net::Header;
use virtio_abi::{CommonFeatures, DeviceType, Status};

/// A lie on a ring with chains available, and what the driver is to say; `None` if it cannot be told on this ring.
type Lie = fn(&mut DeviceQueue, u16) -> Option<Violation>;

const LIES: [Lie; 6] = [used_id_out_of_range, used_id_never_given, used_twice, over_long, index_ahead, index_behind];

fn used_id_out_of_range(device: &mut DeviceQueue, queue: u16) -> Option<Violation> {
    let (id, size) = (u32::from(device.size()) + 7, device.size());
    device.write_used(device.used_index, id, 0);
    device.set_used_index(device.used_index + 1);
    Some(Violation::UsedIdOutOfRange { queue, id, size })
}

fn used_id_never_given(device: &mut DeviceQueue, queue: u16) -> Option<Violation> {
    let given: Vec<u16> = std::iter::from_fn(|| device.next_chain()).map(|chain| chain.head).collect();
    let id = (0..device.size()).find(|id| !given.contains(id))?;
    device.write_used(device.used_index, id.into(), 0);
    device.set_used_index(device.used_index + 1);
    Some(Violation::UsedIdNotInFlight { queue, id: id.into() })
}

fn used_twice(device: &mut DeviceQueue, queue: u16) -> Option<Violation> {
    let chain = device.next_chain().unwrap();
    // Long enough for a frame, where there is room for one.
    let len = chain.writable().min(60);
    device.write_used(device.used_index, chain.head.into(), len);
    device.write_used(device.used_index + 1, chain.head.into(), len);
    device.set_used_index(device.used_index + 2);
    Some(Violation::UsedIdNotInFlight { queue, id: chain.head.into() })
}

fn over_long(device: &mut DeviceQueue, queue: u16) -> Option<Violation> {
    let chain = device.next_chain().unwrap();
    let (id, writable) = (chain.head.into(), chain.writable());
    let len = chain.segments.iter().map(|segment| segment.len).sum::<u32>() + 1;
    device.complete(&chain, len);
    Some(Violation::UsedLengthTooLong { queue, id, len, writable })
}

fn index_ahead(device: &mut DeviceQueue, queue: u16) -> Option<Violation> {
    let in_flight = std::iter::from_fn(|| device.next_chain()).count() as u16;
    device.set_used_index(device.used_index.wrapping_add(300));
    Some(Violation::UsedIndexJump { queue, advance: 300, in_flight })
}

fn index_behind(device: &mut DeviceQueue, queue: u16) -> Option<Violation> {
    let in_flight = std::iter::from_fn(|| device.next_chain()).count() as u16;
    device.set_used_index(device.used_index.wrapping_sub(1));
    Some(Violation::UsedIndexJump { queue, advance: 0xffff, in_flight })
}

/// A disk whose driver stops at the first failure.
fn disk(features: u64, config: virtio_abi::blk::Config, settings: BlockSettings) -> (Block<FakeTransport>, Disk) {
    let (mut block, disk) = disk::pair(features, config, settings);
    block.set_restart_limit(0);
    (block, disk)
}

/// A card whose driver stops at the first failure.
fn card(features: u64, config: virtio_abi::net::Config, settings: NetSettings) -> (Net<FakeTransport>, Card) {
    let (mut net, card) = card::pair(features, config, settings);
    net.set_restart_limit(0);
    (net, card)
}

/// What a stopped driver is to look like, whatever it was told.
fn assert_stopped(driver: &mut impl Driver, transport: &FakeTransport, reason: Violation) {
    assert_eq!(driver.broken(), Some(reason));
    let notifications = driver.notifications();
    driver.kick();
    driver.disable_interrupts();
    assert!(driver.interrupt(InterruptSource::Shared).is_empty());
    assert_eq!(driver.notifications(), notifications, "a stopped device is left alone");
    assert_eq!(transport.model().resets, 2, "one reset at the start, one after the lie");
    driver.shut_down();
    assert_eq!(driver.broken(), Some(reason), "the first reason stays");
}

fn reads(block: &mut Block<FakeTransport>, memory: &'static Memory, count: u64) {
    for sector in 0..count {
        let buffer = DmaBuffer::allocate(memory, 512).unwrap();
        block.submit(Request::Read { sector, buffer }).unwrap();
    }
    block.kick();
}

#[test]
fn block_survives_each_lie_and_returns_all_buffers() {
    for features in [0, CommonFeatures::INDIRECT_DESC.bits(), CommonFeatures::EVENT_IDX.bits()] {
        for lie in LIES {
            let (mut block, mut disk) = disk(features, disk::config(64), BlockSettings::default());
            reads(&mut block, disk.memory, 5);
            let reason = lie(&mut disk.queue, 0).expect("each lie can be told");
            let completions: Vec<Completion> = std::iter::from_fn(|| block.poll()).collect();
            assert_stopped(&mut block, &disk.transport, reason);
            // A chain that was returned by the rules before the lie ends with the status that nobody wrote.
            assert_eq!(completions.len(), 5);
            for completion in &completions {
                let error = completion.result.unwrap_err();
                assert!(
                    matches!(error, RequestError::Broken(r) if r == reason)
                        || matches!(error, RequestError::BadStatus { .. })
                );
            }
            assert!(completions.iter().all(|completion| completion.buffer.is_some()));
            drop((block, completions));
            assert_eq!(disk.memory.allocated_pages(), 0);
        }
    }
}

#[test]
fn block_gives_up_what_an_unresettable_device_may_still_write() {
    let features = CommonFeatures::INDIRECT_DESC.bits();
    let (mut block, mut disk) = disk(features, disk::config(64), BlockSettings::default());
    reads(&mut block, disk.memory, 5);
    disk.transport.model().ignores_reset = true;
    let reason = over_long(&mut disk.queue, 0).unwrap();
    let completions: Vec<Completion> = std::iter::from_fn(|| block.poll()).collect();
    assert_eq!(completions.len(), 5);
    assert!(completions.iter().all(|c| c.buffer.is_none() && c.result == Err(RequestError::Broken(reason))));
    let leaked = block.leaked_pages();
    drop((block, completions));
    // 5 buffers, the ring, its indirect tables, the slots.
    assert_eq!((disk.memory.allocated_pages(), leaked), (leaked, 5 + 1 + 1 + 1));
}

#[test]
fn a_status_that_was_not_written_fails_the_request_only() {
    let (mut block, mut disk) = disk(0, disk::config(64), BlockSettings::default());
    for status in [None, Some(3), Some(0xff)] {
        reads(&mut block, disk.memory, 1);
        let chain = disk.queue.next_chain().unwrap();
        if let Some(status) = status {
            disk.memory.write(chain.segments.last().unwrap().address, &[status]);
        }
        disk.queue.complete(&chain, 513);
        let status = status.unwrap_or(0xff);
        assert_eq!(block.poll().unwrap().result, Err(RequestError::BadStatus { status }));
    }
    assert_eq!(block.broken(), None);
    reads(&mut block, disk.memory, 1);
    disk.serve();
    assert!(block.poll().unwrap().result.is_ok());
}

#[test]
fn devices_that_count_what_they_read_are_put_up_with() {
    let (mut block, mut disk) = disk(0, disk::config(64), BlockSettings::default());
    let buffer = DmaBuffer::allocate(disk.memory, 512).unwrap();
    block.submit(Request::Write { sector: 0, buffer }).unwrap();
    let chain = disk.queue.next_chain().unwrap();
    disk.execute(&chain);
    disk.queue.complete(&chain, 512);
    assert!(block.poll().unwrap().result.is_ok());
    let settings = NetSettings { transmit_buffers: 1, ..NetSettings::default() };
    let (mut net, mut card) = card(0, card::config(), settings);
    for _ in 0..3 {
        net.transmit(60, TransmitChecksum::Complete, |_| ()).unwrap();
        let chain = card.transmit.next_chain().unwrap();
        card.transmit.complete(&chain, 72);
    }
    assert!(net.can_transmit());
}

#[test]
fn a_read_that_wrote_less_than_asked_for_fails() {
    let (mut block, mut disk) = disk(0, disk::config(64), BlockSettings::default());
    reads(&mut block, disk.memory, 1);
    let chain = disk.queue.next_chain().unwrap();
    chain.write(disk.memory, &[0; 513]);
    disk.queue.complete(&chain, 100);
    assert_eq!(block.poll().unwrap().result, Err(RequestError::Short { wanted: 512, written: 100 }));
}

#[test]
fn a_capacity_that_cannot_be_stops_the_disk() {
    let (mut block, disk) = disk(0, disk::config(64), BlockSettings::default());
    disk.transport.change_config(0, &u64::MAX.to_le_bytes());
    block.interrupt(InterruptSource::Shared);
    assert_stopped(&mut block, &disk.transport, Violation::BadConfig { field: "capacity", value: u64::MAX });
}

#[test]
fn a_configuration_that_never_holds_still_changes_nothing() {
    let (mut block, disk) = disk(0, disk::config(64), BlockSettings::default());
    disk.transport.change_config(0, &99_u64.to_le_bytes());
    disk.transport.model().unstable_config = true;
    block.interrupt(InterruptSource::Shared);
    assert_eq!((block.capacity(), block.broken()), (64, None));
}

#[test]
fn a_device_that_needs_a_reset_is_stopped() {
    let (mut block, disk) = disk(0, disk::config(64), BlockSettings::default());
    reads(&mut block, disk.memory, 1);
    disk.transport.model().status |= Status::DEVICE_NEEDS_RESET;
    disk.transport.change_config(0, &[]);
    block.interrupt(InterruptSource::Shared);
    assert_eq!(block.poll().unwrap().result, Err(RequestError::Broken(Violation::NeedsReset)));
    assert_stopped(&mut block, &disk.transport, Violation::NeedsReset);
}

#[test]
fn net_survives_each_lie_on_each_queue() {
    for queue in [0, 1] {
        // A receive buffer that was used is posted again at once: a second use is as good as a first.
        for lie in LIES.into_iter().filter(|lie| queue == 1 || !std::ptr::fn_addr_eq(*lie, used_twice as Lie)) {
            let (mut net, mut card) = card(0, card::config(), NetSettings::default());
            // Buffers are taken back when there is none left.
            while net.transmit(60, TransmitChecksum::Complete, |_| ()).is_some() {}
            net.kick();
            let first_posted = card.transport.queue(card.memory, 0).next_chain().unwrap().segments[0].address;
            let device = if queue == 0 { &mut card.receive } else { &mut card.transmit };
            let Some(reason) = lie(device, queue) else { continue };
            // Frames are dropped, not recycled: a buffer that is posted again may be used again.
            card.memory.write(first_posted, &[0; 60]);
            while net.receive().is_some() {}
            net.can_transmit();
            assert_stopped(&mut net, &card.transport, reason);
            assert!(!net.can_transmit() && net.receive().is_none() && !net.link_up());
            drop(net);
            assert_eq!(card.memory.allocated_pages(), 0);
        }
    }
}

#[test]
fn net_gives_up_what_an_unresettable_device_may_still_write() {
    let settings = NetSettings { receive_buffers: 8, ..NetSettings::default() };
    let (mut net, mut card) = card(0, card::config(), settings);
    net.transmit(60, TransmitChecksum::Complete, |_| ()).unwrap();
    card.deliver(Header::default(), &[0; 60]);
    let frame = net.receive().unwrap();
    card.transport.model().ignores_reset = true;
    over_long(&mut card.receive, 0);
    assert!(net.receive().is_none());
    net.recycle(frame);
    let leaked = net.leaked_pages();
    drop(net);
    // The memory of 8 receive buffers, a frame that is sent, two rings.
    assert_eq!((card.memory.allocated_pages(), leaked), (leaked, 3 + 1 + 2));
}

fn console(ignores_reset: bool) -> (Console<FakeTransport>, FakeTransport, &'static Memory) {
    let memory = Memory::leaked(32);
    let transport = FakeTransport::new(DeviceType::CONSOLE, 0, 2, &[0; 12]);
    let mut console = Console::new(transport.clone(), memory).unwrap();
    console.set_restart_limit(0);
    transport.model().ignores_reset = ignores_reset;
    (console, transport, memory)
}

#[test]
fn console_survives_each_lie_on_each_queue() {
    for queue in [0, 1] {
        // A buffer of input that was used is posted again at once: a second use is as good as a first.
        for lie in LIES.into_iter().filter(|lie| queue == 1 || !std::ptr::fn_addr_eq(*lie, used_twice as Lie)) {
            let (mut console, transport, memory) = console(false);
            while console.transmit(b"hello") > 0 {}
            console.kick();
            let Some(reason) = lie(&mut transport.queue(memory, queue), queue) else { continue };
            while console.receive(&mut [0; 64]) > 0 {}
            console.transmit(b"hello");
            assert_stopped(&mut console, &transport, reason);
            assert_eq!((console.transmit(b"x"), console.receive(&mut [0; 1])), (0, 0));
            drop(console);
            assert_eq!(memory.allocated_pages(), 0);
        }
    }
}

#[test]
fn console_gives_up_what_an_unresettable_device_may_still_write() {
    let (mut console, transport, memory) = console(true);
    index_ahead(&mut transport.queue(memory, 0), 0);
    assert_eq!(console.receive(&mut [0; 1]), 0);
    let leaked = console.leaked_pages();
    drop(console);
    assert_eq!((memory.allocated_pages(), leaked), (leaked, 4 + 2));
}

fn block_error(transport: FakeTransport) -> (InitError, FakeTransport) {
    let memory = Memory::leaked(64);
    let error = Block::new(transport.clone(), memory, BlockSettings::default()).err().expect("the driver gives up");
    assert_eq!(memory.allocated_pages(), 0, "nothing is left behind");
    assert!(!transport.model().status_writes.contains(&Status::all().intersection(Status::DRIVER_OK)));
    (error, transport)
}

#[test]
fn a_device_that_never_confirms_its_reset_is_refused_after_a_bounded_wait() {
    let transport = disk::transport(0, disk::config(1));
    transport.model().ignores_reset = true;
    transport.model().status = Status::DRIVER_OK;
    assert_eq!(block_error(transport).0, InitError::ResetTimeout { polls: frontends::device::RESET_POLLS });
}

#[test]
fn a_device_that_drops_features_ok_is_marked_failed() {
    let transport = disk::transport(BlockFeatures::FLUSH.bits(), disk::config(1));
    transport.model().refuses_features = true;
    let wanted = BlockFeatures::FLUSH.bits() | CommonFeatures::VERSION_1.bits();
    let (error, transport) = block_error(transport);
    assert_eq!(error, InitError::FeaturesRefused { wanted });
    assert_eq!(transport.model().status, Status::FAILED);
}

#[test]
fn a_legacy_device_is_refused() {
    let transport = disk::transport(0, disk::config(1));
    transport.model().offered = BlockFeatures::FLUSH.bits();
    assert_eq!(block_error(transport).0, InitError::Legacy { offered: BlockFeatures::FLUSH.bits() });
}

#[test]
fn bad_configurations_are_refused_with_the_field() {
    let mut config = disk::config(u64::MAX);
    let error = block_error(disk::transport(0, config)).0;
    assert_eq!(error, InitError::BadConfig { field: "capacity", value: u64::MAX });
    config.capacity = 1;
    config.size_max = 511;
    let error = block_error(disk::transport(BlockFeatures::SIZE_MAX.bits(), config)).0;
    assert_eq!(error, InitError::BadConfig { field: "size_max", value: 511 });
    let short = FakeTransport::new(DeviceType::BLOCK, 0, 1, &[0; 7]);
    assert_eq!(block_error(short).0, InitError::BadConfig { field: "length", value: 7 });
    let unstable = disk::transport(0, disk::config(1));
    unstable.model().unstable_config = true;
    let attempts = frontends::device::CONFIG_ATTEMPTS;
    assert_eq!(block_error(unstable).0, InitError::ConfigUnstable { attempts });
}

#[test]
fn queues_too_small_for_a_request_are_refused() {
    for size in [0, 1, 2, 3] {
        let transport = disk::transport(0, disk::config(1));
        transport.model().queue_sizes = vec![size];
        let kept = if size == 3 { 2 } else { size };
        assert_eq!(block_error(transport).0, InitError::BadQueue { queue: 0, size: kept });
    }
}

#[test]
fn an_absurd_queue_size_is_cut_to_what_the_driver_wants() {
    let transport = disk::transport(0, disk::config(1));
    transport.model().queue_sizes = vec![u32::MAX];
    let _block = Block::new(transport.clone(), Memory::leaked(64), BlockSettings::default()).unwrap();
    assert_eq!(transport.model().layouts[0].unwrap().size, 64);
}

#[test]
fn device_that_insists_on_its_queue_size_gets_rings_of_it_and_no_more_buffers() {
    let transport = disk::transport(0, disk::config(64));
    transport.model().insists_on_queue_size = true;
    let memory = Memory::leaked(128);
    let mut block = Block::new(transport.clone(), memory, BlockSettings::default()).unwrap();
    assert_eq!(transport.model().layouts[0].unwrap().size, 256);
    reads(&mut block, memory, 60);
    let mut queue = transport.queue(memory, 0);
    // Heads beyond the size that was asked for are the driver's as well.
    assert_eq!(std::iter::from_fn(|| queue.next_chain()).count(), 60);

    let transport = FakeTransport::new(DeviceType::CONSOLE, 0, 2, &[0; 12]);
    transport.model().insists_on_queue_size = true;
    let memory = Memory::leaked(64);
    let _console = Console::new(transport.clone(), memory).unwrap();
    let mut queue = transport.queue(memory, 0);
    assert_eq!((std::iter::from_fn(|| queue.next_chain()).count(), queue.size()), (4, 256));
    assert!(memory.allocated_pages() < 32, "a large ring is no reason for many buffers");
}

#[test]
fn the_status_goes_through_its_steps_in_order() {
    let (block, disk) = disk(0, disk::config(1), BlockSettings::default());
    let acknowledged = Status::ACKNOWLEDGE | Status::DRIVER;
    let steps = [
        Status::empty(),
        Status::ACKNOWLEDGE,
        acknowledged,
        acknowledged | Status::FEATURES_OK,
        acknowledged | Status::FEATURES_OK | Status::DRIVER_OK,
    ];
    assert_eq!(disk.transport.model().status_writes, steps);
    drop(block);
    assert_eq!(disk.transport.model().status, Status::empty());
}

/// Brings each driver up with a device that lets go of nothing and fails the set-up late; the pages that each leaks.
fn late_failures(fail: fn(&FakeTransport)) -> [usize; 3] {
    let types = [(DeviceType::BLOCK, 1), (DeviceType::NET, 2), (DeviceType::CONSOLE, 2)];
    types.map(|(device_type, queues)| {
        let (memory, transport) = (Memory::leaked(300), FakeTransport::new(device_type, 0, queues, &[0; 60]));
        transport.model().ignores_reset = true;
        fail(&transport);
        match device_type {
            DeviceType::BLOCK => drop(Block::new(transport.clone(), memory, BlockSettings::default())),
            DeviceType::NET => drop(frontends::Net::new(transport.clone(), memory, NetSettings::default())),
            _ => drop(Console::new(transport.clone(), memory)),
        }
        assert_eq!(transport.model().status, Status::FAILED, "{device_type:?} was refused");
        assert_eq!(memory.allocated_pages(), memory.leaked_pages(), "each page is free or counted");
        memory.leaked_pages()
    })
}

#[test]
fn rings_that_a_failed_device_may_still_write_are_never_freed() {
    // The second queue is missing, or too small for a block request.
    let leaked = late_failures(|transport| {
        let mut model = transport.model();
        if model.queue_sizes.len() == 1 { model.queue_sizes = vec![2] } else { model.queue_sizes[1] = 0 }
    });
    assert_eq!(leaked, [1, 1, 1]);
    let unreset = late_failures(|transport| transport.model().queue_sizes.fill(0));
    assert_eq!(unreset, [0, 0, 0], "nothing was shown");
}

#[test]
fn ring_is_not_freed_where_there_is_no_memory_for_the_rest() {
    // One page for the ring, none for the small fields of its requests.
    let (memory, transport) = (Memory::leaked(1), disk::transport(0, disk::config(1)));
    transport.model().ignores_reset = true;
    let settings = BlockSettings { queue_size: 8, ..BlockSettings::default() };
    let error = Block::new(transport.clone(), memory, settings).err();
    assert_eq!(error, Some(InitError::NoMemory { what: "block requests" }));
    assert_eq!((memory.allocated_pages(), memory.leaked_pages()), (1, 1));
}
