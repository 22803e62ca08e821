//! The heap: an arena that grows by blocks of frames, and gives them back when it has more than it needs.

use super::arena::{Arena, Surplus};
use super::frames::{FRAMES, MAX_ORDER};
use super::{PAGE_SIZE, direct, physical_of_direct};
use crate::sync::Lock;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Smallest growth: 2^6 frames, 256 KiB.
const GROWTH_ORDER: usize = 6;
/// Bytes that stay free in the heap, so that it does not shrink and grow in turns.
const KEEP: usize = 256 << 10;
/// Blocks of so many frames and more are given back at once, smaller ones when memory is short: 2^4, 64 KiB.
const SHRINK_ORDER: usize = 4;

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: KernelHeap = KernelHeap { arena: Lock::new(Arena::new()), allocations: AtomicU64::new(0) };

struct KernelHeap {
    arena: Lock<Arena>,
    allocations: AtomicU64,
}

// SAFETY: the arena hands out disjoint, aligned blocks of the frames that it was given.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Relaxed);
        loop {
            if let Some(block) = self.arena.lock().alloc(layout) {
                return block.as_ptr();
            }
            // Without the lock: what helps may take a while.
            if !grow(layout) {
                return core::ptr::null_mut();
            }
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        let Some(address) = core::ptr::NonNull::new(address) else { return };
        let mut arena = self.arena.lock();
        // SAFETY: it came from `alloc` with this layout, per the trait's contract.
        unsafe { arena.dealloc(address, layout) };
        shrink(&mut arena, KEEP, SHRINK_ORDER);
    }
}

/// Gives blocks back to the frame allocator.
fn shrink(arena: &mut Arena, keep: usize, least: usize) {
    while let Some(Surplus { start, order }) = arena.surplus(keep, least) {
        give(start, order);
    }
}

/// The frame allocator's largest blocks are smaller than the heap's.
fn give(start: usize, order: usize) {
    let frame = physical_of_direct(start) / PAGE_SIZE as u64;
    let piece = order.min(MAX_ORDER);
    let mut frames = FRAMES.lock();
    (0..1 << (order - piece)).for_each(|index| frames.free(frame + (index << piece), piece));
}

/// Called when there are no frames left, with the heap unlocked: whether some came back.
static RELIEF: spin::Once<fn() -> bool> = spin::Once::new();

/// Sets the hook that is called when no frames are left; later calls do nothing.
pub fn set_relief(relieve: fn() -> bool) {
    RELIEF.call_once(|| relieve);
}

/// Gives every whole free page back: for when memory is short. The heap is not in use by the caller.
pub fn give_back() {
    shrink(&mut HEAP.arena.lock(), 0, 0);
}

/// Adds frames for an allocation that found no room.
fn grow(layout: Layout) -> bool {
    let bytes = layout.size().max(layout.align()).max(PAGE_SIZE).next_power_of_two();
    let wanted = (bytes / PAGE_SIZE).trailing_zeros() as usize;
    if wanted > MAX_ORDER {
        return false;
    }
    // When memory is short, only what is needed; when none is left, what the balloon can give back.
    let take = || {
        let mut frames = FRAMES.lock();
        [GROWTH_ORDER.max(wanted), wanted].into_iter().find_map(|order| Some((frames.allocate(order)?, order)))
    };
    let (frame, order) = loop {
        match take() {
            Some(found) => break found,
            None if RELIEF.get().is_some_and(|relieve| relieve()) => {}
            None => return false,
        }
    };
    // Drivers lend buffers on the heap to devices. Where that fails, such a driver says so.
    // SAFETY: the frames are free.
    let _ = unsafe { pvops::memory::machine_block(frame, order as u32) };
    // SAFETY: the frames are ours, and mapped.
    unsafe { HEAP.arena.lock().add(direct(frame * PAGE_SIZE as u64), PAGE_SIZE << order) };
    true
}

/// For tests of what a panic needs: holds the heap's lock forever.
pub fn hold(what: fn() -> !) -> ! {
    let _arena = HEAP.arena.lock();
    what()
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
    let arena = HEAP.arena.lock();
    Usage { total: arena.total(), used: arena.used(), allocations: HEAP.allocations.load(Relaxed) }
}
