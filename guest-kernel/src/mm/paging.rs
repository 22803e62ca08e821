//! Page tables: the final address space (drawn in `mm`), device mappings, and the write protection of what was patched.
//!
//! All changes go through `pvops::mmu`. Tables are made first, one by one, then the entries that map something are written
//! in a batch: what a batch has not written yet cannot be read, and a world may refuse a writable mapping of a table, so
//! it must know the tables before. Table frames are reached by the direct map.

use super::frames::FRAMES;
use super::{PAGE_SIZE, Range, direct, image};
use crate::sync::Lock;
use pvops::mmu;
use x86_64::structures::paging::page_table::PageTableLevel::{self, Four, One, Two};
use x86_64::structures::paging::{PageSize, PageTableFlags, Size2MiB};
use x86_64::{PhysAddr, VirtAddr};

const LARGE_PAGE: u64 = Size2MiB::SIZE;
/// Where device registers are mapped, one after the other.
const DEVICE_MAP: usize = 0xffff_c900_0000_0000;

/// The kernel's address space.
static SPACE: Lock<Space> = Lock::new(Space { root: PhysAddr::zero(), next_device: DEVICE_MAP, large_pages: false });

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
    const fn flags(self) -> PageTableFlags {
        const CODE: PageTableFlags = TABLE.union(PageTableFlags::GLOBAL);
        const CONSTANTS: PageTableFlags = CODE.union(PageTableFlags::NO_EXECUTE);
        const DATA: PageTableFlags = CONSTANTS.union(PageTableFlags::WRITABLE).union(PageTableFlags::DIRTY);
        match self {
            Self::ReadExecute => CODE,
            Self::ReadOnly => CONSTANTS,
            Self::ReadWrite => DATA,
            Self::Device => DATA.union(PageTableFlags::NO_CACHE),
        }
    }
}

/// Flags of an entry that points to a table, but for the right to write, which is about what lies below.
const TABLE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::ACCESSED);

struct Space {
    /// The top-level table.
    root: PhysAddr,
    next_device: usize,
    large_pages: bool,
}

/// Whole pages, where they are mapped, and how.
#[derive(Clone, Copy)]
struct Mapping {
    address: VirtAddr,
    physical: PhysAddr,
    len: u64,
    access: Access,
}

impl Mapping {
    fn new(address: usize, physical: u64, len: u64, access: Access) -> Self {
        Self { address: VirtAddr::new(address as u64), physical: PhysAddr::new(physical), len, access }
    }
}

/// Builds the final tables and makes them live; the page at `stack_guard` is left out. The text is still writable through the direct map: the patcher needs it.
///
/// # Safety
/// Called once, on the boot tables, with the frame allocator ready.
pub unsafe fn init(ram: &[Range], stack_guard: usize) {
    let mut space = SPACE.lock();
    space.large_pages = mmu::has_large_pages();
    space.root = new_table(Four);
    let direct_map = ram.iter().map(|range| {
        let physical = range.start / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let len = range.end.next_multiple_of(PAGE_SIZE as u64) - physical;
        Mapping::new(direct(physical), physical, len, Access::ReadWrite)
    });
    let image = [
        (image::text_start(), image::text_end(), Access::ReadExecute),
        (image::rodata_start(), image::rodata_end(), Access::ReadOnly),
        (image::data_start(), stack_guard, Access::ReadWrite),
        (stack_guard + PAGE_SIZE, image::data_end(), Access::ReadWrite),
    ]
    .map(|(start, end, access)| Mapping::new(start, image::physical(start), (end - start) as u64, access));
    let all = direct_map.chain(image);
    all.clone().for_each(|mapping| space.make_tables(mapping));
    all.for_each(|mapping| space.map(mapping));
    // SAFETY: the new tables map the image and all RAM where the boot tables did, the stack included.
    unsafe { mmu::write_cr3(space.root) };
}

/// Takes away every way to write to text, constants and the data that is read-only after boot.
pub fn protect_image() {
    let mut space = SPACE.lock();
    let mut protect = |address: usize, start: usize, end: usize| {
        let (physical, len) = (image::physical(start), (end - start) as u64);
        space.map(Mapping::new(address, physical, len, Access::ReadOnly));
    };
    for (start, end) in [
        (image::text_start(), image::text_end()),
        (image::rodata_start(), image::rodata_end()),
        (image::data_start(), image::ro_after_init_end()),
    ] {
        protect(direct(image::physical(start)), start, end);
    }
    protect(image::data_start(), image::data_start(), image::ro_after_init_end());
    mmu::flush_all();
}

/// Gives the frames of the boot code's tables to the frame allocator.
///
/// # Safety
/// The final tables are live, and the boot code's were page tables in this range and nowhere else in use.
pub unsafe fn reclaim_tables(range: Range) {
    for frame in range.start / PAGE_SIZE as u64..range.end / PAGE_SIZE as u64 {
        // SAFETY: per the contract; no live table points to them.
        unsafe { mmu::release_table(frame, One) };
    }
    // SAFETY: they are ordinary memory now, and mapped.
    unsafe { FRAMES.lock().add(range) };
}

/// Maps device registers; they stay mapped. `None` when the range is invalid.
pub fn map_device(physical: u64, len: u64) -> Option<usize> {
    let start = physical / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    let end = physical.checked_add(len)?.checked_next_multiple_of(PAGE_SIZE as u64)?;
    if len == 0 || PhysAddr::try_new(end).is_err() {
        return None;
    }
    if cfg!(test) {
        return Some(direct(physical));
    }
    let mut space = SPACE.lock();
    let address = space.next_device;
    space.next_device += (end - start) as usize;
    space.map(Mapping::new(address, start, end - start, Access::Device));
    Some(address + (physical - start) as usize)
}

/// For tests of what a panic needs: holds the lock of the page tables forever.
pub fn hold(what: fn() -> !) -> ! {
    let _space = SPACE.lock();
    what()
}

/// Takes frames out of the direct map.
///
/// # Safety
/// They are not in use. The direct map has no large pages.
pub unsafe fn unmap_frames(frames: &[u64]) {
    // SAFETY: per the contract.
    unsafe { set_frames(frames, |_| 0) };
    mmu::flush_all();
}

/// Puts frames back into the direct map.
///
/// # Safety
/// They are backed by memory. The direct map has no large pages.
pub unsafe fn map_frames(frames: &[u64]) {
    let flags = Access::ReadWrite.flags();
    // SAFETY: per the contract.
    unsafe { set_frames(frames, |frame| mmu::encode(PhysAddr::new(frame * PAGE_SIZE as u64), flags)) };
}

unsafe fn set_frames(frames: &[u64], entry: impl Fn(u64) -> u64) {
    let mut space = SPACE.lock();
    let _batch = mmu::batch();
    for &frame in frames {
        let slot = space.slot(VirtAddr::new(direct(frame * PAGE_SIZE as u64) as u64), One);
        // SAFETY: per the callers' contracts; the tables of the direct map are there.
        unsafe { mmu::set_pte(slot, entry(frame)) };
    }
}

/// Physical address and rights of a mapped address, as the tables have them; for checks and the shell.
pub fn lookup(address: usize) -> Option<(PhysAddr, PageTableFlags)> {
    let address = VirtAddr::try_new(address as u64).ok()?;
    let space = SPACE.lock();
    let (mut table, mut level) = (space.root, Four);
    loop {
        let slot = entry_address(table, address, level);
        // SAFETY: the tables are ours and mapped.
        let (physical, flags) = mmu::decode(unsafe { slot.read_volatile() });
        if !flags.contains(PageTableFlags::PRESENT) {
            return None;
        }
        level = match level.next_lower_level() {
            Some(lower) if !flags.contains(PageTableFlags::HUGE_PAGE) => lower,
            _ => {
                let within = address.as_u64() % level.entry_address_space_alignment();
                return Some((physical + within, flags));
            }
        };
        table = physical;
    }
}

impl Space {
    /// Cuts a mapping into large pages, where they fit and the image's rights need no small ones, and runs of small pages
    /// in one table.
    fn pieces(&self, mapping: Mapping) -> impl Iterator<Item = (Mapping, PageTableLevel)> + use<> {
        let large_pages = self.large_pages;
        let mut done = 0;
        core::iter::from_fn(move || {
            // Inside of what was checked when the mapping was made.
            let address = VirtAddr::new_truncate(mapping.address.as_u64() + done);
            let physical = PhysAddr::new_truncate(mapping.physical.as_u64() + done);
            let left = mapping.len - done;
            let aligned = large_pages && address.is_aligned(LARGE_PAGE) && physical.is_aligned(LARGE_PAGE);
            let large = aligned && left >= LARGE_PAGE && !holds_image(physical);
            let len = left.min(LARGE_PAGE - address.as_u64() % LARGE_PAGE);
            done += len;
            (len > 0).then_some((Mapping { address, physical, len, ..mapping }, if large { Two } else { One }))
        })
    }

    /// Makes the tables that a mapping takes.
    fn make_tables(&mut self, mapping: Mapping) {
        for (piece, level) in self.pieces(mapping) {
            self.slot(piece.address, level);
        }
    }

    /// Maps.
    fn map(&mut self, mapping: Mapping) {
        self.make_tables(mapping);
        let flags = mapping.access.flags();
        let _batch = mmu::batch();
        for (piece, level) in self.pieces(mapping) {
            let slot = self.slot(piece.address, level);
            if level == Two {
                // SAFETY: the tables are ours, and the caller wants this mapping.
                unsafe { mmu::set_pte(slot, mmu::encode(piece.physical, flags | PageTableFlags::HUGE_PAGE)) };
                continue;
            }
            for page in 0..piece.len / PAGE_SIZE as u64 {
                let physical = PhysAddr::new_truncate(piece.physical.as_u64() + page * PAGE_SIZE as u64);
                // SAFETY: as above; a piece does not leave its table.
                unsafe { mmu::set_pte(slot.wrapping_add(page as usize), mmu::encode(physical, flags)) };
            }
        }
    }

    /// The entry for an address at a level; makes the tables above it.
    fn slot(&mut self, address: VirtAddr, level: PageTableLevel) -> *mut u64 {
        let (mut table, mut at) = (self.root, Four);
        while at != level
            && let Some(lower) = at.next_lower_level()
        {
            let slot = entry_address(table, address, at);
            // SAFETY: the tables are ours and mapped.
            let (physical, flags) = mmu::decode(unsafe { slot.read_volatile() });
            table = if flags.contains(PageTableFlags::PRESENT) {
                physical
            } else {
                let new = new_table(lower);
                // SAFETY: the new table is empty, so nothing becomes reachable yet.
                // A world may take WRITABLE from a mapping of a table; here it is about what lies below.
                unsafe { mmu::set_pte(slot, mmu::encode(new, TABLE) | PageTableFlags::WRITABLE.bits()) };
                new
            };
            at = lower;
        }
        entry_address(table, address, level)
    }
}

/// Whether a large page at a physical address would cover part of the image.
fn holds_image(physical: PhysAddr) -> bool {
    let physical = physical.as_u64();
    image::parts().iter().any(|&(start, end)| physical < end && start < physical + LARGE_PAGE)
}

fn entry_address(table: PhysAddr, address: VirtAddr, level: PageTableLevel) -> *mut u64 {
    (direct(table.as_u64()) as *mut u64).wrapping_add(address.page_table_index(level).into())
}

/// A zeroed frame that is a page table.
fn new_table(level: PageTableLevel) -> PhysAddr {
    let frame = FRAMES.lock().allocate(0).expect("no frame for a page table");
    let physical = PhysAddr::new(frame * PAGE_SIZE as u64);
    // SAFETY: the frame is ours, mapped, and unused.
    unsafe {
        core::ptr::write_bytes(direct(physical.as_u64()) as *mut u8, 0, PAGE_SIZE);
        mmu::adopt_table(frame, level);
    }
    physical
}
