//! Buffers that a device reaches only while they are mapped: bounce buffers, virtual IOMMUs.

use super::pages::RawPages;
use core::ops::Range;

/// Who accesses a mapped buffer on the device's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device only reads.
    ToDevice,
    /// The device only writes.
    FromDevice,
    /// The device reads and writes.
    Both,
}

impl Direction {
    /// Whether the device reads.
    pub const fn device_reads(self) -> bool {
        !matches!(self, Self::FromDevice)
    }

    /// Whether the device writes.
    pub const fn device_writes(self) -> bool {
        !matches!(self, Self::ToDevice)
    }
}

/// A buffer that a device reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The pages, as the driver sees them.
    pub pages: RawPages,
    /// Bytes, from the start of the pages, that the device reaches.
    pub len: usize,
    /// How the device accesses them.
    pub direction: Direction,
    /// Where the device sees them: contiguous for the whole length.
    pub device_address: u64,
}

/// Makes buffers reachable for a device, for as long as a request has them.
///
/// `map` and `unmap` say what the device may reach and move no bytes; the two `sync` functions move them, where the
/// device does not see the pages themselves. A bounce buffer copies in both; a virtual IOMMU needs neither.
///
/// # Safety
/// `allocate_data` returns pages as [`DmaPages::allocate`](super::DmaPages::allocate) does, except that no device needs
/// to reach them. Through a mapping the device reaches the mapped bytes or a copy of them, and no other memory.
/// `sync_for_driver` writes nothing outside its range.
pub unsafe trait DmaMapper: Sync {
    /// Takes `count` pages for a buffer, which no device reaches yet; `None` if there are none.
    fn allocate_data(&self, count: usize) -> Option<RawPages>;

    /// Takes pages back.
    ///
    /// # Safety
    /// They came from `allocate_data` of this mapper, are not mapped and not used any more.
    unsafe fn free_data(&self, pages: RawPages);

    /// Makes the first `len` bytes of pages reachable; returns where the device sees them, contiguous. `None` if that is
    /// not possible now, for want of bounce buffers or address space: the request is rejected and can be tried again.
    ///
    /// # Safety
    /// The pages came from `allocate_data` of this mapper, have that many bytes, and are not mapped.
    unsafe fn map(&self, pages: RawPages, len: usize, direction: Direction) -> Option<u64>;

    /// Ends a mapping. A device that accesses it afterwards must not reach memory in other use.
    ///
    /// # Safety
    /// The mapping was made by `map` and has not been ended.
    unsafe fn unmap(&self, mapping: &Mapping);

    /// Shows the device what the driver wrote to a range of bytes. Called after the driver's last write and before the
    /// device gets the buffer, if the direction lets the device read.
    ///
    /// # Safety
    /// As for [`DmaMapper::unmap`]; the range is within the mapping.
    unsafe fn sync_for_device(&self, mapping: &Mapping, range: Range<usize>) {
        let _ = (mapping, range);
    }

    /// Shows the driver what the device wrote to a range of bytes. Called after the device has returned the buffer and
    /// before the driver's first read, if the direction lets the device write.
    ///
    /// A range may hold bytes that the device should have written and did not. A bounce buffer then shows what was in it
    /// before: a kernel whose programs must not see that clears it in `map`.
    ///
    /// # Safety
    /// As for [`DmaMapper::sync_for_device`].
    unsafe fn sync_for_driver(&self, mapping: &Mapping, range: Range<usize>) {
        let _ = (mapping, range);
    }
}
