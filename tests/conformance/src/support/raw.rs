//! Rings and buffers for the checks: they write whatever a check wants to see answered, and look at all that came back.
//!
//! A device may change this memory at any time, so there is never a reference to it: every access is volatile. Pages are
//! kept until the device has confirmed its reset (see `device.rs`).

use super::registers::Regs;
use super::{End, Verdict, advice, equal, fail, holds, skip};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};
use frontends::memory::{DmaPages, PAGE_SIZE, RawPages};
use guest_kernel::mm::dma::DMA;
use guest_kernel::task;
use shared_abi::virtio::ring::{self, DescriptorFlags};

/// How long a device may take for one answer.
pub const PATIENCE: u64 = 5_000_000_000;
/// Looks at a ring before the CPU halts between looks.
const SPINS: u32 = 300;

/// Pages that are freed with their last user.
pub struct Pages(RawPages);

impl Pages {
    #[inline(never)]
    fn allocate(count: usize) -> Option<Self> {
        let pages = DMA.allocate(count)?;
        // SAFETY: just allocated, `count` pages long, and used here alone.
        unsafe { pages.address.write_bytes(0, count * PAGE_SIZE) };
        Some(Self(pages))
    }
}

impl Drop for Pages {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: from this allocator; a device that may still use them keeps them from being dropped (`Dev`).
        unsafe { DMA.free(self.0) };
    }
}

/// A part of some pages.
#[derive(Clone)]
pub struct Buf {
    pages: Rc<Pages>,
    offset: usize,
    len: usize,
}

macro_rules! access {
    ($($read:ident $write:ident $ty:ty;)*) => {
        $(
            pub fn $read(&self, offset: usize) -> $ty {
                // SAFETY: `at` keeps the access inside the pages, which live as long as this; volatile, unaligned bytewise.
                unsafe { self.at(offset, size_of::<$ty>()).cast::<$ty>().read_volatile() }
            }

            pub fn $write(&self, offset: usize, value: $ty) {
                // SAFETY: as for reading; no reference to this memory exists.
                unsafe { self.at(offset, size_of::<$ty>()).cast::<$ty>().write_volatile(value) };
            }
        )*
    };
}

impl Buf {
    /// Zeroed pages for at least `len` bytes.
    pub fn allocate(len: usize) -> Option<(Self, Rc<Pages>)> {
        let pages = Rc::new(Pages::allocate(len.div_ceil(PAGE_SIZE).max(1))?);
        Some((Self { pages: pages.clone(), offset: 0, len }, pages))
    }

    /// A part of it.
    ///
    /// # Panics
    /// When it is not inside.
    pub fn part(&self, offset: usize, len: usize) -> Self {
        assert!(offset + len <= self.len, "part outside of its buffer");
        Self { pages: self.pages.clone(), offset: self.offset + offset, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the device finds it.
    pub fn address(&self) -> u64 {
        self.pages.0.device_address + self.offset as u64
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset + len <= self.len, "access outside of its buffer");
        let address = self.pages.0.address.as_ptr().wrapping_add(self.offset + offset);
        assert!(address.addr().is_multiple_of(len.max(1)), "unaligned access to a buffer");
        address
    }

    access! {
        read8 write8 u8;
        read16 write16 u16;
        read32 write32 u32;
    }

    pub fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }

    /// A copy of its bytes, by words where it is aligned: emulated instructions are slow.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        if self.address().is_multiple_of(4) {
            (0..self.len / 4).for_each(|word| bytes.extend(self.read32(4 * word).to_le_bytes()));
        }
        bytes.extend((bytes.len()..self.len).map(|at| self.read8(at)).collect::<Vec<_>>());
        bytes
    }

    /// Fills it.
    pub fn fill(&self, value: u8) {
        (0..self.len).for_each(|at| self.write8(at, value));
    }

    /// Fills it with bytes that depend on their place and `seed`.
    pub fn pattern(&self, seed: u8) {
        (0..self.len).for_each(|at| self.write8(at, pattern(at, seed)));
    }

    /// The first place that does not hold [`pattern`](Self::pattern).
    pub fn differs(&self, seed: u8) -> Option<usize> {
        (0..self.len).find(|&at| self.read8(at) != pattern(at, seed))
    }

    /// The first byte that is not `value`.
    pub fn first_not(&self, value: u8) -> Option<usize> {
        (0..self.len).find(|&at| self.read8(at) != value)
    }

    /// Copies bytes to its start, by words where it is aligned: emulated instructions are slow.
    pub fn put(&self, bytes: &[u8]) {
        let (words, rest) = if self.address().is_multiple_of(4) { bytes.as_chunks() } else { (&[][..], bytes) };
        words.iter().enumerate().for_each(|(at, word)| self.write32(4 * at, u32::from_le_bytes(*word)));
        let done = bytes.len() - rest.len();
        rest.iter().enumerate().for_each(|(at, &byte)| self.write8(done + at, byte));
    }
}

fn pattern(at: usize, seed: u8) -> u8 {
    (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed
}

/// Who writes a buffer of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dir {
    /// The device reads it.
    Out,
    /// The device writes it.
    In,
}

/// One buffer of a chain: address, length, direction.
pub type Link = (u64, u32, Dir);

/// A link for a whole buffer.
pub fn link(buf: &Buf, dir: Dir) -> Link {
    (buf.address(), buf.len() as u32, dir)
}

/// One element of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub id: u32,
    pub len: u32,
}

/// A split ring.
pub struct Queue {
    pub index: u16,
    pub size: u16,
    pub table: Buf,
    pub available: Buf,
    pub used: Buf,
    pub notify_at: usize,
    next: u16,
    seen: u16,
    /// A check needs more descriptors than the queue has.
    too_short: Cell<bool>,
}

impl Queue {
    pub fn new(index: u16, size: u16, parts: [Buf; 3], notify_at: usize) -> Self {
        let [table, available, used] = parts;
        Self { index, size, table, available, used, notify_at, next: 0, seen: 0, too_short: Cell::new(false) }
    }

    /// Writes a descriptor.
    pub fn describe(&self, at: u16, (address, len, dir): Link, next: Option<u16>) {
        if at >= self.size {
            return self.too_short.set(true);
        }
        let mut flags = if dir == Dir::In { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
        flags.set(DescriptorFlags::NEXT, next.is_some());
        write_descriptor(&self.table, at, address, len, flags, next.unwrap_or(0));
    }

    /// Writes a chain into the given descriptors, in that order; returns its head.
    pub fn chain_at(&self, places: &[u16], links: &[Link]) -> u16 {
        for (n, (&place, &link)) in places.iter().zip(links).enumerate() {
            self.describe(place, link, places.get(n + 1).copied().filter(|_| n + 1 < links.len()));
        }
        places[0]
    }

    /// Writes a chain into descriptors from `first` on.
    pub fn chain(&self, first: u16, links: &[Link]) -> u16 {
        let places: Vec<u16> = (first..first + links.len() as u16).collect();
        self.chain_at(&places, links)
    }

    /// Writes a descriptor that refers to an indirect table of `entries`.
    pub fn indirect(&self, at: u16, table: &Buf, entries: u16) -> u16 {
        if at >= self.size {
            self.too_short.set(true);
            return at;
        }
        let len = u32::from(entries) * 16;
        write_descriptor(&self.table, at, table.address(), len, DescriptorFlags::INDIRECT, 0);
        at
    }

    /// Puts a head into the available ring; [`publish`](Self::publish) shows it.
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.next % self.size);
        self.available.write16(ring::ENTRIES_OFFSET + 2 * slot, head);
        self.next = self.next.wrapping_add(1);
    }

    /// Shows what was offered.
    pub fn publish(&self) {
        if self.too_short.get() {
            // There are chains with ends missing.
            return;
        }
        fence(Ordering::Release);
        self.available.write16(ring::INDEX_OFFSET, self.next);
        fence(Ordering::SeqCst);
    }

    /// Goes on by `count` entries that stand in the ring from an earlier turn.
    pub fn republish(&mut self, count: u16) {
        self.next = self.next.wrapping_add(count);
        self.publish();
    }

    /// The index that is published next.
    pub fn next(&self) -> u16 {
        self.next
    }

    /// How much was taken so far, modulo 65,536.
    pub fn seen(&self) -> u16 {
        self.seen
    }

    pub fn set_flags(&self, flags: u16) {
        self.available.write16(ring::FLAGS_OFFSET, flags);
    }

    pub fn set_used_event(&self, index: u16) {
        self.available.write16(ring::used_event_offset(self.size), index);
        fence(Ordering::SeqCst);
    }

    pub fn avail_event(&self) -> u16 {
        self.used.read16(ring::avail_event_offset(self.size))
    }

    pub fn used_flags(&self) -> u16 {
        self.used.read16(ring::FLAGS_OFFSET)
    }

    pub fn used_index(&self) -> u16 {
        let index = self.used.read16(ring::INDEX_OFFSET);
        fence(Ordering::Acquire);
        index
    }

    /// Takes one used element.
    pub fn take(&mut self) -> Option<Used> {
        (self.used_index() != self.seen).then(|| {
            let at = ring::ENTRIES_OFFSET + 8 * usize::from(self.seen % self.size);
            self.seen = self.seen.wrapping_add(1);
            Used { id: self.used.read32(at), len: self.used.read32(at + 4) }
        })
    }

    /// Counts everything that was returned as taken.
    pub fn catch_up(&mut self) {
        self.seen = self.used_index();
    }

    pub fn notify(&self, dev: &impl AsRef<Regs>) {
        dev.as_ref().notify(self.notify_at, self.index.into());
    }

    /// Offers one chain, shows it, notifies.
    pub fn send(&mut self, dev: &impl AsRef<Regs>, head: u16) {
        self.offer(head);
        self.publish();
        self.notify(dev);
    }

    /// Waits until `count` elements are there that were not taken yet.
    ///
    /// # Errors
    /// A failure when they do not come.
    pub fn wait_for(&self, count: u16) -> Result<(), End> {
        self.is_long_enough()?;
        let there = || self.used_index().wrapping_sub(self.seen) >= count;
        if wait_until(PATIENCE, there) {
            return Ok(());
        }
        let saw = self.used_index().wrapping_sub(self.seen);
        Err(fail("the device does not answer", format_args!("{count} used elements in 5 s"), saw))
    }

    /// Goes on only if everything that was described had room.
    ///
    /// # Errors
    /// Not applicable with a queue that is too short.
    pub fn is_long_enough(&self) -> Verdict {
        if self.too_short.get() { Err(skip(format!("the queue has only {} entries", self.size))) } else { Ok(()) }
    }

    /// Waits for one element and takes it.
    ///
    /// # Errors
    /// A failure when it does not come.
    pub fn wait(&mut self) -> Result<Used, End> {
        self.wait_for(1)?;
        self.take().ok_or_else(|| fail("the used index", "one that grows", "one that went back"))
    }

    /// Waits for `count` elements and takes them; each id is below `ids`, at most 32, and comes once.
    ///
    /// # Errors
    /// A failure when one does not come, or has another id.
    pub fn wait_each_once(&mut self, count: u16, ids: u32) -> Verdict {
        let mut seen = 0u32;
        for _ in 0..count {
            let used = self.wait()?;
            holds(used.id < ids && seen & 1 << used.id == 0, "id of a used element", "each once", used.id)?;
            seen |= 1 << used.id;
        }
        Ok(())
    }

    /// Waits for `count` elements and counts them as taken without a look at them.
    ///
    /// # Errors
    /// A failure when they do not come.
    pub fn skip(&mut self, count: u16) -> Result<(), End> {
        self.wait_for(count)?;
        self.seen = self.seen.wrapping_add(count);
        Ok(())
    }
}

/// Writes an entry of a descriptor table, indirect ones too.
pub fn write_descriptor(table: &Buf, at: u16, address: u64, len: u32, flags: DescriptorFlags, next: u16) {
    let at = usize::from(at) * 16;
    table.write64(at, address);
    table.write32(at + 8, len);
    table.write16(at + 12, flags.bits());
    table.write16(at + 14, next);
}

/// Writes a chain into an indirect table.
pub fn write_indirect(table: &Buf, links: &[Link]) {
    for (n, &(address, len, dir)) in links.iter().enumerate() {
        let mut flags = if dir == Dir::In { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
        let last = n + 1 == links.len();
        flags.set(DescriptorFlags::NEXT, !last);
        write_descriptor(table, n as u16, address, len, flags, if last { 0 } else { n as u16 + 1 });
    }
}

/// Waits for something, first busily, then halted; whether it came.
pub fn wait_until(patience: u64, mut done: impl FnMut() -> bool) -> bool {
    wait_until_dyn(patience, &mut done)
}

/// One copy of the waiting, however many things are waited for: call sites are patched one by one at boot.
#[inline(never)]
fn wait_until_dyn(patience: u64, done: &mut dyn FnMut() -> bool) -> bool {
    for _ in 0..SPINS {
        if done() {
            return true;
        }
        pvops::smp::relax();
    }
    task::block_until(patience, done)
}

/// The used length may be an underestimate, which a driver takes for memory that was not written.
pub fn counted(written: u32, len: u32) -> Verdict {
    holds(len <= written, "used length", format_args!("at most {written}"), len)?;
    advice(equal("used length", written, len))
}
