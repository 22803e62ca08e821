//! Tests of rate limits with workers, by counts: what a limited device does not hold up, and that it goes on by itself.

use super::block::{Block, RawFile};
use super::harness::{DATA, READ, Rig, WRITE};
use super::worker::{self, Worker};
use crate::config::{Disk, DiskAccess, RateLimit};
use crate::rate::SystemClock;
use crate::stop::Stop;
use shared_abi::virtio::Status;
use shared_abi::virtio::blk::{RequestHeader, RequestType};
use shared_abi::virtio::mmio::Register;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

struct Running {
    rig: Rig,
    worker: Worker,
    _file: tempfile::NamedTempFile,
}

impl Running {
    fn new(limit: &RateLimit) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let engine = RawFile::open(&Disk::at(file.path(), DiskAccess::ReadWrite)).unwrap();
        let block = Block::new(Box::new(engine), DiskAccess::ReadWrite, "");
        let rig = Rig::new(block.with_limit(limit, SystemClock::shared()));
        let worker = worker::start(rig.transport.clone(), Arc::new(Stop::new().unwrap()), || ()).unwrap();
        rig.start(u64::MAX);
        rig.put(DATA, RequestHeader { request_type: RequestType::IN, reserved: 0, sector: 0 }.as_bytes());
        Self { rig, worker, _file: file }
    }

    /// Makes so many reads of a sector available, with one notification.
    fn offer(&self, count: u16) {
        for _ in 0..count {
            let at = self.rig.available_index(0) % 4 * 3;
            self.rig.chain(0, at, &[(DATA, 16, READ), (DATA + 0x1000, 512, WRITE), (DATA + 0x800, 1, WRITE)]);
            self.rig.offer(0, at);
        }
        self.rig.kick(0);
    }

    fn done(&self) -> u64 {
        self.rig.transport.counters().requests.get()
    }

    fn end(self) {
        self.worker.leave();
        until("the end of the worker", || self.worker.has_ended());
    }
}

fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One request, and then nothing for eight minutes.
fn one_request() -> RateLimit {
    RateLimit { bytes: Some(1), operations: None, burst: Duration::from_secs(512) }
}

#[test]
fn a_disk_at_its_limit_slows_no_other_disk_and_is_reset_and_ended_at_once() {
    const REQUESTS: u64 = 1000;
    let (limited, other) = (Running::new(&one_request()), Running::new(&RateLimit::default()));
    limited.offer(2);
    until("the limit", || limited.rig.transport.counters().throttled.get() == 1);
    for number in 1..=REQUESTS {
        other.offer(1);
        until("a request of the other disk", || other.done() == number);
    }
    assert_eq!((limited.done(), other.done()), (1, REQUESTS));
    assert_eq!(other.rig.transport.counters().throttled.get(), 0);
    // The driver's registers do not wait, nor does a host action, a reset, or the end.
    limited.rig.write(Register::QueueNotify, 0);
    limited.rig.transport.change(super::Change::Size(8192), Duration::from_secs(10)).unwrap();
    limited.rig.write(Register::Status, 0);
    until("the reset", || limited.rig.status() == Status::empty());
    assert_eq!(limited.done(), 1);
    limited.end();
    other.end();
}

#[test]
fn what_a_limit_holds_goes_on_by_itself() {
    let limit = RateLimit { bytes: None, operations: Some(200), burst: Duration::from_millis(10) };
    let disk = Running::new(&limit);
    for _ in 0..5 {
        // One notification, of which the limit lets two requests through.
        let before = disk.done();
        disk.offer(4);
        until("the requests", || disk.done() == before + 4);
    }
    let counters = disk.rig.transport.counters();
    assert!(counters.throttled.get() >= 5, "{}", counters.throttled.get());
    disk.end();
}
