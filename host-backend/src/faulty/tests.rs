//! Each injected bug changes what its device does, in the way that it says, and nothing is changed without it.

use super::Bug;
use super::device::FaultyDevice;
use super::ring::TOO_LONG;
use super::serial::gated;
use super::slot::FaultySlot;
use crate::config::{Disk, DiskAccess, Mac};
use crate::devices::output::Output;
use crate::devices::serial::{LOOPBACK, MODEM_CONTROL};
use crate::devices::{InputSink as _, InterruptLine};
use crate::virtio::Device;
use crate::virtio::balloon::{Balloon, BalloonHandle};
use crate::virtio::block::{Block, Engine, RawFile};
use crate::virtio::harness::{DATA, INDIRECT, MEMORY, READ, Rig, WRITE, used};
use crate::virtio::net::Net;
use crate::virtio::net::stream::StreamLink;
use crate::virtio::rng::Rng;
use crate::vmm::GuestRam;
use shared_abi::virtio::blk::{RequestHeader, RequestType, Segment};
use shared_abi::virtio::mmio::{CONFIG, InterruptStatus, Register};
use shared_abi::virtio::{CommonFeatures, Status, net, ring};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vm_memory::GuestAddress;
use vmm_sys_util::epoll::EventSet;
use zerocopy::IntoBytes;

/// What `look` sees of a device without the bug and with it.
fn compare<R>(bug: Bug, look: impl Fn(Option<Bug>) -> R) -> (R, R) {
    (look(None), look(Some(bug)))
}

/// A machine with this device in its reset state, as [`crate::run`] builds it.
fn machine(bug: Option<Bug>, device: impl Device + 'static) -> Rig {
    match bug {
        None => Rig::new(device),
        Some(bug) => behind(bug, FaultyDevice::new(bug, Box::new(device))),
    }
}

fn behind(bug: Bug, device: FaultyDevice) -> Rig {
    Rig::new(device).behind(|transport| Arc::new(FaultySlot::new(bug, transport)))
}

/// The same with a driver that has accepted all features but EVENT_IDX.
fn running(bug: Option<Bug>, device: impl Device + 'static) -> Rig {
    let rig = machine(bug, device);
    rig.start(!CommonFeatures::EVENT_IDX.bits());
    rig
}

fn random_bytes(rig: &Rig) -> (u32, u32) {
    let used = rig.request(0, &[(DATA, 8, WRITE)]).expect("an answer");
    (used.id, used.len)
}

#[test]
fn a_used_length_becomes_too_long() {
    let lengths = compare(Bug::UsedLengthTooLong, |bug| random_bytes(&running(bug, Rng::new())).1);
    assert_eq!(lengths, (8, 8 + TOO_LONG));
}

#[test]
fn a_used_id_becomes_wrong() {
    assert_eq!(compare(Bug::UsedIdWrong, |bug| random_bytes(&running(bug, Rng::new())).0), (0, 1));
}

#[test]
fn features_that_were_never_offered_are_accepted() {
    let negotiate = |bug| machine(bug, Rng::new()).negotiate(CommonFeatures::VERSION_1.bits() | 1 << 5);
    assert_eq!(compare(Bug::FeaturesOkAlways, negotiate), (false, true));
}

fn balloon(bug: Option<Bug>) -> (Rig, BalloonHandle) {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    let balloon = Balloon::new(&memory).unwrap();
    let handle = balloon.handle();
    (running(bug, balloon), handle)
}

#[test]
fn a_changed_configuration_keeps_its_generation() {
    let changes = compare(Bug::ConfigGenerationStuck, |bug| {
        let (rig, handle) = balloon(bug);
        let before = rig.read(Register::ConfigGeneration);
        assert!(handle.set_target(3));
        rig.transport.process_event(EventSet::IN);
        assert_eq!(rig.read(Register::InterruptStatus), 2, "it is reported all the same");
        rig.read(Register::ConfigGeneration) - before
    });
    assert_eq!(changes, (1, 0));
}

#[test]
fn the_balloon_counts_one_page_too_many() {
    let actual = compare(Bug::BalloonActualWrong, |bug| {
        let (rig, handle) = balloon(bug);
        rig.transport.write(CONFIG + 4, &7_u32.to_le_bytes());
        let mut bytes = [0; 4];
        rig.config(4, &mut bytes);
        assert_eq!(handle.numbers().actual_pages, u32::from_le_bytes(bytes));
        handle.numbers().actual_pages
    });
    assert_eq!(actual, (7, 8));
}

#[test]
fn the_first_interrupt_after_a_suppressed_one_is_lost_and_the_next_is_not() {
    let edges = compare(Bug::InterruptLostWhenSuppressed, |bug| {
        let rig = running(bug, Rng::new());
        [ring::AVAIL_NO_INTERRUPT, 0, 0].map(|flags| {
            rig.set_available_flags(0, flags);
            random_bytes(&rig);
            rig.edges.take()
        })
    });
    assert_eq!(edges, ([0, 1, 1], [0, 0, 1]));
}

#[test]
fn the_interrupt_at_the_wrap_of_the_used_index_is_lost() {
    let lost = compare(Bug::EventIndexAtWrap, |bug| {
        let rig = machine(bug, Rng::new());
        rig.start(u64::MAX);
        let mut lost = Vec::new();
        for round in 0..=u16::MAX {
            rig.set_used_event(0, round);
            random_bytes(&rig);
            if rig.edges.take() == 0 {
                lost.push(round);
            }
        }
        lost
    });
    assert_eq!(lost, (vec![], vec![u16::MAX]));
}

fn disk(bug: Option<Bug>) -> (Rig, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [1; 4096]).unwrap();
    let disk = Disk::at(file.path(), DiskAccess::ReadWrite);
    let engine = Box::new(RawFile::open(&disk).unwrap());
    let build = |engine: Box<dyn Engine>| Block::new(engine, disk.access, "");
    let rig = match bug {
        None => Rig::new(build(engine)),
        Some(bug) => behind(bug, FaultyDevice::disk(bug, engine, |engine| Box::new(build(engine)))),
    };
    rig.start(!CommonFeatures::EVENT_IDX.bits());
    (rig, file)
}

/// A request about sector 0; its status.
fn ask(rig: &Rig, request_type: RequestType, data: &[u8]) -> u8 {
    let (header, at, status) = (DATA, DATA + 0x1000, DATA + 0x800);
    rig.put(header, RequestHeader { request_type, reserved: 0, sector: 0 }.as_bytes());
    rig.put(at, data);
    let data = (at, data.len() as u32, if request_type == RequestType::IN { WRITE } else { READ });
    let chain = [(header, 16, READ), data, (status, 1, WRITE)];
    let whole = if data.1 == 0 { vec![chain[0], chain[2]] } else { chain.to_vec() };
    rig.request(0, &whole).expect("an answer");
    rig.get(status, 1)[0]
}

#[test]
fn what_was_flushed_is_lost_at_the_reset() {
    let read = compare(Bug::FlushIgnored, |bug| {
        let (rig, _file) = disk(bug);
        assert_eq!(ask(&rig, RequestType::OUT, &[2; 512]), 0);
        assert_eq!(ask(&rig, RequestType::OUT, &[3; 512]), 0);
        assert_eq!(ask(&rig, RequestType::FLUSH, &[]), 0);
        assert_eq!(ask(&rig, RequestType::IN, &[0; 512]), 0);
        let before = rig.get(DATA + 0x1000, 1)[0];
        rig.write(Register::Status, 0);
        // A driver that starts anew has new rings.
        rig.set_available_index(0, 0);
        rig.put(used(0), &[0; 4]);
        rig.start(!CommonFeatures::EVENT_IDX.bits());
        assert_eq!(ask(&rig, RequestType::IN, &[0; 512]), 0);
        (before, rig.get(DATA + 0x1000, 1)[0])
    });
    assert_eq!(read, ((3, 3), (3, 1)));
}

#[test]
fn zeroes_that_were_asked_for_are_not_written() {
    let first = compare(Bug::WriteZeroesIgnored, |bug| {
        let (rig, file) = disk(bug);
        let range = Segment { sector: 0, num_sectors: 1, flags: 0 };
        assert_eq!(ask(&rig, RequestType::WRITE_ZEROES, range.as_bytes()), 0);
        std::fs::read(file.path()).unwrap()[0]
    });
    assert_eq!(first, (0, 1));
}

#[test]
fn a_failed_read_counts_its_status() {
    let lengths = compare(Bug::FailedReadCounted, |bug| {
        let (rig, _file) = disk(bug);
        let (header, data, status) = (DATA, DATA + 0x1000, DATA + 0x800);
        let sector = u64::MAX >> 9;
        rig.put(header, RequestHeader { request_type: RequestType::IN, reserved: 0, sector }.as_bytes());
        rig.request(0, &[(header, 16, READ), (data, 512, WRITE), (status, 1, WRITE)]).expect("an answer").len
    });
    assert_eq!(lengths, (0, 1));
}

/// Counts edges.
#[derive(Default)]
struct Edges(AtomicUsize);

impl InterruptLine for Edges {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_gated_port_interrupts_only_outside_of_loopback() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let edges = Arc::new(Edges::default());
    let (port, registers) = gated(edges.clone(), Arc::new(Output::new(file.reopen().unwrap()))).unwrap();
    registers.write(1, &[1]);
    registers.write(MODEM_CONTROL, &[LOOPBACK | 0xb]);
    registers.write(0, b"t");
    assert_eq!(edges.0.load(Ordering::Relaxed), 0);
    let mut data = [0];
    registers.read(0, &mut data);
    assert_eq!(data, *b"t", "it loops back all the same");
    registers.write(MODEM_CONTROL, &[0xb]);
    registers.write(1, &[1]);
    assert_eq!(port.input(b"k"), 1);
    assert_eq!(edges.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_received_frame_says_one_buffer_too_many() {
    let counts = compare(Bug::MergeableCountWrong, |bug| {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let rig = running(bug, Net::new(Box::new(StreamLink::new(ours).unwrap()), Some(Mac([2; 6]))));
        rig.chain(0, 0, &[(DATA, 2048, WRITE)]);
        rig.offer(0, 0);
        peer.write_all(&[&60_u32.to_be_bytes(), [9; 60].as_slice()].concat()).unwrap();
        rig.transport.process_event(EventSet::IN);
        assert_eq!(rig.used_index(0), 1);
        u16::from_le_bytes(rig.get(DATA + 10, 2).try_into().unwrap())
    });
    assert_eq!(counts, (1, 2));
}

#[test]
fn frame_in_several_buffers_is_miscounted_in_its_header_only() {
    let frame = |byte: u8, len: usize| [&(len as u32).to_be_bytes(), vec![byte; len].as_slice()].concat();
    let seen = compare(Bug::MergeableCountWrong, |bug| {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let rig = running(bug, Net::new(Box::new(StreamLink::new(ours).unwrap()), Some(Mac([2; 6]))));
        let buffer = |index: u16| DATA + 0x1000 * u64::from(index);
        for index in 0..4 {
            match index {
                // By an indirect table.
                0 => {
                    rig.put_descriptor(buffer(8), 0, (buffer(index), 64), WRITE, 0);
                    rig.descriptor(0, index, (buffer(8), 16), INDIRECT, 0);
                }
                _ => rig.descriptor(0, index, (buffer(index), 64), WRITE, 0),
            }
            rig.offer(0, index);
        }
        // With the header of 12 bytes, three buffers and one.
        peer.write_all(&[frame(7, 150), frame(8, 20)].concat()).unwrap();
        rig.transport.process_event(EventSet::IN);
        assert_eq!(rig.used_index(0), 4);
        let at = std::mem::offset_of!(net::Header, num_buffers);
        let tail = rig.get(buffer(1), 64);
        assert!(tail.iter().all(|byte| *byte == 7), "{tail:?}");
        [0, 3].map(|index| u16::from_le_bytes(rig.get(buffer(index) + at as u64, 2).try_into().unwrap()))
    });
    assert_eq!(seen, ([3, 1], [4, 2]));
}

/// A queue in the middle of nowhere.
fn break_ring(rig: &Rig) {
    rig.place(0, 16, MEMORY, MEMORY, MEMORY);
    assert!(rig.needs_reset());
}

#[test]
fn device_asks_for_a_reset_after_its_reset_and_leaves_its_queues_alone() {
    let seen = compare(Bug::FaultOutlivesReset, |bug| {
        let rig = machine(bug, Rng::new());
        rig.negotiate(CommonFeatures::VERSION_1.bits());
        break_ring(&rig);
        rig.write(Register::Status, 0);
        let after = rig.status();
        rig.start(!CommonFeatures::EVENT_IDX.bits());
        let answered = rig.request(0, &[(DATA, 8, WRITE)]).is_some();
        (after, rig.status().contains(Status::DRIVER_OK), rig.needs_reset(), answered)
    });
    assert_eq!(seen.0, (Status::empty(), true, false, true));
    assert_eq!(seen.1, (Status::DEVICE_NEEDS_RESET, true, true, false));
    // Without a fault there is nothing to outlive.
    let rig = running(Some(Bug::FaultOutlivesReset), Rng::new());
    rig.write(Register::Status, 0);
    assert_eq!(rig.status(), Status::empty());
}

#[test]
fn strict_device_works_for_a_driver_that_keeps_to_the_rules() {
    let rig = machine(Some(Bug::StrictDriver), Rng::new());
    rig.set_status(Status::ACKNOWLEDGE);
    rig.set_status(Status::DRIVER);
    assert!(rig.offered() & CommonFeatures::VERSION_1.bits() != 0);
    rig.write(Register::DriverFeaturesSel, 1);
    rig.write(Register::DriverFeatures, (CommonFeatures::VERSION_1.bits() >> 32) as u32);
    rig.set_status(Status::FEATURES_OK);
    rig.queue(0);
    rig.set_status(Status::DRIVER_OK);
    assert!(!rig.needs_reset());
    assert_eq!(random_bytes(&rig), (0, 8));
}

#[test]
fn strict_device_refuses_early_reads_skipped_steps_and_missing_queues() {
    let seen = compare(Bug::StrictDriver, |bug| {
        let rig = machine(bug, Rng::new());
        let early = rig.offered() != 0;
        rig.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
        let skipped = rig.status();
        rig.set_status(Status::ACKNOWLEDGE);
        rig.set_status(Status::DRIVER);
        rig.write(Register::DriverFeaturesSel, 1);
        rig.write(Register::DriverFeatures, (CommonFeatures::VERSION_1.bits() >> 32) as u32);
        rig.set_status(Status::FEATURES_OK);
        rig.write(Register::QueueSel, 5);
        rig.set_status(Status::DRIVER_OK);
        let changed = rig.read(Register::InterruptStatus) == InterruptStatus::CONFIG_CHANGE.bits();
        // The driver's selection is as it was: there is no queue 5.
        assert_eq!(rig.read(Register::QueueSizeMax), 0);
        (early, skipped, rig.status().contains(Status::DRIVER_OK), rig.needs_reset(), changed)
    });
    assert_eq!(seen.0, (true, Status::ACKNOWLEDGE | Status::DRIVER, true, false, false));
    assert_eq!(seen.1, (false, Status::empty(), true, true, true));
}
