//! Measurements of the operations, as `@bench` lines: `bench=pte` counts what page-table updates cost alone and in a
//! batch, `bench=ops` what each operation costs, `bench=ops:NAME` only that one. Then the machine is switched off.
//!
//! Hypercalls are counted; ticks are medians of the time stamp counter, which a software CPU counts by its host's clock.

use alloc::format;
use alloc::vec::Vec;
use frontends::memory::DmaBuffer;
use guest_kernel::console;
use guest_kernel::mm::{dma::DMA, physical_of_direct};
use guest_kernel::platform::power::{self, Ending};
use guest_kernel::start::Machine;
use pvops::table::op;
use pvops::{Op, cpu, irq, mmu, patch, site, smp, time};
use shared_abi::bench::{OPS, PTE, UPDATES, WORD};
use shared_abi::report::{Kind, Outcome};
use x86_64::structures::paging::PageTableFlags;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::{PhysAddr, VirtAddr};

/// Repetitions of which the median is taken, each of so many operations.
const ROUNDS: usize = 21;
const REPEATS: u64 = 64;

/// Runs what `bench=` names and switches the machine off.
pub(crate) fn run(machine: Machine) -> ! {
    match machine.cmdline.value(WORD) {
        None => {}
        Some(PTE) => pte(),
        Some(other) => match other.split_once(':').unwrap_or((other, "")) {
            (OPS, only) => operations(only),
            _ => log::error!("{WORD}={other}: not {PTE} or {OPS}"),
        },
    }
    power::end(Ending::Off)
}

/// What something cost, all repetitions together.
struct Cost {
    hypercalls: u64,
    ticks: u64,
}

fn hypercalls() -> u64 {
    pvops::hypercalls().map(|(_, _, count)| count).sum()
}

/// Hypercalls of one run, and the median of its ticks.
fn measured(mut what: impl FnMut()) -> Cost {
    what();
    let before = hypercalls();
    what();
    let hypercalls = hypercalls() - before;
    let mut ticks: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let start = time::tsc();
            what();
            time::tsc() - start
        })
        .collect();
    ticks.sort_unstable();
    Cost { hypercalls, ticks: ticks[ROUNDS / 2] }
}

const FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::ACCESSED).union(PageTableFlags::NO_EXECUTE);

/// A page table of the lowest level that nothing points to, and a page for its entries to map.
struct Table {
    page: DmaBuffer,
    table: DmaBuffer,
}

impl Table {
    fn new() -> Option<Self> {
        let mut table = DmaBuffer::allocate(&DMA, 4096)?;
        table.fill(0);
        let this = Self { page: DmaBuffer::allocate(&DMA, 4096)?, table };
        // SAFETY: the frame is ours and empty.
        unsafe { mmu::adopt_table(this.frame(), PageTableLevel::One) };
        Some(this)
    }

    fn frame(&self) -> u64 {
        physical_of_direct(self.table.as_ptr().addr().get()) / 4096
    }

    /// Address of the page.
    fn physical(&self) -> PhysAddr {
        PhysAddr::new(physical_of_direct(self.page.as_ptr().addr().get()))
    }

    /// Writes all entries; `more` makes them differ from those before.
    fn fill(&self, more: PageTableFlags) {
        let entry = mmu::encode(self.physical(), FLAGS | more);
        for index in 0..UPDATES as usize {
            // SAFETY: nothing points to the table.
            unsafe { mmu::set_pte(self.table.as_ptr().as_ptr().cast::<u64>().wrapping_add(index), entry) };
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: no table points to it.
        unsafe { mmu::release_table(self.frame(), PageTableLevel::One) };
    }
}

fn pte() {
    let Some(table) = Table::new() else {
        log::error!("no memory for a page table");
        return;
    };
    let single = measured(|| table.fill(PageTableFlags::empty()));
    let batch = measured(|| {
        let batch = mmu::batch();
        table.fill(PageTableFlags::DIRTY);
        drop(batch);
    });
    for (name, cost) in [("single", single), ("batch", batch)] {
        console::report(Kind::Bench, name, Outcome::Success, |line| {
            line.field("world", guest_kernel::patching::world().backend().name)?
                .field("updates", UPDATES)?
                .field("hypercalls", cost.hypercalls)?
                .field("ticks", cost.ticks)
        });
    }
}

/// An operation to measure: which, and how to do it once.
type Measured<'a> = (Op, &'a mut dyn FnMut());

fn operations(only: &str) {
    let Some(table) = Table::new() else {
        log::error!("no memory for a page table");
        return;
    };
    let physical = table.physical();
    let entry = mmu::encode(physical, FLAGS);
    let slot = table.table.as_ptr().as_ptr().cast::<u64>();
    let address = VirtAddr::from_ptr(table.page.as_ptr().as_ptr());
    let root = mmu::read_cr3();
    irq::disable();
    let flags = irq::save();
    let mut list: [Measured<'_>; 16] = [
        (op::irq::disable, &mut irq::disable),
        // SAFETY: the handlers are set up, and no lock is held.
        (op::irq::enable, &mut || unsafe { irq::enable() }),
        (op::irq::save, &mut || _ = irq::save()),
        // SAFETY: flags of a moment ago, with interrupts off.
        (op::irq::restore, &mut || unsafe { irq::restore(flags) }),
        (op::cpu::read_cr2, &mut || _ = cpu::read_cr2()),
        // SAFETY: nothing points to the table.
        (op::mmu::set_pte, &mut || unsafe { mmu::set_pte(slot, entry) }),
        (op::mmu::encode, &mut || _ = mmu::encode(physical, PageTableFlags::PRESENT)),
        (op::mmu::decode, &mut || _ = mmu::decode(entry)),
        (op::mmu::read_cr3, &mut || _ = mmu::read_cr3()),
        // SAFETY: the table that is live.
        (op::mmu::write_cr3, &mut || unsafe { mmu::write_cr3(root) }),
        (op::mmu::flush_one, &mut || mmu::flush_one(address)),
        (op::mmu::flush_all, &mut mmu::flush_all),
        (op::time::now, &mut || _ = time::now()),
        (op::time::set_timer, &mut || time::set_timer(time::now() + 10_000_000_000)),
        (op::smp::cpu, &mut || _ = smp::cpu()),
        (op::smp::relax, &mut smp::relax),
    ];
    for (op, once) in list.iter_mut().filter(|(op, _)| only.is_empty() || op.name() == only) {
        irq::disable();
        let cost = measured(|| (0..REPEATS).for_each(|_| once()));
        irq::disable();
        report(*op, &cost);
    }
}

fn report(op: Op, cost: &Cost) {
    let Some(first) = site::all().iter().find(|site| site.op() == Some(op)) else { return };
    let how =
        guest_kernel::patching::patches().ops().find(|(found, _)| *found == op).and_then(|(_, summary)| summary.kind);
    let code: alloc::string::String = patch::bytes(first).iter().map(|byte| format!("{byte:02x}")).collect();
    console::report(Kind::Bench, op.name(), Outcome::Success, |line| {
        line.field("world", guest_kernel::patching::world().backend().name)?
            .field("how", how.map_or("indirect", patch::Kind::name))?
            .field("code", code)?
            .field("repeats", REPEATS)?
            .field("runs", ROUNDS + 2)?
            .field("hypercalls", cost.hypercalls)?
            .field("ticks", cost.ticks)
    });
}
