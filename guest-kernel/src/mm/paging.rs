//! Page tables: the final address space (drawn in `mm`), device mappings, and the write protection of what was patched.
//!
//! All changes go through `pvops::mmu`, in batches. Table frames are reached by the direct map.

use super::frames::FRAMES;
use super::{PAGE_SIZE, direct, image};
use crate::boot::info::Range;
use crate::boot::stack_guard;
use crate::sync::Lock;
use pvops::mmu::{self, ACCESSED, DIRTY, GLOBAL, LARGE, NO_EXECUTE, PRESENT, UNCACHED, WRITE};

const LARGE_PAGE: u64 = 2 << 20;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where device registers are mapped, one behind the other.
const DEVICE_MAP: usize = 0xffff_c900_0000_0000;

/// The kernel's address space.
static SPACE: Lock<Space> = Lock::new(Space { root: 0, next_device: DEVICE_MAP });

/// Access rights of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Code.
    ReadExecute,
    /// Constants.
    ReadOnly,
    /// Data.
    ReadWrite,
    /// Device registers.
    Device,
}

impl Access {
    const fn flags(self) -> u64 {
        let common = PRESENT | ACCESSED | GLOBAL;
        match self {
            Self::ReadExecute => common,
            Self::ReadOnly => common | NO_EXECUTE,
            Self::ReadWrite => common | WRITE | DIRTY | NO_EXECUTE,
            Self::Device => common | WRITE | DIRTY | NO_EXECUTE | UNCACHED,
        }
    }
}

struct Space {
    /// Physical address of the top-level table.
    root: u64,
    next_device: usize,
}

/// Builds the final tables and makes them live. The text is still writable through the direct map: the patcher needs it.
///
/// # Safety
/// Called once, on the boot tables, with the frame allocator ready.
pub unsafe fn init(ram: &[Range]) {
    let mut space = SPACE.lock();
    let batch = mmu::batch();
    space.root = new_table(4);
    for range in ram {
        let start = range.start / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        space.map(direct(start), start, range.end.next_multiple_of(PAGE_SIZE as u64) - start, Access::ReadWrite);
    }
    for (start, end, access) in [
        (image::text_start(), image::text_end(), Access::ReadExecute),
        (image::rodata_start(), image::rodata_end(), Access::ReadOnly),
        (image::data_start(), stack_guard(), Access::ReadWrite),
        (stack_guard() + PAGE_SIZE, image::data_end(), Access::ReadWrite),
    ] {
        space.map(start, image::physical(start), (end - start) as u64, access);
    }
    drop(batch);
    // SAFETY: the new tables map the image and all RAM where the boot tables did, the stack included.
    unsafe { mmu::write_cr3(space.root) };
}

/// Takes away every way to write to text, constants and the data that is read-only after boot.
pub fn protect_image() {
    let mut space = SPACE.lock();
    let batch = mmu::batch();
    for (start, end) in [
        (image::text_start(), image::text_end()),
        (image::rodata_start(), image::rodata_end()),
        (image::data_start(), image::ro_after_init_end()),
    ] {
        let physical = image::physical(start);
        space.map(direct(physical), physical, (end - start) as u64, Access::ReadOnly);
    }
    let (start, end) = (image::data_start(), image::ro_after_init_end());
    space.map(start, image::physical(start), (end - start) as u64, Access::ReadOnly);
    drop(batch);
    mmu::flush_all();
}

/// Maps device registers; they stay mapped. `None` when the range is none.
pub fn map_device(physical: u64, len: u64) -> Option<usize> {
    let start = physical / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    let end = physical.checked_add(len)?.checked_next_multiple_of(PAGE_SIZE as u64)?;
    if len == 0 || end & !ADDRESS != 0 {
        return None;
    }
    let mut space = SPACE.lock();
    let address = space.next_device;
    space.next_device += (end - start) as usize;
    let batch = mmu::batch();
    space.map(address, start, end - start, Access::Device);
    drop(batch);
    Some(address + (physical - start) as usize)
}

/// Rights and physical address of a mapped address, as the tables have it; for checks and the shell.
pub fn lookup(address: usize) -> Option<(u64, u64)> {
    let space = SPACE.lock();
    let mut table = space.root;
    for level in (1..=4).rev() {
        let slot = entry_address(table, address, level);
        // SAFETY: the tables are ours and mapped.
        let entry = mmu::decode(unsafe { slot.read_volatile() });
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || entry & LARGE != 0 {
            let within = address as u64 & ((1 << (12 + 9 * (level - 1))) - 1);
            return Some(((entry & ADDRESS) + within, entry & !ADDRESS));
        }
        table = entry & ADDRESS;
    }
    None
}

impl Space {
    /// Maps a range of whole pages, with large pages where they fit and the image's rights need no small ones.
    fn map(&mut self, mut address: usize, mut physical: u64, len: u64, access: Access) {
        let end = physical + len;
        while physical < end {
            let aligned = (address as u64 | physical).is_multiple_of(LARGE_PAGE);
            if aligned && end - physical >= LARGE_PAGE && !holds_image(physical) {
                let slot = self.slot(address, 2);
                // SAFETY: the tables are ours, and the caller wants this mapping.
                unsafe { mmu::set_pte(slot, mmu::encode(physical | access.flags() | LARGE)) };
                address += LARGE_PAGE as usize;
                physical += LARGE_PAGE;
                continue;
            }
            // One walk for all small pages of the same table.
            let mut slot = self.slot(address, 1);
            loop {
                // SAFETY: as above; `slot` stays in its table because the loop ends at the table's last page.
                unsafe { mmu::set_pte(slot, mmu::encode(physical | access.flags())) };
                slot = slot.wrapping_add(1);
                address += PAGE_SIZE;
                physical += PAGE_SIZE as u64;
                if physical >= end || (address as u64).is_multiple_of(LARGE_PAGE) {
                    break;
                }
            }
        }
    }

    /// The entry for an address at a level; makes the tables above it.
    fn slot(&mut self, address: usize, level: u32) -> *mut u64 {
        let mut table = self.root;
        for upper in (level + 1..=4).rev() {
            let slot = entry_address(table, address, upper);
            // SAFETY: the tables are ours and mapped.
            let entry = mmu::decode(unsafe { slot.read_volatile() });
            table = if entry & PRESENT == 0 {
                let new = new_table(upper - 1);
                // SAFETY: the new table is empty, so nothing becomes reachable yet.
                unsafe { mmu::set_pte(slot, mmu::encode(new | PRESENT | WRITE | ACCESSED)) };
                new
            } else {
                entry & ADDRESS
            };
        }
        entry_address(table, address, level)
    }
}

/// Whether a large page at a physical address would cover part of the image.
fn holds_image(physical: u64) -> bool {
    image::parts().iter().any(|&(start, end)| physical < end && start < physical + LARGE_PAGE)
}

fn entry_address(table: u64, address: usize, level: u32) -> *mut u64 {
    let index = address >> (12 + 9 * (level - 1)) & 511;
    (direct(table) as *mut u64).wrapping_add(index)
}

/// A zeroed frame that is a page table.
fn new_table(level: u32) -> u64 {
    let frame = FRAMES.lock().allocate(0).expect("no frame for a page table");
    let physical = frame * PAGE_SIZE as u64;
    // SAFETY: the frame is ours, mapped, and unused.
    unsafe {
        core::ptr::write_bytes(direct(physical) as *mut u8, 0, PAGE_SIZE);
        mmu::adopt_table(frame, level);
    }
    physical
}
