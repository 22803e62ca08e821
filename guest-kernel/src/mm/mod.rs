//! Memory: frames, page tables, heap, and memory that devices use.
//!
//! ```text
//! kernel address space (level 4 entry)
//! 0xffff_8880_0000_0000 (273)  direct map of all RAM: read-write, no execute; the kernel's text and rodata read-only
//! 0xffff_c900_0000_0000 (402)  device registers: uncached, no execute
//! 0xffff_ffff_8000_0000 (511)  the kernel's image: text read-execute, rodata read-only, data read-write
//! ```

mod arena;
pub mod dma;
pub mod frames;
pub mod heap;
pub mod image;
pub mod paging;
pub mod reserve;

/// Where all RAM is mapped.
pub const DIRECT_MAP: usize = 0xffff_8880_0000_0000;

/// A range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// Bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// Where a physical address of RAM is mapped.
#[cfg(not(test))]
pub const fn direct(physical: u64) -> usize {
    DIRECT_MAP + physical as usize
}

#[cfg(test)]
std::thread_local! {
    /// Where physical address 0 is for a test: memory of its process.
    pub(crate) static BASE: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

/// As in the kernel, for memory of a test's process.
#[cfg(test)]
pub fn direct(physical: u64) -> usize {
    BASE.get() + physical as usize
}

/// The inverse of [`direct`].
pub const fn physical_of_direct(address: usize) -> u64 {
    (address - DIRECT_MAP) as u64
}
