//! The block driver (section 5.2): requests with owned buffers in, completions out.
//!
//! Made by the kernel for each block device; used by its file systems and its shell. It checks every request against
//! the disk before the device sees it, and splits what is larger than a limit of the device.

mod request;

pub use request::{Completion, ID_LEN, Output, Rejected, Rejection, Request, RequestError, SECTOR_SIZE, Token, Unmap};

use crate::device::{Device, Driver, InterruptSource};
use crate::error::{InitError, Violation};
use crate::memory::DmaPages;
use crate::transport::Transport;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::InterruptStatus;

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Entries of the ring, at most; also the largest number of requests in flight.
    pub queue_size: u16,
    /// Data segments of one ring request, at most; only a device with a limit on segment sizes makes more than one.
    pub segments: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { queue_size: 64, segments: 30 }
    }
}

/// A block device.
pub struct Block<T: Transport> {
    device: Device<T>,
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Block<T> {
    /// Brings a device up.
    pub fn new(transport: T, dma: &'static dyn DmaPages, settings: Settings) -> Result<Self, InitError> {
        todo!()
    }

    /// Sectors of 512 bytes; follows the device when it changes.
    pub fn capacity(&self) -> u64 {
        todo!()
    }

    /// Whether writes, discards and write-zeroes are rejected.
    pub fn read_only(&self) -> bool {
        todo!()
    }

    /// The block size that the device works best with, in bytes.
    pub fn block_size(&self) -> u32 {
        todo!()
    }

    /// Whether the device has a cache to flush; without one, flushes complete at once.
    pub fn has_flush(&self) -> bool {
        todo!()
    }

    /// Whether the device takes discards.
    pub fn has_discard(&self) -> bool {
        todo!()
    }

    /// Whether the device takes write-zeroes.
    pub fn has_write_zeroes(&self) -> bool {
        todo!()
    }

    /// Takes a request; the device sees it at the next [`Driver::kick`]. A request that cannot be taken comes back with
    /// its buffer.
    pub fn submit(&mut self, request: Request) -> Result<Token, Rejected> {
        todo!()
    }

    /// The next request that ended, in the order in which the device ended them.
    pub fn poll(&mut self) -> Option<Completion> {
        todo!()
    }

    /// Requests that were taken and have not ended.
    pub fn pending(&self) -> usize {
        todo!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Driver for Block<T> {
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
