//! Memory that both the driver and its device reach.
//!
//! The kernel implements [`DmaPages`] once; drivers and their callers hold [`DmaBuffer`]s. A buffer has one owner at a
//! time: who hands it to a driver gets it back with the completion. A device that keeps to the rules does not write to it
//! then, but none is held to them: so no reference is ever made to this memory, and what is in it is copied.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
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

    /// Copies bytes out, from `offset` on.
    ///
    /// # Panics
    /// If they are not all within the length.
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: `at` has checked the range; `to` is private memory, which overlaps nothing of the pages.
        unsafe { copy(from.as_ptr(), to.as_mut_ptr(), to.len()) };
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Panics
    /// If they are not all within the length.
    pub fn copy_from(&mut self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: as in `copy_to`.
        unsafe { copy(from.as_ptr(), to.as_ptr(), from.len()) };
    }

    /// Appends a copy of `len` bytes from `offset` on to a vector.
    ///
    /// # Panics
    /// If they are not all within the length.
    pub fn append_to(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        let from = self.at(offset, len);
        to.reserve(len);
        // SAFETY: `at` has checked the range, and there is room for the bytes behind those that the vector has; then they
        // are initialised.
        unsafe {
            copy(from.as_ptr(), to.as_mut_ptr().add(to.len()), len);
            to.set_len(to.len() + len);
        }
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_to(0, self.len, &mut bytes);
        bytes
    }

    /// Sets all bytes.
    pub fn fill(&mut self, value: u8) {
        const STEP: usize = 256;
        for offset in (0..self.len).step_by(STEP) {
            self.copy_from(offset, &[value; STEP][..STEP.min(self.len - offset)]);
        }
    }

    /// The first byte. No reference may be made to memory that a device has been shown.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.pages.address
    }

    /// A place in the buffer with so many bytes within the length.
    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset, "range beyond the buffer");
        // SAFETY: just checked, and the length is within the pages.
        unsafe { self.pages.address.add(offset) }
    }

    /// Gives the pages up for good, because a device may still write to them: they are never freed. Returns how many, 0
    /// the second time.
    pub fn leak(&mut self) -> usize {
        let Some(owner) = self.owner.take() else { return 0 };
        owner.note_leak(self.pages.count);
        self.pages.count
    }
}

/// Copies memory that a device may change meanwhile, which no memory model of the language knows of: by an instruction.
///
/// # Safety
/// As for `copy_nonoverlapping`, but for what a device does.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: per the contract; the direction flag is clear, as in all of Rust.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies memory that a device may change meanwhile, byte by byte.
///
/// # Safety
/// As for `copy_nonoverlapping`, but for what a device does.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    for index in 0..len {
        // SAFETY: per the contract.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Memory;

    #[test]
    fn copies_are_exact_at_any_offset_and_length() {
        let mut buffer = DmaBuffer::allocate(Memory::leaked(1), 64).unwrap();
        for offset in 0..20 {
            for len in 0..=40 {
                buffer.fill(0xee);
                let bytes: Vec<u8> = (1..=len).collect();
                buffer.copy_from(offset, &bytes);
                let mut expected = [0xee; 64];
                expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
                assert_eq!(buffer.to_vec(), expected);
                let mut back = [0; 42];
                buffer.copy_to(offset, &mut back[1..=bytes.len()]);
                assert_eq!(back[1..=bytes.len()], bytes);
                assert_eq!((back[0], back[bytes.len() + 1]), (0, 0), "nothing beside it");
                let mut appended = Vec::from([7]);
                buffer.append_to(offset, bytes.len(), &mut appended);
                assert_eq!(appended, [&[7], bytes.as_slice()].concat());
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond the buffer")]
    fn copy_beyond_the_length_panics() {
        DmaBuffer::allocate(Memory::leaked(1), 64).unwrap().copy_to(60, &mut [0; 5]);
    }
}
