//! The gate: a pause returns when no vCPU is in the guest, and none gets in before the end of the pause; a reset and a stop
//! reach vCPUs that are in the guest, on the way, or waiting. The guest is a system call that a signal ends, if it does not
//! come too early.

use super::stop::serve;
use super::{finds, holds};
use crate::config::OnReset;
use crate::devices::Bus;
use crate::devices::reset::ResetLine;
use crate::mistake::Mistake;
use crate::stop::{Outcome, Stop};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::threads::{has_ended, system_call};
use crate::vmm::gate::Gate;
use crate::vmm::lifecycle::{Event, State};
use crate::vmm::vcpu::{Shared, Turn, pause, resume};
use shuttle::rand::{Rng, thread_rng};
use std::sync::Arc;

/// A VM without KVM.
struct Vm {
    shared: Shared,
    in_guest: AtomicU32,
    entries: AtomicU32,
}

impl Vm {
    fn new(vcpus: u32) -> Arc<Self> {
        let stop = Arc::new(Stop::new().unwrap());
        let reset = Arc::new(ResetLine::new(OnReset::Reboot, stop.clone()));
        let (gate, exits) = (Arc::new(Gate::new(vcpus)), Arc::default());
        let shared = Shared { ports: Bus::default(), mmio: Bus::default(), exits, gate, stop, reset };
        Arc::new(Self { shared, in_guest: AtomicU32::new(0), entries: AtomicU32::new(0) })
    }

    /// Starts a vCPU's thread, whose guest does `exit` after each of its own exits.
    fn start(self: &Arc<Self>, index: u32, exit: fn(&Self)) -> JoinHandle<()> {
        let vm = self.clone();
        thread::spawn(move || {
            vm.shared.run(index, |turn| {
                let Turn::Guest(pass) = turn else { return };
                vm.entries.fetch_add(1, Ordering::SeqCst);
                vm.in_guest.fetch_add(1, Ordering::SeqCst);
                let own = thread_rng().gen_bool(0.25);
                if !own {
                    system_call();
                }
                vm.in_guest.fetch_sub(1, Ordering::SeqCst);
                pass.exit();
                if own {
                    exit(&vm);
                }
            });
        })
    }

    fn start_all(self: &Arc<Self>, vcpus: u32, exit: fn(&Self)) -> Vec<JoinHandle<()>> {
        self.shared.gate.change(Event::Start).unwrap();
        (0..vcpus).map(|index| self.start(index, exit)).collect()
    }

    /// What holds while the VM is paused.
    fn stays_out(&self) {
        assert_eq!(self.in_guest.load(Ordering::SeqCst), 0, "a vCPU is in the guest");
        let entries = self.entries.load(Ordering::SeqCst);
        (0..5).for_each(|_| thread::yield_now());
        assert_eq!(self.entries.load(Ordering::SeqCst), entries, "a vCPU has gone into the guest");
    }
}

/// As the main thread waits: the signal is sent again until the threads have ended.
fn wait_for(threads: &[JoinHandle<()>]) {
    while !threads.iter().all(has_ended) {
        thread::yield_now();
    }
}

fn pause_keeps_vcpus_out() {
    let vm = Vm::new(2);
    let threads = vm.start_all(2, |_| ());
    for _ in 0..2 {
        pause(&vm.shared.gate, &vm.shared.stop).unwrap();
        vm.stays_out();
        resume(&vm.shared.gate, &vm.shared.stop).unwrap();
    }
    vm.shared.stop.request(Outcome::Stopped);
    vm.shared.gate.change(Event::Stop).unwrap();
    wait_for(&threads);
}

/// The VM ends while a client pauses it and lets it go on.
fn stop_reaches_every_vcpu() {
    let vm = Vm::new(2);
    let threads = vm.start_all(2, |vm| vm.shared.stop.request(Outcome::GuestExit(0)));
    let client = {
        let vm = vm.clone();
        thread::spawn(move || {
            // Either may come too late.
            if pause(&vm.shared.gate, &vm.shared.stop).is_ok() && vm.shared.gate.state() == State::Paused {
                let _ = resume(&vm.shared.gate, &vm.shared.stop);
            }
            vm.shared.stop.request(Outcome::Stopped);
        })
    };
    serve(&vm.shared.stop, || !vm.shared.stop.requested());
    vm.shared.gate.change(Event::Stop).unwrap();
    wait_for(&threads);
    client.join().unwrap();
}

/// The guest resets its machine while a client pauses it and lets it go on: the reset is done once, and not during the pause.
fn reset_is_done_once_and_not_while_paused() {
    let vm = Vm::new(2);
    let mut threads = vm.start_all(2, |vm| vm.shared.reset.pull());
    let client = {
        let vm = vm.clone();
        thread::spawn(move || {
            if pause(&vm.shared.gate, &vm.shared.stop).is_ok() {
                assert_eq!(vm.shared.gate.state(), State::Paused);
                vm.stays_out();
                resume(&vm.shared.gate, &vm.shared.stop).unwrap();
            }
            // The guest may not have come to its reset. Otherwise nobody wakes the main loop after the end of the pause.
            if !vm.shared.reset.is_pending() {
                vm.shared.reset.pull();
            }
        })
    };
    let shared = &vm.shared;
    let mut resets = 0;
    while resets == 0 {
        serve(&shared.stop, || !shared.is_to_be_reset());
        if !shared.begin_reset() {
            continue;
        }
        wait_for(&threads);
        assert_eq!((vm.in_guest.load(Ordering::SeqCst), shared.gate.state()), (0, State::Created));
        shared.reset.is_done();
        resets += 1;
        threads = vm.start_all(2, |_| ());
    }
    client.join().unwrap();
    shared.stop.request(Outcome::Stopped);
    shared.gate.change(Event::Stop).unwrap();
    wait_for(&threads);
}

#[test]
fn no_vcpu_is_in_the_guest_of_a_paused_vm() {
    holds(pause_keeps_vcpus_out);
}

#[test]
fn stop_reaches_vcpus_wherever_they_are() {
    holds(stop_reaches_every_vcpu);
}

#[test]
fn reset_waits_for_the_end_of_a_pause_of_another_thread() {
    holds(reset_is_done_once_and_not_while_paused);
}

#[test]
fn vcpu_that_checks_the_gate_first_is_found() {
    finds(Mistake::GateBeforePlace, pause_keeps_vcpus_out);
}

#[test]
fn signal_that_is_sent_once_is_found() {
    finds(Mistake::OneSignal, pause_keeps_vcpus_out);
}

#[test]
fn gate_that_wakes_nobody_is_found() {
    finds(Mistake::GateWakesNobody, pause_keeps_vcpus_out);
    finds(Mistake::GateWakesNobody, stop_reaches_every_vcpu);
}

#[test]
fn resume_that_wakes_nobody_is_found() {
    finds(Mistake::ResumeWakesNobody, reset_is_done_once_and_not_while_paused);
}
