//! The virtio devices and what they share: the [`Device`] trait, the rings ([`queue`]), the registers ([`mmio`]) and the
//! threads ([`worker`]).
//!
//! A device is called with one lock held, by its worker thread (or, in tests, by the thread that writes QueueNotify). It sees
//! guest memory and its queues through [`Io`]. A vCPU never waits for that lock: registers have one of their own, and the
//! configuration space is apart from the device ([`ConfigSpace`]). Whatever the guest put there is hostile: a device answers what it can
//! answer, and returns a [`Fault`] when the ring itself makes no sense, which costs the guest the device until it resets
//! it (DEVICE_NEEDS_RESET).

pub mod balloon;
pub mod block;
pub mod console;
pub mod mmio;
pub mod net;
pub mod notifier;
pub mod pace;
pub mod queue;
pub mod rng;
mod signal;
mod state;
pub mod throttle;
pub mod worker;

use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::vmm::GuestRam;
pub use queue::{Chain, Fault, VirtQueue};
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::InterruptStatus;
pub use signal::{Counter, Counters, Problem, Signal};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;
use vmm_sys_util::epoll::EventSet;

/// Chains that one call handles before it lets others at the device.
const BATCH: usize = 256;
/// Buffers returned before the guest is interrupted for them, at most, where none of them waits for anything.
const COALESCED_MAX: u16 = 16;

/// One type of device, as the transport sees it.
pub trait Device: Send {
    /// Its type.
    fn device_type(&self) -> DeviceType;

    /// Feature bits of the device type; the transport adds those of the rings.
    fn features(&self) -> u64;

    /// How many queues it has.
    fn queue_count(&self) -> usize;

    /// Its configuration space. Asked once.
    fn config(&self) -> Arc<dyn ConfigSpace>;

    /// The driver is ready and has accepted these features.
    fn activate(&mut self, _features: u64) {}

    /// Forgets everything that the driver did.
    fn reset(&mut self) {}

    /// The driver has set up queue `index`, which is live from now on.
    fn start_queue(&mut self, _index: usize, _queue: &mut VirtQueue) {}

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

    /// When this device has something to do again though nothing happens, if ever. Asked again after every call.
    fn wake_at(&self) -> Option<Instant> {
        None
    }

    /// The time of [`wake_at`](Self::wake_at) has come. If more is left to do at once, the next `wake_at` is now.
    ///
    /// # Errors
    /// A [`Fault`] when a ring makes no sense.
    fn process_timer(&mut self, _io: &mut Io<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Changes the device at the host's request, but not yet its configuration space: that is [`show`](Self::show). The
    /// transport notifies the guest.
    ///
    /// # Errors
    /// One line that says why it cannot be so.
    fn change(&mut self, _change: Change) -> Result<Changed, String> {
        Err(format!("a {} device has nothing of that kind", self.device_type().name()))
    }

    /// Shows in the configuration space what [`change`](Self::change) changed, if that returned [`Changed::Config`]. The
    /// transport changes the generation in the same step, so nothing here waits.
    fn show(&mut self) {}

    /// Makes what the guest wrote durable, if that takes anything; called before the host ends. Asked once.
    fn flusher(&self) -> Option<Arc<dyn Flush>> {
        None
    }
}

/// The configuration space of a device. vCPUs access it while the device works, so it never waits for that.
pub trait ConfigSpace: Send + Sync {
    /// Reads; bytes beyond its end are zero.
    fn read(&self, offset: usize, data: &mut [u8]);

    /// Writes; read-only fields ignore it.
    fn write(&self, _offset: usize, _data: &[u8]) {}
}

/// The configuration space of a device that has none: all zeroes.
#[derive(Clone, Copy, Debug)]
pub struct NoConfig;

impl ConfigSpace for NoConfig {
    fn read(&self, _offset: usize, data: &mut [u8]) {
        data.fill(0);
    }
}

/// Makes what was written durable. Works while the device is busy, and also when it is stuck.
pub trait Flush: Send + Sync {
    /// Returns once everything that was answered before is durable.
    ///
    /// # Errors
    /// Those of the storage.
    fn flush(&self) -> std::io::Result<()>;
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

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It goes back to the guest with this number of written bytes.
    Done(u32),
    /// It stays in the queue, and so does all that comes after it.
    Later,
}

/// What a device gets to see while it works.
pub struct Io<'a> {
    /// The guest's memory.
    pub memory: &'a GuestRam,
    /// Its queues; those that the driver did not set up are not ready.
    pub queues: &'a mut [VirtQueue],
    /// Its interrupt and its counters.
    pub signal: &'a Signal,
    /// Whether a thread waits for the device.
    pub pause: &'a Pause,
}

/// Makes a device stop between two requests.
#[derive(Debug, Default)]
pub struct Pause {
    /// The driver changed something that the device has not processed.
    attention: AtomicBool,
    /// The device's thread is to end.
    leave: AtomicBool,
    /// How many wait for the device to come between two requests.
    waiting: AtomicU32,
    /// The device is in the middle of a request, which may take any time.
    in_request: AtomicBool,
}

impl Pause {
    fn requested(&self) -> bool {
        self.attention.load(Ordering::Acquire) || self.leave.load(Ordering::Acquire)
    }
}

impl Io<'_> {
    /// Whether to stop before the next request and return [`Progress::More`].
    pub fn interrupted(&self) -> bool {
        self.pause.requested()
    }

    /// Takes the available chains off a queue one by one and returns each to the guest with the number of bytes that
    /// `handle` says it wrote. The guest is interrupted for each as it asked: the next one may take long.
    ///
    /// # Errors
    /// Those of the ring and of `handle`.
    pub fn drain(
        &mut self,
        index: usize,
        mut handle: impl FnMut(&GuestRam, &Chain, &Signal) -> Result<u32, Fault>,
    ) -> Result<Progress, Fault> {
        self.drain_or_hold(index, |memory, chain, signal| handle(memory, chain, signal).map(Handled::Done))
    }

    /// The same for a device that may leave a chain for later. It then has to look at the queue again by itself: the guest
    /// is not asked for notifications.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub fn drain_or_hold(
        &mut self,
        index: usize,
        mut handle: impl FnMut(&GuestRam, &Chain, &Signal) -> Result<Handled, Fault>,
    ) -> Result<Progress, Fault> {
        if !self.queues[index].ready() {
            return Ok(Progress::Done);
        }
        let mut left = BATCH;
        loop {
            self.queues[index].disable_notification(self.memory)?;
            while left > 0
                && !self.interrupted()
                && let Some(chain) = self.queues[index].pop(self.memory)?
            {
                self.pause.in_request.store(true, Ordering::Release);
                let handled = handle(self.memory, &chain, self.signal);
                self.pause.in_request.store(false, Ordering::Release);
                let Handled::Done(written) = handled? else {
                    self.queues[index].undo_pop(1);
                    return Ok(Progress::Done);
                };
                self.queues[index].push_used(self.memory, chain.head(), written)?;
                self.signal.counters.requests.add(1);
                self.interrupt(index)?;
                left -= 1;
            }
            if !self.queues[index].enable_notification(self.memory)? {
                return Ok(Progress::Done);
            }
            if left == 0 || self.interrupted() {
                return Ok(Progress::More);
            }
        }
    }

    /// Interrupts the guest if it wants to know about the buffers returned in queue `index`.
    ///
    /// # Errors
    /// Those of the ring.
    pub fn interrupt(&mut self, index: usize) -> Result<(), Fault> {
        if self.queues[index].returned() == 0 {
            return Ok(());
        }
        if self.queues[index].wants_interrupt(self.memory)? {
            self.signal.raise(InterruptStatus::USED_BUFFER);
        } else {
            self.signal.counters.interrupts_suppressed.add(1);
        }
        Ok(())
    }

    /// The same once a few buffers were returned: for devices whose next step takes microseconds.
    ///
    /// # Errors
    /// Those of the ring.
    pub fn interrupt_soon(&mut self, index: usize) -> Result<(), Fault> {
        if self.queues[index].returned() >= COALESCED_MAX { self.interrupt(index) } else { Ok(()) }
    }
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
mod busy_tests;
#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod pace_tests;
#[cfg(test)]
mod sequences;
