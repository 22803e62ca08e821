//! From Xen's entry to what the kernel expects of boot code: the table of this world, the shared page, and all memory in
//! the direct map.
//!
//! ```text
//! address                         at Xen's entry                            after `enter`
//! 0xffff_8000_0000_0000           Xen's: its table from machine frames to   the same
//!                                 physical ones
//! direct_map .. + memory          nothing                                   all frames; page tables read-only
//! virtual_base .. end of image    the kernel                                the same; the shared page is Xen's frame
//!   then Xen's data:              initrd, list of machine frames, start     the same, read-only where it is tables
//!                                 info, page tables
//!   then one page                 the stack that Xen gave us                nothing (it was the scratch page)
//!   up to a multiple of 4 MiB,    mapped, free                              the same
//!   at least 512 KiB
//! physical, from there on         not mapped                                the pool: one bit for each frame that is a table,
//!                                                                           then the direct map's tables, leaves first
//! ```
//!
//! The tables of the direct map are built in frames that are not mapped yet, through the scratch page.

use super::hypercall::{self, Refused, update_va_mapping};
use super::memory::{self, Places};
use super::{event, shared_info};
use core::fmt;
use shared_abi::xen::{MmuUpdate, OLDEST_VERSION, SharedInfo, StartInfo, hypercall as number, physdev, uvmf};
use x86_64::structures::paging::PageTableFlags;

/// Flags of what maps memory.
const DATA: PageTableFlags = ABOVE.union(PageTableFlags::DIRTY).union(PageTableFlags::NO_EXECUTE);
/// Flags of what points to tables.
const ABOVE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::ACCESSED);

const PAGE: u64 = 4096;
const ENTRIES: u64 = 512;
/// What Xen promises to map after its own data, and the multiple that it maps up to.
const SLACK: u64 = 512 << 10;
const MAPPED_TO: u64 = 4 << 20;
/// The direct map covers at most this much before the final tables do.
const MOST: u64 = 4 << 30;

/// What the kernel has to know of how it came here.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Bytes of memory, from physical address 0 on.
    pub memory: u64,
    /// Physical range of Xen's data: list, start info, page tables. Not to be handed out.
    pub xen_data: (u64, u64),
    /// Physical range of the direct map's tables and of what is known of frames. Not to be handed out.
    pub tables: (u64, u64),
    /// The part of it that is tables.
    pub free_tables: (u64, u64),
    /// Address and bytes of the initrd.
    pub initrd: (u64, u64),
    /// Version of Xen.
    pub version: (u16, u16),
}

/// Why the kernel cannot run here.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum EnterError {
    /// Not Xen's start info.
    NoStartInfo,
    /// An old Xen.
    Old(u16, u16),
    /// Bytes of memory, and how many it takes.
    TooLittle(u64, u64),
    /// A hypercall was refused.
    Refused(Refused),
}

impl From<Refused> for EnterError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl fmt::Display for EnterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStartInfo => write!(f, "the loader passed no start info of Xen"),
            Self::Old(major, minor) => {
                write!(f, "Xen {major}.{minor} is too old: it takes {}.{}", OLDEST_VERSION.0, OLDEST_VERSION.1)
            }
            Self::TooLittle(has, needs) => {
                write!(f, "{} MiB of memory are too little: it takes {}", has >> 20, needs.div_ceil(1 << 20))
            }
            Self::Refused(refused) => refused.fmt(f),
        }
    }
}

impl core::error::Error for EnterError {}

/// Writes to Xen's console before the kernel has one.
pub fn log(arguments: fmt::Arguments<'_>) {
    struct Console;
    impl fmt::Write for Console {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            // SAFETY: the text is readable.
            unsafe { super::write_console(text.as_ptr(), text.len()) };
            Ok(())
        }
    }
    let _ = fmt::Write::write_fmt(&mut Console, arguments);
}

/// Least memory, beyond what the loader has filled: tables, heap and buffers.
const LEAST_FREE: u64 = 8 << 20;

/// Makes this world's table the live one, maps the shared page and all memory.
///
/// # Errors
/// [`EnterError`].
///
/// # Safety
/// Called first, on Xen's entry, with its start info; `virtual_base` is where physical address 0 is mapped, and nothing is
/// mapped at `direct_map` yet.
pub unsafe fn enter(start: *const StartInfo, virtual_base: usize, direct_map: usize) -> Result<Boot, EnterError> {
    // SAFETY: the world is the one whose entry was used; one CPU.
    unsafe { crate::install(&super::BACKEND) };
    // SAFETY: per the contract.
    let info = unsafe { &*start };
    if !info.magic.starts_with(StartInfo::MAGIC) {
        return Err(EnterError::NoStartInfo);
    }
    // SAFETY: command 0 returns the version.
    let version = unsafe { hypercall::call2(number::XEN_VERSION, 0, 0) } as u32;
    let version = ((version >> 16) as u16, version as u16);
    if version < OLDEST_VERSION {
        return Err(EnterError::Old(version.0, version.1));
    }
    let pfn_of = |address: u64| (address - virtual_base as u64) / PAGE;
    let frames = info.nr_pages.min(MOST / PAGE);
    let xen_end = pfn_of(info.pt_base) + info.nr_pt_frames;
    // The next page is the stack that Xen gave us, which is in use no more: its address is the scratch page's.
    let scratch = virtual_base + (xen_end * PAGE) as usize;
    let leaf_tables = frames.div_ceil(ENTRIES);
    let directories = leaf_tables.div_ceil(ENTRIES);
    let bitmap = frames.div_ceil(8).div_ceil(PAGE);
    let pool = (xen_end * PAGE + PAGE + SLACK).next_multiple_of(MAPPED_TO) / PAGE;
    let pool_end = pool + bitmap + leaf_tables + directories + 1;
    if pool_end * PAGE + LEAST_FREE > info.nr_pages * PAGE {
        return Err(EnterError::TooLittle(info.nr_pages * PAGE, pool_end * PAGE + LEAST_FREE));
    }
    share_page(info, virtual_base)?;
    let build = Build { scratch, list: info.mfn_list as *const u64 };
    let first_table = pool + bitmap;
    let read_only = |pfn: u64| (first_table..pool_end).contains(&pfn) || (pfn_of(info.pt_base)..xen_end).contains(&pfn);
    const READ_ONLY: PageTableFlags = DATA.difference(PageTableFlags::WRITABLE.union(PageTableFlags::DIRTY));
    for table in 0..leaf_tables {
        build.table(first_table + table, |index| {
            let pfn = table * ENTRIES + index;
            let flags = if read_only(pfn) { READ_ONLY } else { DATA };
            if pfn < frames { build.entry(pfn, flags) } else { 0 }
        })?;
    }
    let first_directory = first_table + leaf_tables;
    for directory in 0..directories {
        build.table(first_directory + directory, |index| {
            let table = directory * ENTRIES + index;
            if table < leaf_tables { build.entry(first_table + table, ABOVE) } else { 0 }
        })?;
    }
    let top = first_directory + directories;
    let first = direct_map as u64 >> 30 & (ENTRIES - 1);
    build.table(top, |index| match index.checked_sub(first) {
        Some(directory) if directory < directories => build.entry(first_directory + directory, ABOVE),
        _ => 0,
    })?;
    // SAFETY: the page is the scratch page no more; nothing else is there.
    unsafe { update_va_mapping(scratch, 0, uvmf::INVLPG_LOCAL)? };
    let root = build.machine(pfn_of(info.pt_base)) * PAGE;
    let slot = (direct_map as u64 >> 39 & (ENTRIES - 1)) * 8;
    // SAFETY: nothing is mapped there yet.
    unsafe { hypercall::mmu_update(&[MmuUpdate { address: root + slot, value: build.entry(top, ABOVE) }])? };

    let direct = |pfn: u64| direct_map + (pfn * PAGE) as usize;
    // SAFETY: the frames are free, and mapped now.
    unsafe { core::ptr::write_bytes(direct(pool) as *mut u8, 0, (bitmap * PAGE) as usize) };
    memory::init(&Places {
        list: direct(pfn_of(info.mfn_list)),
        frames,
        direct: direct_map,
        tables: direct(pool),
        root: pfn_of(info.pt_base) * PAGE,
        second: (virtual_base, pool),
    });
    (0..frames).filter(|&pfn| read_only(pfn)).for_each(|pfn| memory::set_table(pfn, true));
    let mut privilege = 1_u32;
    // SAFETY: the structure of that command. Only the initial domain gets it, and only that one has ports to use.
    let _ = unsafe { hypercall::command(number::PHYSDEV_OP, physdev::SET_IOPL, "set_iopl", &mut privilege) };
    Ok(Boot {
        memory: frames * PAGE,
        xen_data: (pfn_of(info.mfn_list) * PAGE, (xen_end + 1) * PAGE),
        tables: (pool * PAGE, pool_end * PAGE),
        free_tables: (first_table * PAGE, pool_end * PAGE),
        initrd: (if info.mod_len > 0 { info.mod_start - virtual_base as u64 } else { 0 }, info.mod_len),
        version,
    })
}

/// Puts the shared page where inline code expects it, with all events masked.
fn share_page(info: &StartInfo, virtual_base: usize) -> Result<(), EnterError> {
    let page = shared_info().addr();
    let pfn = (page - virtual_base) as u64 / PAGE;
    // SAFETY: the kernel keeps the page for this.
    unsafe {
        update_va_mapping(page, info.shared_info | DATA.bits(), uvmf::INVLPG_LOCAL)?;
        // From now on the list says so, too: tables that are built later map Xen's frame.
        (info.mfn_list as *mut u64).add(pfn as usize).write_volatile(info.shared_info / PAGE);
    }
    memory::note_shared_frame(pfn);
    event::mask_all();
    crate::worlds::pvclock::use_clock(clock());
    Ok(())
}

/// The clock of CPU 0 in the shared page.
fn clock() -> *const shared_abi::kvm::ClockPage {
    let info: *const SharedInfo = shared_info();
    // SAFETY: a place inside the page.
    unsafe { &raw const (*info).vcpus[0].time }
}

/// Builds tables in frames that are not mapped.
struct Build {
    scratch: usize,
    list: *const u64,
}

impl Build {
    fn machine(&self, pfn: u64) -> u64 {
        // SAFETY: the list has an entry for every frame of the domain.
        unsafe { self.list.add(pfn as usize).read_volatile() }
    }

    fn entry(&self, pfn: u64, flags: PageTableFlags) -> u64 {
        (self.machine(pfn) * PAGE) | flags.bits()
    }

    /// Fills a frame with entries.
    fn table(&self, pfn: u64, entry: impl Fn(u64) -> u64) -> Result<(), Refused> {
        let mapping = self.entry(pfn, DATA);
        // SAFETY: the scratch page is used here alone, and the frame is free.
        unsafe {
            update_va_mapping(self.scratch, mapping, uvmf::INVLPG_LOCAL)?;
            for index in 0..ENTRIES {
                (self.scratch as *mut u64).add(index as usize).write_volatile(entry(index));
            }
        }
        Ok(())
    }
}
