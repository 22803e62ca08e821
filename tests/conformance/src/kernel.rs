//! What the kernel checks of itself: the checks that the tour makes too, and what each operation of the table does.

use super::{Context, Row, Verdict, equal, fail, holds, skip};
use bitflags::Flags;
use frontends::memory::DmaBuffer;
use guest_kernel::checks;
use guest_kernel::mm::{dma::DMA, paging};
use guest_kernel::trap::irq;
use pvops::cpu::{self, Segment, msr};
use pvops::detect::World;
use pvops::{mmu, smp, time};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::paging::PageTableFlags;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::{PhysAddr, VirtAddr};

pub const PVOPS: &[Row] = &[
    ("pvops/no-indirect-site-is-left", own),
    ("pvops/irq-disable-is-inline", own),
    ("pvops/every-site-is-as-planned", own),
    ("pvops/irq-flag-follows", own),
    ("pvops/irq-save-tells-the-flag", irq_save_tells_the_flag),
    ("pvops/irq-disable-holds-interrupts", irq_disable_holds_interrupts),
    ("pvops/irq-enable-lets-interrupts-in", irq_enable_lets_interrupts_in),
    ("pvops/irq-halt-wakes-up", irq_halt_wakes_up),
    ("pvops/cr0-says-protected-and-paging", |_| has_bits("CR0", cpu::read_cr0(), PROTECTED_AND_PAGING)),
    ("pvops/cr0-write-reads-back", cr0_write_reads_back),
    ("pvops/cr4-says-pae", |_| has_bits("CR4", cpu::read_cr4(), Cr4Flags::PHYSICAL_ADDRESS_EXTENSION)),
    ("pvops/cr4-write-reads-back", cr4_write_reads_back),
    ("pvops/cr2-tells-the-fault", cr2_tells_the_fault),
    ("pvops/efer-says-long-mode", efer_says_long_mode),
    ("pvops/msr-write-reads-back", msr_write_reads_back),
    ("pvops/segment-bases-reach-their-msrs", segment_bases_reach_their_msrs),
    ("pvops/cr3-names-the-live-table", cr3_names_the_live_table),
    ("pvops/cr3-write-keeps-the-world", cr3_write_keeps_the_world),
    ("pvops/flushes-change-nothing", flushes_change_nothing),
    ("pvops/set-pte-writes-the-entry", set_pte_writes_the_entry),
    ("pvops/encode-and-decode-are-inverse", encode_and_decode_are_inverse),
    ("pvops/cpu-number-is-stable", cpu_number_is_stable),
    ("pvops/timer-fires-once", timer_fires_once),
    ("pvops/timer-never-does-not-fire", timer_never_does_not_fire),
    ("pvops/timer-replaces-its-deadline", timer_replaces_its_deadline),
];

pub const MM: &[Row] = &[
    ("mm/nothing-is-writable-and-executable", own),
    ("mm/text-refuses-writes", own),
    ("mm/patched-table-refuses-writes", own),
    ("mm/stack-guard-is-not-mapped", own),
];

pub const TIME: &[Row] = &[("time/never-goes-back", own)];

const INTERRUPT_FLAG: usize = RFlags::INTERRUPT_FLAG.bits() as usize;
const PROTECTED_AND_PAGING: Cr0Flags =
    Cr0Flags::PROTECTED_MODE_ENABLE.union(Cr0Flags::WRITE_PROTECT).union(Cr0Flags::PAGING);

/// A check that `checks.rs` has under the same name.
fn own(cx: &Context) -> Verdict {
    match checks::one(cx.name) {
        None => Err(skip("pvops=unpatched")),
        Some(result) => result.map_err(|saw| fail("the kernel's own check", "nothing to report", saw)),
    }
}

fn has_bits<F: Flags<Bits = u64>>(what: &str, value: F, flags: F) -> Verdict {
    let (bits, value_bits) = (flags.bits(), value.bits());
    holds(value.contains(flags), what, format_args!("{bits:#x} set"), format_args!("{value_bits:#x}"))
}

/// Turns interrupts on again, as checks are started with them on.
fn interrupts_on() {
    // SAFETY: the checks run in a task, where interrupts are on; no lock is held here.
    unsafe { pvops::irq::enable() };
}

/// Spins for some nanoseconds.
fn spin(nanoseconds: u64) {
    let end = time::now() + nanoseconds;
    while time::now() < end {
        smp::relax();
    }
}

fn irq_save_tells_the_flag(cx: &Context) -> Verdict {
    let (on, off) = (pvops::irq::save(), pvops::irq::save());
    interrupts_on();
    if cx.found.world == World::Xen {
        // There the flags are the event mask, and only `restore` has to understand them.
        return holds(
            on != off,
            "flags with interrupts off",
            format_args!("not those with interrupts on, {on:#x}"),
            off,
        );
    }
    equal("flag with interrupts on", INTERRUPT_FLAG, on & INTERRUPT_FLAG)?;
    equal("flag with interrupts off", 0, off & INTERRUPT_FLAG)
}

/// Lets the timer run out with interrupts off; returns timer interrupts before and then.
fn timer_while_off() -> (u64, u64) {
    time::set_timer(time::NEVER);
    pvops::irq::disable();
    let before = irq::timer_count();
    time::set_timer(time::now() + 200_000);
    spin(2_000_000);
    (before, irq::timer_count())
}

fn irq_disable_holds_interrupts(_: &Context) -> Verdict {
    let (before, after) = timer_while_off();
    interrupts_on();
    equal("timer interrupts with interrupts off", 0, after - before)
}

fn irq_enable_lets_interrupts_in(_: &Context) -> Verdict {
    let (before, _) = timer_while_off();
    interrupts_on();
    let end = time::now() + 1_000_000_000;
    while irq::timer_count() == before && time::now() < end {
        smp::relax();
    }
    equal("timer interrupts", 1, irq::timer_count() - before)
}

fn irq_halt_wakes_up(_: &Context) -> Verdict {
    for _ in 0..20 {
        pvops::irq::disable();
        let before = irq::timer_count();
        time::set_timer(time::now());
        // SAFETY: as in `interrupts_on`.
        unsafe { pvops::irq::halt() };
        holds(irq::timer_count() > before, "timer interrupts behind hlt", "one more", "none")?;
    }
    Ok(())
}

fn cr0_write_reads_back(_: &Context) -> Verdict {
    let before = cpu::read_cr0();
    // SAFETY: TS only makes floating-point instructions fault, and the kernel has none.
    unsafe { cpu::write_cr0(before ^ Cr0Flags::TASK_SWITCHED) };
    let saw = cpu::read_cr0();
    // SAFETY: the value from before.
    unsafe { cpu::write_cr0(before) };
    equal("CR0", before ^ Cr0Flags::TASK_SWITCHED, saw)
}

fn cr4_write_reads_back(_: &Context) -> Verdict {
    // One that every CPU has and every world lets the kernel change.
    const DEBUGGING_EXTENSIONS: Cr4Flags = Cr4Flags::DEBUGGING_EXTENSIONS;
    let before = cpu::read_cr4();
    // SAFETY: DE only decides what debug registers mean that nobody uses.
    unsafe { cpu::write_cr4(before ^ DEBUGGING_EXTENSIONS) };
    let saw = cpu::read_cr4();
    // SAFETY: the value from before.
    unsafe { cpu::write_cr4(before) };
    equal("CR4", before ^ DEBUGGING_EXTENSIONS, saw)
}

fn cr2_tells_the_fault(_: &Context) -> Verdict {
    let table = pvops::live_table();
    holds(
        guest_kernel::trap::expected::write_faults(table),
        "a write to the read-only table",
        "a fault that CR2 names",
        "none",
    )?;
    equal("CR2", VirtAddr::new(table as u64), cpu::read_cr2())
}

fn efer_says_long_mode(_: &Context) -> Verdict {
    // SAFETY: every 64-bit CPU has EFER.
    let efer = EferFlags::from_bits_retain(unsafe { cpu::read_msr(msr::EFER) });
    let wanted = EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE | EferFlags::NO_EXECUTE_ENABLE;
    has_bits("EFER", efer, wanted)
}

fn msr_write_reads_back(_: &Context) -> Verdict {
    // SAFETY: every 64-bit CPU has KERNEL_GS_BASE; only swapgs uses it, which this kernel does not have.
    let (before, saw) = unsafe {
        let before = cpu::read_msr(msr::KERNEL_GS_BASE);
        cpu::write_msr(msr::KERNEL_GS_BASE, 0x1234_5678_9000);
        let saw = cpu::read_msr(msr::KERNEL_GS_BASE);
        cpu::write_msr(msr::KERNEL_GS_BASE, before);
        (before, saw)
    };
    equal("KERNEL_GS_BASE", 0x1234_5678_9000, saw)?;
    // SAFETY: as above.
    equal("KERNEL_GS_BASE put back", before, unsafe { cpu::read_msr(msr::KERNEL_GS_BASE) })
}

fn segment_bases_reach_their_msrs(_: &Context) -> Verdict {
    // SAFETY: every 64-bit CPU has FS_BASE; this kernel uses no FS.
    let saw = unsafe {
        let before = cpu::read_msr(msr::FS_BASE);
        cpu::set_segment_base(Segment::Fs, VirtAddr::new(0x7654_3210_0000));
        let saw = cpu::read_msr(msr::FS_BASE);
        cpu::set_segment_base(Segment::Fs, VirtAddr::new(before));
        saw
    };
    equal("FS_BASE", 0x7654_3210_0000, saw)
}

fn cr3_names_the_live_table(_: &Context) -> Verdict {
    let here = VirtAddr::from_ptr(&raw const INTERRUPT_FLAG_COPY);
    let (mut table, mut level) = (mmu::read_cr3(), PageTableLevel::Four);
    let walked = loop {
        let index = usize::from(here.page_table_index(level));
        let entry = (guest_kernel::mm::direct(table.as_u64()) + 8 * index) as *const u64;
        // SAFETY: page tables are RAM, which the direct map has; nobody writes them now.
        let (physical, flags) = mmu::decode(unsafe { entry.read_volatile() });
        let present = flags.contains(PageTableFlags::PRESENT);
        holds(present, "entry on the way to a constant", "present", format_args!("{flags:#x}"))?;
        match level.next_lower_level() {
            Some(lower) if !flags.contains(PageTableFlags::HUGE_PAGE) => (table, level) = (physical, lower),
            _ => {
                let page = level.entry_address_space_alignment();
                break physical.align_down(page) + here.as_u64() % page;
            }
        }
    };
    let found = paging::lookup(here.as_u64() as usize).map(|(physical, _)| physical);
    equal("physical address of a constant", found, Some(walked))
}

/// Something of the image with an address.
static INTERRUPT_FLAG_COPY: usize = INTERRUPT_FLAG;

/// A page with something in it.
fn page() -> Result<DmaBuffer, super::End> {
    let mut page = DmaBuffer::allocate(&DMA, 4096).ok_or_else(|| super::error("no memory for a page"))?;
    (0..page.len()).for_each(|at| page.copy_from(at, &[at as u8]));
    Ok(page)
}

fn unchanged(page: &DmaBuffer) -> Verdict {
    let wrong = page.to_vec().iter().enumerate().position(|(at, &byte)| byte != at as u8);
    equal("first byte of a page that changed", None, wrong)
}

fn cr3_write_keeps_the_world(_: &Context) -> Verdict {
    let page = page()?;
    let before = mmu::read_cr3();
    // SAFETY: the table that is live.
    unsafe { mmu::write_cr3(before) };
    equal("CR3", before, mmu::read_cr3())?;
    unchanged(&page)
}

fn flushes_change_nothing(_: &Context) -> Verdict {
    let page = page()?;
    mmu::flush_one(VirtAddr::from_ptr(page.as_ptr().as_ptr()));
    unchanged(&page)?;
    mmu::flush_all();
    unchanged(&page)
}

fn set_pte_writes_the_entry(_: &Context) -> Verdict {
    let page = page()?;
    let entries = page.as_ptr().as_ptr().cast::<u64>();
    let wanted = |n: u64| (PhysAddr::new(n << 12), PageTableFlags::PRESENT | PageTableFlags::NO_EXECUTE);
    let encoded = |n: u64| mmu::encode(wanted(n).0, wanted(n).1);
    // SAFETY: the frame is this check's own and no table is made of it.
    unsafe { mmu::set_pte(entries, encoded(1)) };
    // SAFETY: inside of the page.
    equal("entry 0", wanted(1), mmu::decode(unsafe { entries.read_volatile() }))?;
    let batch = mmu::batch();
    for n in 1..10 {
        // SAFETY: as above.
        unsafe { mmu::set_pte(entries.add(n), encoded(n as u64 + 1)) };
    }
    drop(batch);
    for n in 1..10 {
        // SAFETY: as above.
        let saw = mmu::decode(unsafe { entries.add(n).read_volatile() });
        equal("entry of a batch", wanted(n as u64 + 1), saw)?;
    }
    Ok(())
}

fn encode_and_decode_are_inverse(_: &Context) -> Verdict {
    const PRESENT: PageTableFlags = PageTableFlags::PRESENT;
    let more = [
        PageTableFlags::empty(),
        PageTableFlags::WRITABLE,
        PageTableFlags::NO_EXECUTE | PageTableFlags::USER_ACCESSIBLE,
    ];
    for frame in [1u64, 0x100, 0x1234] {
        for flags in more.map(|more| PRESENT | more) {
            let address = PhysAddr::new(frame << 12);
            equal("decode(encode(entry))", (address, flags), mmu::decode(mmu::encode(address, flags)))?;
        }
    }
    Ok(())
}

fn cpu_number_is_stable(_: &Context) -> Verdict {
    let first = smp::cpu();
    holds(first < 4096, "number of this CPU", "below 4096", first)?;
    (0..100).try_for_each(|_| equal("number of this CPU", first, smp::cpu()))
}

/// Timer interrupts within some nanoseconds.
fn timer_interrupts(nanoseconds: u64, arm: impl FnOnce(u64)) -> u64 {
    let before = irq::timer_count();
    arm(time::now());
    spin(nanoseconds);
    irq::timer_count() - before
}

fn timer_fires_once(_: &Context) -> Verdict {
    time::set_timer(time::NEVER);
    equal("timer interrupts", 1, timer_interrupts(20_000_000, |now| time::set_timer(now + 1_000_000)))
}

fn timer_never_does_not_fire(_: &Context) -> Verdict {
    let saw = timer_interrupts(100_000_000, |now| {
        pvops::irq::disable();
        time::set_timer(now + 50_000_000);
        time::set_timer(time::NEVER);
        interrupts_on();
    });
    equal("timer interrupts", 0, saw)
}

fn timer_replaces_its_deadline(_: &Context) -> Verdict {
    // Far apart: where a busy machine keeps this CPU from running, the first must not come before it is replaced.
    let early = timer_interrupts(100_000_000, |now| {
        pvops::irq::disable();
        time::set_timer(now + 50_000_000);
        time::set_timer(now + 300_000_000);
        interrupts_on();
    });
    equal("timer interrupts before the second deadline", 0, early)?;
    equal("timer interrupts behind it", 1, timer_interrupts(400_000_000, |_| ()))
}
