//! A buddy heap that can give whole pages back: `buddy_system_allocator`'s heap only ever grows, but what is free in it can
//! be allocated, and what was allocated for good is no longer part of it.

use super::PAGE_SIZE;
use buddy_system_allocator::Heap;
use core::alloc::Layout;
use core::ptr::NonNull;

/// Blocks of up to 2^23 bytes: larger than the frame allocator gives.
const ORDERS: usize = 24;
const PAGE_SHIFT: usize = PAGE_SIZE.trailing_zeros() as usize;
/// Orders of blocks in pages, from one page to the heap's largest block.
const PAGE_ORDERS: usize = ORDERS - PAGE_SHIFT;

/// The heap.
pub(super) struct Arena {
    heap: Heap<ORDERS>,
    /// Bytes that were taken out again. The heap counts them as allocated.
    removed: usize,
}

/// Whole pages that the heap does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Surplus {
    /// Address.
    pub start: usize,
    /// 2^order pages.
    pub order: usize,
}

impl Arena {
    /// Without memory.
    pub(super) const fn new() -> Self {
        Self { heap: Heap::empty(), removed: 0 }
    }

    /// Adds memory.
    ///
    /// # Safety
    /// It is mapped, and the arena's until [`surplus`](Self::surplus) names it.
    pub(super) unsafe fn add(&mut self, start: usize, len: usize) {
        // SAFETY: per the contract.
        unsafe { self.heap.add_to_heap(start, start + len) };
    }

    /// Allocates; `None` without room.
    pub(super) fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.heap.alloc(layout).ok()
    }

    /// Frees.
    ///
    /// # Safety
    /// It came from [`alloc`](Self::alloc) with this layout.
    pub(super) unsafe fn dealloc(&mut self, address: NonNull<u8>, layout: Layout) {
        // SAFETY: per the contract.
        unsafe { self.heap.dealloc(address, layout) };
    }

    /// Takes the largest free block out of the heap that has `2^least` pages or more, as long as `keep` bytes stay free. From
    /// then on it belongs to the caller.
    pub(super) fn surplus(&mut self, keep: usize, least: usize) -> Option<Surplus> {
        let spare = self.free().checked_sub(keep)?;
        (least..PAGE_ORDERS).rev().filter(|order| PAGE_SIZE << order <= spare).find_map(|order| {
            let size = PAGE_SIZE << order;
            let block = self.heap.alloc(Layout::from_size_align(size, size).ok()?).ok()?;
            self.removed += size;
            Some(Surplus { start: block.as_ptr().addr(), order })
        })
    }

    /// Bytes that it has.
    pub(super) fn total(&self) -> usize {
        self.heap.stats_total_bytes() - self.removed
    }

    /// Bytes that are handed out.
    pub(super) fn used(&self) -> usize {
        self.heap.stats_alloc_actual() - self.removed
    }

    fn free(&self) -> usize {
        self.total() - self.used()
    }
}

#[cfg(test)]
mod tests;
