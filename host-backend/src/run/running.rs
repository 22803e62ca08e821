//! A machine that runs: its threads, and their end.

use super::Error;
use super::ending::{Flusher, Patience, Waits, flush_all};
use super::events::EventLoop;
use super::image::Image;
use super::machine::{BuiltMachine, Machine, slot_address};
use super::platform::Platform;
use crate::control::{ControlServer, ControlSocket, ControlThread, Controlled};
use crate::sandbox::{Entrances, Kind, Sandbox};
use crate::say;
use crate::stop::Outcome;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::worker::{self, Worker};
use crate::vmm::lifecycle::Event;
use crate::vmm::{kvm, memory, vcpu};
use shared_abi::virtio::DeviceType;
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
pub(super) struct RunningMachine {
    machine: Arc<Machine>,
    platform: Platform,
    image: Image,
    shared: Arc<vcpu::Shared>,
    vcpus: Vec<vcpu::Thread>,
    workers: Vec<Worker>,
    flushers: Vec<Flusher>,
    control: Option<ControlThread>,
}

impl BuiltMachine {
    /// Starts all threads that there will ever be, each in its part of the sandbox, and the main thread in its own. The guest
    /// does not run yet.
    ///
    /// # Errors
    /// When the system gives no threads, or the sandbox cannot be put on.
    pub(super) fn start(self, sandbox: Arc<Sandbox>) -> Result<RunningMachine, Error> {
        let Self { machine, platform, shared, image, sockets, .. } = self;
        let _ = machine.sandbox.set(sandbox.clone());
        let (vcpus, workers, flushers) = (Vec::new(), Vec::new(), Vec::new());
        let mut started = RunningMachine { machine, platform, image, shared, vcpus, workers, flushers, control: None };
        let mut entrances = Entrances::new(sandbox.clone());
        let threads = started.start_threads(sockets, &mut entrances);
        // Also after a failure: those that were started end by themselves.
        let entered = threads.and_then(|()| Ok(sandbox.complete()?)).and_then(|()| Ok(entrances.wait()?));
        match entered {
            Ok(()) => Ok(started),
            Err(error) => Err(started.fail(error)),
        }
    }

    /// The kinds of its threads.
    pub(super) fn kinds(&self) -> Kind {
        let mut kinds = Kind::MAIN | Kind::VCPU;
        for (_, transport) in &self.machine.devices {
            kinds |= kind(transport);
            kinds |= if transport.flusher().is_some() { Kind::FLUSH } else { Kind::empty() };
        }
        kinds |= if self.sockets.is_empty() { Kind::empty() } else { Kind::CONTROL };
        kinds | if self.machine.hostile.is_some() { Kind::HOSTILE } else { Kind::empty() }
    }
}

/// The kind of a device's thread.
fn kind(transport: &MmioTransport) -> Kind {
    match transport.device_type() {
        DeviceType::BLOCK => Kind::BLOCK,
        DeviceType::NET => Kind::NET,
        DeviceType::BALLOON => Kind::BALLOON,
        DeviceType::CONSOLE => Kind::CONSOLE,
        _ => Kind::RNG,
    }
}

impl RunningMachine {
    fn start_threads(&mut self, sockets: Vec<ControlSocket>, entrances: &mut Entrances) -> Result<(), Error> {
        let (machine, stop) = (self.machine.clone(), &self.machine.stop);
        for (name, transport) in &machine.devices {
            let enter = entrances.entrance(kind(transport));
            let worker = worker::start(transport.clone(), stop.clone(), enter);
            self.workers.push(worker.map_err(Error::system("start a device"))?);
            if let Some(disk) = transport.flusher() {
                let flusher = Flusher::new(name, disk, entrances.entrance(Kind::FLUSH));
                self.flushers.push(flusher.map_err(Error::system("start the flush of a disk"))?);
            }
        }
        if let Some(hostile) = &machine.hostile {
            hostile.start(stop, entrances.entrance(Kind::HOSTILE)).map_err(Error::system("start a thread"))?;
        }
        if let Some(vm) = self.platform.vm() {
            super::parts::clock(vm, stop).map_err(Error::system("start a thread"))?;
        }
        for index in 0..machine.config.cpus {
            let vcpu = vcpu::start(index, self.shared.clone(), entrances.entrance(Kind::VCPU));
            self.vcpus.push(vcpu.map_err(Error::system("start a vCPU"))?);
        }
        if !sockets.is_empty() {
            let server = ControlServer::new(sockets, machine.clone(), stop.clone());
            let server = server.map_err(Error::system("serve the control socket"))?;
            let control = ControlThread::start(server, stop.clone(), entrances.entrance(Kind::CONTROL));
            self.control = Some(control.map_err(Error::system("serve the control socket"))?);
        }
        Ok(())
    }

    /// Lets the vCPUs of the platform's VM run, with the devices' notifications.
    ///
    /// # Errors
    /// When KVM gives no notifications.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        let Some(vm) = self.platform.vm() else { return Ok(()) };
        self.shared.gate.change(Event::Start)?;
        for (slot, (_, transport)) in (0..).zip(&self.machine.devices) {
            let notify = slot_address(slot) + Register::QueueNotify.offset();
            let events = transport.notifier().map_or(&[][..], |notifier| &notifier.queues);
            for (index, event) in (0..).zip(events) {
                kvm::signal_on_write(vm, event.event(), notify, index)?;
            }
        }
        for (thread, vcpu) in self.vcpus.iter().zip(std::mem::take(&mut self.platform.vcpus)) {
            thread.run(vcpu);
        }
        Ok(())
    }

    /// Ends what has not begun to run, because of this.
    pub(super) fn fail(self, error: Error) -> Error {
        self.machine.stop.request(Outcome::Failure(error.to_string()));
        self.end(&mut || Patience::Left);
        error
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
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            waits.add(&format!("vcpu{index}"), "its exit", VCPU_GRACE, || vcpu.is_idle());
        }
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
        self.platform.drop_vm();
        let text = |error: Error| error.to_string();
        memory::clear(&self.platform.memory).map_err(|error| format!("clear memory: {error}"))?;
        let entry = self.image.load(&self.platform.memory).map_err(text)?;
        self.machine.serial.reset();
        self.platform.make(entry).map_err(text)?;
        self.machine.reboots.fetch_add(1, Ordering::Relaxed);
        self.shared.reset.is_done();
        self.run().map_err(text)
    }

    /// Ends all threads, then flushes the disks, whatever became of the threads. The VM must have been asked to stop.
    /// Calls `tick` while it waits, and tells the clients of the control socket about the result. Returns which disks may have
    /// lost what the guest wrote, and why.
    pub(super) fn end(mut self, tick: &mut dyn FnMut() -> Patience) -> Vec<String> {
        debug_assert!(self.machine.stop.requested());
        self.stop_threads(tick);
        crate::log::lift_limit();
        if let Some(peer) = &self.machine.peer {
            peer.end();
        }
        let lost = flush_all(&self.flushers, FLUSH_GRACE, tick);
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
        if let Some(control) = self.control.take() {
            control.finish(super::loss(&lost).map_or(Ok(()), Err));
        }
        lost
    }

    /// Tells all to stop before it waits for any.
    fn stop_threads(&mut self, tick: &mut dyn FnMut() -> Patience) {
        // Wakes those that wait for the end of a pause. It is asked for once.
        let _ = self.shared.gate.change(Event::Stop);
        self.workers.iter().for_each(Worker::leave);
        self.vcpus.iter_mut().for_each(vcpu::Thread::leave);
        let mut waits = Waits::new();
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            waits.add(&format!("vcpu{index}"), "its exit", VCPU_GRACE, || vcpu.has_ended());
        }
        for worker in &self.workers {
            waits.add(worker.transport().name(), "its request", REQUEST_GRACE, || worker.has_ended());
        }
        if let Some(hostile) = &self.machine.hostile {
            waits.add("hostile", "its last lie", VCPU_GRACE, || hostile.has_ended());
        }
        for (name, why) in waits.finish(tick) {
            say!("{name} did not stop: {why}");
        }
    }
}
