//! Virtio devices on PCI: configuration space, BARs, capabilities, MSI-X.
//!
//! The firmware has given the buses their numbers and the BARs their addresses. What a device says about itself is checked: a capability that points
//! outside of its BAR, or into the middle of a register, is as if it were not there.

mod bars;
pub mod config;
pub mod ecam;
mod walk;

use super::registers::Window;
use crate::trap::{Interrupts, irq};
use alloc::format;
use alloc::string::String;
use config::Config;
use frontends::transport::pci::{Vectors, Windows};
use frontends::transport::{PciTransport, TransportError};
use pci_types::capability::{MsixCapability, PciCapability, PciCapabilityAddress};
use pci_types::{CommandRegister, ConfigRegionAccess, EndpointHeader, PciAddress, PciHeader};
use pvops::event::MessageEntry;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::pci::{MODERN_DEVICE_ID, TRANSITIONAL_DEVICE_ID, VENDOR_ID, cfg_type};
use volatile::VolatileFieldAccess;
use zerocopy::FromBytes;

/// More capabilities than fit into a configuration space: the list has a loop.
const CAPABILITIES_MAX: usize = 48;
/// Entries of the MSI-X table that [`Function::map`] sets up.
pub const VECTORS: Vectors = Vectors { config: 0, first_queue: 1, queues: 1 };

/// An entry of an MSI-X table (PCI Local Bus Specification 3.0, section 6.8.2).
#[derive(Clone, Copy, FromBytes, VolatileFieldAccess)]
#[repr(C)]
struct MsixEntry {
    address_low: u32,
    address_high: u32,
    data: u32,
    /// Bit 0: masked.
    control: u32,
}

/// Writes the message control word of a capability, the upper half of its first 32 bits, as 16 bits: a hypervisor that
/// watches it (Xen does) looks at accesses of that size only.
#[derive(Clone, Copy)]
struct ControlWord(Config);

impl ConfigRegionAccess for ControlWord {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        // SAFETY: per the trait's contract.
        unsafe { self.0.read(address, offset) }
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        // SAFETY: per the trait's contract.
        unsafe { self.0.write_half(address, offset + 2, (value >> 16) as u16) };
    }
}

/// A virtio function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    config: Config,
    /// Where.
    pub address: PciAddress,
    /// What; `NONE` for a legacy device, which we do not drive.
    pub device_type: DeviceType,
}

/// All virtio functions. A bridge whose secondary bus cannot be reached is logged.
pub fn functions(config: Config) -> impl Iterator<Item = Function> {
    let walk =
        walk::walk(config, &config.roots(), |vendor, device| vendor == VENDOR_ID && device >= TRANSITIONAL_DEVICE_ID);
    for bridge in walk.unnumbered {
        let (bus, device, function) = (bridge.bus(), bridge.device(), bridge.function());
        log::warn!(
            "pci {bus:02x}:{device:02x}.{function}: bridge without a secondary bus number; devices on it stay unseen"
        );
    }
    walk.functions.into_iter().map(move |found| {
        let kind = found.device.checked_sub(MODERN_DEVICE_ID).map_or(DeviceType::NONE, |id| DeviceType(id.into()));
        Function { config, address: found.address, device_type: kind }
    })
}

/// Why a function cannot be driven.
#[derive(Debug)]
pub enum PciError {
    /// It is no endpoint.
    NotAnEndpoint,
    /// The firmware did not set it up.
    NoAddress,
    /// A structure that every modern device has is missing or lies outside of its BAR.
    Missing(&'static str),
    /// See there.
    Transport(TransportError),
}

impl core::fmt::Display for PciError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAnEndpoint => f.write_str("not an endpoint"),
            Self::NoAddress => f.write_str("the firmware gave its registers no address"),
            Self::Missing(what) => write!(f, "no usable {what} structure (a legacy device?)"),
            Self::Transport(error) => error.fmt(f),
        }
    }
}

/// What a virtio capability says.
struct Structure {
    kind: u8,
    bar: u8,
    offset: u64,
    len: u64,
    multiplier: u32,
}

impl Function {
    /// Where, as people write it.
    pub fn location(&self) -> String {
        format!("pci {:02x}:{:02x}.{}", self.address.bus(), self.address.device(), self.address.function())
    }

    /// The way to its configuration space, for the reference drivers and checks.
    pub fn config(&self) -> Config {
        self.config
    }

    /// Maps the device and gives it its interrupts.
    ///
    /// # Errors
    /// [`PciError`].
    pub fn open(&self) -> Result<(PciTransport<Window>, Interrupts), PciError> {
        let (windows, interrupts) = self.map()?;
        let vectors = interrupts.has_messages().then_some(VECTORS);
        let transport = PciTransport::new(windows, self.device_type, vectors).map_err(PciError::Transport)?;
        Ok((transport, interrupts))
    }

    /// The same without a transport: only the windows.
    ///
    /// # Errors
    /// [`PciError`].
    pub fn map(&self) -> Result<(Windows<Window>, Interrupts), PciError> {
        let config = self.config;
        let mut header =
            EndpointHeader::from_header(PciHeader::new(self.address), config).ok_or(PciError::NotAnEndpoint)?;
        // Sizing a BAR moves it for a moment.
        header.update_command(config, |command| command - CommandRegister::MEMORY_ENABLE);
        let bars = bars::memory(&header, config);
        header.update_command(config, |command| {
            command
                | CommandRegister::MEMORY_ENABLE
                | CommandRegister::BUS_MASTER_ENABLE
                | CommandRegister::INTERRUPT_DISABLE
        });
        let window = |bar: u8, offset: u64, len: u64| {
            let (address, size) = bars.get(usize::from(bar)).copied().flatten().filter(|(address, _)| *address != 0)?;
            (offset.checked_add(len)? <= size).then(|| Window::map(address + offset, len)).flatten()
        };

        let (mut common, mut notify, mut isr, mut device, mut msix) = (None, None, None, None, None);
        for capability in header.capabilities(config).take(CAPABILITIES_MAX) {
            match capability {
                // The first of each kind that can be used is the one to use (section 4.1.4).
                PciCapability::Vendor(at) => {
                    let found = self.structure(at);
                    // Section 4.1.4: what multiple each structure begins at.
                    let (place, multiple) = match found.kind {
                        cfg_type::COMMON => (&mut common, 4),
                        cfg_type::NOTIFY => (&mut notify, 2),
                        cfg_type::ISR => (&mut isr, 1),
                        cfg_type::DEVICE => (&mut device, 4),
                        _ => continue,
                    };
                    if place.is_none() && found.offset.is_multiple_of(multiple) {
                        *place = window(found.bar, found.offset, found.len).map(|window| (window, found.multiplier));
                    }
                }
                PciCapability::MsiX(capability) => msix = Some(capability),
                _ => {}
            }
        }
        if common.is_none() && bars.iter().flatten().any(|&(address, _)| address == 0) {
            return Err(PciError::NoAddress);
        }
        let interrupts = match msix {
            Some(msix) => {
                let bar = bars.get(usize::from(msix.table_bar())).copied().flatten().map_or(0, |(address, _)| address);
                self.bind(msix, bar, window)
            }
            None => Interrupts::none(),
        };
        let (notify, notify_multiplier) = notify.ok_or(PciError::Missing("notification"))?;
        let windows = Windows {
            common: common.ok_or(PciError::Missing("common configuration"))?.0,
            notify,
            notify_multiplier,
            isr: isr.ok_or(PciError::Missing("interrupt status"))?.0,
            device: device.map(|(window, _)| window),
        };
        Ok((windows, interrupts))
    }

    fn structure(&self, at: PciCapabilityAddress) -> Structure {
        // SAFETY: reading configuration space has no effect.
        let word = |index: u16| unsafe { self.config.read(self.address, at.offset + 4 * index) };
        let kind = (word(0) >> 24) as u8;
        Structure {
            kind,
            bar: word(1) as u8,
            offset: word(2).into(),
            len: word(3).into(),
            multiplier: if kind == cfg_type::NOTIFY { word(4) } else { 0 },
        }
    }

    /// Two messages: entry 0 for configuration changes, entry 1 for all queues.
    fn bind(
        &self,
        mut msix: MsixCapability,
        table_bar: u64,
        window: impl Fn(u8, u64, u64) -> Option<Window>,
    ) -> Interrupts {
        const ENTRIES: u64 = 2;
        let name = self.device_type.name();
        if u64::from(msix.table_size()) < ENTRIES {
            return Interrupts::none();
        }
        let Some(table) = window(msix.table_bar(), msix.table_offset().into(), ENTRIES * size_of::<MsixEntry>() as u64)
        else {
            return Interrupts::none();
        };
        let function = u16::from(self.address.bus()) << 8
            | u16::from(self.address.device()) << 3
            | u16::from(self.address.function());
        let bind = |entry| irq::bind_message(name, MessageEntry { function, entry, table_bar });
        let (config, queue) = match (bind(0), bind(1)) {
            (Ok(config), Ok(queue)) => (config, queue),
            (Err(error), _) | (_, Err(error)) => {
                log::warn!("{name}: {error}; it is polled");
                return Interrupts::none();
            }
        };
        for (entry, message) in [config.1, queue.1].into_iter().enumerate() {
            let Some(message) = message else { continue };
            let entry = table.at::<MsixEntry>(entry * size_of::<MsixEntry>());
            entry.address_low().write(message.address as u32);
            entry.address_high().write((message.address >> 32) as u32);
            entry.data().write(message.data);
            entry.control().write(0);
        }
        msix.set_function_mask(false, ControlWord(self.config));
        msix.set_enabled(true, ControlWord(self.config));
        Interrupts::messages(queue.0, config.0)
    }
}
