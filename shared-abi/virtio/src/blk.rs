//! The block device (section 5.2 "Block Device"). One queue per `num_queues`, the first is 0.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a sector, whatever `blk_size` says.
pub const SECTOR_SIZE: usize = 512;
/// Bytes of the answer to [`RequestType::GET_ID`], padded with NUL.
pub const ID_LEN: usize = 20;

bitflags::bitflags! {
    /// Feature bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// `size_max` is valid.
        const SIZE_MAX = 1 << 1;
        /// `seg_max` is valid.
        const SEG_MAX = 1 << 2;
        /// Geometry is valid.
        const GEOMETRY = 1 << 4;
        /// Read only.
        const RO = 1 << 5;
        /// `blk_size` is valid.
        const BLK_SIZE = 1 << 6;
        /// Flush requests.
        const FLUSH = 1 << 9;
        /// Topology is valid.
        const TOPOLOGY = 1 << 10;
        /// The cache mode can be changed.
        const CONFIG_WCE = 1 << 11;
        /// Several queues.
        const MQ = 1 << 12;
        /// Discard requests.
        const DISCARD = 1 << 13;
        /// Write-zeroes requests.
        const WRITE_ZEROES = 1 << 14;
        /// Lifetime requests.
        const LIFETIME = 1 << 15;
        /// Secure erase requests.
        const SECURE_ERASE = 1 << 16;
    }
}

/// Start of a request; data and a status byte follow in further buffers.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHeader {
    /// What to do.
    pub request_type: RequestType,
    /// Zero.
    pub reserved: u32,
    /// First sector, for reads and writes.
    pub sector: u64,
}
assert_layout!(RequestHeader, size 16, sector at 8);

/// Type of a request. Open: a driver may send anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct RequestType(pub u32);

impl RequestType {
    /// Read.
    pub const IN: Self = Self(0);
    /// Write.
    pub const OUT: Self = Self(1);
    /// Flush.
    pub const FLUSH: Self = Self(4);
    /// Read the id string.
    pub const GET_ID: Self = Self(8);
    /// Discard the [`Segment`]s in the data.
    pub const DISCARD: Self = Self(11);
    /// Write zeroes to the [`Segment`]s in the data.
    pub const WRITE_ZEROES: Self = Self(13);
}

/// The last byte of a request, written by the device. Open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct RequestStatus(pub u8);

impl RequestStatus {
    /// Done.
    pub const OK: Self = Self(0);
    /// Failed.
    pub const IOERR: Self = Self(1);
    /// The device does not know the request.
    pub const UNSUPP: Self = Self(2);
}

/// `virtio_blk_discard_write_zeroes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub num_sectors: u32,
    /// [`SEGMENT_UNMAP`]; other bits are reserved.
    pub flags: u32,
}
assert_layout!(Segment, size 16, num_sectors at 8, flags at 12);

/// Write zeroes may deallocate the range.
pub const SEGMENT_UNMAP: u32 = 1;

/// `virtio_blk_config`, with the secure erase limits.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the field names are the specification's")]
pub struct Config {
    /// Sectors.
    pub capacity: u64,
    pub size_max: u32,
    pub seg_max: u32,
    pub cylinders: u16,
    pub heads: u8,
    pub sectors: u8,
    pub blk_size: u32,
    pub physical_block_exp: u8,
    pub alignment_offset: u8,
    pub min_io_size: u16,
    pub opt_io_size: u32,
    pub writeback: u8,
    pub unused0: u8,
    pub num_queues: u16,
    pub max_discard_sectors: u32,
    pub max_discard_seg: u32,
    pub discard_sector_alignment: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_write_zeroes_seg: u32,
    pub write_zeroes_may_unmap: u8,
    pub unused1: [u8; 3],
    pub max_secure_erase_sectors: u32,
    pub max_secure_erase_seg: u32,
    pub secure_erase_sector_alignment: u32,
}
assert_layout!(Config, size 72, size_max at 8, seg_max at 12, blk_size at 20, writeback at 32, num_queues at 34, max_discard_sectors at 36, max_write_zeroes_sectors at 48, write_zeroes_may_unmap at 56);
