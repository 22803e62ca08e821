//! Tests of devices that interrupt too often: what is put off comes, once.

use super::harness::{DATA, READ, Rig, WRITE};
use super::pace::{INTERRUPTS_PER_SECOND, PACE_BURST};
use super::rng::Rng;
use crate::rate::Clock;
use crate::rate::fake::FakeClock;
use shared_abi::virtio::Status;
use shared_abi::virtio::mmio::{InterruptStatus, Register};
use std::sync::Arc;
use std::time::Duration;

/// A running entropy device whose every request interrupts.
fn paced() -> (Rig, Arc<FakeClock>) {
    let rig = Rig::running(Rng::new());
    let clock = FakeClock::shared();
    rig.transport.signal().limit_interrupts(clock.clone());
    rig.edges.take();
    (rig, clock)
}

fn request(rig: &Rig) {
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
}

/// As many interrupts as may come at once.
fn exhaust(rig: &Rig) -> u64 {
    let burst = INTERRUPTS_PER_SECOND * PACE_BURST.as_millis() as u64 / 1000;
    (0..burst).for_each(|_| request(rig));
    assert_eq!(rig.edges.take() as u64, burst);
    burst
}

#[test]
fn interrupts_that_come_too_often_come_once_and_the_status_has_their_reason() {
    let (rig, clock) = paced();
    let burst = exhaust(&rig);
    rig.write(Register::InterruptAck, u32::MAX);
    (0..100).for_each(|_| request(&rig));
    assert_eq!((rig.edges.take(), rig.read(Register::InterruptStatus)), (0, InterruptStatus::USED_BUFFER.bits()));
    let counters = rig.transport.counters();
    assert_eq!((counters.interrupts.get(), counters.interrupts_delayed.get()), (burst, 100));
    clock.pass_until(rig.transport.awaited().until.unwrap());
    rig.transport.process_timer();
    assert_eq!((rig.edges.take(), rig.transport.awaited().until), (1, None));
    assert_eq!(counters.interrupts.get(), burst + 1);
}

#[test]
fn a_second_has_a_second_of_interrupts_and_a_burst_of_them() {
    let (rig, clock) = paced();
    // Half as many again as may be.
    let step = Duration::from_nanos(1_000_000_000 * 2 / (3 * INTERRUPTS_PER_SECOND));
    let start = clock.now();
    let mut requests = 0;
    while clock.elapsed() < Duration::from_secs(1) {
        request(&rig);
        requests += 1;
        clock.pass_until(start + step * requests);
        if rig.transport.awaited().until.is_some_and(|until| until <= clock.now()) {
            rig.transport.process_timer();
        }
    }
    let given = INTERRUPTS_PER_SECOND as usize * (1000 + PACE_BURST.as_millis() as usize) / 1000;
    let edges = rig.edges.take();
    assert!((given * 95 / 100..=given).contains(&edges), "{edges} of {requests}, not {given}");
}

#[test]
fn the_interrupt_of_a_device_that_needs_a_reset_comes_too() {
    let (rig, clock) = paced();
    exhaust(&rig);
    // Outside of memory.
    rig.descriptor(0, 0, (u64::MAX, 8), READ, 0);
    rig.offer(0, 0);
    rig.kick(0);
    assert!(rig.needs_reset());
    assert_eq!(rig.edges.take(), 0);
    clock.pass_until(rig.transport.awaited().until.unwrap());
    rig.transport.process_timer();
    assert_eq!(rig.edges.take(), 1);
    assert_ne!(rig.read(Register::InterruptStatus) & InterruptStatus::CONFIG_CHANGE.bits(), 0);
}

#[test]
fn a_reset_leaves_no_interrupt() {
    let (rig, clock) = paced();
    exhaust(&rig);
    request(&rig);
    let due = rig.transport.awaited().until.unwrap();
    rig.write(Register::Status, 0);
    assert_eq!((rig.status(), rig.transport.awaited().until), (Status::empty(), None));
    clock.pass_until(due);
    rig.transport.process_timer();
    assert_eq!(rig.edges.take(), 0);
}
