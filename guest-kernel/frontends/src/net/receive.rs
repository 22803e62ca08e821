//! The receive side: posted buffers, frames out of them, and frames that span several.

use super::{Counters, checksum};
use crate::error::{InitError, Violation};
use crate::memory::{DmaBuffer, DmaPages};
use crate::ring::{Ring, Segment};
use alloc::vec::Vec;
use shared_abi::virtio::net::{ETHERNET_HEADER, Features, GSO_NONE, HDR_NEEDS_CSUM, Header};
use zerocopy::FromBytes;

/// Bytes before each frame.
pub(super) const HEADER: usize = size_of::<Header>();
/// Buffers to allocate at once when none is posted, because their frames were dropped instead of recycled.
const REFILL: u16 = 4;

/// A received frame, owned. Give it back with [`super::Net::recycle`]; one that is dropped instead costs the card a
/// buffer until it has none left and allocates new ones.
#[derive(Debug)]
pub struct Frame {
    buffer: DmaBuffer,
}

impl Frame {
    /// The frame, from its destination address on, without check sequence.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.as_slice()[HEADER..]
    }

    /// The frame, for who wants to change it in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.as_mut_slice()[HEADER..]
    }
}

/// A frame of which buffers are still to come.
struct Partial {
    buffer: DmaBuffer,
    missing: u16,
    /// It does not fit: take its buffers and drop it.
    oversized: bool,
}

pub(super) struct Receiver {
    pub(super) ring: Ring,
    features: Features,
    dma: &'static dyn DmaPages,
    /// Bytes of a buffer: header and largest frame.
    buffer_len: usize,
    /// By head.
    posted: Vec<Option<DmaBuffer>>,
    partial: Option<Partial>,
}

impl Receiver {
    pub(super) fn new(ring: Ring, features: Features, frame_max: usize, dma: &'static dyn DmaPages) -> Self {
        let posted = (0..ring.size()).map(|_| None).collect();
        Self { ring, features, dma, buffer_len: HEADER + frame_max, posted, partial: None }
    }

    /// Posts a buffer for each entry of the ring, as far as there is memory, but at least one.
    pub(super) fn start(&mut self) -> Result<(), InitError> {
        match self.fill(self.ring.size()) {
            0 => Err(InitError::NoMemory { what: "receive buffers" }),
            _ => Ok(()),
        }
    }

    /// Posts the buffers again in a ring that was cleared. A frame that had come in part does not come whole.
    pub(super) fn restart(&mut self) {
        let partial = self.partial.take().map(|partial| partial.buffer);
        let buffers: Vec<_> = self.posted.iter_mut().filter_map(Option::take).chain(partial).collect();
        buffers.into_iter().for_each(|buffer| self.post(buffer));
    }

    /// The next frame that makes sense.
    pub(super) fn next(&mut self, counters: &mut Counters) -> Result<Option<Frame>, Violation> {
        // A device that returns nonsense as fast as it is posted does not keep us here.
        for _ in 0..self.ring.size() {
            let Some(used) = self.ring.pop()? else { break };
            let Some(buffer) = self.posted[usize::from(used.head)].take() else { continue };
            let Some(buffer) = self.collect(buffer, used.len as usize, counters)? else { continue };
            match self.check(buffer) {
                Ok(frame) => {
                    counters.received += 1;
                    counters.received_bytes += frame.bytes().len() as u64;
                    return Ok(Some(frame));
                }
                Err(buffer) => self.drop_frame(buffer, counters),
            }
        }
        if self.ring.in_flight() == 0 {
            self.fill(REFILL);
        }
        Ok(None)
    }

    /// Posts a buffer again; frees one that is of no use here.
    pub(super) fn recycle(&mut self, frame: Frame) {
        self.post(frame.buffer);
    }

    /// Gives up what the device may still write to. Returns the pages.
    pub(super) fn leak(&mut self) -> usize {
        self.ring.leak() + self.posted.iter_mut().flatten().map(DmaBuffer::leak).sum::<usize>()
    }

    fn fill(&mut self, count: u16) -> u16 {
        for done in 0..count {
            let Some(buffer) = DmaBuffer::allocate(self.dma, self.buffer_len) else { return done };
            self.post(buffer);
        }
        count
    }

    fn post(&mut self, mut buffer: DmaBuffer) {
        if buffer.capacity() < self.buffer_len {
            return;
        }
        buffer.set_len(self.buffer_len);
        if let Some(head) = self.ring.push(&[Segment::writable(buffer.device_address(), self.buffer_len as u32)]) {
            self.posted[usize::from(head)] = Some(buffer);
        }
    }

    /// Takes a buffer that the device filled with `len` bytes: a whole frame comes out as it is, a part of one is
    /// joined to the first buffer. The buffers of a frame may arrive one by one: a device's write of the used index
    /// need not cover all of them.
    fn collect(
        &mut self,
        mut buffer: DmaBuffer,
        len: usize,
        counters: &mut Counters,
    ) -> Result<Option<DmaBuffer>, Violation> {
        if let Some(mut partial) = self.partial.take() {
            let filled = partial.buffer.len();
            if filled + len <= self.buffer_len {
                partial.buffer.set_len(filled + len);
                partial.buffer.as_mut_slice()[filled..].copy_from_slice(&buffer.as_slice()[..len]);
            } else {
                partial.oversized = true;
            }
            self.post(buffer);
            partial.missing -= 1;
            if partial.missing > 0 {
                self.partial = Some(partial);
                return Ok(None);
            }
            if partial.oversized {
                self.drop_frame(partial.buffer, counters);
                return Ok(None);
            }
            counters.reassembled += 1;
            return Ok(Some(partial.buffer));
        }
        buffer.set_len(len);
        if !self.features.contains(Features::MRG_RXBUF) {
            return Ok(Some(buffer));
        }
        let Ok((header, _)) = Header::read_from_prefix(buffer.as_slice()) else { return Ok(Some(buffer)) };
        match (header.num_buffers, self.ring.size()) {
            (1, _) => Ok(Some(buffer)),
            (count, limit) if count == 0 || count > limit => Err(Violation::BadBufferCount { count, limit }),
            (count, _) => {
                self.partial = Some(Partial { buffer, missing: count - 1, oversized: false });
                Ok(None)
            }
        }
    }

    /// Checks the header of a frame and completes its checksum. Gives the buffer back if the frame makes no sense.
    fn check(&self, buffer: DmaBuffer) -> Result<Frame, DmaBuffer> {
        let header = match Header::read_from_prefix(buffer.as_slice()) {
            Ok((header, frame)) if frame.len() >= ETHERNET_HEADER && header.gso_type == GSO_NONE => header,
            _ => return Err(buffer),
        };
        let mut frame = Frame { buffer };
        if header.flags & HDR_NEEDS_CSUM != 0 {
            let agreed = self.features.contains(Features::GUEST_CSUM);
            if !agreed || !checksum::complete(frame.bytes_mut(), header.csum_start, header.csum_offset) {
                return Err(frame.buffer);
            }
        }
        Ok(frame)
    }

    fn drop_frame(&mut self, buffer: DmaBuffer, counters: &mut Counters) {
        if counters.dropped == 0 {
            log::warn!("net: a received frame of {} bytes makes no sense and is dropped, as the next ones will be", {
                buffer.len().saturating_sub(HEADER)
            });
        }
        counters.dropped += 1;
        self.post(buffer);
    }
}
