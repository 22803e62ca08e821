//! Page tables. Addresses of tables are physical ones; entries hold what the world has there (machine addresses on Xen):
//! [`encode`] and [`decode`] translate. Entries that are not cached map device registers and hold machine addresses
//! everywhere.

use crate::site::{calling, hot};
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{PageSize, PageTableFlags, Size4KiB};
use x86_64::{PhysAddr, VirtAddr};

/// An entry from its parts, of which the address is a frame's.
#[inline(always)]
pub(crate) fn entry(address: PhysAddr, flags: PageTableFlags) -> u64 {
    address.as_u64() | flags.bits()
}

/// The inverse of [`entry`].
#[inline(always)]
pub(crate) fn parts(entry: u64) -> (PhysAddr, PageTableFlags) {
    let address = PhysAddr::new_truncate(entry).align_down(Size4KiB::SIZE);
    (address, PageTableFlags::from_bits_retain(entry & !address.as_u64()))
}

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
pub fn read_cr3() -> PhysAddr {
    let value;
    // SAFETY: reading has no effect.
    unsafe { hot!(mmu.read_cr3 => value) };
    // The other bits are how the table itself is cached.
    parts(value).0
}

/// Makes a top-level table live.
///
/// # Safety
/// The table maps all that the kernel uses from now on.
#[inline(always)]
pub unsafe fn write_cr3(address: PhysAddr) {
    // SAFETY: per the contract.
    unsafe { hot!(mmu.write_cr3, "rdi" = address.as_u64()) };
}

/// Flushes the whole TLB.
#[inline(always)]
pub fn flush_all() {
    // SAFETY: a flush has no effect on memory.
    unsafe { hot!(mmu.flush_all) };
}

/// Flushes one page.
#[inline(always)]
pub fn flush_one(address: VirtAddr) {
    // SAFETY: a flush has no effect on memory.
    unsafe { hot!(mmu.flush_one, "rdi" = address.as_u64()) };
}

/// An entry that [`set_pte`] takes, from a guest physical address, a multiple of 4 KiB, and flags. A world may take
/// `WRITABLE` from a mapping of a page table.
#[inline(always)]
pub fn encode(address: PhysAddr, flags: PageTableFlags) -> u64 {
    let value;
    // SAFETY: a computation.
    unsafe { hot!(mmu.encode, "rdi" = entry(address, flags) => value) };
    value
}

/// The inverse of [`encode`], for an entry as read from a table.
#[inline(always)]
pub fn decode(entry: u64) -> (PhysAddr, PageTableFlags) {
    let value;
    // SAFETY: a computation.
    unsafe { hot!(mmu.decode, "rdi" = entry => value) };
    parts(value)
}

/// Makes a zeroed frame a page table of a level.
///
/// # Safety
/// Nothing else uses the frame; from now on only [`set_pte`] writes it.
pub unsafe fn adopt_table(pfn: u64, level: PageTableLevel) {
    // SAFETY: per the contract.
    unsafe { calling!(mmu.adopt_table, "rdi" = pfn, "esi" = level as u32) };
}

/// Makes a page table an ordinary frame again.
///
/// # Safety
/// No table points to it.
pub unsafe fn release_table(pfn: u64, level: PageTableLevel) {
    // SAFETY: per the contract.
    unsafe { calling!(mmu.release_table, "rdi" = pfn, "esi" = level as u32) };
}

/// Whether entries of level 2 may map large pages.
pub fn has_large_pages() -> bool {
    let value: u64;
    // SAFETY: a question.
    unsafe { calling!(mmu.large_pages => value) };
    value != 0
}
