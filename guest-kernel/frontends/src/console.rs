//! The console driver (section 5.3), one port: bytes in, bytes out.
//!
//! Made by the kernel for each console; its log and its shell write to it.

use crate::device::{Device, Driver, InterruptSource};
use crate::error::{InitError, Violation};
use crate::memory::DmaPages;
use crate::transport::Transport;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::InterruptStatus;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// A console.
pub struct Console<T: Transport> {
    device: Device<T>,
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Console<T> {
    /// Brings a device up.
    pub fn new(transport: T, dma: &'static dyn DmaPages) -> Result<Self, InitError> {
        todo!()
    }

    /// The terminal's size, if the device tells; follows the device.
    pub fn size(&self) -> Option<Size> {
        todo!()
    }

    /// Takes received bytes; returns how many.
    pub fn receive(&mut self, bytes: &mut [u8]) -> usize {
        todo!()
    }

    /// Queues bytes, as many as there is room for; returns how many. The device sees them at the next
    /// [`Driver::kick`].
    pub fn transmit(&mut self, bytes: &[u8]) -> usize {
        todo!()
    }

    /// Outputs a byte at once, past the queue, even while the rest does not work. False if the device cannot.
    pub fn emergency_write(&mut self, byte: u8) -> bool {
        todo!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Driver for Console<T> {
    fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }
    fn features(&self) -> u64 {
        self.device.features()
    }
    fn interrupt(&mut self, source: InterruptSource) -> InterruptStatus {
        todo!()
    }
    fn enable_interrupts(&mut self) -> bool {
        todo!()
    }
    fn disable_interrupts(&mut self) {
        todo!()
    }
    fn kick(&mut self) {
        todo!()
    }
    fn broken(&self) -> Option<Violation> {
        self.device.broken()
    }
    fn notifications(&self) -> u64 {
        self.device.notifications()
    }
    fn leaked_pages(&self) -> usize {
        todo!()
    }
    fn shut_down(&mut self) {
        todo!()
    }
}
