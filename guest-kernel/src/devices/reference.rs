//! Transports of `virtio-drivers`, the second opinion: it finds its way through the same registers on its own.

use crate::devices::place::Place;
use crate::mm::dma::ReferenceHal;
use crate::platform::pci::config::Config;
use alloc::string::{String, ToString};
use core::ptr::NonNull;
use pci_types::{ConfigRegionAccess, PciAddress};
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result as VirtioResult};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Either transport. The crate's own enumeration has a third variant, whose hypercalls a kernel of ours must not contain.
pub enum ReferenceTransport {
    /// Registers in memory.
    Mmio(MmioTransport<'static>),
    /// Modern PCI.
    Pci(PciTransport),
}

macro_rules! delegate {
    ($this:ident: $($name:ident($($receiver:tt)+) ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        $(
            fn $name($($receiver)+, $($arg: $ty),*) $(-> $ret)? {
                match $this {
                    Self::Mmio(transport) => transport.$name($($arg),*),
                    Self::Pci(transport) => transport.$name($($arg),*),
                }
            }
        )*
    };
}

impl Transport for ReferenceTransport {
    delegate! { self:
        device_type(&self) () -> DeviceType;
        read_device_features(&mut self) () -> u64;
        write_driver_features(&mut self) (features: u64);
        max_queue_size(&mut self) (queue: u16) -> u32;
        notify(&mut self) (queue: u16);
        get_status(&self) () -> DeviceStatus;
        set_status(&mut self) (status: DeviceStatus);
        set_guest_page_size(&mut self) (size: u32);
        requires_legacy_layout(&self) () -> bool;
        queue_set(&mut self) (queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr);
        queue_unset(&mut self) (queue: u16);
        queue_used(&mut self) (queue: u16) -> bool;
        ack_interrupt(&mut self) () -> InterruptStatus;
        read_config_generation(&self) () -> u32;
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> VirtioResult<T> {
        match self {
            Self::Mmio(transport) => transport.read_config_space(offset),
            Self::Pci(transport) => transport.read_config_space(offset),
        }
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> VirtioResult<()> {
        match self {
            Self::Mmio(transport) => transport.write_config_space(offset, value),
            Self::Pci(transport) => transport.write_config_space(offset, value),
        }
    }
}

/// Opens a place with the reference transports.
///
/// # Errors
/// What they say.
pub fn transport(place: &Place) -> Result<ReferenceTransport, String> {
    match place {
        Place::Mmio(slot, window) => {
            let header = NonNull::new(window.address() as *mut _).ok_or("not mapped")?;
            // SAFETY: the window is never unmapped, has that size, and nothing else drives the device.
            let transport = unsafe { MmioTransport::new(header, slot.size as usize) };
            Ok(ReferenceTransport::Mmio(transport.map_err(|error| error.to_string())?))
        }
        Place::Pci(function) => {
            let mut root = PciRoot::new(function.config());
            let at = DeviceFunction {
                bus: function.address.bus(),
                device: function.address.device(),
                function: function.address.function(),
            };
            root.set_command(at, Command::MEMORY_SPACE | Command::BUS_MASTER);
            let transport = PciTransport::new::<ReferenceHal, _>(&mut root, at).map_err(|error| error.to_string())?;
            Ok(ReferenceTransport::Pci(transport))
        }
    }
}

fn address(at: DeviceFunction) -> PciAddress {
    PciAddress::new(0, at.bus, at.device, at.function)
}

impl ConfigurationAccess for Config {
    fn read_word(&self, at: DeviceFunction, offset: u8) -> u32 {
        // SAFETY: reading configuration space has no effect.
        unsafe { self.read(address(at), offset.into()) }
    }

    fn write_word(&mut self, at: DeviceFunction, offset: u8, value: u32) {
        // SAFETY: the crate writes to the device that it was given.
        unsafe { self.write(address(at), offset.into(), value) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}
