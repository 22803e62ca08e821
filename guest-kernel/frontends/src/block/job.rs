//! A request in the driver's hands: how much of it was sent, how much is out, how it goes.

use super::limits::Limits;
use super::request::{Output, Request, RequestError, Token, Unmap};
use crate::memory::DmaBuffer;
use virtio_abi::blk::{RequestType, SECTOR_SIZE};

/// One request of a user, sent as one or more parts.
pub(super) struct Job {
    pub(super) token: Token,
    pub(super) request_type: RequestType,
    pub(super) unmap: Unmap,
    pub(super) buffer: Option<DmaBuffer>,
    /// Where it starts and what it has, in sectors, or 1 for a request without a range.
    start: (u64, u64),
    /// When it was first looked for after it was given to the device, or given again.
    pub(super) since: Option<u64>,
    /// Times that it was given to the device again.
    pub(super) reissued: u32,
    /// Where the next part starts, and what is left to send: sectors, or 1 for a request without a range.
    sector: u64,
    left: u64,
    /// Bytes of the buffer that were sent.
    offset: usize,
    /// Parts that the device has.
    pub(super) in_flight: u16,
    pub(super) result: Result<Output, RequestError>,
}

/// What one ring request covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sector: u64,
    pub(super) sectors: u32,
    /// Where in the buffer its data starts.
    pub(super) offset: usize,
}

impl Job {
    pub(super) fn new(token: Token, request: Request) -> Self {
        let sectors_of = |buffer: &DmaBuffer| (buffer.len() / SECTOR_SIZE) as u64;
        let mut unmap = Unmap::Keep;
        let (request_type, sector, left, buffer) = match request {
            Request::Read { sector, buffer } => (RequestType::IN, sector, sectors_of(&buffer), Some(buffer)),
            Request::Write { sector, buffer } => (RequestType::OUT, sector, sectors_of(&buffer), Some(buffer)),
            Request::Discard { sector, sectors } => (RequestType::DISCARD, sector, sectors, None),
            Request::WriteZeroes { sector, sectors, unmap: allowed } => {
                unmap = allowed;
                (RequestType::WRITE_ZEROES, sector, sectors, None)
            }
            Request::Flush => (RequestType::FLUSH, 0, 1, None),
            Request::Id => (RequestType::GET_ID, 0, 1, None),
        };
        let result = Ok(Output::Done);
        let start = (sector, left);
        Self {
            token,
            request_type,
            unmap,
            buffer,
            start,
            since: None,
            reissued: 0,
            sector,
            left,
            offset: 0,
            in_flight: 0,
            result,
        }
    }

    /// A job that has nothing to do.
    pub(super) fn done(token: Token) -> Self {
        Self { left: 0, ..Self::new(token, Request::Flush) }
    }

    /// Whether parts are left to send.
    pub(super) fn has_more(&self) -> bool {
        self.left > 0
    }

    /// Whether nothing is left to send or to wait for.
    pub(super) fn is_finished(&self) -> bool {
        self.left == 0 && self.in_flight == 0
    }

    /// Starts over, after the device was reset.
    pub(super) fn rewind(&mut self) {
        if let Some(buffer) = &self.buffer {
            // The device may have overwritten its copy.
            buffer.sync_for_device(0..buffer.len());
        }
        (self.sector, self.left) = self.start;
        (self.offset, self.in_flight, self.since) = (0, 0, None);
    }

    /// Whether the device has seen any of it.
    pub(super) fn was_sent(&self) -> bool {
        self.in_flight > 0 || (self.sector, self.left) != self.start
    }

    /// Takes the buffer from the device, which has returned it or was reset, with what a read gave.
    pub(super) fn take_buffer_back(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            if self.result.is_ok() {
                buffer.sync_for_driver(0..buffer.len());
            }
            buffer.unmap();
        }
    }

    /// Keeps the first error and sends no more.
    pub(super) fn fail(&mut self, error: RequestError) {
        if self.result.is_ok() {
            self.result = Err(error);
        }
        self.left = 0;
    }

    /// Cuts the next part off.
    pub(super) fn next_part(&mut self, limits: &Limits) -> Part {
        let limit = match self.request_type {
            RequestType::IN | RequestType::OUT => limits.transfer(),
            RequestType::DISCARD => {
                let block = limits.block_size / SECTOR_SIZE as u32;
                let alignment = limits.discard_alignment.checked_next_multiple_of(block).unwrap_or(block);
                aligned(self.sector, self.left, limits.discard, alignment)
            }
            RequestType::WRITE_ZEROES => limits.write_zeroes,
            _ => 1,
        };
        let sectors = self.left.min(limit.into()) as u32;
        let part = Part { sector: self.sector, sectors, offset: self.offset };
        self.sector += u64::from(sectors);
        self.left -= u64::from(sectors);
        self.offset += sectors as usize * SECTOR_SIZE;
        part
    }
}

/// How much of a discard to take so that the cut after it is aligned, if one is needed and an aligned one is in reach.
fn aligned(sector: u64, left: u64, limit: u32, alignment: u32) -> u32 {
    if left <= limit.into() {
        return limit;
    }
    let cut = sector.saturating_add(limit.into());
    match (cut - cut % u64::from(alignment)).saturating_sub(sector) {
        0 => limit,
        take => take as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn a_discard_is_cut_at_aligned_sectors_where_possible() {
        assert_eq!(aligned(3, 100, 16, 8), 13);
        assert_eq!(aligned(0, 100, 16, 8), 16);
        assert_eq!(aligned(3, 16, 16, 8), 16, "no cut is needed");
        assert_eq!(aligned(3, 100, 4, 8), 4, "no aligned cut is in reach");
        assert_eq!(aligned(u64::MAX - 3, u64::MAX, 16, 1), 3);
    }
}
