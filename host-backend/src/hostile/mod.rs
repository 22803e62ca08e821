//! Devices that lie to the guest: `--hostile-device SEED`. Any driver meets bad ids, lengths, indices, configuration changes,
//! interrupts at odd moments and resets that are ignored, from a seed that replays.
//!
//! The device models stay honest: lies come from wrappers around parts of the machine, added when the machine is
//! built. Without the option there is no wrapper.
//!
//! | wrapper | around | lies about |
//! |---|---|---|
//! | `slot` | the registers of a slot | identity, features, status, queue sizes, configuration, resets |
//! | `device` | a device | configuration changes, resets that it asks for |
//! | `ring` | the rings of its queues | used elements, their order and time, what was written to their buffers |
//! | `line` | its interrupt line | interrupts |
//!
//! A lie never writes guest memory except for the used rings and the buffers that the driver posted, and a device that
//! claims to ignore a reset has let go of its queues all the same. So a guest that breaks was broken by its own driver.
//!
//! Whether a device lies depends on the seed, the device, the [kind of lie](crate::config::lie::Lie) and the number of chances for that
//! kind before, and on nothing else: neither time, nor addresses, nor other kinds and devices.

mod config;
mod device;
mod later;
pub mod liar;
mod line;
mod ring;
mod slot;

use crate::config::hostile::Options;
use crate::devices::output::Output;
use crate::devices::{BusDevice, InterruptLine};
use crate::stop::Stop;
use crate::virtio::Device;
use crate::virtio::balloon::BalloonHandle;
use crate::virtio::mmio::MmioTransport;
use crate::wrap::{Registers, WrappedDevice, WrappedSlot};
use later::Later;
use liar::Liar;
use std::io;
use std::sync::Arc;

/// The hostile devices of a machine.
pub struct Hostile {
    options: Options,
    log: Option<Arc<Output>>,
    later: Arc<Later>,
    liars: Vec<Arc<Liar>>,
}

impl Hostile {
    /// None yet. Lies are written to `log`.
    pub fn new(options: Options, log: Option<Arc<Output>>) -> Self {
        Self { options, log, later: Arc::default(), liars: Vec::new() }
    }

    /// Makes a device and its interrupt line hostile, if that is asked for.
    pub fn device(
        &mut self,
        name: &str,
        device: Box<dyn Device>,
        line: Arc<dyn InterruptLine>,
        balloon: Option<&BalloonHandle>,
    ) -> (Box<dyn Device>, Arc<dyn InterruptLine>) {
        if !self.options.devices.contains(&device.device_type()) {
            return (device, line);
        }
        let liar = Liar::new(&self.options, name, device.device_type(), self.log.clone());
        let liar = Arc::new(liar.with(line.clone(), self.later.clone(), balloon.cloned()));
        self.liars.push(liar.clone());
        let device = WrappedDevice::around(device, device::Lying::new(liar.clone()));
        (Box::new(device), Arc::new(line::LyingLine::new(liar, line)))
    }

    /// What the driver of a device finds on the bus.
    pub fn slot(&self, transport: &Arc<MmioTransport>, registers: Arc<dyn BusDevice>) -> Arc<dyn BusDevice> {
        let Some(liar) = self.liar(transport.name()) else { return registers };
        liar.attach(transport);
        Arc::new(WrappedSlot::around(Registers::new(registers), slot::LyingSlot::new(liar.clone())))
    }

    /// The liar of a device, if it is hostile.
    pub fn liar(&self, name: &str) -> Option<&Arc<Liar>> {
        self.liars.iter().find(|liar| liar.name() == name)
    }

    /// One line that says which seed and which devices.
    pub fn notice(&self) -> String {
        let names: Vec<_> = self.liars.iter().map(|liar| liar.name()).collect();
        format!("hostile devices, seed {:#x}: {}", self.options.seed, names.join(", "))
    }

    /// Starts the thread for what happens a while after its cause; later calls do nothing.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(&self, stop: &Arc<Stop>, enter: impl FnOnce() + Send + 'static) -> io::Result<()> {
        Later::start(&self.later, stop, enter)
    }

    /// Whether that thread has ended, as it does when a stop is requested.
    pub fn has_ended(&self) -> bool {
        self.later.has_ended()
    }

    /// Runs all delayed actions now.
    #[cfg(test)]
    fn fire(&self) {
        self.later.fire();
    }
}

#[cfg(test)]
mod tests;
