//! Page tables. Addresses of tables are physical ones; entries hold what the world has there (machine addresses on Xen):
//! [`encode`] and [`decode`] translate. Entries that are not cached map device registers and hold machine addresses
//! everywhere.

use crate::site::{calling, hot};

/// Present.
pub const PRESENT: u64 = 1;
/// Writable.
pub const WRITE: u64 = 1 << 1;
/// Reachable from user mode.
pub const USER: u64 = 1 << 2;
/// Not cached.
pub const UNCACHED: u64 = 1 << 4;
/// Accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Dirty.
pub const DIRTY: u64 = 1 << 6;
/// A large page (levels 2 and 3).
pub const LARGE: u64 = 1 << 7;
/// Survives a cr3 write.
pub const GLOBAL: u64 = 1 << 8;
/// Never executed.
pub const NO_EXECUTE: u64 = 1 << 63;

/// Writes one entry. Inside a batch it may be written as late as [`Batch`]'s end.
///
/// # Safety
/// `entry` points into a page table, and what the new entry makes reachable or takes away is not relied on otherwise.
#[inline(always)]
pub unsafe fn set_pte(entry: *mut u64, value: u64) {
    // SAFETY: per the contract.
    unsafe { hot!(mmu.set_pte, "rdi" = entry, "rsi" = value) };
}

/// A batch of [`set_pte`]; everything is written when it is dropped.
#[derive(Debug)]
pub struct Batch(());

/// Starts a batch. Batches do not nest.
#[inline(always)]
pub fn batch() -> Batch {
    // SAFETY: deferring writes has no effect on memory that Rust knows of; the end of the batch is in Drop.
    unsafe { hot!(mmu.lazy_begin) };
    Batch(())
}

impl Drop for Batch {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the batch was begun.
        unsafe { hot!(mmu.lazy_end) };
    }
}

/// The live top-level table.
#[inline(always)]
pub fn read_cr3() -> u64 {
    let value;
    // SAFETY: reading has no effect.
    unsafe { hot!(mmu.read_cr3 => value) };
    value
}

/// Makes a top-level table live.
///
/// # Safety
/// The table maps all that the kernel uses from now on.
#[inline(always)]
pub unsafe fn write_cr3(address: u64) {
    // SAFETY: per the contract.
    unsafe { hot!(mmu.write_cr3, "rdi" = address) };
}

/// Flushes the whole TLB.
#[inline(always)]
pub fn flush_all() {
    // SAFETY: a flush has no effect on memory.
    unsafe { hot!(mmu.flush_all) };
}

/// Flushes one page.
#[inline(always)]
pub fn flush_one(address: usize) {
    // SAFETY: a flush has no effect on memory.
    unsafe { hot!(mmu.flush_one, "rdi" = address) };
}

/// Turns an entry with a guest physical address and flags into one that [`set_pte`] takes. A world may take [`WRITE`] from
/// a mapping of a page table.
#[inline(always)]
pub fn encode(entry: u64) -> u64 {
    let value;
    // SAFETY: a computation.
    unsafe { hot!(mmu.encode, "rdi" = entry => value) };
    value
}

/// The inverse of [`encode`], for an entry as read from a table.
#[inline(always)]
pub fn decode(entry: u64) -> u64 {
    let value;
    // SAFETY: a computation.
    unsafe { hot!(mmu.decode, "rdi" = entry => value) };
    value
}

/// Makes a zeroed frame a page table of a level.
///
/// # Safety
/// Nothing else uses the frame; from now on only [`set_pte`] writes it.
pub unsafe fn adopt_table(pfn: u64, level: u32) {
    // SAFETY: per the contract.
    unsafe { calling!(mmu.adopt_table, "rdi" = pfn, "esi" = level) };
}

/// Makes a page table an ordinary frame again.
///
/// # Safety
/// No table points to it.
pub unsafe fn release_table(pfn: u64, level: u32) {
    // SAFETY: per the contract.
    unsafe { calling!(mmu.release_table, "rdi" = pfn, "esi" = level) };
}

/// Whether entries of level 2 may map large pages.
pub fn has_large_pages() -> bool {
    let value: u64;
    // SAFETY: a question.
    unsafe { calling!(mmu.large_pages => value) };
    value != 0
}
