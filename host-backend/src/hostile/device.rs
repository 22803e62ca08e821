//! A lying device at work: its configuration changes, it asks for resets and statistics, and what it held back comes late.

use super::config::odd_field;
use super::liar::Liar;
use super::ring::{Held, LyingRing};
use crate::config::lie::Lie;
use crate::virtio::{Device, Fault, Io, Progress, VirtQueue};
use crate::wrap::DeviceWrapper;
use shared_abi::virtio::mmio::InterruptStatus;
use std::sync::Arc;

/// The lies of a device.
pub(super) struct Lying {
    liar: Arc<Liar>,
    /// What the rings hold back, by queue.
    held: Vec<Arc<Held>>,
    /// Requests that were a chance for a lie. How often a device is called depends on time.
    requests: u64,
}

impl Lying {
    pub(super) fn new(liar: Arc<Liar>) -> Self {
        Self { liar, held: Vec::new(), requests: 0 }
    }

    fn change_configuration(&self, io: &Io<'_>) {
        if let Some(mut draw) = self.liar.chance(Lie::ConfigChange)
            && let Some(field) = odd_field(self.liar.device_type(), &mut draw)
        {
            self.liar.tell(Lie::ConfigChange, format_args!("{} becomes {:02x?}", field.name, field.bytes));
            io.signal.change_config(|| self.liar.set_field(field.offset, field.bytes));
            io.signal.raise(InterruptStatus::CONFIG_CHANGE);
        }
        if self.liar.chance(Lie::ConfigInterrupt).is_some() {
            self.liar.tell(Lie::ConfigInterrupt, "an interrupt for the configuration");
            io.signal.raise(InterruptStatus::CONFIG_CHANGE);
        }
    }
}

impl DeviceWrapper for Lying {
    fn queue_started(&mut self, _inner: &dyn Device, index: usize, queue: &mut VirtQueue) {
        // Chains that an earlier ring held back are dropped.
        self.held.resize_with(self.held.len().max(index + 1), Arc::default);
        self.held[index] = Arc::default();
        queue.wrap_ring(|ring| Box::new(LyingRing::new(self.liar.clone(), ring, index, self.held[index].clone())));
    }

    fn was_reset(&mut self) {
        self.held.clear();
        self.liar.odd_fields().clear();
    }

    fn queue_was_reset(&mut self, index: usize) {
        if let Some(held) = self.held.get_mut(index) {
            *held = Arc::default();
        }
    }

    fn before_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        let Some(held) = self.held.get(index).filter(|_| io.queues[index].ready()) else { return Ok(()) };
        if held.has_due() {
            held.release(|head, written| io.queues[index].push_used(io.memory, head, written))?;
            io.interrupt(index)?;
        }
        Ok(())
    }

    fn after_work(&mut self, result: Result<Progress, Fault>, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let requests = io.signal.counters.requests.get();
        let mut needs_reset = false;
        for _ in std::mem::replace(&mut self.requests, requests)..requests {
            self.change_configuration(io);
            if let Some(balloon) = self.liar.balloon()
                && self.liar.chance(Lie::Statistics).is_some()
            {
                self.liar.tell(Lie::Statistics, "statistics are asked for");
                balloon.ask();
            }
            needs_reset |= self.liar.chance(Lie::NeedsReset).is_some();
        }
        if needs_reset && result.is_ok() {
            self.liar.tell(Lie::NeedsReset, "a reset is asked for");
            return Err(Fault::Pretended);
        }
        result
    }
}
