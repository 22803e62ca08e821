//! Tests of a disk's rate limit, by counts: a driver that always has requests waiting, and a clock that goes from one
//! wake-up of the device to the next.

use super::*;
use crate::config::Disk;
use crate::rate::fake::FakeClock;
use crate::virtio::harness::{DATA, INDIRECT, NEXT, READ, Rig, SIZE, WRITE, available, used};
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::{Status, ring};
use std::time::Duration;
use zerocopy::FromZeros;

const SECTORS: u64 = 2048;
const DATA_AT: u64 = DATA + 0x10_0000;
/// Requests in a queue at once, a power of two.
const DEPTH: u16 = 4;

/// More requests than any limit here gives.
const ENDLESS: u64 = 1_000_000;

/// A running disk with a limit, and its driver.
struct Limited {
    rig: Rig,
    clock: Arc<FakeClock>,
    _file: tempfile::NamedTempFile,
}

fn limit(bytes: Option<u64>, operations: Option<u64>, burst_ms: u64) -> RateLimit {
    RateLimit { bytes, operations, burst: Duration::from_millis(burst_ms) }
}

impl Limited {
    fn new(limit: &RateLimit, queues: u16) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SECTORS * SECTOR).unwrap();
        let engine = RawFile::open(&Disk::at(file.path(), DiskAccess::ReadWrite)).unwrap();
        let clock = FakeClock::shared();
        let block = Block::new(Box::new(engine), DiskAccess::ReadWrite, "limited").with_queues(queues);
        let rig = Rig::running(block.with_limit(limit, clock.clone()));
        Self { rig, clock, _file: file }
    }

    /// Puts a request at place `at` of a queue, and makes it available.
    fn put(&self, queue: u32, at: u16, kind: RequestType, len: u32) {
        let place = DATA + 0x1000 * u64::from(queue) + 0x40 * u64::from(at);
        self.rig.put(place, RequestHeader { request_type: kind, reserved: 0, sector: 0 }.as_bytes());
        let data = (DATA_AT, len, if kind == RequestType::IN { WRITE } else { READ });
        let buffers = [(place, 16, READ), data, (place + 0x20, 1, WRITE)];
        self.rig.chain(queue, 3 * at, &buffers);
        self.rig.offer(queue, 3 * at);
    }

    /// The same for segments that lie at the data's place.
    fn put_segments(&self, kind: RequestType, segments: &[Segment]) {
        self.rig.put(DATA_AT, segments.as_bytes());
        self.put(0, 0, kind, segments.as_bytes().len() as u32);
    }

    fn done(&self) -> u64 {
        self.rig.transport.counters().requests.get()
    }

    /// Requests of `len` bytes that are done in `seconds`, by a driver that always has [`DEPTH`] of them in each queue.
    fn done_within(&self, seconds: u64, queues: u32, len: u32) -> u64 {
        let before = self.done();
        let end = self.clock.elapsed() + Duration::from_secs(seconds);
        loop {
            assert!(self.done() - before < ENDLESS, "there is no limit");
            for queue in 0..queues {
                let offered = self.rig.available_index(queue);
                let free = DEPTH - offered.wrapping_sub(self.rig.used_index(queue));
                for number in 0..free {
                    self.put(queue, offered.wrapping_add(number) % DEPTH, RequestType::IN, len);
                }
                self.rig.kick(queue);
            }
            let is_full = |queue| self.rig.available_index(queue) == self.rig.used_index(queue).wrapping_add(DEPTH);
            if (0..queues).all(is_full) && !self.rig.wake(&self.clock, end) {
                return self.done() - before;
            }
        }
    }
}

fn within_5_percent(done: u64, given: u64) -> bool {
    (given * 95..=given * 105).contains(&(done * 100))
}

#[test]
fn ten_seconds_at_the_limit_give_the_burst_and_ten_seconds_of_the_rate() {
    for (limit, len, requests) in [
        (limit(Some(1 << 20), None, 1000), 4096, 11 * 256),
        (limit(Some(1 << 20), None, 2000), 512, 12 * 2048),
        (limit(None, Some(100), 1000), 512, 1100),
        (limit(None, Some(1000), 10), 4096, 10_010),
        // Both: the one that is reached first.
        (limit(Some(1 << 20), Some(100), 1000), 4096, 1100),
        (limit(Some(100 * 4096), Some(1000), 1000), 4096, 1100),
    ] {
        let disk = Limited::new(&limit, 1);
        let done = disk.done_within(10, 1, len);
        assert!(within_5_percent(done, requests), "{limit:?}: {done} requests, not {requests}");
        let counters = disk.rig.transport.counters();
        assert!(counters.throttled.get() > 0);
        // It waits all the time that the burst does not cover.
        assert!((9_000..=10_000).contains(&counters.throttled_ms.get()), "{}", counters.throttled_ms.get());
        // The burst is not given twice: the next ten seconds have only the rate.
        let rate = requests * 10_000 / (10_000 + limit.burst.as_millis() as u64);
        let more = disk.done_within(10, 1, len);
        assert!(within_5_percent(more, rate), "{limit:?}: {more} requests later, not {rate}");
    }
}

#[test]
fn a_disk_without_a_limit_never_waits() {
    let disk = Limited::new(&RateLimit::default(), 1);
    for at in 0..DEPTH {
        disk.put(0, at, RequestType::IN, 65536);
    }
    disk.rig.kick(0);
    assert_eq!((disk.done(), disk.rig.wait(&disk.clock)), (u64::from(DEPTH), None));
    assert_eq!(disk.rig.transport.counters().throttled.get(), 0);
}

#[test]
fn a_request_larger_than_the_burst_passes_and_the_next_one_waits_for_its_debt() {
    let disk = Limited::new(&limit(Some(4096), None, 1000), 1);
    disk.put(0, 0, RequestType::IN, 5 * 4096);
    disk.put(0, 1, RequestType::IN, 512);
    disk.rig.kick(0);
    assert_eq!(disk.done(), 1);
    assert_eq!(disk.rig.wait(&disk.clock), Some(Duration::from_millis(4125)));
    assert!(disk.rig.wake(&disk.clock, Duration::from_secs(5)));
    assert_eq!((disk.done(), disk.rig.wait(&disk.clock)), (2, None));
}

#[test]
fn a_flush_is_neither_charged_nor_delayed() {
    let disk = Limited::new(&limit(Some(512), Some(1), 1000), 2);
    disk.put(0, 0, RequestType::OUT, 512);
    disk.put(0, 1, RequestType::OUT, 512);
    disk.rig.kick(0);
    assert_eq!((disk.done(), disk.rig.wait(&disk.clock)), (1, Some(Duration::from_secs(1))));
    // The other queue's flush does not wait for this one's write.
    for at in 0..DEPTH {
        disk.put(1, at, RequestType::FLUSH, 0);
    }
    disk.rig.kick(1);
    assert_eq!((disk.done(), disk.rig.wait(&disk.clock)), (5, Some(Duration::from_secs(1))));
    // The flush at the VM's end does not wait either.
    disk.rig.transport.flusher().unwrap().flush().unwrap();
    assert!(disk.rig.wake(&disk.clock, Duration::from_secs(1)));
    assert_eq!((disk.done(), disk.rig.wait(&disk.clock)), (6, None));
}

#[test]
fn a_discard_is_operations_and_zeroes_are_bytes_too() {
    let segment = Segment { sector: 0, num_sectors: 16, flags: 0 };
    // With 8192 bytes and 10 operations: kind, segments, and the wait of a request of 512 bytes after it.
    for (kind, segments, wait_us) in [
        (RequestType::DISCARD, 1, None),
        (RequestType::DISCARD, 16, Some(700_000)),
        (RequestType::WRITE_ZEROES, 1, Some(62_500)),
        (RequestType::WRITE_ZEROES, 16, Some(15_062_500)),
    ] {
        let disk = Limited::new(&limit(Some(16 * 512), Some(10), 1000), 1);
        disk.put_segments(kind, &vec![segment; segments]);
        disk.rig.kick(0);
        assert_eq!(disk.done(), 1, "{kind:?} of {segments}");
        disk.put(0, 1, RequestType::IN, 512);
        disk.rig.kick(0);
        assert_eq!(disk.rig.wait(&disk.clock), wait_us.map(Duration::from_micros), "{kind:?} of {segments}");
    }
}

#[test]
fn a_reset_waits_for_no_tokens_and_gives_none() {
    let disk = Limited::new(&limit(None, Some(1), 1000), 1);
    disk.put(0, 0, RequestType::IN, 512);
    disk.put(0, 1, RequestType::IN, 512);
    disk.rig.kick(0);
    assert_eq!((disk.done(), disk.rig.wait(&disk.clock)), (1, Some(Duration::from_secs(1))));
    disk.rig.write(Register::Status, 0);
    assert_eq!((disk.rig.status(), disk.rig.wait(&disk.clock)), (Status::empty(), None));
    disk.rig.put(available(0), &vec![0; ring::available_len(SIZE)]);
    disk.rig.put(used(0), &vec![0; ring::used_len(SIZE)]);
    disk.rig.start(u64::MAX);
    disk.put(0, 0, RequestType::IN, 512);
    disk.rig.kick(0);
    assert_eq!(
        (disk.done(), disk.rig.wait(&disk.clock)),
        (1, Some(Duration::from_secs(1))),
        "a reset is no way around the limit"
    );
}

#[test]
fn a_queue_that_is_taken_back_while_it_waits_holds_up_no_other() {
    let disk = Limited::new(&limit(None, Some(1), 1000), 2);
    for at in 0..2 {
        disk.put(0, at, RequestType::IN, 512);
    }
    disk.rig.kick(0);
    disk.put(1, 0, RequestType::IN, 512);
    disk.rig.kick(1);
    assert_eq!(disk.done(), 1);
    disk.rig.write(Register::QueueSel, 0);
    disk.rig.write(Register::QueueReset, 1);
    assert!(disk.rig.wake(&disk.clock, Duration::ZERO), "at once");
    assert_eq!((disk.done(), disk.rig.wait(&disk.clock)), (1, Some(Duration::from_secs(1))));
    assert!(disk.rig.wake(&disk.clock, Duration::from_secs(1)));
    assert_eq!((disk.done(), disk.rig.used_index(1), disk.rig.wait(&disk.clock)), (2, 1, None));
}

#[test]
fn queues_at_the_limit_are_served_in_turn() {
    let disk = Limited::new(&limit(None, Some(100), 100), 3);
    let done = disk.done_within(10, 3, 512);
    assert!(within_5_percent(done, 1010), "{done}");
    let each: Vec<_> = (0..3).map(|queue| disk.rig.used_index(queue)).collect();
    assert!(each.iter().all(|count| (330..=345).contains(count)), "{each:?}");
}

#[test]
fn a_request_of_too_many_bytes_is_refused_and_counted() {
    // As many large buffers as a chain can have, all of the same memory.
    let disk = Limited::new(&RateLimit::default(), 1);
    let table = DATA + 0x8_0000;
    let data = 255 - 2;
    disk.rig.put(DATA, RequestHeader { request_type: RequestType::IN, reserved: 0, sector: 0 }.as_bytes());
    disk.rig.put_descriptor(table, 0, (DATA, 16), NEXT, 1);
    for at in 1..=data {
        disk.rig.put_descriptor(table, at, (DATA_AT, 1 << 21), WRITE | NEXT, at + 1);
    }
    disk.rig.put_descriptor(table, data + 1, (DATA + 0x20, 1), WRITE, 0);
    disk.rig.descriptor(0, 0, (table, 16 * (u32::from(data) + 2)), INDIRECT, 0);
    disk.rig.offer(0, 0);
    disk.rig.kick(0);
    assert_eq!((disk.done(), disk.rig.get(DATA + 0x20, 1)), (1, vec![RequestStatus::IOERR.0]));
    assert_eq!(disk.rig.transport.counters().oversized.get(), 1);
    disk.put_segments(RequestType::DISCARD, &[Segment::new_zeroed(); DISCARD_SEGMENTS_MAX as usize + 1]);
    disk.rig.kick(0);
    assert_eq!(disk.rig.transport.counters().oversized.get(), 2);
    assert!(!disk.rig.needs_reset());
}
