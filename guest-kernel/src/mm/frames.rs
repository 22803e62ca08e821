//! The frame allocator: a buddy system over all RAM.
//!
//! Free blocks are linked through their own first bytes (by the direct map); one bit per block and order says whether it
//! is free as a whole. Blocks that the host knows to be free are at the tail of their list, so that they are used last and
//! not reported again. All numbers are frames of 4 KiB.

use super::Range;
use super::{PAGE_SIZE, direct};
use crate::sync::Lock;

/// Blocks have 2^0 to 2^MAX_ORDER frames: up to 4 MiB.
pub const MAX_ORDER: usize = 10;
const ORDERS: usize = MAX_ORDER + 1;
const NONE: u64 = u64::MAX;

/// The allocator.
pub static FRAMES: Lock<Frames> = Lock::new(Frames::EMPTY);

/// What is where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames handed to the allocator.
    pub total: u64,
    /// Frames that are free.
    pub free: u64,
    /// Free frames that are being reported to the host; they come back soon.
    pub lent: u64,
}

impl Counts {
    /// Frames not in use.
    pub fn unused(&self) -> u64 {
        self.free + self.lent
    }
}

/// A buddy system.
pub struct Frames {
    heads: [u64; ORDERS],
    tails: [u64; ORDERS],
    /// Free bits of each order: byte address of the bitmap and its first bit for the order.
    bitmap: usize,
    first_bit: [u64; ORDERS],
    /// Frame numbers are below this.
    limit: u64,
    counts: Counts,
}

/// Links of a free block, in its first frame.
#[derive(Clone, Copy)]
#[repr(C)]
struct Links {
    next: u64,
    previous: u64,
    /// The host knows that the block is free.
    reported: bool,
}

impl Frames {
    /// Nothing to give yet.
    pub const EMPTY: Self = Self {
        heads: [NONE; ORDERS],
        tails: [NONE; ORDERS],
        bitmap: 0,
        first_bit: [0; ORDERS],
        limit: 0,
        counts: Counts { total: 0, free: 0, lent: 0 },
    };

    /// Takes over the RAM, apart from what is reserved. Only memory below `mapped_end` is touched; the rest is added by
    /// [`add`](Self::add) once it is mapped.
    ///
    /// # Safety
    /// The ranges are RAM and mapped by the direct map up to `mapped_end`; nothing uses them apart from `reserved`.
    pub unsafe fn init(&mut self, ram: &[Range], reserved: &[Range], mapped_end: u64) {
        self.limit = ram.iter().map(|range| range.end / PAGE_SIZE as u64).max().unwrap_or(0);
        let mut bits = 0;
        for order in 0..ORDERS {
            self.first_bit[order] = bits;
            bits += (self.limit >> order) + 1;
        }
        let bytes = bits.div_ceil(64) * 8;
        let home = usable(ram, reserved, mapped_end).find(|range| range.len() >= bytes).map_or(0, |range| range.start);
        assert!(home != 0, "no room for the frame allocator's {bytes} bytes");
        self.bitmap = direct(home);
        // SAFETY: the range is free RAM per the contract, and mapped.
        unsafe { core::ptr::write_bytes(self.bitmap as *mut u8, 0, bytes as usize) };
        let taken = Range { start: home, end: (home + bytes).next_multiple_of(PAGE_SIZE as u64) };
        for range in usable(ram, reserved, mapped_end) {
            let start = if range.start == taken.start { taken.end } else { range.start };
            // SAFETY: per the contract.
            unsafe { self.add(Range { start: start.min(range.end), end: range.end }) };
        }
    }

    /// Adds the RAM above `mapped_end` that [`init`](Self::init) left out.
    ///
    /// # Safety
    /// As `init`, with everything mapped now.
    pub unsafe fn add_above(&mut self, ram: &[Range], reserved: &[Range], mapped_end: u64) {
        for range in usable(ram, reserved, u64::MAX).filter(|range| range.end > mapped_end) {
            // SAFETY: per the contract.
            unsafe { self.add(Range { start: range.start.max(mapped_end), end: range.end }) };
        }
    }

    /// Adds a range of whole frames.
    ///
    /// # Safety
    /// It is unused RAM, mapped, and below the end of what [`init`](Self::init) was given.
    pub unsafe fn add(&mut self, range: Range) {
        let (mut frame, end) = (range.start / PAGE_SIZE as u64, range.end / PAGE_SIZE as u64);
        self.counts.total += end.saturating_sub(frame);
        while frame < end {
            let aligned = (frame.trailing_zeros() as usize).min(MAX_ORDER);
            let order = aligned.min((end - frame).ilog2() as usize);
            self.free(frame, order);
            frame += 1 << order;
        }
    }

    /// Frame numbers are below this.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is where.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a block of `2^order` frames; returns its first frame. Its contents are whatever they were.
    pub fn allocate(&mut self, order: usize) -> Option<u64> {
        let found = (order..ORDERS).find(|&order| self.heads[order] != NONE)?;
        let frame = self.heads[found];
        let reported = self.unlink(frame, found);
        for lower in (order..found).rev() {
            self.link(frame + (1 << lower), lower, reported);
        }
        self.counts.free -= 1 << order;
        Some(frame)
    }

    /// Gives a block back.
    pub fn free(&mut self, frame: u64, order: usize) {
        self.insert(frame, order, false);
    }

    /// A block becomes free, and one with its buddy as far as that is free. The host knows of the whole only if it knows of
    /// both halves.
    fn insert(&mut self, mut frame: u64, mut order: usize, mut reported: bool) {
        self.counts.free += 1 << order;
        while order < MAX_ORDER {
            let buddy = frame ^ 1 << order;
            if !self.is_free(buddy, order) {
                break;
            }
            reported &= self.unlink(buddy, order);
            frame &= buddy;
            order += 1;
        }
        self.link(frame, order, reported);
    }

    /// Takes a block of that order which the host does not know to be free, if one is there.
    pub fn take_unreported(&mut self, order: usize) -> Option<u64> {
        let frame = self.heads[order];
        // SAFETY: a block in a list is ours and mapped.
        if frame == NONE || unsafe { (*Self::links(frame)).reported } {
            return None;
        }
        self.unlink(frame, order);
        self.counts.free -= 1 << order;
        self.counts.lent += 1 << order;
        Some(frame)
    }

    /// Takes back a block from [`take_unreported`](Self::take_unreported); `reported` when the host now knows that it is free.
    pub fn take_back(&mut self, frame: u64, order: usize, reported: bool) {
        self.counts.lent -= 1 << order;
        self.insert(frame, order, reported);
    }

    fn bit(&self, frame: u64, order: usize) -> (*mut u64, u64) {
        let bit = self.first_bit[order] + (frame >> order);
        ((self.bitmap + (bit / 64 * 8) as usize) as *mut u64, 1 << (bit % 64))
    }

    fn is_free(&self, frame: u64, order: usize) -> bool {
        if frame >= self.limit {
            return false;
        }
        let (word, mask) = self.bit(frame, order);
        // SAFETY: the bitmap has a bit for every frame below the limit.
        unsafe { *word & mask != 0 }
    }

    fn flip(&mut self, frame: u64, order: usize) {
        let (word, mask) = self.bit(frame, order);
        // SAFETY: as in `is_free`; blocks come from `add`, so they are below the limit.
        unsafe { *word ^= mask };
    }

    fn links(frame: u64) -> *mut Links {
        direct(frame * PAGE_SIZE as u64) as *mut Links
    }

    /// Blocks that the host knows of are last.
    fn link(&mut self, frame: u64, order: usize, reported: bool) {
        let (previous, next) = if reported { (self.tails[order], NONE) } else { (NONE, self.heads[order]) };
        self.link_between(previous, frame, next, order, reported);
    }

    fn link_between(&mut self, previous: u64, frame: u64, next: u64, order: usize, reported: bool) {
        // SAFETY: free blocks are ours and mapped.
        unsafe { *Self::links(frame) = Links { next, previous, reported } };
        self.set_next(previous, order, frame);
        self.set_previous(next, order, frame);
        self.flip(frame, order);
    }

    /// Takes a block out of its list; whether the host knows of it.
    fn unlink(&mut self, frame: u64, order: usize) -> bool {
        // SAFETY: as in `link_between`.
        let Links { next, previous, reported } = unsafe { *Self::links(frame) };
        self.set_next(previous, order, next);
        self.set_previous(next, order, previous);
        self.flip(frame, order);
        reported
    }

    fn set_next(&mut self, of: u64, order: usize, to: u64) {
        match of {
            NONE => self.heads[order] = to,
            // SAFETY: as in `link_between`.
            of => unsafe { (*Self::links(of)).next = to },
        }
    }

    fn set_previous(&mut self, of: u64, order: usize, to: u64) {
        match of {
            NONE => self.tails[order] = to,
            // SAFETY: as in `link_between`.
            of => unsafe { (*Self::links(of)).previous = to },
        }
    }
}

/// The RAM below `limit` minus what is reserved, in whole pages.
fn usable<'a>(ram: &'a [Range], reserved: &'a [Range], limit: u64) -> impl Iterator<Item = Range> + use<'a> {
    const PAGE: u64 = PAGE_SIZE as u64;
    ram.iter().flat_map(move |range| {
        // The first page is never handed out: address 0 stays invalid.
        let mut at = range.start.next_multiple_of(PAGE).max(PAGE);
        let end = range.end.min(limit) / PAGE * PAGE;
        core::iter::from_fn(move || {
            while let Some(hole) = reserved.iter().find(|hole| hole.start / PAGE * PAGE <= at && at < hole.end) {
                at = hole.end.next_multiple_of(PAGE);
            }
            let start = at;
            at = reserved.iter().map(|hole| hole.start / PAGE * PAGE).filter(|&hole| hole > start).fold(end, u64::min);
            (start < at).then_some(Range { start, end: at })
        })
    })
}

#[cfg(test)]
mod tests;
