//! Page tables, frames and the balloon. Tables are made in frames of the checks' own; nothing live points to them.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::xen::{counted, here, settled},
    crate::support::{End, Verdict, equal, error, holds},
    balloon::{Hypervisor, Pfn},
    code::*,
    guest_kernel::mm::frames::FRAMES,
    guest_kernel::mm::{PAGE_SIZE, direct, paging, reserve::Reserve},
    guest_kernel::trap::expected::write_faults,
    pvops::mmu,
    pvops::worlds::xen::hypercall::{self, Refused},
    pvops::worlds::xen::memory::{machine_address, machine_frame, physical_frame, shared_page},
    shared_abi::xen::{MmuExtended, MmuUpdate, mmuext},
    x86_64::PhysAddr,
    x86_64::structures::paging::PageTableFlags,
    x86_64::structures::paging::page_table::PageTableLevel,
};

const UPDATE: &str = "Xen public/xen.h, mmu_update";
const EXTENDED: &str = "Xen public/xen.h, mmuext_op";
const VA_MAPPING: &str = "Xen public/xen.h, update_va_mapping";
const FRAMES_CLAUSE: &str = "Xen public/xen.h, start_info.mfn_list; arch-x86/xen-x86_64.h, machine_to_phys_mapping";
const EXCHANGE: &str = "Xen public/memory.h, XENMEM_exchange";
const RESERVATION: &str = "Xen public/memory.h, XENMEM_decrease_reservation, XENMEM_populate_physmap";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "xen/batch-is-like-single-updates",
        rule: "A list of updates does what the updates do one by one",
        clause: UPDATE,
        method: "Fill one table with 512 single updates, another with a batch",
        expectation: "The same entries",
        run: |cx| {
            here(cx)?;
            let (page, single, batch) = (Frame::new()?, Table::new()?, Table::new()?);
            fill_one_by_one(&single, &page);
            fill_in_a_batch(&batch, &page);
            (0..ENTRIES).try_for_each(|index| {
                equal("entry written alone", mapping(&page, index), single.0.entry(index))?;
                equal("entry of the batch", mapping(&page, index), batch.0.entry(index))
            })
        },
    },
    Check {
        name: "xen/batch-of-512-costs-two-hypercalls-at-most",
        rule: "A batch is collected",
        clause: "Ringside docs/worlds.md, Batches",
        method: "Count the hypercalls of 512 set_pte in a batch",
        expectation: "2 or fewer",
        run: |cx| {
            here(cx)?;
            let (page, table) = (Frame::new()?, Table::new()?);
            let calls = counted(|| fill_in_a_batch(&table, &page));
            cx.did(format_args!("{calls} hypercalls for {ENTRIES} updates"));
            holds(calls <= 2, "hypercalls", "2 or fewer", calls)
        },
    },
    Check {
        name: "xen/single-updates-cost-one-each",
        rule: "Without a batch each update is made at once",
        clause: "Ringside docs/worlds.md, Batches",
        method: "Count the hypercalls of 512 set_pte",
        expectation: "512",
        run: |cx| {
            here(cx)?;
            let (page, table) = (Frame::new()?, Table::new()?);
            equal("hypercalls", ENTRIES as u64, counted(|| fill_one_by_one(&table, &page)))
        },
    },
    Check {
        name: "xen/refused-update-leaves-the-table",
        rule: "A list ends at the first update that is refused, and says how far it came",
        clause: UPDATE,
        method: "A list with a bad update in the middle",
        expectation: "An error, 1 done, the other two entries as before",
        run: |cx| {
            here(cx)?;
            let (page, table) = (Frame::new()?, Table::new()?);
            let good = mapping(&page, 1);
            // The table itself, writable.
            let bad = table.0.mapped(WRITABLE);
            let list = [table.0.update(0, good), table.0.update(1, bad), table.0.update(2, good)];
            let result = update(&list);
            holds(result.is_err(), "a list with a bad update", "an error", "none")?;
            equal("updates that Xen says it has made", 1, result.err().map_or(0, |refused| refused.done))?;
            equal("entries", [good, 0, 0], [0, 1, 2].map(|index| table.0.entry(index)))
        },
    },
    Check {
        name: "xen/writable-mapping-of-a-table-refused",
        rule: "No table is mapped writable",
        clause: UPDATE,
        method: "Map a pinned table writable, then read-only",
        expectation: "The first is refused, the second made",
        run: |cx| {
            here(cx)?;
            let table = Table::new()?;
            let read_only = table.0.mapped(READ_ONLY);
            holds(
                update(&[table.0.update(0, table.0.mapped(WRITABLE))]).is_err(),
                "a writable mapping",
                "refused",
                "made",
            )?;
            settled(update(&[table.0.update(0, read_only)]))?;
            equal("the read-only mapping of the same frame", read_only, table.0.entry(0))
        },
    },
    Check {
        name: "xen/frame-of-another-refused",
        rule: "A domain maps its own frames only",
        clause: UPDATE,
        method: "Map a frame far beyond the machine's memory",
        expectation: "Refused, the entry as before",
        run: |cx| {
            here(cx)?;
            let table = Table::new()?;
            // Frames that no domain of this machine has: far beyond its memory.
            let result = update(&[table.0.update(0, 0xf_ffff_0000_0000 | WRITABLE.bits())]);
            holds(result.is_err(), "a mapping of a frame that is not the domain's", "refused", "made")?;
            equal("the entry", 0, table.0.entry(0))
        },
    },
    Check {
        name: "xen/table-refuses-writes",
        rule: "Tables are written by Xen only",
        clause: UPDATE,
        method: "Write to the live top-level table",
        expectation: "A page fault",
        run: |cx| {
            here(cx)?;
            let root = direct(mmu::read_cr3().as_u64());
            holds(write_faults(root), "a write to the live top-level table", "a fault", "none")
        },
    },
    Check {
        name: "xen/pinned-frame-stays-a-table",
        rule: "A pinned frame keeps its type",
        clause: EXTENDED,
        method: "Map a pinned table writable by update_va_mapping",
        expectation: "Refused",
        run: |cx| {
            here(cx)?;
            let table = Table::new()?;
            let entry = table.0.mapped(WRITABLE);
            // SAFETY: a page of the check's own.
            let result = unsafe { hypercall::update_va_mapping(table.0.address(), entry, 0) };
            holds(result.is_err(), "a writable mapping of a pinned table", "refused", "made")
        },
    },
    Check {
        name: "xen/unpinned-frame-is-memory-again",
        rule: "An unpinned frame may change its type",
        clause: EXTENDED,
        method: "Pin, unpin, map writable, write",
        expectation: "No fault",
        run: |cx| {
            here(cx)?;
            let table = Table::new()?;
            let frame = table.0.0;
            drop(table);
            let address = direct(frame * PAGE_SIZE as u64);
            holds(!write_faults(address), "a write to a frame that was a table", "no fault", "a fault")
        },
    },
    Check {
        name: "xen/bad-table-is-not-pinned",
        rule: "A table is checked before it is pinned",
        clause: EXTENDED,
        method: "Pin a table that maps itself writable",
        expectation: "Refused",
        run: |cx| {
            here(cx)?;
            let frame = Frame::new()?;
            // It maps itself writable.
            // SAFETY: the frame is the check's own.
            unsafe { (frame.address() as *mut u64).write_volatile(frame.mapped(WRITABLE)) };
            // SAFETY: as above.
            unsafe { mmu::adopt_table(frame.0, PageTableLevel::One) };
            let result = pin(&frame, mmuext::PIN_L1_TABLE);
            // SAFETY: no table points to it.
            unsafe { mmu::release_table(frame.0, PageTableLevel::One) };
            holds(result.is_err(), "pinning a table that maps itself writable", "refused", "done")
        },
    },
    Check {
        name: "xen/base-pointer-must-be-a-table",
        rule: "The base pointer is a checked level 4 table",
        clause: EXTENDED,
        method: "Give an ordinary frame",
        expectation: "Refused, the live tables as before",
        run: |cx| {
            here(cx)?;
            let frame = Frame::new()?;
            let before = mmu::read_cr3();
            holds(pin(&frame, mmuext::NEW_BASEPTR).is_err(), "an ordinary frame as base pointer", "refused", "taken")?;
            equal("the live top-level table", before, mmu::read_cr3())
        },
    },
    Check {
        name: "xen/new-mapping-is-seen-at-once",
        rule: "UVMF_INVLPG flushes the address",
        clause: VA_MAPPING,
        method: "Map one address in turn to two frames and read it",
        expectation: "Each frame's own word",
        run: |cx| {
            here(cx)?;
            let (first, second) = (Frame::new()?, Frame::new()?);
            let address = |frame: &Frame| PhysAddr::new(frame.0 * PAGE_SIZE as u64);
            let own = mmu::encode(address(&first), WRITABLE | PageTableFlags::DIRTY);
            let other = mmu::encode(address(&second), READ_ONLY);
            // SAFETY: both frames are the check's own, and both are mapped as before when it ends.
            let saw = unsafe {
                (first.address() as *mut u64).write_volatile(1);
                (second.address() as *mut u64).write_volatile(2);
                let mut saw = [first.word(), 0, 0];
                for (index, entry) in [(1, other), (2, own)] {
                    settled(hypercall::update_va_mapping(first.address(), entry, shared_abi::xen::uvmf::INVLPG_LOCAL))?;
                    saw[index] = first.word();
                }
                saw
            };
            equal("the word at one address, mapped in turn to two frames", [1, 2, 1], saw)
        },
    },
    Check {
        name: "xen/frame-lists-agree",
        rule: "The domain's list and Xen's table are inverse",
        clause: FRAMES_CLAUSE,
        method: "Look every frame up there and back",
        expectation: "The same frame",
        run: |cx| {
            here(cx)?;
            let shared = paging::lookup(shared_page()).map(|(physical, _)| physical.as_u64() / PAGE_SIZE as u64);
            let mut compared = 0;
            for frame in 0.. {
                let Some(machine) = machine_frame(frame) else {
                    // Past the end there is none; inside, a frame may be Xen's.
                    if frame >= FRAMES.lock().limit() {
                        break;
                    }
                    continue;
                };
                if Some(frame) != shared {
                    equal("physical frame of a machine frame", frame, physical_frame(machine))?;
                    compared += 1;
                }
            }
            cx.did(format_args!("{compared} frames"));
            holds(compared > 1000, "frames compared", "more than 1000", compared)
        },
    },
    Check {
        name: "xen/block-becomes-contiguous",
        rule: "Frames are exchanged for a contiguous block",
        clause: EXCHANGE,
        method: "Let two of 16 pages change places, ask for a block of 16",
        expectation: "Machine frames one after the other",
        run: |cx| {
            const ORDER: usize = 4;
            const PAGES: u64 = 1 << ORDER;
            here(cx)?;
            let frame = FRAMES.lock().allocate(ORDER).ok_or_else(|| error("no block is left"))?;
            // Two pages change places, so that the block is not contiguous before.
            let scattered = swap_first_two(frame);
            // SAFETY: the frames are free.
            let address = unsafe { pvops::memory::machine_block(frame, ORDER as u32) };
            let numbers: alloc::vec::Vec<_> = (0..PAGES).map(|page| machine_frame(frame + page)).collect();
            let writable = (0..PAGES).all(|page| !write_faults(direct((frame + page) * PAGE_SIZE as u64)));
            FRAMES.lock().free(frame, ORDER);
            scattered?;
            let first = address.ok_or_else(|| error("Xen has no contiguous block"))? / PAGE_SIZE as u64;
            holds(writable, "the block", "writable", "a page that is not")?;
            numbers.iter().zip(first..).try_for_each(|(&saw, expected)| equal("machine frame", Some(expected), saw))
        },
    },
    Check {
        name: "xen/balloon-moves-the-reservation",
        rule: "Frames given away are no longer the domain's",
        clause: RESERVATION,
        method: "Give 64 pages, take them back",
        expectation: "The current reservation follows both ways",
        run: |cx| {
            here(cx)?;
            let before = pvops::memory::reservation().unwrap_or(0);
            given_away::<64>(|frames| {
                equal("pages of the domain", before - 64, pvops::memory::reservation().unwrap_or(0))?;
                frames
                    .iter()
                    .try_for_each(|&frame| equal("machine frame after a page given away", None, machine_frame(frame)))
            })?;
            equal("pages of the domain in the end", before, pvops::memory::reservation().unwrap_or(0))
        },
    },
    Check {
        name: "xen/page-from-the-balloon-is-clean",
        rule: "A page never shows another domain's data",
        clause: RESERVATION,
        method: "Fill 16 pages, give them away, take them back, read them",
        expectation: "Zeroes, or what was there before",
        run: |cx| {
            here(cx)?;
            let frames = given_away::<16>(|_| Ok(()))?;
            for frame in frames {
                // SAFETY: the frame is ours, and mapped.
                let bytes = unsafe { core::slice::from_raw_parts(frame.address() as *const u8, PAGE_SIZE) };
                let strange = bytes.iter().position(|&byte| byte != 0 && byte != 0x5a);
                equal("first byte that is neither zero nor our own of before", None, strange)?;
            }
            Ok(())
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const ENTRIES: usize = 512;

    pub const READ_ONLY: PageTableFlags =
        PageTableFlags::PRESENT.union(PageTableFlags::ACCESSED).union(PageTableFlags::NO_EXECUTE);

    pub const WRITABLE: PageTableFlags = READ_ONLY.union(PageTableFlags::WRITABLE);

    /// A frame of a check's own, zeroed.
    pub struct Frame(pub u64);

    impl Frame {
        pub fn new() -> Result<Self, End> {
            let frame = FRAMES.lock().allocate(0).ok_or_else(|| error("no frame is left"))?;
            // SAFETY: the frame is ours, and mapped.
            unsafe { core::ptr::write_bytes(direct(frame * PAGE_SIZE as u64) as *mut u8, 0, PAGE_SIZE) };
            Ok(Self(frame))
        }

        pub fn address(&self) -> usize {
            direct(self.0 * PAGE_SIZE as u64)
        }

        pub fn machine(&self) -> u64 {
            machine_frame(self.0).unwrap_or(0)
        }

        /// An entry, read through the direct map, without the bits that Xen sets for a kernel that runs in ring 3.
        pub fn entry(&self, index: usize) -> u64 {
            const XENS: PageTableFlags = GUEST_KERNEL.union(PageTableFlags::USER_ACCESSIBLE);
            const GUEST_KERNEL: PageTableFlags = PageTableFlags::BIT_52;
            // SAFETY: the frame is ours, and mapped.
            let entry = unsafe { (self.address() as *const u64).add(index).read_volatile() };
            entry & !XENS.bits()
        }

        /// An entry that maps it.
        pub fn mapped(&self, flags: PageTableFlags) -> u64 {
            (self.machine() * PAGE_SIZE as u64) | flags.bits()
        }

        /// The first word of an ordinary page.
        pub fn word(&self) -> u64 {
            // SAFETY: the frame is ours, and mapped.
            unsafe { (self.address() as *const u64).read_volatile() }
        }

        /// The update of one of its entries.
        pub fn update(&self, index: usize, value: u64) -> MmuUpdate {
            MmuUpdate { address: machine_address(self.address()) + 8 * index as u64, value }
        }
    }

    impl Drop for Frame {
        fn drop(&mut self) {
            FRAMES.lock().free(self.0, 0);
        }
    }

    /// A frame that is a pinned table of the lowest level.
    pub struct Table(pub Frame);

    impl Table {
        pub fn new() -> Result<Self, End> {
            let frame = Frame::new()?;
            // SAFETY: the frame is ours and empty.
            unsafe { mmu::adopt_table(frame.0, PageTableLevel::One) };
            let table = Self(frame);
            settled(pin(&table.0, mmuext::PIN_L1_TABLE))?;
            Ok(table)
        }
    }

    impl Drop for Table {
        fn drop(&mut self) {
            let _ = pin(&self.0, mmuext::UNPIN_TABLE);
            // SAFETY: no table points to it.
            unsafe { mmu::release_table(self.0.0, PageTableLevel::One) };
        }
    }

    pub fn pin(frame: &Frame, command: u32) -> Result<(), Refused> {
        // SAFETY: the frame is the check's own.
        unsafe { hypercall::mmuext(&[MmuExtended { command, pad: 0, argument: frame.machine(), argument2: 0 }]) }
    }

    pub fn update(updates: &[MmuUpdate]) -> Result<(), Refused> {
        // SAFETY: the tables are the checks' own; nothing live points to them.
        unsafe { hypercall::mmu_update(updates) }
    }

    /// An entry that maps a frame, differently for each index.
    pub fn mapping(frame: &Frame, index: usize) -> u64 {
        frame.mapped(if index.is_multiple_of(3) { READ_ONLY | PageTableFlags::DIRTY } else { READ_ONLY })
    }

    pub fn fill_one_by_one(table: &Table, page: &Frame) {
        for index in 0..ENTRIES {
            let entry = (table.0.address() as *mut u64).wrapping_add(index);
            // SAFETY: the table is the check's own.
            unsafe { mmu::set_pte(entry, mapping(page, index)) };
        }
    }

    pub fn fill_in_a_batch(table: &Table, page: &Frame) {
        let batch = mmu::batch();
        fill_one_by_one(table, page);
        drop(batch);
    }

    /// Gives two pages away one by one and takes them back in the other order.
    pub fn swap_first_two(frame: u64) -> Verdict {
        let pages = [0, 1].map(|page| Pfn::new((frame + page) as u32));
        equal("pages given", 2, Reserve.give_back(&pages))?;
        equal("pages taken", 1, Reserve.populate(&pages[1..]))?;
        equal("pages taken", 1, Reserve.populate(&pages[..1]))
    }

    /// Gives pages of the check's own away while `check` runs.
    pub fn given_away<const N: usize>(check: impl FnOnce(&[u64; N]) -> Verdict) -> Result<[Frame; N], End> {
        let mut frames = alloc::vec::Vec::new();
        for _ in 0..N {
            let frame = Frame::new()?;
            // SAFETY: the frame is ours.
            unsafe { core::ptr::write_bytes(frame.address() as *mut u8, 0x5a, PAGE_SIZE) };
            frames.push(frame);
        }
        let numbers: [u64; N] = core::array::from_fn(|index| frames[index].0);
        let pages = numbers.map(|number| Pfn::new(number as u32));
        equal("pages given", N, Reserve.give_back(&pages))?;
        let verdict = check(&numbers);
        equal("pages taken back", N, Reserve.populate(&pages))?;
        verdict?;
        frames.try_into().map_err(|_| error("another number of frames"))
    }
}
