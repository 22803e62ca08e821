//! Tests of the block device by a driver that sends whatever it likes.

use super::*;
use crate::config::Disk;
use crate::virtio::harness::{DATA, READ, Rig, WRITE};
use crate::virtio::queue::Slice;
use proptest::prelude::*;
use shared_abi::virtio::mmio::{InterruptStatus, Register};
use shared_abi::virtio::ring::DescriptorFlags;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const SECTORS: u64 = 64;
const HEADER_AT: u64 = DATA;
const DATA_AT: u64 = DATA + 0x1000;
const STATUS_AT: u64 = DATA + 0x800;

fn rig(access: DiskAccess) -> (Rig, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..SECTORS * SECTOR).map(|i| (i / SECTOR) as u8 + 1).collect();
    std::fs::write(file.path(), bytes).unwrap();
    let engine = RawFile::open(&Disk::at(file.path(), access)).unwrap();
    (Rig::running(Block::new(Box::new(engine), access, "a disk of the tests, with a long name")), file)
}

fn put_header(rig: &Rig, request_type: RequestType, sector: u64) {
    rig.put(HEADER_AT, RequestHeader { request_type, reserved: 0, sector }.as_bytes());
    rig.put(STATUS_AT, &[0xaa]);
}

/// Sends a request with one data buffer and returns its status.
fn send(rig: &Rig, request_type: RequestType, sector: u64, len: u32, direction: DescriptorFlags) -> RequestStatus {
    put_header(rig, request_type, sector);
    let used = rig.request(0, &[(HEADER_AT, 16, READ), (DATA_AT, len, direction), (STATUS_AT, 1, WRITE)]);
    assert!(used.is_some(), "no answer");
    RequestStatus(rig.get(STATUS_AT, 1)[0])
}

fn send_segments(rig: &Rig, what: RequestType, segments: &[Segment]) -> RequestStatus {
    rig.put(DATA_AT, segments.as_bytes());
    send(rig, what, 0, segments.as_bytes().len() as u32, READ)
}

#[test]
fn sectors_written_are_read_back_and_in_the_file() {
    let (rig, file) = rig(DiskAccess::ReadWrite);
    assert_eq!(send(&rig, RequestType::IN, 5, 1024, WRITE), RequestStatus::OK);
    assert_eq!(rig.get(DATA_AT, 1024), [vec![6; 512], vec![7; 512]].concat());
    rig.put(DATA_AT, &[0x55; 512]);
    assert_eq!(send(&rig, RequestType::OUT, SECTORS - 1, 512, READ), RequestStatus::OK);
    assert_eq!(send(&rig, RequestType::FLUSH, 0, 0, READ), RequestStatus::OK);
    assert_eq!(std::fs::read(file.path()).unwrap()[(SECTORS as usize - 1) * 512..], [0x55; 512]);
}

#[test]
fn data_in_many_odd_pieces_arrives_in_order() {
    let (rig, _file) = rig(DiskAccess::ReadWrite);
    put_header(&rig, RequestType::IN, 1);
    let pieces = [(HEADER_AT, 5, READ), (HEADER_AT + 5, 11, READ), (DATA_AT, 100, WRITE), (DATA_AT + 100, 900, WRITE)];
    // The last piece holds the end of the data and the status.
    let last = [(DATA_AT + 1000, 25, WRITE)];
    let used = rig.request(0, &[&pieces[..], &last].concat()).unwrap();
    assert_eq!(used.len, 1025);
    assert_eq!(rig.get(DATA_AT, 1025), [vec![2; 512], vec![3; 512], vec![0]].concat());
}

#[test]
fn the_id_is_the_end_of_the_serial() {
    let (rig, _file) = rig(DiskAccess::ReadOnly);
    assert_eq!(send(&rig, RequestType::GET_ID, 0, 20, WRITE), RequestStatus::OK);
    assert_eq!(rig.get(DATA_AT, 20), b"ests, with a long name"[2..]);
    assert_eq!(send(&rig, RequestType::GET_ID, 0, 19, WRITE), RequestStatus::IOERR);
}

#[test]
fn requests_past_the_disks_end_fail_and_change_nothing() {
    let (rig, file) = rig(DiskAccess::ReadWrite);
    let before = std::fs::read(file.path()).unwrap();
    for (sector, len) in [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512)] {
        assert_eq!(send(&rig, RequestType::OUT, sector, len, READ), RequestStatus::IOERR, "sector {sector}");
        assert_eq!(send(&rig, RequestType::IN, sector, len, WRITE), RequestStatus::IOERR, "sector {sector}");
    }
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
    assert!(!rig.needs_reset());
}

#[test]
fn the_used_length_counts_no_byte_after_one_that_was_not_written() {
    let (rig, _file) = rig(DiskAccess::ReadWrite);
    // Type, sector, room for data before the status, status, used length.
    let requests = [
        (RequestType::IN, 0, 512, RequestStatus::OK, 513),
        (RequestType::IN, u64::MAX, 512, RequestStatus::IOERR, 0),
        (RequestType::IN, u64::MAX, 0, RequestStatus::IOERR, 1),
        (RequestType(99), 0, 512, RequestStatus::UNSUPP, 0),
        (RequestType::FLUSH, 0, 0, RequestStatus::OK, 1),
        (RequestType::FLUSH, 0, 512, RequestStatus::OK, 0),
        (RequestType::GET_ID, 0, 20, RequestStatus::OK, 21),
        (RequestType::GET_ID, 0, 512, RequestStatus::OK, 20),
    ];
    for (kind, sector, room, status, len) in requests {
        put_header(&rig, kind, sector);
        let buffers = [(HEADER_AT, 16, READ), (DATA_AT, room, WRITE), (STATUS_AT, 1, WRITE)];
        assert_eq!(rig.request(0, &buffers).unwrap().len, len, "{kind:?} with room for {room} bytes");
        assert_eq!(rig.get(STATUS_AT, 1), [status.0]);
    }
}

#[test]
fn requests_of_part_of_a_sector_fail() {
    let (rig, _file) = rig(DiskAccess::ReadWrite);
    assert_eq!(send(&rig, RequestType::IN, 0, 511, WRITE), RequestStatus::IOERR);
    assert_eq!(send(&rig, RequestType::OUT, 0, 513, READ), RequestStatus::IOERR);
}

#[test]
fn an_unknown_request_type_is_unsupported() {
    let (rig, _file) = rig(DiskAccess::ReadWrite);
    for unknown in [2, 3, 5, 12, 99, u32::MAX] {
        assert_eq!(send(&rig, RequestType(unknown), 0, 512, READ), RequestStatus::UNSUPP, "type {unknown}");
    }
}

#[test]
fn a_read_only_disk_refuses_all_writes() {
    let (rig, file) = rig(DiskAccess::ReadOnly);
    let before = std::fs::read(file.path()).unwrap();
    assert_eq!(send(&rig, RequestType::OUT, 0, 512, READ), RequestStatus::IOERR);
    let segment = Segment { sector: 0, num_sectors: 8, flags: 0 };
    assert_eq!(send_segments(&rig, RequestType::DISCARD, &[segment]), RequestStatus::IOERR);
    assert_eq!(send_segments(&rig, RequestType::WRITE_ZEROES, &[segment]), RequestStatus::IOERR);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
    assert_eq!(rig.offered() & Features::RO.bits(), Features::RO.bits());
}

#[test]
fn a_short_header_fails_and_a_request_without_status_needs_a_reset() {
    let (rig, _file) = rig(DiskAccess::ReadWrite);
    put_header(&rig, RequestType::IN, 0);
    rig.request(0, &[(HEADER_AT, 15, READ), (STATUS_AT, 1, WRITE)]).unwrap();
    assert_eq!(rig.get(STATUS_AT, 1), [RequestStatus::IOERR.0]);
    rig.request(0, &[(HEADER_AT, 16, READ)]);
    assert!(rig.needs_reset());
    assert!(rig.transport.fault().unwrap().contains("no room for an answer"));
}

#[test]
fn zeroes_and_discards_keep_to_their_range() {
    let (rig, file) = rig(DiskAccess::ReadWrite);
    let zero = |sector, num_sectors, flags| Segment { sector, num_sectors, flags };
    let both = [zero(2, 2, 0), zero(8, 8, SEGMENT_UNMAP)];
    assert_eq!(send_segments(&rig, RequestType::WRITE_ZEROES, &both), RequestStatus::OK);
    let bytes = std::fs::read(file.path()).unwrap();
    for sector in 0..SECTORS as usize {
        let zeroed = (2..4).contains(&sector) || (8..16).contains(&sector);
        let expected = if zeroed { 0 } else { sector as u8 + 1 };
        assert_eq!(bytes[sector * 512..][..512], [expected; 512], "sector {sector}");
    }
    let blocks = file.as_file().metadata().unwrap().blocks();
    assert_eq!(send_segments(&rig, RequestType::DISCARD, &[zero(32, 32, 0)]), RequestStatus::OK);
    assert!(file.as_file().metadata().unwrap().blocks() <= blocks);
    assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * SECTOR);
}

#[test]
fn bad_segments_are_refused_before_any_is_executed() {
    let (rig, file) = rig(DiskAccess::ReadWrite);
    let before = std::fs::read(file.path()).unwrap();
    let good = Segment { sector: 0, num_sectors: 8, flags: 0 };
    let cases = [
        (Segment { sector: SECTORS - 1, num_sectors: 2, flags: 0 }, RequestStatus::IOERR),
        (Segment { sector: u64::MAX, num_sectors: 1, flags: 0 }, RequestStatus::IOERR),
        (Segment { sector: 0, num_sectors: u32::MAX, flags: 0 }, RequestStatus::IOERR),
        (Segment { sector: 0, num_sectors: 1, flags: 2 }, RequestStatus::UNSUPP),
    ];
    for (bad, expected) in cases {
        assert_eq!(send_segments(&rig, RequestType::WRITE_ZEROES, &[good, bad]), expected, "{bad:?}");
        assert_eq!(send_segments(&rig, RequestType::DISCARD, &[good, bad]), expected, "{bad:?}");
    }
    assert_eq!(send_segments(&rig, RequestType::WRITE_ZEROES, &[good; 17]), RequestStatus::IOERR);
    assert_eq!(send(&rig, RequestType::DISCARD, 0, 15, READ), RequestStatus::IOERR);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn an_image_cut_off_while_in_use_fails_the_request() {
    let (rig, file) = rig(DiskAccess::ReadWrite);
    file.as_file().set_len(1024).unwrap();
    assert_eq!(send(&rig, RequestType::IN, 8, 512, WRITE), RequestStatus::IOERR);
}

#[test]
fn the_capacity_is_in_the_configuration() {
    let (rig, _file) = rig(DiskAccess::ReadWrite);
    let mut capacity = [0; 8];
    rig.config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any header and any buffers: an answer or a reset, and the file keeps its size.
    #[test]
    fn random_requests_never_hurt_the_host(
        kind in 0u32..16,
        sector in prop_oneof![0..SECTORS * 2, any::<u64>()],
        lens in prop::collection::vec((0u32..5000, any::<bool>()), 0..6),
    ) {
        let (rig, file) = rig(DiskAccess::ReadWrite);
        put_header(&rig, RequestType(kind), sector);
        let mut buffers = vec![(HEADER_AT, 16, READ)];
        buffers.extend(lens.iter().map(|(len, write)| (DATA_AT, *len, if *write { WRITE } else { READ })));
        let answered = rig.request(0, &buffers).is_some();
        prop_assert!(answered != rig.needs_reset());
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * SECTOR);
    }
}

#[test]
fn a_disk_that_shrinks_hides_its_end_and_shows_it_again() {
    let (rig, file) = rig(DiskAccess::ReadWrite);
    let resize = |sectors: u64| rig.transport.change(Change::Size(sectors * SECTOR), Duration::ZERO);
    let capacity = || {
        let mut bytes = [0; 8];
        rig.config(0, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    let generation = rig.read(Register::ConfigGeneration);
    resize(8).unwrap();
    assert_eq!((capacity(), rig.read(Register::ConfigGeneration)), (8, generation + 1));
    assert_eq!(rig.read(Register::InterruptStatus), InterruptStatus::CONFIG_CHANGE.bits());
    assert_eq!(send(&rig, RequestType::IN, 8, 512, WRITE), RequestStatus::IOERR);
    resize(SECTORS + 2).unwrap();
    assert_eq!(send(&rig, RequestType::IN, 8, 512, WRITE), RequestStatus::OK);
    assert_eq!(rig.get(DATA_AT, 512), [9; 512]);
    assert_eq!(send(&rig, RequestType::IN, SECTORS + 1, 512, WRITE), RequestStatus::OK);
    assert_eq!(rig.get(DATA_AT, 512), [0; 512]);
    assert_eq!(file.as_file().metadata().unwrap().len(), (SECTORS + 2) * SECTOR);
}

#[test]
fn a_new_capacity_is_shown_only_in_step_with_its_generation() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * SECTOR).unwrap();
    let access = DiskAccess::ReadWrite;
    let engine = RawFile::open(&Disk::at(file.path(), access)).unwrap();
    let mut block = Block::new(Box::new(engine), access, "");
    let config = block.config();
    let capacity = || {
        let mut bytes = [0; 8];
        config.read(0, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(block.change(Change::Size(8 * SECTOR)), Ok(Changed::Config));
    assert_eq!(capacity(), SECTORS);
    block.show();
    assert_eq!(capacity(), 8);
}

#[test]
fn a_size_that_cannot_be_is_refused_and_nothing_changes() {
    let (rig, _file) = rig(DiskAccess::ReadOnly);
    let generation = rig.read(Register::ConfigGeneration);
    for bytes in [0, 513, (SECTORS + 1) * SECTOR] {
        assert!(rig.transport.change(Change::Size(bytes), Duration::ZERO).is_err(), "{bytes}");
    }
    let (writable, _file) = self::rig(DiskAccess::ReadWrite);
    let error = writable.transport.change(Change::Size(u64::MAX - 511), Duration::ZERO).unwrap_err();
    assert_eq!(
        error,
        "resize to 18446744073709551104 bytes: a file has at most 9223372036854775807 bytes; choose a smaller size"
    );
    assert!(rig.transport.change(Change::Cable(crate::virtio::Cable::Down), Duration::ZERO).is_err());
    rig.transport.change(Change::Size(SECTORS * SECTOR), Duration::ZERO).unwrap();
    assert_eq!(rig.read(Register::ConfigGeneration), generation);
}

/// A disk of zeroes whose operations fail on request.
#[derive(Clone, Default)]
struct Faulty(Arc<std::sync::Mutex<[bool; 3]>>);

impl Faulty {
    fn fail(&self, read: bool, write: bool, flush: bool) {
        *self.0.lock().unwrap() = [read, write, flush];
    }

    fn operate(&self, which: usize) -> io::Result<()> {
        if self.0.lock().unwrap()[which] { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
}

impl Flush for Faulty {
    fn flush(&self) -> io::Result<()> {
        self.operate(2)
    }
}

impl Engine for Faulty {
    fn len(&self) -> u64 {
        SECTORS * SECTOR
    }
    fn resize(&mut self, _: u64, _: DiskAccess) -> io::Result<()> {
        Ok(())
    }
    fn read_at(&mut self, _: &[Slice<'_>], _: u64) -> io::Result<()> {
        self.operate(0)
    }
    fn write_at(&mut self, _: &[Slice<'_>], _: u64) -> io::Result<()> {
        self.operate(1)
    }
    fn flusher(&self) -> Arc<dyn Flush> {
        Arc::new(self.clone())
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        self.operate(1)
    }
    fn write_zeroes(&mut self, _: u64, _: u64, _: Space) -> io::Result<()> {
        self.operate(1)
    }
}

fn faulty() -> (Rig, Faulty) {
    let engine = Faulty::default();
    (Rig::running(Block::new(Box::new(engine.clone()), DiskAccess::ReadWrite, "faulty")), engine)
}

#[test]
fn a_failed_flush_makes_the_disk_read_only_for_good() {
    let (rig, engine) = faulty();
    assert_eq!(send(&rig, RequestType::OUT, 0, 512, READ), RequestStatus::OK);
    engine.fail(false, false, true);
    assert_eq!(send(&rig, RequestType::FLUSH, 0, 0, READ), RequestStatus::IOERR);
    engine.fail(false, false, false);
    // The system may have dropped what it could not write: a flush that works now proves nothing.
    assert_eq!(send(&rig, RequestType::FLUSH, 0, 0, READ), RequestStatus::IOERR);
    assert_eq!(send(&rig, RequestType::OUT, 0, 512, READ), RequestStatus::IOERR);
    let segment = Segment { sector: 0, num_sectors: 8, flags: 0 };
    assert_eq!(send_segments(&rig, RequestType::WRITE_ZEROES, &[segment]), RequestStatus::IOERR);
    assert_eq!(send(&rig, RequestType::IN, 0, 512, WRITE), RequestStatus::OK);
    rig.write(Register::Status, 0);
    rig.put(crate::virtio::harness::available(0), &[0; 64]);
    rig.put(crate::virtio::harness::used(0), &[0; 160]);
    rig.start(!shared_abi::virtio::CommonFeatures::EVENT_IDX.bits());
    assert_eq!(send(&rig, RequestType::OUT, 0, 512, READ), RequestStatus::IOERR, "after a reset too");
    let error = rig.transport.flusher().unwrap().flush().unwrap_err().to_string();
    assert!(error.contains("an earlier flush failed"), "{error}");
    let problems = rig.transport.problems();
    assert_eq!(
        problems.iter().map(|problem| (problem.kind, problem.count)).collect::<Vec<_>>(),
        [("flush", 2), ("write refused", 3)]
    );
    assert!(problems[0].first.contains("takes no more writes"), "{problems:?}");
}

#[test]
fn a_driver_without_flush_gets_its_failure_as_that_of_the_write() {
    let engine = Faulty::default();
    let rig = Rig::new(Block::new(Box::new(engine.clone()), DiskAccess::ReadWrite, "faulty"));
    rig.start(!(Features::FLUSH.bits() | shared_abi::virtio::CommonFeatures::EVENT_IDX.bits()));
    assert_eq!(send(&rig, RequestType::OUT, 0, 512, READ), RequestStatus::OK);
    engine.fail(false, false, true);
    assert_eq!(send(&rig, RequestType::OUT, 0, 512, READ), RequestStatus::IOERR);
    engine.fail(false, false, false);
    assert_eq!(send(&rig, RequestType::OUT, 0, 512, READ), RequestStatus::IOERR);
}

#[test]
fn errors_of_the_storage_are_reported_once_per_kind_and_bad_requests_are_not() {
    let (rig, engine) = faulty();
    engine.fail(true, true, false);
    for _ in 0..20 {
        send(&rig, RequestType::IN, 7, 512, WRITE);
        send(&rig, RequestType::OUT, 8, 512, READ);
        send(&rig, RequestType::IN, u64::MAX, 512, WRITE);
    }
    let problems = rig.transport.problems();
    let kinds: Vec<_> = problems.iter().map(|problem| (problem.kind, problem.count)).collect();
    assert_eq!(kinds, [("read", 20), ("write", 20)]);
    assert!(problems[0].first.contains("read error at sector 7: Input/output error"), "{problems:?}");
}
