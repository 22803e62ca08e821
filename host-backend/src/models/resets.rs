//! Resets of a device by its driver and by the host, against its worker, another vCPU that does anything, and a client that
//! changes the device.

use super::transport::{Bench, FLAGS, Seen, probed};
use super::{finds, holds};
use crate::mistake::Mistake;
use crate::sync::thread::{self, JoinHandle};
use crate::virtio::Change;
use shared_abi::virtio::mmio::Register;
use shuttle::rand::{Rng, thread_rng};
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_millis(5);

/// A client that changes the device; it may be busy.
fn client(bench: &Arc<Bench>) -> JoinHandle<()> {
    let bench = bench.clone();
    thread::spawn(move || drop(bench.rig.transport.change(Change::Size(512), PATIENCE)))
}

/// From now on the queues are the driver's alone.
fn is_off(bench: &Bench, seen: &Seen) {
    for queue in [0, 1] {
        seen.set_off(queue, true);
        bench.mark(queue);
    }
}

/// Nobody has touched the queues, and the device serves its driver again.
fn is_as_new(bench: &Bench, seen: &Seen, handler: JoinHandle<()>) {
    for queue in [0, 1] {
        bench.check_and_clear(queue);
        seen.set_off(queue, false);
    }
    bench.rig.start(FLAGS);
    bench.request(0, 2);
    bench.request(1, 2);
    bench.end(handler);
}

/// The driver waits until the device reads as reset; from then on nothing of it is used.
fn driver_resets() {
    let (bench, seen, handler) = probed(FLAGS);
    let vcpu = {
        let bench = bench.clone();
        thread::spawn(move || {
            for queue in [1, 0, 1] {
                bench.rig.kick(queue);
                bench.rig.read(Register::InterruptStatus);
            }
        })
    };
    let client = client(&bench);
    bench.offer(0, 3);
    bench.offer(1, 3);
    bench.rig.write(Register::Status, 0);
    while bench.rig.read(Register::Status) != 0 {
        thread::yield_now();
    }
    is_off(&bench, &seen);
    assert_eq!(bench.rig.read(Register::InterruptStatus), 0);
    vcpu.join().unwrap();
    client.join().unwrap();
    thread::yield_now();
    is_as_new(&bench, &seen, handler);
}

/// The host resets the device, as it does when the guest resets its machine.
fn host_resets() {
    let (bench, seen, handler) = probed(FLAGS);
    let client = client(&bench);
    bench.offer(0, 3);
    bench.offer(1, 3);
    while !bench.rig.transport.reset(Duration::ZERO) {
        thread::yield_now();
    }
    assert_eq!(bench.rig.read(Register::Status), 0);
    is_off(&bench, &seen);
    client.join().unwrap();
    thread::yield_now();
    is_as_new(&bench, &seen, handler);
}

/// A vCPU of a driver that knows no order.
fn anything(bench: &Bench) {
    let registers = [
        Register::QueueSel,
        Register::QueueReady,
        Register::QueueReset,
        Register::QueueNotify,
        Register::QueueSize,
        Register::InterruptAck,
        Register::Status,
    ];
    for _ in 0..5 {
        let register = registers[thread_rng().gen_range(0..registers.len())];
        let value = [0, 1, 2, 7, 15, 16][thread_rng().gen_range(0..6)];
        bench.rig.write(register, value);
        bench.rig.read(Register::Status);
    }
}

/// Two vCPUs write anything. Nothing hangs, and after a reset an orderly driver can work.
fn two_vcpus_do_anything() {
    let (bench, _, handler) = probed(FLAGS);
    bench.offer(0, 2);
    let vcpu = {
        let bench = bench.clone();
        thread::spawn(move || anything(&bench))
    };
    let client = client(&bench);
    anything(&bench);
    vcpu.join().unwrap();
    bench.rig.write(Register::Status, 0);
    while bench.rig.read(Register::Status) != 0 {
        thread::yield_now();
    }
    client.join().unwrap();
    [0, 1].into_iter().for_each(|queue| bench.mark(queue));
    [0, 1].into_iter().for_each(|queue| bench.check_and_clear(queue));
    bench.rig.start(FLAGS);
    bench.request(0, 2);
    bench.end(handler);
}

#[test]
fn device_that_reads_as_reset_uses_nothing() {
    holds(driver_resets);
}

#[test]
fn device_that_the_host_has_reset_uses_nothing() {
    holds(host_resets);
}

#[test]
fn vcpus_that_write_anything_end_with_a_reset() {
    holds(two_vcpus_do_anything);
}

#[test]
fn device_that_reads_as_reset_too_early_is_found() {
    finds(Mistake::ResetBeforeLetGo, driver_resets);
}

#[test]
fn reset_of_a_busy_device_is_found() {
    finds(Mistake::ResetOfABusyDevice, host_resets);
}

#[test]
fn locks_in_the_wrong_order_are_found() {
    finds(Mistake::LocksCrossed, two_vcpus_do_anything);
}

#[test]
fn device_that_is_not_called_again_after_a_client_is_found() {
    finds(Mistake::NoMore, || {
        let (bench, _, handler) = probed(FLAGS);
        let client = client(&bench);
        bench.request(0, 3);
        client.join().unwrap();
        bench.end(handler);
    });
}
