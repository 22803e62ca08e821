//! How a driver reaches its device: the [`Transport`] trait, and registers under the transports of the specification.
//!
//! The kernel finds devices and maps their registers; [`mmio`] and [`pci`] do the rest over [`Registers`], so that the
//! same code runs on device memory in the kernel and on models in host tests.

mod field;
pub mod mmio;
pub mod pci;

use alloc::boxed::Box;
use virtio_abi::mmio::InterruptStatus;
use virtio_abi::{DeviceType, Status};

pub use mmio::MmioTransport;
pub use pci::PciTransport;

/// A window of device registers. Little-endian; each access is one access of that width, neither torn nor merged.
///
/// Callers keep within `len()` and aligned; an implementation may panic otherwise.
pub trait Registers {
    /// Bytes of the window.
    fn len(&self) -> usize;
    /// Whether the window is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads a byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads two bytes.
    fn read16(&self, offset: usize) -> u16;
    /// Reads four bytes.
    fn read32(&self, offset: usize) -> u32;
    /// Writes a byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes two bytes.
    fn write16(&self, offset: usize, value: u16);
    /// Writes four bytes.
    fn write32(&self, offset: usize, value: u32);
}

/// Where a ring lies, in device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// Entries, a power of two.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// Why a transport cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The window is shorter than its structure.
    #[error("{what} window has {len} bytes, {needed} are needed")]
    WindowTooShort {
        /// Which window.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The length that is needed.
        needed: usize,
    },
    /// Not a virtio-mmio block.
    #[error("no virtio-mmio device here: magic {magic:#x}")]
    BadMagic {
        /// What the magic register holds.
        magic: u32,
    },
    /// A version that we do not speak.
    #[error("virtio-mmio version {version} is not supported, only 2 is")]
    BadVersion {
        /// The version.
        version: u32,
    },
    /// The device has no such queue, or its queue is already live.
    #[error("queue {queue} cannot be set up")]
    QueueUnavailable {
        /// The queue.
        queue: u16,
    },
    /// The device made a queue's size one that no ring can have.
    #[error("queue {queue} has a size of {size} after {wanted} was asked for")]
    BadQueueSize {
        /// The queue.
        queue: u16,
        /// What was asked for.
        wanted: u16,
        /// What the queue has.
        size: u16,
    },
    /// The device took no MSI-X vector.
    #[error("device refused interrupt vector {vector}")]
    VectorRefused {
        /// The vector.
        vector: u16,
    },
}

/// One virtio device, as its driver reaches it.
pub trait Transport {
    /// The type that the device says it is.
    fn device_type(&self) -> DeviceType;
    /// All 64 feature bits that the device offers.
    fn device_features(&mut self) -> u64;
    /// Writes the features that the driver wants.
    fn set_driver_features(&mut self, features: u64);
    /// The device status register.
    fn status(&self) -> Status;
    /// Writes the device status register; an empty status resets.
    fn set_status(&mut self, status: Status);
    /// The largest size of a queue, 0 if the device does not have it.
    fn max_queue_size(&mut self, queue: u16) -> u32;
    /// Asks for a size of a queue, a power of two up to its largest; returns the size that the queue has then. A device may
    /// insist on its own.
    fn set_queue_size(&mut self, queue: u16, size: u16) -> Result<u16, TransportError> {
        let _ = queue;
        Ok(size)
    }
    /// Writes where a queue is and makes it live.
    fn set_queue(&mut self, queue: u16, layout: QueueLayout) -> Result<(), TransportError>;
    /// Notifies the device of new buffers in a queue.
    fn notify(&mut self, queue: u16);
    /// Reads and acknowledges the reasons of an interrupt.
    fn take_interrupt(&mut self) -> InterruptStatus;
    /// Changes whenever the configuration does.
    fn config_generation(&self) -> u32;
    /// Bytes of the configuration space that can be accessed.
    fn config_len(&self) -> usize;
    /// Reads one aligned field of 1, 2 or 4 bytes (the length of `field`) of the configuration. Out of range reads as
    /// 0.
    fn read_config(&self, offset: usize, field: &mut [u8]);
    /// Writes one aligned field of 1, 2 or 4 bytes of the configuration. Out of range does nothing.
    fn write_config(&mut self, offset: usize, field: &[u8]);
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn device_type(&self) -> DeviceType {
        (**self).device_type()
    }
    fn device_features(&mut self) -> u64 {
        (**self).device_features()
    }
    fn set_driver_features(&mut self, features: u64) {
        (**self).set_driver_features(features);
    }
    fn status(&self) -> Status {
        (**self).status()
    }
    fn set_status(&mut self, status: Status) {
        (**self).set_status(status);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        (**self).max_queue_size(queue)
    }
    fn set_queue_size(&mut self, queue: u16, size: u16) -> Result<u16, TransportError> {
        (**self).set_queue_size(queue, size)
    }
    fn set_queue(&mut self, queue: u16, layout: QueueLayout) -> Result<(), TransportError> {
        (**self).set_queue(queue, layout)
    }
    fn notify(&mut self, queue: u16) {
        (**self).notify(queue);
    }
    fn take_interrupt(&mut self) -> InterruptStatus {
        (**self).take_interrupt()
    }
    fn config_generation(&self) -> u32 {
        (**self).config_generation()
    }
    fn config_len(&self) -> usize {
        (**self).config_len()
    }
    fn read_config(&self, offset: usize, field: &mut [u8]) {
        (**self).read_config(offset, field);
    }
    fn write_config(&mut self, offset: usize, field: &[u8]) {
        (**self).write_config(offset, field);
    }
}

/// Reads one configuration field through 1, 2 or 4 byte accesses of a window.
fn read_field<R: Registers>(window: &R, base: usize, offset: usize, field: &mut [u8]) {
    let at = base + offset;
    if at + field.len() > window.len() {
        field.fill(0);
        return;
    }
    match field.len() {
        1 => field[0] = window.read8(at),
        2 => field.copy_from_slice(&window.read16(at).to_le_bytes()),
        4 => field.copy_from_slice(&window.read32(at).to_le_bytes()),
        _ => field.fill(0),
    }
}

/// Writes one configuration field through 1, 2 or 4 byte accesses of a window.
fn write_field<R: Registers>(window: &R, base: usize, offset: usize, field: &[u8]) {
    let at = base + offset;
    if at + field.len() > window.len() {
        return;
    }
    match *field {
        [byte] => window.write8(at, byte),
        [a, b] => window.write16(at, u16::from_le_bytes([a, b])),
        [a, b, c, d] => window.write32(at, u32::from_le_bytes([a, b, c, d])),
        _ => {}
    }
}
