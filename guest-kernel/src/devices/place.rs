//! Where devices are: register blocks and PCI functions, and the transports that reach them.

use crate::cmdline::Cmdline;
use crate::platform::mmio::Slot;
use crate::platform::pci::Function;
use crate::platform::registers::Window;
use crate::platform::{acpi, mmio, pci};
use crate::trap::Interrupts;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use frontends::Transport;
use frontends::transport::MmioTransport;
use pvops::detect::Surroundings;
use pvops::event::Trigger;
use shared_abi::virtio::DeviceType;

/// A transport of either kind.
pub type AnyTransport = Box<dyn Transport>;

/// A device that was seen.
pub struct Listed {
    /// What.
    pub device_type: DeviceType,
    /// Where.
    pub location: String,
    /// Which driver, or why none.
    pub state: String,
}

/// Which drivers for block, net and entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    /// `frontends`.
    Own,
    /// `virtio-drivers`.
    Reference,
}

impl DriverChoice {
    /// From `drivers=`.
    pub fn from_cmdline(cmdline: Cmdline) -> Self {
        match cmdline.value("drivers") {
            Some("reference") => Self::Reference,
            None | Some("own") => Self::Own,
            Some(other) => {
                log::warn!("drivers={other}: not own or reference; taking our own");
                Self::Own
            }
        }
    }

    /// The driver's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "frontends",
            Self::Reference => "virtio-drivers",
        }
    }
}

/// A place where a device is.
pub enum Place {
    /// A register block.
    Mmio(Slot, Window),
    /// A PCI function.
    Pci(Function),
}

impl Place {
    /// Where, as people write it.
    pub fn location(&self) -> String {
        match self {
            Self::Mmio(slot, _) => {
                let by = if matches!(slot.trigger, Trigger::Edge | Trigger::EdgeLow) { "" } else { " by level" };
                format!("mmio {:#x} line {}{by}", slot.address, slot.line)
            }
            Self::Pci(function) => function.location(),
        }
    }

    /// The transport of our drivers, with interrupts bound.
    pub(super) fn open(&self, name: &'static str) -> Result<(AnyTransport, Interrupts), String> {
        match self {
            Self::Mmio(slot, window) => {
                let transport = MmioTransport::new(*window).map_err(|error| error.to_string())?;
                let interrupts = Interrupts::of_line(name, slot.line, slot.trigger);
                Ok((Box::new(transport), interrupts))
            }
            Self::Pci(function) => {
                let (transport, interrupts) = function.open().map_err(|error| error.to_string())?;
                Ok((Box::new(transport), interrupts))
            }
        }
    }
}

/// Where the virtio devices of the machine are.
#[derive(Default)]
pub struct Places {
    /// Those that can be driven.
    pub modern: Vec<(DeviceType, Place)>,
    /// Those that cannot.
    pub legacy: Vec<Listed>,
    /// Register blocks that the machine names as those of devices, and that do not look like one.
    pub strange: Vec<(Slot, Window)>,
}

impl Places {
    /// Looks everywhere, and leaves the devices alone.
    pub fn find(found: &Surroundings, cmdline: Cmdline) -> Self {
        let mut places = Self::default();
        let mut seen: Vec<u64> = Vec::new();
        // With PCI there is no need: reading the bytecode would only take time.
        let declared = if pci::config::get().is_none() { acpi::virtio_mmio() } else { Vec::new() };
        for slot in mmio::slots(found.board_slots.unwrap_or(0), cmdline, declared) {
            if seen.contains(&slot.address) {
                continue;
            }
            seen.push(slot.address);
            let Some(window) = Window::map_words(slot.address, slot.size) else {
                log::warn!("virtio-mmio at {:#x}: no such range", slot.address);
                continue;
            };
            match MmioTransport::new(window) {
                Ok(transport) if transport.device_type() == DeviceType::NONE => {}
                Ok(transport) => places.modern.push((transport.device_type(), Place::Mmio(slot, window))),
                Err(error) => {
                    log::warn!("virtio-mmio at {:#x}: {error}", slot.address);
                    places.strange.push((slot, window));
                }
            }
        }
        if let Some(config) = pci::config::get() {
            for function in pci::functions(config) {
                if function.device_type == DeviceType::NONE {
                    let state = "legacy device, not driven: it needs disable-legacy=on".to_string();
                    log::warn!("{}: {state}", function.location());
                    places.legacy.push(Listed { device_type: DeviceType::NONE, location: function.location(), state });
                } else {
                    places.modern.push((function.device_type, Place::Pci(function)));
                }
            }
        }
        places
    }
}
