//! The allocator of DMA pages that the kernel provides.

use super::map::DmaMapper;
use super::pages::RawPages;

/// An allocator of pages that a device can reach.
///
/// Drivers take it as `&'static dyn DmaPages`: a `static`, or a leaked box. Pages that were given up, because a device did
/// not confirm its reset, may outlive every driver, and so must their allocator.
///
/// # Safety
/// `allocate` returns `count` contiguous pages, aligned to [`PAGE_SIZE`](super::PAGE_SIZE), readable and writable, initialised (to
/// anything; they need not be zero), used for nothing else until `free`. Driver and device see each other's writes to
/// them without further calls (cache-coherent memory).
/// `mapper` returns the same mapper at each call, or always none.
pub unsafe trait DmaPages: Sync {
    /// Takes `count` pages, contiguous for the device; `None` if there are none.
    fn allocate(&self, count: usize) -> Option<RawPages>;

    /// Takes pages back.
    ///
    /// # Safety
    /// They came from `allocate` of this allocator, and neither the driver nor the device uses them any more.
    unsafe fn free(&self, pages: RawPages);

    /// Reports that so many pages will never be freed, because a device may still write to them.
    fn note_leak(&self, pages: usize) {
        let _ = pages;
    }

    /// How buffers of callers reach the device, if they must be mapped first. `None`, the default, is for devices that
    /// reach all memory: then buffers also come from [`DmaPages::allocate`], and no further calls are made for them.
    fn mapper(&self) -> Option<&dyn DmaMapper> {
        None
    }
}
