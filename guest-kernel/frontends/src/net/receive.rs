//! The receive side: memory for frames that stays posted, frames copied out of it, and frames that span several buffers.

use super::{Counters, checksum};
use crate::error::{InitError, Violation};
use crate::memory::{DmaBuffer, DmaPages};
use crate::ring::{Ring, Segment};
use alloc::vec::Vec;
use virtio_abi::net::{ETHERNET_HEADER, Features, GSO_NONE, HDR_NEEDS_CSUM, Header};
use zerocopy::FromBytes;

/// Bytes before each frame.
pub(super) const HEADER: usize = size_of::<Header>();
/// Buffers start at multiples of so many bytes.
const ALIGNMENT: usize = 64;

/// A received frame: a copy, which no device can change. Give it back with [`super::Net::recycle`], so that the next one
/// need not allocate.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// The frame, from its destination address on, without check sequence.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The frame, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A frame of which buffers are still to come.
struct Partial {
    header: Header,
    frame: Vec<u8>,
    missing: u16,
    /// It does not fit: take its buffers and drop it.
    oversized: bool,
}

/// Where a buffer is: which piece of memory, and the offset in it.
#[derive(Clone, Copy)]
struct Place {
    piece: usize,
    offset: usize,
}

pub(super) struct Receiver {
    pub(super) ring: Ring,
    features: Features,
    /// Bytes of a buffer: header and largest frame.
    buffer_len: usize,
    /// Memory, each piece for many buffers: the fewer, the less there is to allocate at boot.
    pieces: Vec<DmaBuffer>,
    /// By head.
    posted: Vec<Option<Place>>,
    partial: Option<Partial>,
    /// Room for frames.
    spare: Vec<Vec<u8>>,
}

impl Receiver {
    pub(super) fn new(ring: Ring, features: Features, frame_max: usize) -> Self {
        let posted = (0..ring.size()).map(|_| None).collect();
        let buffer_len = HEADER + frame_max;
        Self { ring, features, buffer_len, pieces: Vec::new(), posted, partial: None, spare: Vec::new() }
    }

    /// Posts so many buffers, as far as the ring has entries and as there is memory, but at least one.
    pub(super) fn start(&mut self, count: u16, dma: &'static dyn DmaPages) -> Result<(), InitError> {
        let stride = self.buffer_len.next_multiple_of(ALIGNMENT);
        let count = usize::from(count.min(self.ring.size()));
        let (mut missing, mut size) = (count, count);
        while missing > 0 && size > 0 {
            let count = size.min(missing);
            let Some(memory) = DmaBuffer::allocate_shared(dma, count * stride) else {
                size /= 2;
                continue;
            };
            self.pieces.push(memory);
            missing -= count;
            (0..count).for_each(|index| self.post(Place { piece: self.pieces.len() - 1, offset: index * stride }));
        }
        if self.pieces.is_empty() { Err(InitError::NoMemory { what: "receive buffers" }) } else { Ok(()) }
    }

    /// Posts the buffers again in a ring that was cleared. A frame that had come in part does not come whole.
    pub(super) fn restart(&mut self) {
        self.partial = None;
        let stride = self.buffer_len.next_multiple_of(ALIGNMENT);
        self.posted.fill(None);
        for piece in 0..self.pieces.len() {
            let count = self.pieces[piece].len() / stride;
            (0..count).for_each(|index| self.post(Place { piece, offset: index * stride }));
        }
    }

    /// The next frame that makes sense.
    pub(super) fn next(&mut self, counters: &mut Counters) -> Result<Option<Frame>, Violation> {
        // A device that returns nonsense as fast as it is posted does not keep us here.
        for _ in 0..self.ring.size() {
            let Some(used) = self.ring.pop()? else { break };
            let Some(place) = self.posted[usize::from(used.head)].take() else { continue };
            let collected = self.collect(place, used.len as usize, counters);
            self.post(place);
            let Some((header, frame)) = collected? else { continue };
            match self.check(header, frame) {
                Ok(frame) => {
                    counters.received += 1;
                    counters.received_bytes += frame.bytes().len() as u64;
                    return Ok(Some(frame));
                }
                Err(frame) => self.drop_frame(frame, counters),
            }
        }
        Ok(None)
    }

    /// Keeps a frame's memory for the next one.
    pub(super) fn recycle(&mut self, frame: Frame) {
        if self.spare.len() < self.posted.len() {
            self.spare.push(frame.bytes);
        }
    }

    /// Gives up what the device may still write to. Returns the pages.
    pub(super) fn leak(&mut self) -> usize {
        self.ring.leak() + self.pieces.iter_mut().map(DmaBuffer::leak).sum::<usize>()
    }

    fn post(&mut self, place: Place) {
        let address = self.pieces[place.piece].device_address() + place.offset as u64;
        if let Some(head) = self.ring.push(&[Segment::writable(address, self.buffer_len as u32)]) {
            self.posted[usize::from(head)] = Some(place);
        }
    }

    /// Takes what the device wrote to a buffer: a whole frame, or a part of one that is joined to the first. The buffers of
    /// a frame may arrive one by one: a device's write of the used index need not cover all of them.
    fn collect(
        &mut self,
        Place { piece, offset }: Place,
        len: usize,
        counters: &mut Counters,
    ) -> Result<Option<(Header, Vec<u8>)>, Violation> {
        let memory = &self.pieces[piece];
        if let Some(mut partial) = self.partial.take() {
            if HEADER + partial.frame.len() + len <= self.buffer_len {
                memory.append_to(offset, len, &mut partial.frame);
            } else {
                partial.oversized = true;
            }
            partial.missing -= 1;
            if partial.missing > 0 {
                self.partial = Some(partial);
                return Ok(None);
            }
            if partial.oversized {
                self.drop_frame(partial.frame, counters);
                return Ok(None);
            }
            counters.reassembled += 1;
            return Ok(Some((partial.header, partial.frame)));
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.reserve(self.buffer_len - HEADER);
        if len < HEADER {
            self.drop_frame(frame, counters);
            return Ok(None);
        }
        let mut header = [0; HEADER];
        memory.copy_to(offset, &mut header);
        memory.append_to(offset + HEADER, len - HEADER, &mut frame);
        let Ok(header) = Header::read_from_bytes(&header) else { return Ok(None) };
        if !self.features.contains(Features::MRG_RXBUF) {
            return Ok(Some((header, frame)));
        }
        match (header.num_buffers, self.ring.size()) {
            (1, _) => Ok(Some((header, frame))),
            (count, limit) if count == 0 || count > limit => Err(Violation::BadBufferCount { count, limit }),
            (count, _) => {
                self.partial = Some(Partial { header, frame, missing: count - 1, oversized: false });
                Ok(None)
            }
        }
    }

    /// Checks the header of a frame and completes its checksum. Gives the frame back if it makes no sense.
    fn check(&self, header: Header, mut frame: Vec<u8>) -> Result<Frame, Vec<u8>> {
        if frame.len() < ETHERNET_HEADER || header.gso_type != GSO_NONE {
            return Err(frame);
        }
        if header.flags & HDR_NEEDS_CSUM != 0 {
            let agreed = self.features.contains(Features::GUEST_CSUM);
            if !agreed || !checksum::complete(&mut frame, header.csum_start, header.csum_offset) {
                return Err(frame);
            }
        }
        Ok(Frame { bytes: frame })
    }

    fn drop_frame(&mut self, frame: Vec<u8>, counters: &mut Counters) {
        if counters.dropped == 0 {
            let len = frame.len();
            log::warn!("net: a received frame of {len} bytes makes no sense and is dropped, as the next ones will be");
        }
        counters.dropped += 1;
        self.recycle(Frame { bytes: frame });
    }
}
