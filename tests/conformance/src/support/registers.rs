//! The registers of a virtio device as the specification lists them, one method each, for both transports.
//!
//! The checks use them in any order, also in ones that no driver would choose: nothing here remembers what was written.

use core::mem::offset_of;
use frontends::transport::Registers;
use frontends::transport::pci::{Vectors, Windows};
use guest_kernel::platform::registers::Window;
use shared_abi::virtio::mmio::{CONFIG, Register};
use shared_abi::virtio::pci::CommonConfig;
use shared_abi::virtio::ring;

/// Where the registers are.
pub enum Regs {
    /// Virtio over MMIO.
    Mmio(Window),
    /// Virtio over PCI, and the MSI-X entries to use, if it has MSI-X.
    Pci(Windows<Window>, Option<Vectors>),
}

macro_rules! common {
    ($field:ident) => {
        offset_of!(CommonConfig, $field)
    };
}

/// Addresses of a queue's three parts, and its size.
#[derive(Clone, Copy)]
pub struct Layout {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

impl Regs {
    /// Reads a register of the MMIO transport.
    pub fn mmio_read(window: &Window, register: Register) -> u32 {
        window.read32(register.offset() as usize)
    }

    /// Writes a register of the MMIO transport.
    pub fn mmio_write(window: &Window, register: Register, value: u32) {
        window.write32(register.offset() as usize, value);
    }

    pub fn status(&self) -> u8 {
        match self {
            Self::Mmio(window) => Self::mmio_read(window, Register::Status) as u8,
            Self::Pci(windows, _) => windows.common.read8(common!(device_status)),
        }
    }

    pub fn set_status(&self, status: u8) {
        match self {
            Self::Mmio(window) => Self::mmio_write(window, Register::Status, status.into()),
            Self::Pci(windows, _) => windows.common.write8(common!(device_status), status),
        }
    }

    /// 32 bits of the offered features.
    pub fn feature_word(&self, select: u32) -> u32 {
        match self {
            Self::Mmio(window) => {
                Self::mmio_write(window, Register::DeviceFeaturesSel, select);
                Self::mmio_read(window, Register::DeviceFeatures)
            }
            Self::Pci(windows, _) => {
                windows.common.write32(common!(device_feature_select), select);
                windows.common.read32(common!(device_feature))
            }
        }
    }

    pub fn features(&self) -> u64 {
        u64::from(self.feature_word(1)) << 32 | u64::from(self.feature_word(0))
    }

    pub fn set_features(&self, features: u64) {
        for (select, word) in [(0, features as u32), (1, (features >> 32) as u32)] {
            match self {
                Self::Mmio(window) => {
                    Self::mmio_write(window, Register::DriverFeaturesSel, select);
                    Self::mmio_write(window, Register::DriverFeatures, word);
                }
                Self::Pci(windows, _) => {
                    windows.common.write32(common!(driver_feature_select), select);
                    windows.common.write32(common!(driver_feature), word);
                }
            }
        }
    }

    /// 32 bits of the features that the device takes for accepted; `None` where the register cannot be read.
    pub fn accepted_word(&self, select: u32) -> Option<u32> {
        match self {
            Self::Mmio(_) => None,
            Self::Pci(windows, _) => {
                windows.common.write32(common!(driver_feature_select), select);
                Some(windows.common.read32(common!(driver_feature)))
            }
        }
    }

    /// Selects a queue for the methods below; PCI has 16 bits for it.
    pub fn select_queue(&self, queue: u32) {
        match self {
            Self::Mmio(window) => Self::mmio_write(window, Register::QueueSel, queue),
            Self::Pci(windows, _) => windows.common.write16(common!(queue_select), queue as u16),
        }
    }

    /// The largest size of the selected queue (on PCI: until a smaller one is written); 0 if it is not there.
    pub fn queue_size_max(&self) -> u32 {
        match self {
            Self::Mmio(window) => Self::mmio_read(window, Register::QueueSizeMax),
            Self::Pci(windows, _) => windows.common.read16(common!(queue_size)).into(),
        }
    }

    /// Asks for a size of the selected queue, up to its `largest`; returns the size that it has then. The register of MMIO
    /// cannot be read.
    pub fn set_queue_size(&self, size: u16, largest: u16) -> u16 {
        match self {
            Self::Mmio(window) => {
                Self::mmio_write(window, Register::QueueSize, size.into());
                size
            }
            Self::Pci(windows, _) => {
                windows.common.write16(common!(queue_size), size);
                ring::size_in_use(size, windows.common.read16(common!(queue_size)), largest)
            }
        }
    }

    pub fn queue_ready(&self) -> u32 {
        match self {
            Self::Mmio(window) => Self::mmio_read(window, Register::QueueReady),
            Self::Pci(windows, _) => windows.common.read16(common!(queue_enable)).into(),
        }
    }

    pub fn set_queue_ready(&self) {
        match self {
            Self::Mmio(window) => Self::mmio_write(window, Register::QueueReady, 1),
            Self::Pci(windows, _) => windows.common.write16(common!(queue_enable), 1),
        }
    }

    /// Starts a reset of the selected queue alone (with RING_RESET).
    pub fn reset_queue(&self) {
        match self {
            Self::Mmio(window) => Self::mmio_write(window, Register::QueueReset, 1),
            Self::Pci(windows, _) => windows.common.write16(common!(queue_reset), 1),
        }
    }

    /// Whether a reset of the selected queue alone is under way.
    pub fn queue_reset(&self) -> u32 {
        match self {
            Self::Mmio(window) => Self::mmio_read(window, Register::QueueReset),
            Self::Pci(windows, _) => windows.common.read16(common!(queue_reset)).into(),
        }
    }

    /// Writes size and addresses of the selected queue, and its MSI-X vectors.
    pub fn place_queue(&self, layout: Layout) {
        let addresses = [layout.descriptors, layout.available, layout.used];
        match self {
            Self::Mmio(window) => {
                Self::mmio_write(window, Register::QueueSize, layout.size.into());
                let registers = [
                    (Register::QueueDescLow, Register::QueueDescHigh),
                    (Register::QueueDriverLow, Register::QueueDriverHigh),
                    (Register::QueueDeviceLow, Register::QueueDeviceHigh),
                ];
                for (address, (low, high)) in addresses.into_iter().zip(registers) {
                    Self::mmio_write(window, low, address as u32);
                    Self::mmio_write(window, high, (address >> 32) as u32);
                }
            }
            Self::Pci(windows, vectors) => {
                let common = &windows.common;
                common.write16(common!(queue_size), layout.size);
                let offsets = [common!(queue_desc), common!(queue_driver), common!(queue_device)];
                for (address, offset) in addresses.into_iter().zip(offsets) {
                    common.write32(offset, address as u32);
                    common.write32(offset + 4, (address >> 32) as u32);
                }
                if let Some(vectors) = vectors {
                    common.write16(common!(config_msix_vector), vectors.config);
                    common.write16(common!(queue_msix_vector), vectors.first_queue);
                }
            }
        }
    }

    /// Where the selected queue is notified: an offset in the window of notifications; `None` if it lies outside.
    pub fn notify_offset(&self) -> Option<usize> {
        match self {
            Self::Mmio(_) => Some(Register::QueueNotify.offset() as usize),
            Self::Pci(windows, _) => {
                let offset =
                    usize::from(windows.common.read16(common!(queue_notify_off))) * windows.notify_multiplier as usize;
                (offset.is_multiple_of(2) && offset + 2 <= windows.notify.len()).then_some(offset)
            }
        }
    }

    /// Notifies a queue at the offset of some queue.
    pub fn notify(&self, offset: usize, queue: u32) {
        match self {
            Self::Mmio(window) => window.write32(offset, queue),
            Self::Pci(windows, _) => windows.notify.write16(offset, queue as u16),
        }
    }

    /// Reads the interrupt status and acknowledges what it says.
    pub fn take_interrupt(&self) -> u32 {
        match self {
            Self::Mmio(window) => {
                let status = Self::mmio_read(window, Register::InterruptStatus);
                if status != 0 {
                    Self::mmio_write(window, Register::InterruptAck, status);
                }
                status
            }
            Self::Pci(windows, _) => windows.isr.read8(0).into(),
        }
    }

    pub fn config_generation(&self) -> u32 {
        match self {
            Self::Mmio(window) => Self::mmio_read(window, Register::ConfigGeneration),
            Self::Pci(windows, _) => windows.common.read8(common!(config_generation)).into(),
        }
    }

    fn config(&self) -> Option<(&Window, usize)> {
        match self {
            Self::Mmio(window) => Some((window, CONFIG as usize)),
            Self::Pci(windows, _) => windows.device.as_ref().map(|window| (window, 0)),
        }
    }

    /// Bytes of the configuration space that can be accessed.
    pub fn config_len(&self) -> usize {
        self.config().map_or(0, |(window, base)| window.len() - base)
    }

    /// Reads a field of the configuration, `width` 1, 2 or 4; 0 if it is not there.
    pub fn config_read(&self, offset: usize, width: usize) -> u32 {
        match self.config() {
            Some((window, base)) if base + offset + width <= window.len() => match width {
                1 => window.read8(base + offset).into(),
                2 => window.read16(base + offset).into(),
                _ => window.read32(base + offset),
            },
            _ => 0,
        }
    }

    /// A field of 8 bytes, read as two.
    pub fn config_read64(&self, offset: usize) -> u64 {
        u64::from(self.config_read(offset + 4, 4)) << 32 | u64::from(self.config_read(offset, 4))
    }

    /// Writes a field of the configuration, `width` 1 or 4; does nothing if it is not there.
    pub fn config_write(&self, offset: usize, width: usize, value: u32) {
        if let Some((window, base)) = self.config()
            && base + offset + width <= window.len()
        {
            match width {
                1 => window.write8(base + offset, value as u8),
                _ => window.write32(base + offset, value),
            }
        }
    }
}
