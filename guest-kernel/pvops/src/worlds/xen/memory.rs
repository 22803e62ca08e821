//! Page tables and frames. A physical frame number (pfn) is the kernel's, a machine frame number (mfn) the hardware's; the
//! domain's list leads from one to the other, Xen's table back.
//!
//! Page tables are read-only for the kernel, and Xen writes them for it: one entry at a time, or collected between
//! `lazy_begin` and `lazy_end`.

use super::entry::preserving;
use super::hypercall::{self, Refused};
use super::shared_info;
use crate::ops::mmu;
use crate::per_cpu;
use crate::percpu::PerCpu;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use shared_abi::xen::{
    DOMID_SELF, Exchange, MACHINE_TO_PHYSICAL, MmuExtended, MmuUpdate, Reservation, hypercall as number, memory,
    mmuext, uvmf,
};
use volatile::VolatilePtr;
use x86_64::PhysAddr;
use x86_64::structures::paging::PageTableFlags;

const PAGE_SIZE: usize = 4096;
/// Entries of a batch.
pub const BATCH: usize = 2048;
/// In the list: no machine frame.
pub const NO_FRAME: u64 = u64::MAX;

/// Address of the list of machine frames, and its length.
static LIST: AtomicUsize = AtomicUsize::new(0);
static LIST_LEN: AtomicU64 = AtomicU64::new(0);
/// Where all physical frames are mapped.
static DIRECT: AtomicUsize = AtomicUsize::new(0);
/// Address of one bit for every physical frame: it is a page table.
static TABLES: AtomicUsize = AtomicUsize::new(0);
/// Physical address of the live top-level table.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// Xen's own tables map the frames below this a second time, from here on.
static SECOND: (AtomicUsize, AtomicU64) = (AtomicUsize::new(0), AtomicU64::new(0));

/// The collected entries.
struct Batch {
    entries: UnsafeCell<[MmuUpdate; BATCH]>,
    len: AtomicUsize,
    lazy: AtomicBool,
}
// SAFETY: each CPU uses its own, and interrupt handlers change no page tables.
unsafe impl Sync for Batch {}
static QUEUE: PerCpu<Batch> = per_cpu!(Batch {
    entries: UnsafeCell::new([MmuUpdate { address: 0, value: 0 }; BATCH]),
    len: AtomicUsize::new(0),
    lazy: AtomicBool::new(false),
});

/// What [`super::enter`] found and made.
pub(super) struct Places {
    pub(super) list: usize,
    pub(super) frames: u64,
    pub(super) direct: usize,
    pub(super) tables: usize,
    pub(super) root: u64,
    pub(super) second: (usize, u64),
}

pub(super) fn init(places: &Places) {
    LIST.store(places.list, Relaxed);
    LIST_LEN.store(places.frames, Relaxed);
    DIRECT.store(places.direct, Relaxed);
    TABLES.store(places.tables, Relaxed);
    ROOT.store(places.root, Relaxed);
    SECOND.0.store(places.second.0, Relaxed);
    SECOND.1.store(places.second.1, Relaxed);
}

/// The list's place for a frame.
fn place(pfn: u64) -> Option<VolatilePtr<'static, u64>> {
    let list = NonNull::new(LIST.load(Relaxed) as *mut u64).filter(|_| pfn < LIST_LEN.load(Relaxed))?;
    // SAFETY: inside the list, which is mapped and the domain's.
    Some(unsafe { VolatilePtr::new(list.add(pfn as usize)) })
}

/// Machine frame of a physical one.
pub fn machine_frame(pfn: u64) -> Option<u64> {
    Some(place(pfn)?.read()).filter(|&mfn| mfn != NO_FRAME)
}

/// Physical frame of a machine one, by Xen's table; only for frames of RAM.
pub fn physical_frame(mfn: u64) -> u64 {
    if mfn == shared_machine_frame() {
        // Xen's table has none for its own page.
        return shared_frame();
    }
    // SAFETY: Xen maps its table for all of RAM.
    unsafe { (MACHINE_TO_PHYSICAL as *const u64).add(mfn as usize).read_volatile() }
}

static SHARED_FRAME: AtomicU64 = AtomicU64::new(NO_FRAME);

/// Remembers which machine frame backs a physical one.
pub(super) fn note_shared_frame(pfn: u64) {
    SHARED_FRAME.store(pfn, Relaxed);
}

fn shared_frame() -> u64 {
    SHARED_FRAME.load(Relaxed)
}

fn shared_machine_frame() -> u64 {
    machine_frame(shared_frame()).unwrap_or(NO_FRAME)
}

fn set_machine_frame(pfn: u64, mfn: u64) {
    if let Some(place) = place(pfn) {
        place.write(mfn);
    }
}

/// Whether a frame is a page table.
pub fn is_table(pfn: u64) -> bool {
    match table_bit(pfn) {
        // SAFETY: the bits are mapped.
        Some((word, bit)) => unsafe { word.read() & bit != 0 },
        None => false,
    }
}

fn table_bit(pfn: u64) -> Option<(*mut u64, u64)> {
    let word = (TABLES.load(Relaxed) as *mut u64).wrapping_add(pfn as usize / 64);
    (pfn < LIST_LEN.load(Relaxed)).then_some((word, 1 << (pfn % 64)))
}

pub(super) fn set_table(pfn: u64, is_table: bool) {
    if let Some((word, bit)) = table_bit(pfn) {
        // SAFETY: as in `is_table`; one CPU.
        unsafe { word.write(word.read() & !bit | if is_table { bit } else { 0 }) };
    }
}

preserving! {
    pub(super) fn set_pte(_entry: *mut u64, _value: u64) => set_pte_slow;
    pub(super) fn lazy_begin() => lazy_begin_slow;
    pub(super) fn lazy_end() => lazy_end_slow;
    pub(super) fn write_cr3(_address: u64) => write_cr3_slow;
    pub(super) fn read_cr3() -> u64 => read_cr3_slow;
    pub(super) fn flush_all() => flush_all_slow;
    pub(super) fn flush_one(_address: usize) => flush_one_slow;
    pub(super) fn encode(_entry: u64) -> u64 => encode_entry;
    pub(super) fn decode(_entry: u64) -> u64 => decode_entry;
}

/// Machine address of an address in the direct map.
pub fn machine_address(address: usize) -> u64 {
    let offset = address - DIRECT.load(Relaxed);
    match machine_frame((offset / PAGE_SIZE) as u64) {
        Some(mfn) => mfn * PAGE_SIZE as u64 + (offset % PAGE_SIZE) as u64,
        None => panic!("no machine frame backs {address:#x}"),
    }
}

extern "sysv64" fn set_pte_slow(entry: *mut u64, value: u64) {
    let update = MmuUpdate { address: machine_address(entry.addr()), value };
    let queue = QUEUE.get();
    if !queue.lazy.load(Relaxed) {
        return write(&[update]);
    }
    let len = queue.len.load(Relaxed);
    // SAFETY: see `Batch`; `len` is below its size.
    unsafe { (*queue.entries.get())[len] = update };
    queue.len.store(len + 1, Relaxed);
    if len + 1 == BATCH {
        flush();
    }
}

/// Writes entries, or ends the kernel: its tables are not what it thinks they are.
fn write(updates: &[MmuUpdate]) {
    // SAFETY: per the contract of `set_pte`.
    if let Err(refused) = unsafe { hypercall::mmu_update(updates) } {
        let MmuUpdate { address, value } = updates.get(refused.done as usize).copied().unwrap_or_default();
        panic!("{refused}: entry at machine address {address:#x}, value {value:#x}")
    }
}

/// Writes what was collected.
fn flush() {
    let queue = QUEUE.get();
    let len = queue.len.swap(0, Relaxed);
    if len > 0 {
        // SAFETY: see `Batch`.
        write(unsafe { &(&*queue.entries.get())[..len] });
    }
}

extern "sysv64" fn lazy_begin_slow() {
    QUEUE.get().lazy.store(true, Relaxed);
}

extern "sysv64" fn lazy_end_slow() {
    flush();
    QUEUE.get().lazy.store(false, Relaxed);
}

extern "sysv64" fn read_cr3_slow() -> u64 {
    ROOT.load(Relaxed)
}

/// The new tables are checked as a whole and pinned; the old ones are set free.
extern "sysv64" fn write_cr3_slow(address: u64) {
    flush();
    let frame = |address: u64| machine_frame(address / PAGE_SIZE as u64).unwrap_or(NO_FRAME);
    let old = ROOT.swap(address, Relaxed);
    if old == address {
        return flush_all_slow();
    }
    let command = |command, argument| MmuExtended { command, pad: 0, argument, argument2: 0 };
    extended(&[
        command(mmuext::PIN_L4_TABLE, frame(address)),
        command(mmuext::NEW_BASEPTR, frame(address)),
        command(mmuext::UNPIN_TABLE, frame(old)),
    ]);
    SECOND.1.store(0, Relaxed);
}

extern "sysv64" fn flush_all_slow() {
    flush();
    extended(&[MmuExtended { command: mmuext::TLB_FLUSH_LOCAL, ..MmuExtended::default() }]);
}

extern "sysv64" fn flush_one_slow(address: usize) {
    flush();
    extended(&[MmuExtended { command: mmuext::INVLPG_LOCAL, argument: address as u64, ..MmuExtended::default() }]);
}

fn extended(commands: &[MmuExtended]) {
    // SAFETY: per the contracts of the operations.
    unsafe { hypercall::mmuext(commands) }.unwrap_or_else(|refused| refused.end());
}

/// Device registers have machine addresses already. A page table is never mapped writable. Global entries would stay
/// visible in user mode.
extern "sysv64" fn encode_entry(entry: u64) -> u64 {
    let (address, flags) = mmu::parts(entry);
    if !flags.contains(PageTableFlags::PRESENT) {
        return entry;
    }
    let flags = flags - PageTableFlags::GLOBAL;
    if flags.contains(PageTableFlags::NO_CACHE) {
        return mmu::entry(address, flags);
    }
    let pfn = address.as_u64() / PAGE_SIZE as u64;
    // A frame that the domain has given away cannot be mapped.
    let Some(mfn) = machine_frame(pfn) else { return 0 };
    let flags = if is_table(pfn) { flags - PageTableFlags::WRITABLE } else { flags };
    mmu::entry(address_of(mfn), flags)
}

extern "sysv64" fn decode_entry(entry: u64) -> u64 {
    let (address, flags) = mmu::parts(entry);
    if !flags.contains(PageTableFlags::PRESENT) || flags.contains(PageTableFlags::NO_CACHE) {
        return entry;
    }
    mmu::entry(address_of(physical_frame(address.as_u64() / PAGE_SIZE as u64)), flags)
}

/// Address of a frame by its number.
fn address_of(frame: u64) -> PhysAddr {
    PhysAddr::new_truncate(frame * PAGE_SIZE as u64)
}

/// Maps a frame writable where it is mapped already; a page table is left read-only.
fn map_direct(pfn: u64) {
    let address = DIRECT.load(Relaxed) + pfn as usize * PAGE_SIZE;
    let flags = PageTableFlags::PRESENT | PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE;
    let entry = encode_entry(mmu::entry(address_of(pfn), flags));
    // SAFETY: the frame is mapped there already; only the rights change.
    unsafe { hypercall::update_va_mapping(address, entry, uvmf::INVLPG_LOCAL) }.unwrap_or_else(|refused| refused.end());
}

pub(super) unsafe extern "sysv64" fn adopt_table(pfn: u64, _level: u32) {
    flush();
    if pfn < SECOND.1.load(Relaxed) {
        unmap(SECOND.0.load(Relaxed) + pfn as usize * PAGE_SIZE);
    }
    set_table(pfn, true);
    map_direct(pfn);
}

pub(super) unsafe extern "sysv64" fn release_table(pfn: u64, _level: u32) {
    flush();
    set_table(pfn, false);
    map_direct(pfn);
}

/// Xen's paravirtual guests have none.
pub(super) unsafe extern "sysv64" fn large_pages() -> u64 {
    0
}

/// Whether machine frames of a block follow each other.
fn is_contiguous(pfn: u64, pages: u64) -> bool {
    let first = machine_frame(pfn);
    first.is_some() && (1..pages).all(|index| machine_frame(pfn + index) == first.map(|first| first + index))
}

pub(super) unsafe extern "sysv64" fn machine_block(pfn: u64, order: u32) -> u64 {
    if !is_contiguous(pfn, 1 << order) && exchange(pfn, order).is_err() {
        return 0;
    }
    machine_frame(pfn).map_or(0, |mfn| mfn * PAGE_SIZE as u64)
}

/// Largest block that is exchanged: 4 MiB.
const EXCHANGE_MAX: usize = 1 << 10;

/// Memory for one user on one CPU.
struct Scratch<T>(UnsafeCell<T>);
// SAFETY: each has one user, on one CPU, never in an interrupt handler.
unsafe impl<T> Sync for Scratch<T> {}
impl<T> Scratch<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
    const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Exchanges a block's frames for contiguous ones. What was in them is lost.
fn exchange(pfn: u64, order: u32) -> Result<(), Refused> {
    static LISTS: Scratch<[u64; EXCHANGE_MAX]> = Scratch::new([0; EXCHANGE_MAX]);
    let pages = 1 << order;
    // SAFETY: one CPU, and this is the only user; it does not call itself.
    let list = unsafe { &mut *LISTS.get() };
    let given = list.get_mut(..pages).ok_or(Refused { what: "exchange: block too large", error: -22, done: 0 })?;
    for (index, place) in given.iter_mut().enumerate() {
        let frame = pfn + index as u64;
        *place = machine_frame(frame).unwrap_or(NO_FRAME);
        unmap_direct(frame);
        set_machine_frame(frame, NO_FRAME);
    }
    let mut taken = pfn;
    let reservation = |extents: u64, count: u64, order: u32| Reservation {
        extents,
        count,
        order,
        flags: 0,
        domain: DOMID_SELF,
        pad: [0; 3],
    };
    let mut exchange = Exchange {
        input: reservation(given.as_ptr().addr() as u64, pages as u64, 0),
        output: reservation((&raw mut taken).addr() as u64, 1, order),
        exchanged: 0,
    };
    // SAFETY: the structure of that command; the frames are the caller's and no longer mapped.
    let result =
        unsafe { hypercall::command(number::MEMORY_OP, memory::EXCHANGE, "memory_op exchange", &mut exchange) };
    let complete = result.is_ok() && exchange.exchanged == pages as u64;
    for (index, &mfn) in given.iter().enumerate() {
        let frame = pfn + index as u64;
        set_machine_frame(frame, if complete { taken + index as u64 } else { mfn });
        map_direct(frame);
    }
    result.map(drop)
}

fn unmap_direct(pfn: u64) {
    unmap(DIRECT.load(Relaxed) + pfn as usize * PAGE_SIZE);
}

fn unmap(address: usize) {
    // SAFETY: the frame is the caller's to take away.
    unsafe { hypercall::update_va_mapping(address, 0, uvmf::INVLPG_LOCAL) }.unwrap_or_else(|refused| refused.end());
}

/// Frames that go to Xen or come from it in one hypercall.
const EXTENTS: usize = 256;

/// Gives unmapped frames back to Xen; returns how many it took.
pub(super) unsafe extern "sysv64" fn give_back(pfns: *const u64, count: usize) -> usize {
    // SAFETY: the caller's list.
    let pfns = unsafe { core::slice::from_raw_parts(pfns, count) };
    move_frames(pfns, memory::DECREASE_RESERVATION, "memory_op decrease_reservation", |pfn| {
        machine_frame(pfn).unwrap_or(NO_FRAME)
    })
}

/// Backs frames that have no memory; returns how many.
pub(super) unsafe extern "sysv64" fn populate(pfns: *const u64, count: usize) -> usize {
    // SAFETY: the caller's list.
    let pfns = unsafe { core::slice::from_raw_parts(pfns, count) };
    move_frames(pfns, memory::POPULATE_PHYSMAP, "memory_op populate_physmap", |pfn| pfn)
}

fn move_frames(pfns: &[u64], command: u32, what: &'static str, extent: impl Fn(u64) -> u64) -> usize {
    flush();
    let mut moved = 0;
    for chunk in pfns.chunks(EXTENTS) {
        let mut extents = [0; EXTENTS];
        for (place, &pfn) in extents.iter_mut().zip(chunk) {
            *place = extent(pfn);
        }
        let mut reservation = Reservation {
            extents: extents.as_mut_ptr().addr() as u64,
            count: chunk.len() as u64,
            order: 0,
            flags: 0,
            domain: DOMID_SELF,
            pad: [0; 3],
        };
        // SAFETY: the structure of that command; the frames are the caller's.
        let result = unsafe { hypercall::command(number::MEMORY_OP, command, what, &mut reservation) };
        let done = result.map_or(0, |done| (done as usize).min(chunk.len()));
        for (&pfn, &mfn) in chunk.iter().zip(&extents).take(done) {
            set_machine_frame(pfn, if command == memory::POPULATE_PHYSMAP { mfn } else { NO_FRAME });
        }
        moved += done;
        if done < chunk.len() {
            break;
        }
    }
    moved
}

/// Pages that Xen says the domain has; the shared page is not one of them.
pub(super) unsafe extern "sysv64" fn reservation() -> u64 {
    let mut domain = DOMID_SELF;
    // SAFETY: the command takes a domain id.
    unsafe { hypercall::command(number::MEMORY_OP, memory::CURRENT_RESERVATION, "current_reservation", &mut domain) }
        .unwrap_or(0)
}

/// Address of the shared page, for checks of the tables.
pub fn shared_page() -> usize {
    shared_info().addr()
}
