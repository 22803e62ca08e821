//! The registers of the queues, written by two vCPUs, against the device's worker: every request is answered and announced,
//! and a queue that the driver was told is off is not used any more.

use super::transport::{Bench, FLAGS, probed};
use super::{finds, holds};
use crate::mistake::Mistake;
use crate::sync::atomic::Ordering;
use crate::sync::thread;
use shared_abi::virtio::mmio::Register;

fn requests_are_answered(features: u64, request: fn(&Bench, u32, u16)) {
    let (bench, _, handler) = probed(features);
    let vcpu = {
        let bench = bench.clone();
        thread::spawn(move || (0..2).for_each(|_| request(&bench, 1, 2)))
    };
    (0..2).for_each(|_| request(&bench, 0, 2));
    vcpu.join().unwrap();
    bench.end(handler);
}

/// One vCPU takes queue 0 back, by `register`, and sets it up again, while another one makes requests in queue 1.
fn queue_is_taken_back(register: Register) {
    let (bench, seen, handler) = probed(FLAGS);
    let vcpu = {
        let bench = bench.clone();
        thread::spawn(move || bench.request(1, 3))
    };
    bench.offer(0, 4);
    thread::yield_now();
    {
        let _selected = bench.select(0);
        bench.rig.write(register, u32::from(register == Register::QueueReset));
        while bench.rig.read(register) == 1 {
            thread::yield_now();
        }
        assert_eq!(bench.rig.read(Register::QueueReady), 0);
    }
    seen.set_off(0, true);
    bench.mark(0);
    bench.rig.kick(0);
    (0..3).for_each(|_| thread::yield_now());
    bench.check_and_clear(0);
    seen.set_off(0, false);
    {
        let _selected = bench.select(0);
        bench.rig.queue(0);
        assert_eq!(bench.rig.read(Register::QueueReady), 1);
    }
    bench.request(0, 2);
    vcpu.join().unwrap();
    assert!(!bench.rig.needs_reset());
    bench.end(handler);
}

/// What the driver has written is seen before the next request but the one that the device may have taken already.
fn change_comes_before_the_next_request() {
    let (bench, seen, handler) = probed(FLAGS);
    bench.offer(0, 6);
    thread::yield_now();
    {
        let _selected = bench.select(0);
        bench.rig.write(Register::QueueReset, 1);
        let begun = seen.begun.load(Ordering::SeqCst);
        while bench.rig.read(Register::QueueReset) == 1 {
            thread::yield_now();
        }
        assert!(seen.begun.load(Ordering::SeqCst) <= begun + 1, "the device went on with a queue that was reset");
    }
    bench.end(handler);
}

#[test]
fn every_request_is_answered_and_announced() {
    holds(|| requests_are_answered(FLAGS, Bench::request));
}

#[test]
fn every_request_is_answered_and_announced_by_event_index() {
    holds(|| requests_are_answered(u64::MAX, Bench::request_by_index));
}

#[test]
fn queue_that_was_reset_is_not_used() {
    holds(|| queue_is_taken_back(Register::QueueReset));
}

#[test]
fn queue_that_is_not_ready_any_more_is_not_used() {
    holds(|| queue_is_taken_back(Register::QueueReady));
}

#[test]
fn device_sees_a_change_before_its_next_request() {
    holds(change_comes_before_the_next_request);
}

#[test]
fn queue_that_reads_as_off_too_early_is_found() {
    finds(Mistake::OffBeforeLetGo, || queue_is_taken_back(Register::QueueReset));
}

#[test]
fn missing_attention_is_found() {
    finds(Mistake::NoAttention, change_comes_before_the_next_request);
}

#[test]
fn device_that_is_not_called_again_is_found() {
    finds(Mistake::NoMore, || queue_is_taken_back(Register::QueueReady));
}

#[test]
fn interrupt_before_its_reason_is_found() {
    finds(Mistake::LineBeforeReason, || requests_are_answered(FLAGS, Bench::request));
}
