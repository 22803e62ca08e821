//! Tests of a device that is at work for a long time: what its driver and its host may do meanwhile.

use super::harness::{DATA, Rig, WRITE, available, used};
use super::worker::{self, Worker};
use super::*;
use crate::stop::{Outcome, Stop};
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::{CommonFeatures, Status, ring};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A device whose every request begins with a message to the test and ends when the test says so.
struct Gated {
    begun: Sender<()>,
    go: Mutex<Receiver<()>>,
    forgotten: Arc<Counter>,
}

impl Device for Gated {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_count(&self) -> usize {
        2
    }
    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(NoConfig)
    }
    fn reset_queue(&mut self, _index: usize) {
        self.forgotten.add(1);
    }
    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        io.drain(index, |_, chain, _| {
            self.begun.send(()).unwrap();
            // A test that ended lets everything through.
            let _ = self.go.lock().unwrap_or_else(PoisonError::into_inner).recv();
            assert!(chain.writable_len() != 13, "a guest that makes the device panic");
            Ok(0)
        })
    }
}

/// A running device with requests in its queue 0, of which the first has begun.
struct Busy {
    rig: Rig,
    worker: Worker,
    stop: Arc<Stop>,
    begun: Receiver<()>,
    go: Sender<()>,
    forgotten: Arc<Counter>,
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Busy {
    fn new(requests: u16, features: u64, len: u32) -> Self {
        let ((begun_sender, begun), (go, go_receiver)) = (channel(), channel());
        let forgotten = Arc::new(Counter::default());
        let device = Gated { begun: begun_sender, go: Mutex::new(go_receiver), forgotten: forgotten.clone() };
        let rig = Rig::new(device);
        let stop = Arc::new(Stop::new().unwrap());
        let worker = worker::start(rig.transport.clone(), stop.clone(), || ()).unwrap();
        rig.start(features);
        for head in 0..requests {
            rig.chain(0, head, &[(DATA, len, WRITE)]);
            rig.offer(0, head);
        }
        rig.kick(0);
        begun.recv_timeout(PATIENCE).unwrap();
        Self { rig, worker, stop, begun, go, forgotten }
    }

    fn end(self) {
        self.worker.leave();
        drop(self.go);
        until("the end of the worker", || self.worker.has_ended());
    }
}

fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        // A thread that is asked for its end gets a signal each time.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `what` as a vCPU does, and fails if it waits for the device.
fn without_waiting(what: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(what);
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        if !thread.is_finished() {
            // The scope would wait for the thread.
            eprintln!("a register access waits for the device");
            std::process::abort();
        }
    });
}

#[test]
fn no_register_waits_for_a_request() {
    let busy = Busy::new(1, u64::MAX, 8);
    without_waiting(|| {
        for offset in (0..0x200).step_by(4) {
            busy.rig.transport.read(offset, &mut [0; 4]);
        }
        for register in [Register::QueueSel, Register::DriverFeaturesSel, Register::QueueNotify, Register::InterruptAck]
        {
            busy.rig.write(register, 1);
        }
        busy.rig.transport.write(0x100, &[1]);
        assert!(busy.rig.status().contains(Status::DRIVER_OK));
    });
    busy.end();
}

#[test]
fn a_reset_is_seen_as_done_once_the_device_has_let_go() {
    let busy = Busy::new(3, u64::MAX, 8);
    without_waiting(|| busy.rig.write(Register::Status, 0));
    assert_ne!(busy.rig.status(), Status::empty());
    without_waiting(|| busy.rig.set_status(Status::ACKNOWLEDGE));
    busy.go.send(()).unwrap();
    until("the reset", || busy.rig.status() == Status::empty());
    assert_eq!((busy.rig.used_index(0), busy.begun.try_iter().count()), (1, 0), "the others were not begun");
    busy.rig.put(available(0), &vec![0; ring::available_len(super::harness::SIZE)]);
    busy.rig.put(used(0), &vec![0; ring::used_len(super::harness::SIZE)]);
    busy.rig.start(u64::MAX);
    busy.rig.chain(0, 0, &[(DATA, 8, WRITE)]);
    busy.rig.offer(0, 0);
    busy.rig.kick(0);
    busy.go.send(()).unwrap();
    until("a request after the reset", || busy.rig.used_index(0) == 1);
    busy.end();
}

#[test]
fn a_queue_is_taken_back_once_the_device_has_let_go() {
    for (register, value) in [(Register::QueueReady, 0), (Register::QueueReset, 1)] {
        let busy = Busy::new(2, u64::MAX, 8);
        busy.rig.write(Register::QueueSel, 0);
        without_waiting(|| busy.rig.write(register, value));
        assert_eq!((busy.rig.read(Register::QueueReady), busy.forgotten.get()), (1, 0));
        // Setting it up again is not possible before.
        busy.rig.write(Register::QueueReady, 1);
        busy.go.send(()).unwrap();
        until("the queue's end", || busy.rig.read(Register::QueueReady) == 0);
        assert_eq!((busy.rig.read(Register::QueueReset), busy.forgotten.get()), (0, 1));
        assert_eq!(busy.rig.used_index(0), 1, "the second request was not begun");
        busy.end();
    }
}

#[test]
fn a_worker_leaves_after_the_request_it_is_working_on() {
    let busy = Busy::new(10, u64::MAX, 8);
    busy.worker.leave();
    busy.go.send(()).unwrap();
    until("the end of the worker", || busy.worker.has_ended());
    assert_eq!((busy.rig.used_index(0), busy.begun.try_iter().count()), (1, 0));
}

#[test]
fn a_completion_is_not_held_back_by_the_next_request() {
    for features in [u64::MAX, !CommonFeatures::EVENT_IDX.bits()] {
        let busy = Busy::new(3, features, 8);
        assert_eq!(busy.rig.edges.take(), 0);
        busy.go.send(()).unwrap();
        busy.begun.recv_timeout(PATIENCE).unwrap();
        // used_event is 0: the guest wants an interrupt for the first, and with an event index for no other.
        assert_eq!((busy.rig.used_index(0), busy.rig.edges.take()), (1, 1), "while the second is at work");
        busy.go.send(()).unwrap();
        busy.begun.recv_timeout(PATIENCE).unwrap();
        let (more, suppressed) = if features == u64::MAX { (0, 1) } else { (1, 0) };
        assert_eq!(busy.rig.edges.take(), more);
        assert_eq!(busy.rig.transport.counters().interrupts_suppressed.get(), suppressed);
        busy.end();
    }
}

#[test]
fn a_worker_that_panics_ends_the_vm() {
    let busy = Busy::new(1, u64::MAX, 13);
    busy.go.send(()).unwrap();
    until("the end of the worker", || busy.worker.has_ended());
    assert_eq!(busy.stop.outcome(), Some(Outcome::Failure("the thread of rng panicked".into())));
}

#[test]
fn a_change_waits_for_the_end_of_a_request_and_no_longer() {
    let busy = Busy::new(5, u64::MAX, 8);
    assert_eq!(busy.rig.transport.change(Change::Size(0), Duration::ZERO).unwrap_err(), "the device is busy");
    let refused = std::thread::scope(|scope| {
        let change = scope.spawn(|| busy.rig.transport.change(Change::Size(0), PATIENCE).unwrap_err());
        until("the change", || busy.rig.transport.is_awaited());
        busy.go.send(()).unwrap();
        change.join().unwrap()
    });
    assert!(refused.contains("nothing of that kind"), "{refused}");
    assert_eq!(busy.rig.used_index(0), 1, "it came between the first and the second request");
    busy.begun.recv_timeout(PATIENCE).unwrap();
    assert!(!busy.rig.transport.reset(Duration::ZERO), "the second request is at work");
    busy.go.send(()).unwrap();
    assert!(busy.rig.transport.reset(PATIENCE));
    assert_eq!((busy.rig.status(), busy.begun.try_iter().count()), (Status::empty(), 0));
    busy.end();
}
