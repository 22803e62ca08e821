//! Each injected bug changes what its device does, in the way that it says, and nothing is changed without it.

use super::{Bug, inject_here};
use crate::config::{Disk, DiskAccess, Mac};
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{Block, RawFile};
use crate::virtio::harness::{DATA, READ, Rig, WRITE};
use crate::virtio::net::Net;
use crate::virtio::net::stream::StreamLink;
use crate::virtio::rng::Rng;
use shared_abi::virtio::blk::{RequestHeader, RequestType, Segment};
use shared_abi::virtio::mmio::{CONFIG, Register};
use shared_abi::virtio::{CommonFeatures, ring};
use std::io::Write;
use std::os::unix::net::UnixStream;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use zerocopy::IntoBytes;

/// What `look` sees of a device without the bug and with it.
fn compare<R>(bug: Bug, look: impl Fn() -> R) -> (R, R) {
    let without = look();
    let _injected = inject_here(bug);
    (without, look())
}

fn random_bytes(rig: &Rig) -> (u32, u32) {
    let used = rig.request(0, &[(DATA, 8, WRITE)]).expect("an answer");
    (used.id, used.len)
}

#[test]
fn a_used_length_becomes_too_long() {
    let lengths = compare(Bug::UsedLengthTooLong, || random_bytes(&Rig::running(Rng::new())).1);
    assert_eq!(lengths, (8, 8 + super::TOO_LONG));
}

#[test]
fn a_used_id_becomes_wrong() {
    assert_eq!(compare(Bug::UsedIdWrong, || random_bytes(&Rig::running(Rng::new())).0), (0, 1));
}

#[test]
fn features_that_were_never_offered_are_accepted() {
    let negotiate = || Rig::new(Rng::new()).negotiate(CommonFeatures::VERSION_1.bits() | 1 << 5);
    assert_eq!(compare(Bug::FeaturesOkAlways, negotiate), (false, true));
}

fn balloon() -> (Rig, crate::virtio::balloon::BalloonHandle) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let balloon = Balloon::new(&memory).unwrap();
    let handle = balloon.handle();
    let rig = Rig::with_memory(balloon, memory);
    rig.start(!CommonFeatures::EVENT_IDX.bits());
    (rig, handle)
}

#[test]
fn a_changed_configuration_keeps_its_generation() {
    let changes = compare(Bug::ConfigGenerationStuck, || {
        let (rig, handle) = balloon();
        let before = rig.read(Register::ConfigGeneration);
        assert!(handle.set_target(3));
        rig.transport.process_event(EventSet::IN);
        assert_eq!(rig.read(Register::InterruptStatus), 2, "it is told all the same");
        rig.read(Register::ConfigGeneration) - before
    });
    assert_eq!(changes, (1, 0));
}

#[test]
fn the_balloon_counts_one_page_too_many() {
    let actual = compare(Bug::BalloonActualWrong, || {
        let (rig, handle) = balloon();
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
    let edges = compare(Bug::InterruptLostWhenSuppressed, || {
        let rig = Rig::running(Rng::new());
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
    let lost = compare(Bug::EventIndexAtWrap, || {
        let rig = Rig::new(Rng::new());
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

fn disk() -> (Rig, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [1; 4096]).unwrap();
    let disk = Disk { path: file.path().into(), access: DiskAccess::ReadWrite, queues: 1, serial: None };
    (Rig::running(Block::new(Box::new(RawFile::open(&disk).unwrap()), disk.access, "")), file)
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
    let read = compare(Bug::FlushIgnored, || {
        let (rig, _file) = disk();
        assert_eq!(ask(&rig, RequestType::OUT, &[2; 512]), 0);
        assert_eq!(ask(&rig, RequestType::OUT, &[3; 512]), 0);
        assert_eq!(ask(&rig, RequestType::FLUSH, &[]), 0);
        assert_eq!(ask(&rig, RequestType::IN, &[0; 512]), 0);
        let before = rig.get(DATA + 0x1000, 1)[0];
        rig.write(Register::Status, 0);
        // A driver that starts anew has new rings.
        rig.set_available_index(0, 0);
        rig.put(crate::virtio::harness::used(0), &[0; 4]);
        rig.start(!CommonFeatures::EVENT_IDX.bits());
        assert_eq!(ask(&rig, RequestType::IN, &[0; 512]), 0);
        (before, rig.get(DATA + 0x1000, 1)[0])
    });
    assert_eq!(read, ((3, 3), (3, 1)));
}

#[test]
fn zeroes_that_were_asked_for_are_not_written() {
    let first = compare(Bug::WriteZeroesIgnored, || {
        let (rig, file) = disk();
        let range = Segment { sector: 0, num_sectors: 1, flags: 0 };
        assert_eq!(ask(&rig, RequestType::WRITE_ZEROES, range.as_bytes()), 0);
        std::fs::read(file.path()).unwrap()[0]
    });
    assert_eq!(first, (0, 1));
}

#[test]
fn a_failed_read_counts_its_status() {
    let lengths = compare(Bug::FailedReadCounted, || {
        let (rig, _file) = disk();
        let (header, data, status) = (DATA, DATA + 0x1000, DATA + 0x800);
        let sector = u64::MAX >> 9;
        rig.put(header, RequestHeader { request_type: RequestType::IN, reserved: 0, sector }.as_bytes());
        rig.request(0, &[(header, 16, READ), (data, 512, WRITE), (status, 1, WRITE)]).expect("an answer").len
    });
    assert_eq!(lengths, (0, 1));
}

#[test]
fn a_received_frame_says_one_buffer_too_many() {
    let counts = compare(Bug::MergeableCountWrong, || {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let rig = Rig::new(Net::new(Box::new(StreamLink::new(ours).unwrap()), Some(Mac([2; 6]))));
        rig.start(!CommonFeatures::EVENT_IDX.bits());
        rig.chain(0, 0, &[(DATA, 2048, WRITE)]);
        rig.offer(0, 0);
        peer.write_all(&[&60_u32.to_be_bytes(), [9; 60].as_slice()].concat()).unwrap();
        rig.transport.process_event(EventSet::IN);
        assert_eq!(rig.used_index(0), 1);
        u16::from_le_bytes(rig.get(DATA + 10, 2).try_into().unwrap())
    });
    assert_eq!(counts, (1, 2));
}
