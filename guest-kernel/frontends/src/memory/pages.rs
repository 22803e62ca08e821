//! Pages of DMA memory.

use core::ptr::NonNull;

/// Bytes of a page; allocations are whole pages and aligned to it.
pub const PAGE_SIZE: usize = 4096;

/// Pages as an allocator hands them out and takes them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPages {
    /// Where the driver sees them.
    pub address: NonNull<u8>,
    /// Where the device sees them: contiguous for the whole length. Of no meaning for pages of a [`DmaMapper`](super::DmaMapper), which the
    /// device sees where it maps them.
    pub device_address: u64,
    /// How many.
    pub count: usize,
}
