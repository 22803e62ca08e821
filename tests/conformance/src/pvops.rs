//! What the kernel checks of itself: the checks that the tour makes too, and what each operation of the table does.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::own,
    crate::support::{Verdict, equal, holds},
    bitflags::Flags,
    code::*,
    frontends::memory::DmaBuffer,
    guest_kernel::mm::{dma::DMA, paging},
    guest_kernel::trap::irq,
    pvops::cpu::{self, Segment, msr},
    pvops::detect::World,
    pvops::{mmu, smp, time},
    x86_64::registers::control::{Cr0Flags, Cr4Flags},
    x86_64::registers::model_specific::EferFlags,
    x86_64::registers::rflags::RFlags,
    x86_64::structures::paging::PageTableFlags,
    x86_64::structures::paging::page_table::PageTableLevel,
    x86_64::{PhysAddr, VirtAddr},
};

const PATCHING: &str = "Ringside docs/patching.md, The patcher";
const SDM_IF: &str = "Intel SDM volume 3, Masking Maskable Hardware Interrupts";
const SDM_CR: &str = "Intel SDM volume 3, Control Registers";
const SDM_MSR: &str = "Intel SDM volume 3, Model-Specific Registers; volume 4, Architectural MSRs";
const SDM_PAGING: &str = "Intel SDM volume 3, Caching Translation Information";
const SDM_TIMER: &str = "Intel SDM volume 3, APIC Timer";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "pvops/no-indirect-site-is-left",
        rule: "After patching no site calls through the table",
        clause: PATCHING,
        method: "Look at the bytes of every site",
        expectation: "None is the indirect call",
        run: own,
    },
    Check {
        name: "pvops/irq-disable-is-inline",
        rule: "A template is inlined",
        clause: PATCHING,
        method: "Look at the sites of irq.disable",
        expectation: "The world's own instructions, and nops",
        run: own,
    },
    Check {
        name: "pvops/every-site-is-as-planned",
        rule: "Each site has what the world's plan says",
        clause: PATCHING,
        method: "Plan every site again and compare",
        expectation: "The same bytes",
        run: own,
    },
    Check {
        name: "pvops/irq-flag-follows",
        rule: "save and restore nest",
        clause: SDM_IF,
        method: "Save twice, restore twice, save between",
        expectation: "The flags of each level",
        run: own,
    },
    Check {
        name: "pvops/irq-save-tells-the-flag",
        rule: "save returns the flags with interrupts on or off and turns them off",
        clause: SDM_IF,
        method: "Save with interrupts on, save again",
        expectation: "Bit 9 set, then clear; on Xen two that differ",
        run: |cx| {
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
        },
    },
    Check {
        name: "pvops/irq-disable-holds-interrupts",
        rule: "With IF clear no interrupt is delivered",
        clause: SDM_IF,
        method: "Turn interrupts off, let the timer run out, wait 2 ms",
        expectation: "No timer interrupt is counted",
        run: |_| {
            let (before, after) = timer_while_off();
            interrupts_on();
            equal("timer interrupts with interrupts off", 0, after - before)
        },
    },
    Check {
        name: "pvops/irq-enable-lets-interrupts-in",
        rule: "An interrupt that waited comes when IF is set",
        clause: SDM_IF,
        method: "The same, then turn interrupts on",
        expectation: "One timer interrupt within 1 s",
        run: |_| {
            let (before, _) = timer_while_off();
            interrupts_on();
            let end = time::now() + 1_000_000_000;
            while irq::timer_count() == before && time::now() < end {
                smp::relax();
            }
            equal("timer interrupts", 1, irq::timer_count() - before)
        },
    },
    Check {
        name: "pvops/irq-halt-wakes-up",
        rule: "sti; hlt leaves no gap in which an interrupt is missed",
        clause: "Intel SDM volume 2, STI and HLT",
        method: "With interrupts off, set the timer to a time that has passed; halt",
        expectation: "It wakes up, and the interrupt was counted",
        run: |_| {
            for _ in 0..20 {
                pvops::irq::disable();
                let before = irq::timer_count();
                time::set_timer(time::now());
                // SAFETY: as in `interrupts_on`.
                unsafe { pvops::irq::halt() };
                holds(irq::timer_count() > before, "timer interrupts after hlt", "one more", "none")?;
            }
            Ok(())
        },
    },
    Check {
        name: "pvops/cr0-says-protected-and-paging",
        rule: "CR0 shows the mode",
        clause: SDM_CR,
        method: "Read it",
        expectation: "PE, WP and PG set",
        run: |_| has_bits("CR0", cpu::read_cr0(), PROTECTED_AND_PAGING),
    },
    Check {
        name: "pvops/cr0-write-reads-back",
        rule: "CR0 keeps what is written",
        clause: SDM_CR,
        method: "Flip TS, read, flip it back",
        expectation: "As written",
        run: |_| {
            let before = cpu::read_cr0();
            // SAFETY: TS only makes floating-point instructions fault, and the kernel has none.
            unsafe { cpu::write_cr0(before ^ Cr0Flags::TASK_SWITCHED) };
            let saw = cpu::read_cr0();
            // SAFETY: the value from before.
            unsafe { cpu::write_cr0(before) };
            equal("CR0", before ^ Cr0Flags::TASK_SWITCHED, saw)
        },
    },
    Check {
        name: "pvops/cr4-says-pae",
        rule: "CR4 shows the mode",
        clause: SDM_CR,
        method: "Read it",
        expectation: "PAE set",
        run: |_| has_bits("CR4", cpu::read_cr4(), Cr4Flags::PHYSICAL_ADDRESS_EXTENSION),
    },
    Check {
        name: "pvops/cr4-write-reads-back",
        rule: "CR4 keeps what is written",
        clause: SDM_CR,
        method: "Flip DE, read, flip it back",
        expectation: "As written",
        run: |_| {
            // One that every CPU has and every world lets the kernel change.
            const DEBUGGING_EXTENSIONS: Cr4Flags = Cr4Flags::DEBUGGING_EXTENSIONS;
            let before = cpu::read_cr4();
            // SAFETY: DE only decides the meaning of debug registers, which are not used.
            unsafe { cpu::write_cr4(before ^ DEBUGGING_EXTENSIONS) };
            let saw = cpu::read_cr4();
            // SAFETY: the value from before.
            unsafe { cpu::write_cr4(before) };
            equal("CR4", before ^ DEBUGGING_EXTENSIONS, saw)
        },
    },
    Check {
        name: "pvops/cr2-tells-the-fault",
        rule: "CR2 holds the address of the last page fault",
        clause: "Intel SDM volume 3, Interrupt 14, Page-Fault Exception",
        method: "Write to the read-only table, expect the fault, read CR2",
        expectation: "The address",
        run: |_| {
            let table = pvops::live_table();
            holds(
                guest_kernel::trap::expected::write_faults(table),
                "a write to the read-only table",
                "a fault that CR2 names",
                "none",
            )?;
            equal("CR2", VirtAddr::new(table as u64), cpu::read_cr2())
        },
    },
    Check {
        name: "pvops/efer-says-long-mode",
        rule: "EFER shows the mode",
        clause: SDM_MSR,
        method: "Read it",
        expectation: "LME, LMA and NXE set",
        run: |_| {
            // SAFETY: every 64-bit CPU has EFER.
            let efer = EferFlags::from_bits_retain(unsafe { cpu::read_msr(msr::EFER) });
            let wanted = EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE | EferFlags::NO_EXECUTE_ENABLE;
            has_bits("EFER", efer, wanted)
        },
    },
    Check {
        name: "pvops/msr-write-reads-back",
        rule: "An MSR keeps what is written",
        clause: SDM_MSR,
        method: "Write KERNEL_GS_BASE, read, put it back",
        expectation: "As written",
        run: |_| {
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
        },
    },
    Check {
        name: "pvops/segment-bases-reach-their-msrs",
        rule: "Segment bases are MSRs",
        clause: SDM_MSR,
        method: "Set the FS base, read MSR 0xc0000100, put it back",
        expectation: "As set",
        run: |_| {
            // SAFETY: every 64-bit CPU has FS_BASE; this kernel uses no FS.
            let saw = unsafe {
                let before = cpu::read_msr(msr::FS_BASE);
                cpu::set_segment_base(Segment::Fs, VirtAddr::new(0x7654_3210_0000));
                let saw = cpu::read_msr(msr::FS_BASE);
                cpu::set_segment_base(Segment::Fs, VirtAddr::new(before));
                saw
            };
            equal("FS_BASE", 0x7654_3210_0000, saw)
        },
    },
    Check {
        name: "pvops/cr3-names-the-live-table",
        rule: "CR3 holds the address of the top-level table",
        clause: SDM_CR,
        method: "Walk from there to the stack",
        expectation: "The walk ends at the frame that the kernel knows",
        run: |_| {
            let here = VirtAddr::from_ptr(&raw const INTERRUPT_FLAG_COPY);
            let (mut table, mut level) = (mmu::read_cr3(), PageTableLevel::Four);
            let walked = loop {
                let index = usize::from(here.page_table_index(level));
                let entry = (guest_kernel::mm::direct(table.as_u64()) + 8 * index) as *const u64;
                // SAFETY: page tables are RAM, which the direct map has; nothing writes them now.
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
        },
    },
    Check {
        name: "pvops/cr3-write-keeps-the-world",
        rule: "Writing CR3 flushes and changes nothing else",
        clause: SDM_PAGING,
        method: "Write what was read; read memory before and after",
        expectation: "The same",
        run: |_| {
            let page = page()?;
            let before = mmu::read_cr3();
            // SAFETY: the table that is live.
            unsafe { mmu::write_cr3(before) };
            equal("CR3", before, mmu::read_cr3())?;
            unchanged(&page)
        },
    },
    Check {
        name: "pvops/flushes-change-nothing",
        rule: "A flush changes no memory",
        clause: SDM_PAGING,
        method: "flush_one and flush_all between reads of a page",
        expectation: "The same",
        run: |_| {
            let page = page()?;
            mmu::flush_one(VirtAddr::from_ptr(page.as_ptr().as_ptr()));
            unchanged(&page)?;
            mmu::flush_all();
            unchanged(&page)
        },
    },
    Check {
        name: "pvops/set-pte-writes-the-entry",
        rule: "set_pte is visible at the latest after a batch",
        clause: "Ringside docs/patching.md, The source",
        method: "Write entries of an unused frame, alone and in a batch",
        expectation: "decode(entry) is what was encoded",
        run: |_| {
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
        },
    },
    Check {
        name: "pvops/encode-and-decode-are-inverse",
        rule: "decode undoes encode",
        clause: "Ringside docs/patching.md, The source",
        method: "Entries of several frames with several flags",
        expectation: "As before",
        run: |_| {
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
        },
    },
    Check {
        name: "pvops/cpu-number-is-stable",
        rule: "The number of a CPU does not change",
        clause: "Intel SDM volume 3, Local APIC ID",
        method: "Ask a hundred times",
        expectation: "The same; below 4096",
        run: |_| {
            let first = smp::cpu();
            holds(first < 4096, "number of this CPU", "below 4096", first)?;
            (0..100).try_for_each(|_| equal("number of this CPU", first, smp::cpu()))
        },
    },
    Check {
        name: "pvops/timer-fires-once",
        rule: "A deadline gives one interrupt",
        clause: SDM_TIMER,
        method: "Deadline in 1 ms; wait 20 ms",
        expectation: "One timer interrupt",
        run: |_| {
            time::set_timer(time::NEVER);
            equal("timer interrupts", 1, timer_interrupts(20_000_000, |now| time::set_timer(now + 1_000_000)))
        },
    },
    Check {
        name: "pvops/timer-never-does-not-fire",
        rule: "No deadline gives none",
        clause: SDM_TIMER,
        method: "Set a deadline in 50 ms, then none; wait 100 ms",
        expectation: "No timer interrupt",
        run: |_| {
            let saw = timer_interrupts(100_000_000, |now| {
                pvops::irq::disable();
                time::set_timer(now + 50_000_000);
                time::set_timer(time::NEVER);
                interrupts_on();
            });
            equal("timer interrupts", 0, saw)
        },
    },
    Check {
        name: "pvops/timer-replaces-its-deadline",
        rule: "A new deadline replaces the old one",
        clause: SDM_TIMER,
        method: "Deadline in 50 ms, then one in 300 ms; wait 100 ms, then 400 ms",
        expectation: "None, then one",
        run: |_| {
            // Far apart: where a busy machine keeps this CPU from running, the first must not come before it is replaced.
            let early = timer_interrupts(100_000_000, |now| {
                pvops::irq::disable();
                time::set_timer(now + 50_000_000);
                time::set_timer(now + 300_000_000);
                interrupts_on();
            });
            equal("timer interrupts before the second deadline", 0, early)?;
            equal("timer interrupts after it", 1, timer_interrupts(400_000_000, |_| ()))
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const INTERRUPT_FLAG: usize = RFlags::INTERRUPT_FLAG.bits() as usize;

    pub const PROTECTED_AND_PAGING: Cr0Flags =
        Cr0Flags::PROTECTED_MODE_ENABLE.union(Cr0Flags::WRITE_PROTECT).union(Cr0Flags::PAGING);

    pub fn has_bits<F: Flags<Bits = u64>>(what: &str, value: F, flags: F) -> Verdict {
        let (bits, value_bits) = (flags.bits(), value.bits());
        holds(value.contains(flags), what, format_args!("{bits:#x} set"), format_args!("{value_bits:#x}"))
    }

    /// Turns interrupts on again, as checks are started with them on.
    pub fn interrupts_on() {
        // SAFETY: the checks run in a task, where interrupts are on; no lock is held here.
        unsafe { pvops::irq::enable() };
    }

    /// Spins for some nanoseconds.
    pub fn spin(nanoseconds: u64) {
        let end = time::now() + nanoseconds;
        while time::now() < end {
            smp::relax();
        }
    }

    /// Lets the timer run out with interrupts off; returns timer interrupts before and then.
    pub fn timer_while_off() -> (u64, u64) {
        time::set_timer(time::NEVER);
        pvops::irq::disable();
        let before = irq::timer_count();
        time::set_timer(time::now() + 200_000);
        spin(2_000_000);
        (before, irq::timer_count())
    }

    /// Something of the image with an address.
    pub static INTERRUPT_FLAG_COPY: usize = INTERRUPT_FLAG;

    /// A page with something in it.
    pub fn page() -> Result<DmaBuffer, crate::support::End> {
        let mut page = DmaBuffer::allocate(&DMA, 4096).ok_or_else(|| crate::support::error("no memory for a page"))?;
        (0..page.len()).for_each(|at| page.copy_from(at, &[at as u8]));
        Ok(page)
    }

    pub fn unchanged(page: &DmaBuffer) -> Verdict {
        let wrong = page.to_vec().iter().enumerate().position(|(at, &byte)| byte != at as u8);
        equal("first byte of a page that changed", None, wrong)
    }

    /// Timer interrupts within some nanoseconds.
    pub fn timer_interrupts(nanoseconds: u64, arm: impl FnOnce(u64)) -> u64 {
        let before = irq::timer_count();
        arm(time::now());
        spin(nanoseconds);
        irq::timer_count() - before
    }
}
