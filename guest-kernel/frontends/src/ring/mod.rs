//! to come
use crate::error::{InitError, Violation};
use crate::memory::DmaPages;
use crate::transport::QueueLayout;

/// A buffer, or a part of one, as one descriptor describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Device address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Who accesses it.
    pub access: Access,
}

/// What the device may do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device reads.
    DeviceReads,
    /// The device writes.
    DeviceWrites,
}

/// A chain that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What `push` returned for it.
    pub head: u16,
    /// Bytes that the device wrote, never more than the writable segments have.
    pub len: u32,
}

/// The driver's side of a split virtqueue.
pub struct Ring {}

#[expect(missing_docs, unused_variables, reason = "signatures first")]
impl Ring {
    pub fn new(
        queue: u16,
        size: u16,
        chain: u16,
        features: u64,
        dma: &'static dyn DmaPages,
    ) -> Result<Self, InitError> {
        todo!()
    }
    pub fn queue(&self) -> u16 {
        todo!()
    }
    pub fn size(&self) -> u16 {
        todo!()
    }
    pub fn layout(&self) -> QueueLayout {
        todo!()
    }
    pub fn in_flight(&self) -> u16 {
        todo!()
    }
    pub fn has_room(&self, segments: usize) -> bool {
        todo!()
    }
    pub fn push(&mut self, segments: &[Segment]) -> Option<u16> {
        todo!()
    }
    pub fn publish(&mut self) -> bool {
        todo!()
    }
    pub fn pop(&mut self) -> Result<Option<Used>, Violation> {
        todo!()
    }
    pub fn enable_interrupts(&mut self) -> bool {
        todo!()
    }
    pub fn disable_interrupts(&mut self) {
        todo!()
    }
    pub fn leak(self) -> usize {
        todo!()
    }
}
