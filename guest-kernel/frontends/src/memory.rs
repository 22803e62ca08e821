//! Memory that both the driver and its device reach.
//!
//! The kernel implements [`DmaPages`] once; drivers and their callers hold [`DmaBuffer`]s. A buffer has one owner at a
//! time: who hands it to a driver gets it back with the completion, so nobody looks at it while the device writes.

use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a page; allocations are whole pages and aligned to it.
pub const PAGE_SIZE: usize = 4096;

/// Pages as an allocator hands them out and takes them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPages {
    /// Where the driver sees them.
    pub address: NonNull<u8>,
    /// Where the device sees them: contiguous for the whole length.
    pub device_address: u64,
    /// How many.
    pub count: usize,
}

/// An allocator of pages that a device can reach.
///
/// # Safety
/// `allocate` returns `count` contiguous pages, aligned to [`PAGE_SIZE`], readable and writable, initialised (to
/// anything; they need not be zero), used by nobody else until `free`.
pub unsafe trait DmaPages: Sync {
    /// Takes `count` pages, contiguous for the device; `None` if there are none.
    fn allocate(&self, count: usize) -> Option<RawPages>;

    /// Takes pages back.
    ///
    /// # Safety
    /// They came from `allocate` of this allocator, and neither the driver nor the device uses them any more.
    unsafe fn free(&self, pages: RawPages);

    /// Hears that so many pages will never be freed, because a device may still write to them.
    fn note_leak(&self, pages: usize) {
        let _ = pages;
    }
}

/// The time for which a device may use the memory that it was shown: until it confirms a reset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loan {
    over: Arc<AtomicBool>,
}

impl Loan {
    /// The device has confirmed its reset.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// An owned, page-aligned buffer in DMA memory. Freed on drop.
///
/// Its length may be any number of bytes up to its capacity, which is whole pages; requests transfer the length.
pub struct DmaBuffer {
    pages: RawPages,
    len: usize,
    /// `None` once leaked.
    owner: Option<&'static dyn DmaPages>,
}

// SAFETY: the buffer owns its pages exclusively (contract of DmaPages), and the allocator is Sync.
unsafe impl Send for DmaBuffer {}
// SAFETY: a shared DmaBuffer only gives shared access to its bytes.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// Allocates a buffer of `len` bytes (at least one page beneath). The content is arbitrary.
    pub fn allocate(owner: &'static dyn DmaPages, len: usize) -> Option<Self> {
        let pages = owner.allocate(len.div_ceil(PAGE_SIZE).max(1))?;
        Some(Self { pages, len, owner: Some(owner) })
    }

    /// Bytes that a request with this buffer transfers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the pages beneath.
    pub fn capacity(&self) -> usize {
        self.pages.count * PAGE_SIZE
    }

    /// Changes the length, so that one buffer serves requests of several sizes.
    ///
    /// # Panics
    /// If `len` is more than the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length beyond the buffer");
        self.len = len;
    }

    /// Where the device finds the buffer.
    pub fn device_address(&self) -> u64 {
        self.pages.device_address
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the pages are ours, initialised and `capacity()` long (contract of DmaPages); `len <= capacity()`.
        unsafe { slice::from_raw_parts(self.pages.address.as_ptr(), self.len) }
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.pages.address.as_ptr(), self.len) }
    }

    /// The first byte, for memory that the device changes at any time (rings): no reference may be made to it.
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.pages.address
    }

    /// Gives the pages up for good, because a device may still write to them: they are never freed. Returns how many, 0
    /// the second time.
    pub fn leak(&mut self) -> usize {
        let Some(owner) = self.owner.take() else { return 0 };
        owner.note_leak(self.pages.count);
        self.pages.count
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        if let Some(owner) = self.owner {
            // SAFETY: the pages came from this owner, and who knows that the device may still use them has leaked them.
            unsafe { owner.free(self.pages) }
        }
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuffer({} bytes at device {:#x})", self.len, self.pages.device_address)
    }
}
