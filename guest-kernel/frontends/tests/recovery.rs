//! Devices that fail and are restarted: what they had is done again where that is safe, and a device that fails too often
//! is given up.

mod card;
mod disk;

use card::Card;
use disk::{Disk, config};
use frontends::block::{Block, Output, Request, RequestError, Requests, Settings};
use frontends::console::Console;
use frontends::device::{Driver, InterruptSource, RESTARTS};
use frontends::entropy::Entropy;
use frontends::fake::{FakeTransport, Memory};
use frontends::net::{Settings as NetSettings, TransmitChecksum};
use frontends::{DmaBuffer, Violation};
use std::task::{Poll, Waker};
use virtio_abi::blk::Features;
use virtio_abi::net::Header;
use virtio_abi::{CommonFeatures, DeviceType, Status};

const RING: u64 = CommonFeatures::EVENT_IDX.bits() | CommonFeatures::INDIRECT_DESC.bits();
const WORKING: Status = Status::ACKNOWLEDGE.union(Status::DRIVER).union(Status::FEATURES_OK).union(Status::DRIVER_OK);
const SECOND: u64 = 1_000_000_000;

fn settings() -> Settings {
    Settings { patience: 5 * SECOND, ..Settings::default() }
}

fn pair() -> (Block<FakeTransport>, Disk) {
    let features = RING | Features::FLUSH.bits() | Features::DISCARD.bits();
    let (block, mut disk) = disk::pair(features, config(64), settings());
    for (index, sector) in disk.data.chunks_mut(512).enumerate() {
        sector.fill(index as u8);
    }
    (block, disk)
}

fn buffer(disk: &Disk, fill: u8) -> DmaBuffer {
    let mut buffer = DmaBuffer::allocate(disk.memory, 512).unwrap();
    buffer.fill(fill);
    buffer
}

/// The device asks for a reset and interrupts.
fn ask_for_reset(transport: &FakeTransport, driver: &mut impl Driver) {
    transport.model().status |= Status::DEVICE_NEEDS_RESET;
    transport.change_config(0, &[]);
    driver.interrupt(InterruptSource::Shared);
}

/// The device's side of a disk's queue, as it was set up last.
fn reconnect(disk: &mut Disk) {
    disk.queue = disk.transport.queue(disk.memory, 0);
}

#[test]
fn requests_of_a_device_that_asks_for_a_reset_are_done_again_in_order() {
    let (mut block, mut disk) = pair();
    let requests = [
        Request::Read { sector: 3, buffer: buffer(&disk, 0) },
        Request::Write { sector: 4, buffer: buffer(&disk, 0xaa) },
        Request::Flush,
        Request::Discard { sector: 8, sectors: 2 },
        Request::Id,
    ];
    let tokens = requests.map(|request| block.submit(request).unwrap());
    block.kick();
    // It has taken some, and done one of them in part.
    let chain = disk.queue.next_chain().unwrap();
    disk.memory.write(chain.segments[1].address, &[0x77; 100]);
    let accepted = disk.transport.model().accepted;
    ask_for_reset(&disk.transport, &mut block);

    assert_eq!((block.broken(), block.restarts(), disk.transport.model().resets), (None, 1, 2));
    assert_eq!(disk.transport.model().status, WORKING);
    assert_eq!(disk.transport.model().accepted, accepted);
    reconnect(&mut disk);
    disk.serve();
    assert_eq!(disk::request_types(&disk), [0, 1, 4, 11, 8]);
    let ended: Vec<_> = std::iter::from_fn(|| block.poll()).collect();
    assert_eq!(ended.iter().map(|completion| completion.token).collect::<Vec<_>>(), tokens);
    assert!(ended.iter().all(|completion| completion.result.is_ok()));
    assert_eq!(ended[0].buffer.as_ref().unwrap().to_vec(), [3; 512]);
    assert_eq!(disk.data[4 * 512..5 * 512], [0xaa; 512]);
    drop((block, ended));
    assert_eq!(disk.memory.allocated_pages(), 0);
}

#[test]
fn device_that_breaks_a_rule_is_restarted() {
    let (mut block, mut disk) = pair();
    block.submit(Request::Read { sector: 5, buffer: buffer(&disk, 0) }).unwrap();
    block.kick();
    disk.queue.set_used_index(300);
    assert!(block.poll().is_none());
    assert_eq!((block.broken(), block.restarts()), (None, 1));
    reconnect(&mut disk);
    disk.serve();
    let completion = block.poll().unwrap();
    assert_eq!((completion.result, completion.buffer.unwrap().to_vec()[0]), (Ok(Output::Done), 5));
}

#[test]
fn request_in_parts_is_done_again_from_the_start() {
    let limits = virtio_abi::blk::Config { size_max: 512, seg_max: 1, ..config(256) };
    let features = RING | Features::SIZE_MAX.bits() | Features::SEG_MAX.bits();
    let (mut block, mut disk) = disk::pair(features, limits, Settings { queue_size: 4, segments: 1, patience: 0 });
    let data = DmaBuffer::allocate(disk.memory, 512 * 9).unwrap();
    block.submit(Request::Read { sector: 0, buffer: data }).unwrap();
    block.kick();
    disk.serve();
    assert!(block.poll().is_none());
    ask_for_reset(&disk.transport, &mut block);
    reconnect(&mut disk);
    disk.chains.clear();
    let completion = loop {
        disk.serve();
        if let Some(completion) = block.poll() {
            break completion;
        }
    };
    assert_eq!((completion.result, disk.chains.len()), (Ok(Output::Done), 9));
}

#[test]
fn request_that_meets_a_second_failure_fails_and_the_others_go_on() {
    let (mut block, mut disk) = pair();
    let first = block.submit(Request::Write { sector: 1, buffer: buffer(&disk, 1) }).unwrap();
    block.kick();
    ask_for_reset(&disk.transport, &mut block);
    let second = block.submit(Request::Write { sector: 2, buffer: buffer(&disk, 2) }).unwrap();
    block.kick();
    ask_for_reset(&disk.transport, &mut block);
    let completion = block.poll().unwrap();
    assert_eq!((completion.token, completion.result), (first, Err(RequestError::GivenUp(Violation::NeedsReset))));
    assert!(completion.buffer.is_some());
    reconnect(&mut disk);
    disk.serve();
    let completion = block.poll().unwrap();
    assert_eq!((completion.token, completion.result), (second, Ok(Output::Done)));
    assert_eq!((disk.data[512], disk.data[1024]), (1, 2));
}

#[test]
fn device_that_fails_too_often_is_given_up_for_good() {
    let (mut block, disk) = pair();
    for restart in 0..RESTARTS {
        assert_eq!(block.restarts(), restart);
        ask_for_reset(&disk.transport, &mut block);
    }
    block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0) }).unwrap();
    assert_eq!(block.broken(), None);
    ask_for_reset(&disk.transport, &mut block);
    assert_eq!((block.broken(), block.restarts()), (Some(Violation::NeedsReset), RESTARTS));
    assert_eq!(block.poll().unwrap().result, Err(RequestError::Broken(Violation::NeedsReset)));
    assert_eq!(disk.transport.model().status, Status::empty());
}

#[test]
fn device_that_does_not_confirm_the_reset_is_stopped_and_keeps_its_memory() {
    let (mut block, disk) = pair();
    block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0) }).unwrap();
    disk.transport.model().ignores_reset = true;
    ask_for_reset(&disk.transport, &mut block);
    let completion = block.poll().unwrap();
    assert!(completion.buffer.is_none() && block.broken().is_some());
    let leaked = block.leaked_pages();
    drop(block);
    assert_eq!((disk.memory.allocated_pages(), disk.memory.leaked_pages()), (leaked, leaked));
}

#[test]
fn device_that_comes_back_as_another_is_stopped() {
    let without_flush = |transport: &FakeTransport| transport.model().offered &= !Features::FLUSH.bits();
    let refusing = |transport: &FakeTransport| transport.model().refuses_features = true;
    let smaller_queue = |transport: &FakeTransport| transport.model().queue_sizes = vec![2];
    let without_end = |transport: &FakeTransport| transport.model().config[..8].fill(0xff);
    for change in [without_flush, refusing, smaller_queue, without_end] {
        let (mut block, disk) = pair();
        block.submit(Request::Read { sector: 0, buffer: buffer(&disk, 0) }).unwrap();
        change(&disk.transport);
        ask_for_reset(&disk.transport, &mut block);
        assert_eq!(block.broken(), Some(Violation::NeedsReset));
        let completion = block.poll().unwrap();
        assert_eq!(completion.result, Err(RequestError::Broken(Violation::NeedsReset)));
        drop((block, completion));
        assert_eq!(disk.memory.allocated_pages(), 0);
    }
}

#[test]
fn device_that_has_a_request_for_too_long_is_restarted_and_the_request_done_again() {
    let (block, mut disk) = pair();
    let mut requests = Requests::new(block);
    assert_eq!(requests.service([], 90 * SECOND), None, "nothing is pending");
    let token = requests.start(Request::Read { sector: 7, buffer: buffer(&disk, 0) }).unwrap();
    assert_eq!(requests.service([], 100 * SECOND), Some(105 * SECOND));
    assert_eq!(requests.service([], 104 * SECOND), Some(105 * SECOND));
    assert_eq!(disk.transport.model().resets, 1);
    assert_eq!(requests.service([], 105 * SECOND), Some(110 * SECOND));
    assert_eq!((disk.transport.model().resets, requests.block().restarts()), (2, 1));
    reconnect(&mut disk);
    disk.serve();
    assert_eq!(requests.service([InterruptSource::Queue], 106 * SECOND), None);
    let Poll::Ready(completion) = requests.poll(token, Waker::noop()) else { panic!("it was read") };
    assert_eq!((completion.result, completion.buffer.unwrap().to_vec()[0]), (Ok(Output::Done), 7));
}

#[test]
fn request_that_is_too_late_twice_fails_with_that() {
    let (block, disk) = pair();
    let mut requests = Requests::new(block);
    let token = requests.start(Request::Read { sector: 7, buffer: buffer(&disk, 0) }).unwrap();
    assert_eq!(requests.service([], 0), Some(5 * SECOND));
    assert_eq!(requests.service([], 5 * SECOND), Some(10 * SECOND));
    assert_eq!(requests.service([], 10 * SECOND), None);
    let Poll::Ready(completion) = requests.poll(token, Waker::noop()) else { panic!("it has failed") };
    assert_eq!(completion.result, Err(RequestError::GivenUp(Violation::Timeout { milliseconds: 5000 })));
    assert!(completion.buffer.is_some());
    assert_eq!((requests.block().broken(), requests.block().restarts()), (None, 2));
}

#[test]
fn idle_disk_has_all_its_time_for_the_next_request() {
    let (block, mut disk) = pair();
    let mut requests = Requests::new(block);
    for hour in 1..=5 {
        let now = hour * 3600 * SECOND;
        let token = requests.start(Request::Read { sector: 7, buffer: buffer(&disk, 0) }).unwrap();
        assert_eq!(requests.service([], now), Some(now + 5 * SECOND), "counted from now, not from the last request");
        disk.serve();
        assert_eq!(requests.service([InterruptSource::Queue], now + SECOND), None);
        assert!(requests.poll(token, Waker::noop()).is_ready());
    }
    assert_eq!(requests.block().restarts(), 0);
}

#[test]
fn answer_in_time_restarts_nothing() {
    let (block, mut disk) = pair();
    let mut requests = Requests::new(block);
    requests.start(Request::Read { sector: 7, buffer: buffer(&disk, 0) }).unwrap();
    disk.serve();
    assert_eq!(requests.service([InterruptSource::Queue], 50 * SECOND), None, "it is looked for before it is too late");
    assert_eq!(requests.block().restarts(), 0);
}

#[test]
fn card_that_fails_receives_and_sends_again() {
    let (mut net, mut card) = card::pair(
        RING,
        card::config(),
        NetSettings { receive_buffers: 8, transmit_buffers: 4, ..NetSettings::default() },
    );
    for _ in 0..4 {
        net.transmit(60, TransmitChecksum::Complete, |frame| frame.fill(1)).unwrap();
    }
    let pages = card.memory.allocated_pages();
    card.transmit.set_used_index(300);
    assert!(net.can_transmit(), "the frames that were on their way are lost, their buffers are not");
    assert_eq!((net.broken(), net.restarts(), net.link_up()), (None, 1, true));
    (card.receive, card.transmit) = (card.transport.queue(card.memory, 0), card.transport.queue(card.memory, 1));
    for round in 0..20_u8 {
        exchange(&mut net, &mut card, round);
    }
    assert_eq!(card.memory.allocated_pages(), pages);
}

fn exchange(net: &mut frontends::Net<FakeTransport>, card: &mut Card, fill: u8) {
    net.transmit(60, TransmitChecksum::Complete, |frame| frame.fill(fill)).unwrap();
    net.kick();
    assert_eq!(card.take_sent(), [(Header::default(), vec![fill; 60])]);
    card.deliver(Header::default(), &[fill; 60]);
    assert_eq!(net.receive_with(|frame| frame.to_vec()), Some(vec![fill; 60]));
}

#[test]
fn console_that_fails_types_and_prints_again() {
    let memory = Memory::leaked(32);
    let transport = FakeTransport::new(DeviceType::CONSOLE, RING, 2, &[0; 12]);
    let mut console = Console::new(transport.clone(), memory).unwrap();
    let pages = memory.allocated_pages();
    while console.transmit(b"lost") > 0 {}
    transport.queue(memory, 0).set_used_index(300);
    assert_eq!(console.receive(&mut [0; 8]), 0);
    assert_eq!((console.broken(), console.restarts()), (None, 1));
    let (mut receive, mut transmit) = (transport.queue(memory, 0), transport.queue(memory, 1));
    for _ in 0..20 {
        assert_eq!(console.transmit(b"hello"), 5);
        let chain = transmit.next_chain().unwrap();
        assert_eq!(chain.read(memory), b"hello");
        transmit.complete(&chain, 0);
        let chain = receive.next_chain().unwrap();
        let len = chain.write(memory, b"typed");
        receive.complete(&chain, len);
        let mut bytes = [0; 8];
        assert_eq!((console.receive(&mut bytes), &bytes[..5]), (5, &b"typed"[..]));
    }
    assert_eq!(memory.allocated_pages(), pages);
}

#[test]
fn entropy_source_that_fails_is_asked_again() {
    let memory = Memory::leaked(4);
    let transport = FakeTransport::new(DeviceType::RNG, RING, 1, &[]);
    let mut entropy = Entropy::new(transport.clone(), memory).unwrap();
    entropy.request(8);
    ask_for_reset(&transport, &mut entropy);
    let mut queue = transport.queue(memory, 0);
    let chain = queue.next_chain().unwrap();
    let len = chain.write(memory, &[7; 8]);
    queue.complete(&chain, len);
    let mut bytes = [0; 8];
    assert_eq!((entropy.take(&mut bytes), bytes, entropy.restarts()), (Some(8), [7; 8], 1));
}
