//! How a part of a request looks to the device: the chain of its segments, and a slot of small fields.
//!
//! ```text
//! slot (64 bytes, one for each entry of the ring)
//!   0  header       the device reads
//!  16  range        the device reads: discard, write zeroes
//!  32  id           the device writes
//!  56  status       the device writes
//! chain: header, then data, a range, the id or nothing, then status
//! ```

use super::job::{Job, Part};
use super::limits::Limits;
use super::request::Unmap;
use crate::cells::Cells;
use crate::memory::DmaPages;
use crate::ring::Segment;
use alloc::vec::Vec;
use virtio_abi::blk::{
    ID_LEN, RequestHeader, RequestStatus, RequestType, SECTOR_SIZE, SEGMENT_UNMAP, Segment as Range,
};

const SLOT: usize = 64;
const RANGE: usize = 16;
const ID: usize = 32;
const STATUS: usize = 56;
/// Put into the status before the device sees it; no device answers this.
const STATUS_UNTOUCHED: u8 = 0xff;

/// The small fields of all requests, by head.
pub(super) struct Slots {
    cells: Cells,
}

impl Slots {
    pub(super) fn allocate(dma: &'static dyn DmaPages, count: usize) -> Option<Self> {
        Some(Self { cells: Cells::allocate(dma, count * SLOT)? })
    }

    /// What the device answered.
    pub(super) fn status(&self, head: u16) -> RequestStatus {
        RequestStatus(self.cells.load8(usize::from(head) * SLOT + STATUS))
    }

    /// The id that the device wrote.
    pub(super) fn id(&self, head: u16) -> [u8; ID_LEN] {
        core::array::from_fn(|index| self.cells.load8(usize::from(head) * SLOT + ID + index))
    }

    /// Gives the memory up, because the device may still write to it. Returns the pages.
    pub(super) fn leak(&mut self) -> usize {
        self.cells.leak()
    }

    /// Writes the small fields of a part into its slot and lists the segments of its chain. Returns the bytes of data
    /// that the device is to write.
    pub(super) fn make_chain(
        &self,
        chain: &mut Vec<Segment>,
        head: u16,
        job: &Job,
        part: Part,
        limits: &Limits,
    ) -> u32 {
        let slot = usize::from(head) * SLOT;
        let address = self.cells.device_address() + slot as u64;
        let ranged = matches!(job.request_type, RequestType::IN | RequestType::OUT);
        self.cells.store64(slot, job.request_type.0.into());
        self.cells.store64(slot + 8, if ranged { part.sector } else { 0 });
        self.cells.store8(slot + STATUS, STATUS_UNTOUCHED);

        chain.clear();
        chain.push(Segment::readable(address, size_of::<RequestHeader>() as u32));
        let mut wanted = 0;
        match job.request_type {
            RequestType::IN | RequestType::OUT => {
                let Some(buffer) = &job.buffer else { return 0 };
                let (mut at, mut left) =
                    (buffer.device_address() + part.offset as u64, part.sectors * SECTOR_SIZE as u32);
                if job.request_type == RequestType::IN {
                    wanted = left;
                }
                while left > 0 {
                    let len = left.min(limits.segment_len);
                    chain.push(if wanted > 0 { Segment::writable(at, len) } else { Segment::readable(at, len) });
                    at += u64::from(len);
                    left -= len;
                }
            }
            RequestType::DISCARD | RequestType::WRITE_ZEROES => {
                let unmap = job.unmap == Unmap::Allow && limits.may_unmap;
                let flags = if unmap { SEGMENT_UNMAP } else { 0 };
                self.cells.store64(slot + RANGE, part.sector);
                self.cells.store64(slot + RANGE + 8, u64::from(part.sectors) | u64::from(flags) << 32);
                chain.push(Segment::readable(address + RANGE as u64, size_of::<Range>() as u32));
            }
            RequestType::GET_ID => {
                for offset in [0, 8, 16] {
                    self.cells.store64(slot + ID + offset, 0);
                }
                chain.push(Segment::writable(address + ID as u64, ID_LEN as u32));
            }
            _ => {}
        }
        chain.push(Segment::writable(address + STATUS as u64, 1));
        wanted
    }
}
