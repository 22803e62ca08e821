//! The virtio devices and what they share: the [`Device`] trait, the rings ([`queue`]), the registers ([`mmio`]) and the
//! threads ([`worker`]).
//!
//! A device is called with one lock held, by its worker thread (or, in tests, by whoever writes QueueNotify). It sees
//! guest memory and its queues through [`Io`]. Whatever the guest put there is hostile: a device answers what it can
//! answer, and returns a [`Fault`] when the ring itself makes no sense, which costs the guest the device until it resets
//! it (DEVICE_NEEDS_RESET).

pub mod balloon;
pub mod block;
pub mod bugs;
pub mod console;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
mod state;
pub mod worker;

use crate::devices::InterruptLine;
use crate::vmm::GuestRam;
use bugs::{Bug, is_injected};
pub use queue::{Chain, Fault, VirtQueue};
use serde::Serialize;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::InterruptStatus;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vmm_sys_util::epoll::EventSet;

/// Chains that one call handles before it lets others at the device.
const BATCH: usize = 256;

/// One type of device, as the transport sees it.
pub trait Device: Send {
    /// Its type.
    fn device_type(&self) -> DeviceType;

    /// Feature bits of the device type; the transport adds those of the rings.
    fn features(&self) -> u64;

    /// How many queues it has.
    fn queue_count(&self) -> usize;

    /// Reads the configuration space; bytes beyond its end are zero.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes the configuration space; read-only fields ignore it.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// The driver is ready and has accepted these features.
    fn activate(&mut self, _features: u64) {}

    /// Forgets everything that the driver did.
    fn reset(&mut self) {}

    /// Forgets what it holds of queue `index`, which the driver has reset alone.
    fn reset_queue(&mut self, _index: usize) {}

    /// The guest put buffers into queue `index`.
    ///
    /// # Errors
    /// A [`Fault`] when the ring makes no sense.
    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault>;

    /// A file descriptor outside the guest that this device waits for now, if any. Asked again after every call.
    fn event_source(&self) -> Option<(RawFd, EventSet)> {
        None
    }

    /// [`event_source`](Self::event_source) is ready.
    ///
    /// # Errors
    /// A [`Fault`] when a ring makes no sense.
    fn process_event(&mut self, _events: EventSet, _io: &mut Io<'_>) -> Result<Progress, Fault> {
        Ok(Progress::Done)
    }

    /// Somebody outside of the guest wants the device to be different from now on. The transport tells the guest.
    ///
    /// # Errors
    /// One line that says why it cannot be so.
    fn change(&mut self, _change: Change) -> Result<Changed, String> {
        Err(format!("a {} device has nothing of that kind", self.device_type().name()))
    }

    /// Makes what the guest wrote durable; called before the host ends.
    ///
    /// # Errors
    /// Those of the storage.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What can be changed about a device while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The disk has this many bytes.
    Size(u64),
    /// The card's cable is plugged in or pulled.
    Cable(Cable),
}

/// The cable of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cable {
    /// Plugged in.
    Up,
    /// Pulled.
    Down,
}

/// Whether a [`Change`] changed the configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The guest is to read it again.
    Config,
    /// All is as it was.
    Nothing,
}

/// Whether a device has more to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing until the next event.
    Done,
    /// Call again soon; others may go first.
    More,
}

/// What a device gets to see while it works.
pub struct Io<'a> {
    /// The guest's memory.
    pub memory: &'a GuestRam,
    /// Its queues; those that the driver has not set up are not ready.
    pub queues: &'a mut [VirtQueue],
    /// Its interrupt and its counters.
    pub signal: &'a Signal,
}

impl Io<'_> {
    /// Takes the available chains off a queue one by one and returns each to the guest with the number of bytes that
    /// `handle` says it wrote.
    ///
    /// # Errors
    /// Those of the ring and of `handle`.
    pub fn drain(
        &mut self,
        index: usize,
        mut handle: impl FnMut(&GuestRam, &Chain, &Counters) -> Result<u32, Fault>,
    ) -> Result<Progress, Fault> {
        let queue = &mut self.queues[index];
        if !queue.ready() {
            return Ok(Progress::Done);
        }
        let mut progress = Progress::Done;
        let mut left = BATCH;
        loop {
            queue.disable_notification(self.memory)?;
            while left > 0
                && let Some(chain) = queue.pop(self.memory)?
            {
                let written = handle(self.memory, &chain, &self.signal.counters)?;
                queue.push_used(self.memory, chain.head(), written)?;
                self.signal.counters.requests.add(1);
                left -= 1;
            }
            if !queue.enable_notification(self.memory)? {
                break;
            }
            if left == 0 {
                progress = Progress::More;
                break;
            }
        }
        self.interrupt(index)?;
        Ok(progress)
    }

    /// Interrupts the guest if it wants to know about the buffers returned in queue `index`.
    ///
    /// # Errors
    /// Those of the ring.
    pub fn interrupt(&mut self, index: usize) -> Result<(), Fault> {
        if self.queues[index].wants_interrupt(self.memory)? {
            self.signal.raise(InterruptStatus::USED_BUFFER);
        }
        Ok(())
    }
}

/// The interrupt of a device with its status register, its configuration's generation, and its counters.
pub struct Signal {
    line: Arc<dyn InterruptLine>,
    status: AtomicU32,
    generation: AtomicU32,
    /// What the device did.
    pub counters: Counters,
}

impl Signal {
    /// A quiet one.
    pub fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self { line, status: AtomicU32::new(0), generation: AtomicU32::new(0), counters: Counters::default() }
    }

    /// Sets the reason in the status register, then raises the line.
    pub fn raise(&self, why: InterruptStatus) {
        self.status.fetch_or(why.bits(), Ordering::SeqCst);
        self.counters.interrupts.add(1);
        self.line.raise();
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The guest has handled these reasons.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Tells the guest that the configuration space changed.
    pub fn config_changed(&self) {
        self.new_generation();
        self.raise(InterruptStatus::CONFIG_CHANGE);
    }

    /// The configuration space changed while nobody is to be interrupted.
    pub fn new_generation(&self) {
        if !is_injected(Bug::ConfigGenerationStuck) {
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Changes whenever the configuration does.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }
}

/// A counter that everybody may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

/// What a device did, for the statistics.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Notifications from the guest.
    pub notifications: Counter,
    /// Interrupts to the guest.
    pub interrupts: Counter,
    /// Buffers (block requests, frames …) handled.
    pub requests: Counter,
    /// Bytes taken from the guest.
    pub bytes_from_guest: Counter,
    /// Bytes given to the guest.
    pub bytes_to_guest: Counter,
    /// Requests answered with an error, frames dropped.
    pub errors: Counter,
    /// Accesses to registers that mean nothing.
    pub bad_accesses: Counter,
    /// Times the device had to ask for a reset.
    pub faults: Counter,
}

/// Reads a configuration space that lies in `bytes`: what is beyond its end reads as zero.
pub fn read_config_bytes(bytes: &[u8], offset: usize, data: &mut [u8]) {
    data.fill(0);
    if let Some(rest) = bytes.get(offset..) {
        let n = rest.len().min(data.len());
        data[..n].copy_from_slice(&rest[..n]);
    }
}

#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
mod hostile_tests;
