//! The heap: a buddy heap that grows by blocks of frames.

use super::frames::{FRAMES, MAX_ORDER};
use super::{PAGE_SIZE, direct};
use crate::sync::Lock;
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Blocks of up to 2^23 bytes: larger than the frame allocator gives.
const ORDERS: usize = 24;
/// Smallest growth: 2^6 frames, 256 KiB.
const GROWTH_ORDER: usize = 6;

#[global_allocator]
static HEAP: KernelHeap = KernelHeap { inner: Lock::new(Heap::empty()), allocations: AtomicU64::new(0) };

struct KernelHeap {
    inner: Lock<Heap<ORDERS>>,
    allocations: AtomicU64,
}

// SAFETY: the buddy heap hands out disjoint, aligned blocks of the frames that it was given.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Relaxed);
        let mut heap = self.inner.lock();
        loop {
            if let Ok(block) = heap.alloc(layout) {
                return block.as_ptr();
            }
            if !grow(&mut heap, layout) {
                return core::ptr::null_mut();
            }
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        if let Some(address) = core::ptr::NonNull::new(address) {
            // SAFETY: it came from `alloc` with this layout, per the trait's contract.
            unsafe { self.inner.lock().dealloc(address, layout) };
        }
    }
}

/// Adds frames for an allocation that found no room.
fn grow(heap: &mut Heap<ORDERS>, layout: Layout) -> bool {
    let bytes = layout.size().max(layout.align()).max(PAGE_SIZE).next_power_of_two();
    let wanted = (bytes / PAGE_SIZE).trailing_zeros() as usize;
    if wanted > MAX_ORDER {
        return false;
    }
    // When memory is short, only what is needed; when there is none, what the balloon can give back.
    let take = || {
        let mut frames = FRAMES.lock();
        [GROWTH_ORDER.max(wanted), wanted].into_iter().find_map(|order| Some((frames.allocate(order)?, order)))
    };
    let (frame, order) = loop {
        match take() {
            Some(found) => break found,
            None if crate::balloon::relieve() => {}
            None => return false,
        }
    };
    // Drivers lend buffers on the heap to devices. Where that fails, such a driver says so.
    // SAFETY: the frames are free.
    let _ = unsafe { pvops::mmu::machine_block(frame, order as u32) };
    let start = direct(frame * PAGE_SIZE as u64);
    // SAFETY: the frames are ours for ever, and mapped.
    unsafe { heap.add_to_heap(start, start + (PAGE_SIZE << order)) };
    true
}

/// What the heap holds.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Bytes of frames.
    pub total: usize,
    /// Bytes handed out.
    pub used: usize,
    /// Allocations since boot.
    pub allocations: u64,
}

/// What the heap holds now.
pub fn usage() -> Usage {
    let heap = HEAP.inner.lock();
    Usage {
        total: heap.stats_total_bytes(),
        used: heap.stats_alloc_actual(),
        allocations: HEAP.allocations.load(Relaxed),
    }
}
