//! A buffer in DMA memory.

use super::allocator::DmaPages;
use super::map::{Direction, DmaMapper, Mapping};
use super::pages::{PAGE_SIZE, RawPages};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

/// Whether the device reaches a buffer.
#[derive(Clone, Copy)]
enum Reach {
    /// All the time: the pages came from [`DmaPages`].
    Shared,
    /// Not now: the pages came from a [`DmaMapper`].
    Unmapped,
    /// From `map` until `unmap`, of a [`DmaMapper`].
    Mapped { device_address: u64, len: usize, direction: Direction },
}

/// An owned, page-aligned buffer in DMA memory. Freed on drop.
///
/// Its length may be any number of bytes up to its capacity, which is whole pages; requests transfer the length.
pub struct DmaBuffer {
    pages: RawPages,
    len: usize,
    /// `None` once leaked.
    owner: Option<&'static dyn DmaPages>,
    reach: Reach,
}

// SAFETY: the buffer owns its pages exclusively (contracts of DmaPages and DmaMapper), and both are Sync.
unsafe impl Send for DmaBuffer {}
// SAFETY: a shared DmaBuffer only gives shared access to its bytes.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// Allocates a buffer of `len` bytes (at least one page) for requests. The content is arbitrary. The device reaches it
    /// while it is [mapped](Self::map), which drivers do for the buffers that they are given.
    pub fn allocate(owner: &'static dyn DmaPages, len: usize) -> Option<Self> {
        let Some(mapper) = owner.mapper() else { return Self::allocate_shared(owner, len) };
        let pages = mapper.allocate_data(pages_for(len))?;
        Some(Self { pages, len, owner: Some(owner), reach: Reach::Unmapped })
    }

    /// Allocates a buffer of `len` bytes (at least one page) that the device reaches until it is dropped: for rings, small
    /// fields of requests, and data that is copied anyway. The content is arbitrary.
    pub fn allocate_shared(owner: &'static dyn DmaPages, len: usize) -> Option<Self> {
        let pages = owner.allocate(pages_for(len))?;
        Some(Self { pages, len, owner: Some(owner), reach: Reach::Shared })
    }

    /// Bytes that a request with this buffer transfers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of its pages.
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

    /// Where the device finds the buffer. A buffer that has to be mapped and is not has no such address: 0.
    pub fn device_address(&self) -> u64 {
        match self.reach {
            Reach::Shared => self.pages.device_address,
            Reach::Unmapped => 0,
            Reach::Mapped { device_address, .. } => device_address,
        }
    }

    /// Lets the device reach the bytes of the buffer, and returns where it finds them. `None` if that is not possible now.
    /// A buffer that was mapped before is unmapped first. Costs nothing if the allocator has no [`DmaMapper`].
    ///
    /// For drivers; callers of the drivers in this crate need not map their buffers.
    pub fn map(&mut self, direction: Direction) -> Option<u64> {
        if matches!(self.reach, Reach::Shared) {
            return Some(self.pages.device_address);
        }
        self.unmap();
        let len = self.len;
        // SAFETY: the pages came from this mapper, have `len` bytes, and are not mapped.
        let device_address = unsafe { self.mapper()?.map(self.pages, len, direction)? };
        self.reach = Reach::Mapped { device_address, len, direction };
        Some(device_address)
    }

    /// Ends what [`map`](Self::map) began. The device must have returned the buffer.
    pub fn unmap(&mut self) {
        if let Some((mapper, mapping)) = self.mapping() {
            self.reach = Reach::Unmapped;
            // SAFETY: `map` made the mapping, and it has just been forgotten.
            unsafe { mapper.unmap(&mapping) }
        }
    }

    /// Shows the device the bytes of a mapped buffer, if it reads them: before it is given the buffer.
    ///
    /// # Panics
    /// If the range is not within the mapped bytes.
    pub fn sync_for_device(&self, range: Range<usize>) {
        if let Some((mapper, mapping)) = self.mapping()
            && mapping.direction.device_reads()
        {
            check_range(&mapping, &range);
            // SAFETY: the mapping is live, and the range was just checked.
            unsafe { mapper.sync_for_device(&mapping, range) }
        }
    }

    /// Shows the driver what the device wrote to a mapped buffer: before the buffer is read.
    ///
    /// # Panics
    /// If the range is not within the mapped bytes.
    pub fn sync_for_driver(&mut self, range: Range<usize>) {
        if let Some((mapper, mapping)) = self.mapping()
            && mapping.direction.device_writes()
        {
            check_range(&mapping, &range);
            // SAFETY: as in `sync_for_device`; the buffer is borrowed exclusively.
            unsafe { mapper.sync_for_driver(&mapping, range) }
        }
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
        // SAFETY: `at` has checked the range, and there is room for the bytes after those that the vector has; then they
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

    /// Where the pages came from, if the device does not reach them all the time.
    fn mapper(&self) -> Option<&'static dyn DmaMapper> {
        self.owner?.mapper()
    }

    /// The mapping, if there is one. None of a buffer that was leaked.
    fn mapping(&self) -> Option<(&'static dyn DmaMapper, Mapping)> {
        let Reach::Mapped { device_address, len, direction } = self.reach else { return None };
        Some((self.mapper()?, Mapping { pages: self.pages, len, direction, device_address }))
    }

    /// Gives the pages up for good, because a device may still write to them: they are never unmapped or freed. Returns how
    /// many, 0 the second time.
    pub fn leak(&mut self) -> usize {
        let Some(owner) = self.owner.take() else { return 0 };
        owner.note_leak(self.pages.count);
        self.pages.count
    }
}

/// Pages for so many bytes.
fn pages_for(len: usize) -> usize {
    len.div_ceil(PAGE_SIZE).max(1)
}

fn check_range(mapping: &Mapping, range: &Range<usize>) {
    assert!(range.start <= range.end && range.end <= mapping.len, "range beyond the mapping");
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
        let Some(owner) = self.owner else { return };
        self.unmap();
        // SAFETY: the pages came from there and are not mapped; a driver that cannot rule out that the device still uses
        // them has leaked them.
        unsafe {
            match self.reach {
                Reach::Shared => owner.free(self.pages),
                Reach::Unmapped | Reach::Mapped { .. } => {
                    if let Some(mapper) = owner.mapper() {
                        mapper.free_data(self.pages);
                    }
                }
            }
        }
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuffer({} bytes at device {:#x})", self.len, self.device_address())
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
                assert_eq!((back[0], back[bytes.len() + 1]), (0, 0), "nothing next to it");
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
