//! The transmit side: a pool of buffers that grows to the size of the ring and is then reused.

use super::checksum;
use super::receive::HEADER;
use crate::error::Violation;
use crate::memory::{DmaBuffer, DmaPages};
use crate::ring::{Ring, Segment};
use alloc::vec;
use alloc::vec::Vec;
use virtio_abi::net::{ETHERNET_HEADER, Features, HDR_NEEDS_CSUM, Header};
use zerocopy::IntoBytes;

/// Who completes the checksum of a frame to transmit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitChecksum {
    /// The caller has: the frame is sent as it is.
    Complete,
    /// The driver is to: the TCP or UDP checksum field of the frame holds anything. It is left to the device if
    /// that takes the work, else computed here.
    Offload,
}

pub(super) struct Transmitter {
    pub(super) ring: Ring,
    features: Features,
    dma: &'static dyn DmaPages,
    frame_max: usize,
    /// By head.
    in_flight: Vec<Option<DmaBuffer>>,
    free: Vec<DmaBuffer>,
    /// Where a header and a frame are put together, out of the device's reach.
    scratch: Vec<u8>,
    allocated: u16,
    /// The last frame found no buffer: the caller waits for one.
    pub(super) is_blocked: bool,
}

impl Transmitter {
    pub(super) fn new(mut ring: Ring, features: Features, frame_max: usize, dma: &'static dyn DmaPages) -> Self {
        // Buffers are taken back when they are needed; an interrupt helps only who waits for one.
        ring.disable_interrupts();
        let size = usize::from(ring.size());
        let in_flight = (0..size).map(|_| None).collect();
        let free = Vec::with_capacity(size);
        let scratch = vec![0; HEADER + frame_max];
        Self { ring, features, dma, frame_max, in_flight, free, scratch, allocated: 0, is_blocked: false }
    }

    /// Whether there is a buffer for a frame.
    pub(super) fn is_ready(&mut self) -> Result<bool, Violation> {
        if self.free.is_empty() {
            self.take_back()?;
        }
        if self.free.is_empty()
            && self.allocated < self.ring.size()
            && let Some(buffer) = DmaBuffer::allocate_shared(self.dma, HEADER + self.frame_max)
        {
            self.allocated += 1;
            self.free.push(buffer);
        }
        self.is_blocked = self.free.is_empty();
        Ok(!self.is_blocked)
    }

    /// Lets `fill` write a frame and gives it to the device, if [`Transmitter::is_ready`] said so.
    pub(super) fn send<R>(
        &mut self,
        len: usize,
        checksum: TransmitChecksum,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        if !(ETHERNET_HEADER..=self.frame_max).contains(&len) {
            return None;
        }
        let mut buffer = self.free.pop()?;
        buffer.set_len(HEADER + len);
        let frame = &mut self.scratch[HEADER..HEADER + len];
        let result = fill(frame);
        let header = match checksum {
            TransmitChecksum::Complete => Header::default(),
            TransmitChecksum::Offload => offload(self.features, frame),
        };
        self.scratch[..HEADER].copy_from_slice(header.as_bytes());
        buffer.copy_from(0, &self.scratch[..HEADER + len]);
        match self.ring.push(&[Segment::readable(buffer.device_address(), buffer.len() as u32)]) {
            Some(head) => self.in_flight[usize::from(head)] = Some(buffer),
            None => self.free.push(buffer),
        }
        Some(result)
    }

    /// Takes all buffers back, after the ring was cleared.
    pub(super) fn restart(&mut self) {
        self.ring.disable_interrupts();
        self.free.extend(self.in_flight.iter_mut().filter_map(Option::take));
    }

    /// Takes back the buffers that the device is done with.
    pub(super) fn take_back(&mut self) -> Result<(), Violation> {
        while let Some(used) = self.ring.pop()? {
            self.free.extend(self.in_flight[usize::from(used.head)].take());
        }
        Ok(())
    }

    /// Gives up what the device may still read. Returns the pages.
    pub(super) fn leak(&mut self) -> usize {
        self.ring.leak() + self.in_flight.iter_mut().flatten().map(DmaBuffer::leak).sum::<usize>()
    }
}

/// Leaves the checksum to the device, or computes it. A device sums up to the end of the frame, so a frame with padding is
/// ours.
fn offload(features: Features, frame: &mut [u8]) -> Header {
    let Some(segment) = checksum::locate(frame) else { return Header::default() };
    if !features.contains(Features::CSUM) || segment.end != frame.len() {
        checksum::fill(frame, segment);
        return Header::default();
    }
    checksum::prepare(frame, segment);
    Header {
        flags: HDR_NEEDS_CSUM,
        csum_start: segment.start as u16,
        csum_offset: segment.offset as u16,
        ..Header::default()
    }
}
