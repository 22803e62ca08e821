//! A request as the guest wrote it, copied once: what is charged for it is what is executed.

use super::{DISCARD_SEGMENTS_MAX, HEADER, SECTOR, SEGMENT, ZEROES_SECTORS_MAX};
use crate::virtio::queue::Chain;
use crate::virtio::throttle::Cost;
use crate::virtio::{Counter, Fault};
use crate::vmm::GuestRam;
use shared_abi::virtio::blk::{RequestHeader, RequestType, Segment};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes that one request reads or writes, at most; more is answered with an error. Drivers send a few MiB.
pub(super) const REQUEST_MAX: u64 = 256 << 20;

/// A request.
pub(super) struct Request {
    /// Its type; none if the header is not whole.
    pub(super) kind: Option<RequestType>,
    pub(super) sector: u64,
    /// Bytes after the header.
    pub(super) data_len: u64,
    /// Bytes before the status.
    pub(super) data_room: u64,
    segments: [Segment; DISCARD_SEGMENTS_MAX as usize],
    /// How many of them there are; 0 if they are not whole, or too many.
    count: usize,
}

impl Request {
    /// Reads it out of its chain.
    pub(super) fn read(memory: &GuestRam, chain: &Chain) -> Result<Self, Fault> {
        let data_room = chain.writable_len().checked_sub(1).ok_or_else(|| Fault::NoAnswer(chain.head()))?;
        let mut header = RequestHeader::new_zeroed();
        let whole = chain.read(memory, 0, header.as_mut_bytes()) == header.as_bytes().len();
        let mut request = Self {
            kind: whole.then_some(header.request_type),
            sector: header.sector,
            data_len: chain.readable_len().saturating_sub(HEADER),
            data_room,
            segments: [Segment::new_zeroed(); DISCARD_SEGMENTS_MAX as usize],
            count: 0,
        };
        if matches!(request.kind, Some(RequestType::DISCARD | RequestType::WRITE_ZEROES)) {
            let count = request.data_len / SEGMENT;
            if request.data_len.is_multiple_of(SEGMENT) && count <= u64::from(DISCARD_SEGMENTS_MAX) {
                request.count = count as usize;
                chain.read(memory, HEADER, request.segments[..request.count].as_mut_bytes());
            }
        }
        Ok(request)
    }

    /// The ranges to discard or to zero; none if they are not whole, or too many.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    /// What it takes of the disk's limit; a flush takes nothing.
    pub(super) fn cost(&self) -> Option<Cost> {
        let zeroed = |segment: &Segment| u64::from(segment.num_sectors.min(ZEROES_SECTORS_MAX)) * SECTOR;
        let (bytes, operations) = match self.kind {
            Some(RequestType::FLUSH) => return None,
            Some(RequestType::IN) => (self.data_room.min(REQUEST_MAX), 1),
            Some(RequestType::OUT) => (self.data_len.min(REQUEST_MAX), 1),
            // A discard moves no data. Zeroes may have to be written.
            Some(RequestType::DISCARD) => (0, self.count),
            Some(RequestType::WRITE_ZEROES) => (self.segments().iter().map(zeroed).sum(), self.count),
            _ => (0, 1),
        };
        Some(Cost { bytes, operations: operations.max(1) as u64 })
    }

    /// Whether it asks for more than one request may have. Such requests are counted.
    pub(super) fn is_oversized(&self, counter: &Counter) -> bool {
        let oversized = match self.kind {
            Some(RequestType::IN) => self.data_room > REQUEST_MAX,
            Some(RequestType::OUT) => self.data_len > REQUEST_MAX,
            Some(RequestType::DISCARD | RequestType::WRITE_ZEROES) => {
                self.data_len > u64::from(DISCARD_SEGMENTS_MAX) * SEGMENT
            }
            _ => false,
        };
        counter.add(oversized.into());
        oversized
    }
}
