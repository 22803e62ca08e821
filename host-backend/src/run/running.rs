//! A machine that runs: its threads, and their end.

use super::Error;
use super::ending::{Patience, Waits, flush_all};
use super::events::EventLoop;
use super::machine::{BuiltMachine, Machine, slot_address};
use super::platform::Platform;
use crate::control::{ControlSocket, Controlled};
use crate::say;
use crate::stop::Outcome;
use crate::virtio::net::passt::{self, Prepared};
use crate::virtio::worker::{self, Worker};
use crate::vmm::lifecycle::Event;
use crate::vmm::vcpu::{self, Running};
use crate::vmm::{kvm, memory};
use shared_abi::virtio::mmio::Register;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest wait for a vCPU when the VM ends: on some hosts a guest instruction can hang in the kernel.
const VCPU_GRACE: Duration = Duration::from_secs(2);
/// Longest wait for the request that a device is working on when the VM ends.
const REQUEST_GRACE: Duration = Duration::from_secs(10);
/// Longest wait for a disk's flush.
const FLUSH_GRACE: Duration = Duration::from_secs(60);

/// A machine that runs.
pub struct RunningMachine {
    machine: Arc<Machine>,
    platform: Platform,
    shared: Arc<vcpu::Shared>,
    vcpus: Vec<Running>,
    workers: Vec<Worker>,
    control: Option<ControlSocket>,
}

impl BuiltMachine {
    /// Starts the devices' and the vCPUs' threads.
    ///
    /// # Errors
    /// When the system gives no threads or KVM no notifications.
    pub fn start(self) -> Result<RunningMachine, Error> {
        let mut workers = Vec::new();
        for (_, transport) in &self.machine.devices {
            let stop = self.machine.stop.clone();
            workers.push(worker::start(transport.clone(), stop).map_err(Error::system("start a device"))?);
        }
        let (machine, platform, shared) = (self.machine, self.platform, self.shared);
        let mut started =
            RunningMachine { machine, platform, shared, vcpus: Vec::new(), workers, control: self.control };
        let peer = started.machine.peer.clone();
        let result = started.start_vcpus().and_then(|()| {
            let Some(passt) = self.passt.map(Prepared::start).transpose()? else { return Ok(()) };
            peer.map_or(Ok(()), |peer| peer.attach(passt)).map_err(passt::Error::Start)?;
            Ok(())
        });
        match result {
            Ok(()) => Ok(started),
            Err(error) => {
                started.machine.stop.request(Outcome::Failure(error.to_string()));
                started.end(&mut || Patience::Left);
                Err(error)
            }
        }
    }
}

impl RunningMachine {
    /// Starts the vCPUs of the platform's VM, with the devices' notifications.
    fn start_vcpus(&mut self) -> Result<(), Error> {
        let Some(vm) = self.platform.vm() else { return Ok(()) };
        self.shared.gate.change(Event::Start)?;
        for (slot, (_, transport)) in (0..).zip(&self.machine.devices) {
            let notify = slot_address(slot) + Register::QueueNotify.offset();
            let events = transport.notifier().map_or(&[][..], |notifier| &notifier.queues);
            for (index, event) in (0..).zip(events) {
                kvm::signal_on_write(vm, event.event(), notify, index)?;
            }
        }
        super::parts::clock(vm, &self.machine.stop).map_err(Error::system("start a thread"))?;
        if let Some(hostile) = &self.machine.hostile {
            hostile.start(&self.machine.stop).map_err(Error::system("start a thread"))?;
        }
        for (index, vcpu) in (0..).zip(std::mem::take(&mut self.platform.vcpus)) {
            let vcpu = vcpu::start(index, vcpu, self.shared.clone()).map_err(Error::system("start a vCPU"))?;
            self.vcpus.push(vcpu);
        }
        Ok(())
    }

    /// Serves until the VM is asked to stop, and starts it again as often as its guest wants.
    pub(super) fn serve(&mut self, events: &mut EventLoop) {
        let stop = self.machine.stop.clone();
        loop {
            let shared = self.shared.clone();
            events.serve(|| !stop.requested() && !shared.is_to_be_reset());
            if stop.requested() {
                return;
            }
            if let Err(why) = self.reboot(events) {
                stop.request(Outcome::Failure(format!("start again after the guest's reset: {why}")));
            }
        }
    }

    /// Puts everything back as it was at first, and starts.
    fn reboot(&mut self, events: &mut EventLoop) -> Result<(), String> {
        let stop = self.machine.stop.clone();
        if !self.shared.begin_reset() {
            return Ok(());
        }
        let mut tick = || {
            let patience = events.turn();
            if stop.requested() { Patience::Gone } else { patience }
        };
        let mut waits = Waits::new();
        self.wait_for_vcpus(&mut waits);
        for worker in &self.workers {
            waits.add(worker.transport().name(), "its request", REQUEST_GRACE, || worker.has_reset());
        }
        let given_up = waits.finish(&mut tick);
        if stop.requested() {
            return Ok(());
        }
        if let Some((name, why)) = given_up.first() {
            return Err(format!("{name} did not stop: {why}"));
        }
        self.vcpus.clear();
        self.platform.drop_vm();
        let text = |error: Error| error.to_string();
        memory::clear(&self.platform.memory).map_err(|error| format!("clear memory: {error}"))?;
        let entry = super::image::load(&self.platform.memory, &self.machine.config).map_err(text)?;
        self.machine.serial.reset();
        self.platform.make(entry).map_err(text)?;
        self.machine.reboots.fetch_add(1, Ordering::Relaxed);
        self.shared.reset.is_done();
        self.start_vcpus().map_err(text)
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The control socket, to be served.
    pub fn take_control(&mut self) -> Option<ControlSocket> {
        self.control.take()
    }

    /// Ends all threads, then flushes the disks, whatever became of the threads. The VM must have been asked to stop.
    /// Calls `tick` while it waits. Returns which disks may have lost what the guest wrote, and why.
    pub(super) fn end(self, tick: &mut dyn FnMut() -> Patience) -> Vec<String> {
        debug_assert!(self.machine.stop.requested());
        self.stop_threads(tick);
        if let Some(peer) = &self.machine.peer {
            peer.end();
        }
        let disks = self.machine.devices.iter();
        let disks = disks.filter_map(|(name, transport)| Some((name.clone(), transport.flusher()?))).collect();
        let lost = flush_all(disks, FLUSH_GRACE, tick);
        for (name, transport) in &self.machine.devices {
            for problem in transport.problems().iter().filter(|problem| problem.count > 1) {
                say!("{name}: {} times in all: {}", problem.count, problem.first);
            }
            if let Some(fault) = transport.fault() {
                say!("{name} needed a reset: {fault}");
            }
        }
        if let Some(format) = self.machine.config.stats {
            super::stats::print(format, &self.machine.stats());
        }
        lost
    }

    fn wait_for_vcpus<'a>(&'a self, waits: &mut Waits<'a>) {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            waits.add(&format!("vcpu{index}"), "its exit", VCPU_GRACE, || vcpu.has_ended());
        }
    }

    /// Tells all to stop before it waits for any.
    fn stop_threads(&self, tick: &mut dyn FnMut() -> Patience) {
        // Wakes those that wait for the end of a pause. It is asked for once.
        let _ = self.shared.gate.change(Event::Stop);
        self.workers.iter().for_each(Worker::leave);
        let mut waits = Waits::new();
        self.wait_for_vcpus(&mut waits);
        for worker in &self.workers {
            waits.add(worker.transport().name(), "its request", REQUEST_GRACE, || worker.has_ended());
        }
        for (name, why) in waits.finish(tick) {
            say!("{name} did not stop: {why}");
        }
    }
}
