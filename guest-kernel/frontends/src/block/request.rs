//! Requests to a block device, as its users see them.

use crate::error::Violation;
use crate::memory::{Direction, DmaBuffer};

pub use virtio_abi::blk::{ID_LEN, SECTOR_SIZE};

/// What to do. The length of a buffer is the length of the transfer, a multiple of [`SECTOR_SIZE`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// Fills the buffer from the disk.
    Read {
        /// First sector.
        sector: u64,
        /// Where to.
        buffer: DmaBuffer,
    },
    /// Writes the buffer to the disk.
    Write {
        /// First sector.
        sector: u64,
        /// Where from.
        buffer: DmaBuffer,
    },
    /// Makes all writes that have completed before durable.
    Flush,
    /// Says that the content of a range is no longer needed.
    Discard {
        /// First sector.
        sector: u64,
        /// Sectors.
        sectors: u64,
    },
    /// Makes a range read as zeroes.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// Sectors.
        sectors: u64,
        /// Whether the device may free the range.
        unmap: Unmap,
    },
    /// Asks for the device's id string.
    Id,
}

impl Request {
    /// The buffer of a read or a write.
    pub fn into_buffer(self) -> Option<DmaBuffer> {
        match self {
            Self::Read { buffer, .. } | Self::Write { buffer, .. } => Some(buffer),
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } | Self::Id => None,
        }
    }

    /// Lets the device reach the buffer, if there is one. False if that is not possible now.
    pub(super) fn lend(&mut self) -> bool {
        let (buffer, direction) = match self {
            Self::Read { buffer, .. } => (buffer, Direction::FromDevice),
            Self::Write { buffer, .. } => (buffer, Direction::ToDevice),
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } | Self::Id => return true,
        };
        let is_mapped = buffer.map(direction).is_some();
        if is_mapped {
            buffer.sync_for_device(0..buffer.len());
        }
        is_mapped
    }
}

/// The whole blocks around a range: first sector and sectors. `None` if they end beyond all sectors.
pub fn whole_blocks(sector: u64, sectors: u64, block_size: u32) -> Option<(u64, u64)> {
    let block = u64::from(block_size) / SECTOR_SIZE as u64;
    let first = sector - sector % block;
    let end = sector.checked_add(sectors)?.checked_next_multiple_of(block)?;
    Some((first, end - first))
}

/// Whether write-zeroes may free the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmap {
    /// It stays allocated.
    Keep,
    /// The device may free it, if it can do so and still read zeroes.
    Allow,
}

/// Names a request that was taken. Never given to another one: a late answer cannot be mistaken for a newer request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub(super) u64);

/// A request that was not taken.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub reason: Rejection,
    /// The request, with its buffer.
    pub request: Request,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Too many requests are pending: take completions first.
    #[error("too many requests are pending")]
    Full,
    /// The range is not on the disk.
    #[error("sectors {sector} and {sectors} following are beyond the disk's {capacity}")]
    OutOfRange {
        /// First sector.
        sector: u64,
        /// Sectors.
        sectors: u64,
        /// The disk's sectors.
        capacity: u64,
    },
    /// The range does not start and end with a block of the device.
    #[error("sectors {sector} and {sectors} following are no whole blocks of {block_size} bytes")]
    Misaligned {
        /// First sector.
        sector: u64,
        /// Sectors.
        sectors: u64,
        /// The device's block size.
        block_size: u32,
    },
    /// The length is 0 or no multiple of a sector.
    #[error("{len} bytes are no whole number of sectors")]
    BadLength {
        /// The length.
        len: usize,
    },
    /// The disk is read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The device does not offer this.
    #[error("the device does not support this request")]
    Unsupported,
    /// The buffer cannot be mapped for the device now: take completions first.
    #[error("the buffer cannot be mapped for the device")]
    NotMapped,
    /// The driver has stopped.
    #[error("the device is stopped: {0}")]
    Broken(Violation),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The device says IOERR.
    #[error("input/output error")]
    Io,
    /// The device says UNSUPP.
    #[error("the device does not know the request")]
    Unsupported,
    /// The device left the status untouched, or made one up.
    #[error("the request ended with the undefined status {status:#x}")]
    BadStatus {
        /// The status.
        status: u8,
    },
    /// The device says OK but wrote less than was asked for.
    #[error("device wrote {written} bytes of {wanted}")]
    Short {
        /// Bytes asked for.
        wanted: u32,
        /// Bytes written.
        written: u32,
    },
    /// The device failed again after the request had been given to it a second time.
    #[error("the device failed with it twice: {0}")]
    GivenUp(Violation),
    /// The device was stopped while the request was pending.
    #[error("the device was stopped: {0}")]
    Broken(Violation),
}

/// A request that ended.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub token: Token,
    /// How.
    pub result: Result<Output, RequestError>,
    /// The buffer of a read or a write. `None` if the device was stopped and may still write to it.
    pub buffer: Option<DmaBuffer>,
}

/// What a request gave, other than the content of its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Nothing more.
    Done,
    /// The id string, padded with NUL.
    Id([u8; ID_LEN]),
}
