//! A machine that runs: its threads, and their end.

use super::Error;
use super::ending::{Patience, Waits, flush_all};
use super::machine::{Machine, Ready, slot_address};
use crate::control::ControlSocket;
use crate::say;
use crate::stop::Outcome;
use crate::virtio::net::passt;
use crate::virtio::worker::{self, Worker};
use crate::vmm::vcpu::{self, Running};
use crate::vmm::{GuestRam, kvm};
use kvm_ioctls::VmFd;
use shared_abi::virtio::mmio::Register;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a vCPU when the VM ends: on some hosts a guest instruction can hang in the kernel.
const VCPU_GRACE: Duration = Duration::from_secs(2);
/// Longest wait for the request that a device is working on when the VM ends.
const REQUEST_GRACE: Duration = Duration::from_secs(10);
/// Longest wait for a disk's flush.
const FLUSH_GRACE: Duration = Duration::from_secs(60);

/// A machine that runs.
pub struct Started {
    machine: Arc<Machine>,
    vcpus: Vec<Running>,
    workers: Vec<Worker>,
    control: Option<ControlSocket>,
    _vm: Arc<VmFd>,
    _memory: GuestRam,
}

impl Ready {
    /// Starts the devices' and the vCPUs' threads.
    ///
    /// # Errors
    /// When the system gives no threads or KVM no notifications.
    pub fn start(self) -> Result<Started, Error> {
        let mut workers = Vec::new();
        for (slot, (_, transport)) in (0..).zip(&self.machine.devices) {
            let stop = self.machine.stop.clone();
            workers.push(worker::start(transport.clone(), stop).map_err(Error::system("start a device"))?);
            let notify = slot_address(slot) + Register::QueueNotify.offset();
            let events = transport.notifier().map_or(&[][..], |notifier| &notifier.queues);
            for (index, event) in (0..).zip(events) {
                kvm::signal_on_write(&self.vm, event, notify, index)?;
            }
        }
        let mut vcpus = Vec::new();
        for (index, vcpu) in (0..).zip(self.vcpus) {
            vcpus.push(vcpu::start(index, vcpu, self.shared.clone()).map_err(Error::system("start a vCPU"))?);
        }
        let stop = self.machine.stop.clone();
        super::clock_bug::start(&self.vm, &stop).map_err(Error::system("start a thread"))?;
        let started = Started {
            machine: self.machine,
            vcpus,
            workers,
            control: self.control,
            _vm: self.vm,
            _memory: self.memory,
        };
        let peer = started.machine.peer.clone();
        let attached = self.passt.map(|passt| {
            let passt = passt.start()?;
            peer.map_or(Ok(()), |peer| peer.attach(passt)).map_err(passt::Error::Start)
        });
        match attached.transpose() {
            Ok(_) => Ok(started),
            Err(error) => {
                stop.request(Outcome::Failure(error.to_string()));
                started.end(&mut || Patience::Left);
                Err(error.into())
            }
        }
    }
}

impl Started {
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
        super::stats::print(&self.machine);
        lost
    }

    /// Tells all to stop before it waits for any.
    fn stop_threads(&self, tick: &mut dyn FnMut() -> Patience) {
        self.workers.iter().for_each(Worker::leave);
        let mut waits = Waits::new();
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            waits.add(&format!("vcpu{index}"), "its exit", VCPU_GRACE, || vcpu.has_ended());
        }
        for worker in &self.workers {
            waits.add(worker.transport().name(), "its request", REQUEST_GRACE, || worker.has_ended());
        }
        for (name, why) in waits.finish(tick) {
            say!("{name} did not stop: {why}");
        }
    }
}
