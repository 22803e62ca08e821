//! A second CPU against the first. What the second does are functions without arguments, so what both share is static.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::second_cpu::vector,
    crate::support::{Context, End, Verdict, equal, error, holds, skip},
    code::*,
    core::arch::x86_64::__cpuid,
    core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    guest_kernel::boot::Page,
    guest_kernel::smp::{self as cpus, Cpu, Job},
    guest_kernel::task::Event,
    guest_kernel::trap::irq,
    pvops::cpu::{self, msr::KERNEL_GS_BASE},
    pvops::worlds::pvclock,
    pvops::{smp, time},
    shared_abi::kvm::{CLOCK_TSC_STABLE, CPUID_SIGNATURE, ClockPage, Features, MSR_SYSTEM_TIME, SYSTEM_TIME_ENABLE},
};

const STARTUP: &str = "Intel SDM volume 3, MP Initialization Protocol Algorithm for MP Systems";
const IPI: &str = "Intel SDM volume 3, Issuing Interprocessor Interrupts";
const TSC: &str = "Intel SDM volume 3, Invariant TSC";
const CLOCK: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "smp/second-cpu-starts",
        rule: "INIT and a startup command start a CPU in real mode at the command's page",
        clause: STARTUP,
        method: "Start the CPUs that ACPI or CPUID reports; each goes on to 64-bit mode and reports",
        expectation: "One at least, within 2 s each",
        run: |cx| {
            second(cx)?;
            match &cpus::others().missing {
                None => Ok(()),
                Some(why) => Err(error(why)),
            }
        },
    },
    Check {
        name: "smp/numbers-are-the-cpus-own",
        rule: "Each CPU has a local APIC id of its own",
        clause: "Intel SDM volume 3, Local APIC ID",
        method: "Ask on both CPUs",
        expectation: "On the second the id by which it was started, on the first another",
        run: |cx| {
            let job = || RESULT.store(smp::cpu().into(), SeqCst);
            let id = both(cx, job, |cpu| cpu.id)?;
            equal("number on the second CPU", u64::from(id), RESULT.load(SeqCst))?;
            holds(smp::cpu() != id, "number on the first CPU", format_args!("not {id}"), smp::cpu())
        },
    },
    Check {
        name: "smp/registers-are-the-cpus-own",
        rule: "Each CPU has its own MSRs",
        clause: STARTUP,
        method: "Both write KERNEL_GS_BASE, the second after the first; both read",
        expectation: "Each its own",
        run: |cx| {
            const OURS: u64 = 0x1111_2222_3000;
            const THEIRS: u64 = 0x4444_5555_6000;
            fn job() {
                // SAFETY: every 64-bit CPU has KERNEL_GS_BASE; only swapgs uses it, which this kernel does not have.
                unsafe {
                    cpu::write_msr(KERNEL_GS_BASE, THEIRS);
                    RESULT.store(cpu::read_msr(KERNEL_GS_BASE), SeqCst);
                }
            }
            // SAFETY: as above.
            let before = unsafe { cpu::read_msr(KERNEL_GS_BASE) };
            // SAFETY: as above.
            unsafe { cpu::write_msr(KERNEL_GS_BASE, OURS) };
            let done = both(cx, job, |_| ());
            // SAFETY: as above.
            let ours = unsafe { cpu::read_msr(KERNEL_GS_BASE) };
            // SAFETY: as above.
            unsafe { cpu::write_msr(KERNEL_GS_BASE, before) };
            done?;
            equal("KERNEL_GS_BASE on the second CPU", THEIRS, RESULT.load(SeqCst))?;
            equal("KERNEL_GS_BASE on the first CPU", OURS, ours)
        },
    },
    Check {
        name: "smp/locked-additions-add-up",
        rule: "Locked instructions are atomic across CPUs",
        clause: "Intel SDM volume 3, Locked Atomic Operations",
        method: "Both CPUs add 1 to one word 20000 times each",
        expectation: "40000",
        run: |cx| {
            static SUM: AtomicU64 = AtomicU64::new(0);
            fn add() {
                (0..20_000).for_each(|_| {
                    SUM.fetch_add(1, SeqCst);
                });
            }
            SUM.store(0, SeqCst);
            both(cx, add, |_| add())?;
            equal("sum", 40_000, SUM.load(SeqCst))
        },
    },
    Check {
        name: "smp/ipi-arrives",
        rule: "A fixed interrupt command interrupts the CPU that it names",
        clause: IPI,
        method: "1000 commands to the second CPU, one at a time, with interrupts off on the first",
        expectation: "An interrupt for each within 1 s",
        run: |cx| {
            fn job() {
                until(JOB_MAX, || STOP.load(SeqCst));
            }
            let (event, vector) = vector()?;
            let came = both(cx, job, |cpu| {
                // Only the second CPU can take it: this one has interrupts off.
                let flags = pvops::irq::save();
                let came = send_each(cpu.id, event, vector);
                // SAFETY: the flags of a moment ago.
                unsafe { pvops::irq::restore(flags) };
                came
            })?;
            equal("interrupts", COMMANDS, came)
        },
    },
    Check {
        name: "smp/ipi-comes-back",
        rule: "The second CPU can interrupt the first",
        clause: IPI,
        method: "1000 commands by the second CPU, one at a time",
        expectation: "An interrupt for each within 1 s",
        run: |cx| {
            static FIRST: AtomicU32 = AtomicU32::new(0);
            fn job() {
                let Ok((event, vector)) = vector() else { return };
                pvops::irq::disable();
                RESULT.store(send_each(FIRST.load(SeqCst), event, vector).into(), SeqCst);
            }
            vector()?;
            FIRST.store(smp::cpu(), SeqCst);
            RESULT.store(u64::MAX, SeqCst);
            both(cx, job, |_| until(JOB_MAX, || RESULT.load(SeqCst) != u64::MAX))?;
            equal("interrupts", u64::from(COMMANDS), RESULT.load(SeqCst))
        },
    },
    Check {
        name: "smp/ipi-ends-halt",
        rule: "An interrupt command ends hlt",
        clause: IPI,
        method: "50 times: let the second CPU halt for 1 ms, then wake it",
        expectation: "It is awake within 1 s",
        run: |cx| {
            let cpu = second(cx)?;
            for n in 0..50 {
                until(1_000_000, || false);
                let ticket = cpu.give(|| ());
                holds(cpu.wait(ticket, PATIENCE), "wakes", "50", n)?;
            }
            Ok(())
        },
    },
    Check {
        name: "smp/tsc-never-goes-back-across-cpus",
        rule: "Where CPUID reports an invariant TSC, the TSCs of all CPUs show the same time",
        clause: TSC,
        method: "The CPUs pass a word to and fro; who has it reads its TSC behind a fence: for 2 s, 20000 times at \
            most",
        expectation: "Each reading is at least the other CPU's before",
        run: |cx| {
            let back = rally(cx, tsc, || receive(tsc))?;
            if !invariant_tsc() {
                return Err(skip(format_args!(
                    "CPUID promises no invariant TSC; the largest step back was {back} ticks"
                )));
            }
            in_order(back)
        },
    },
    Check {
        name: "smp/clock-never-goes-back-across-cpus",
        rule: "The kernel's clock shows the same time on all CPUs",
        clause: CLOCK,
        method: "The same with the clock",
        expectation: "Each reading is at least the other CPU's before",
        run: |cx| in_order(rally(cx, clock, || receive(clock))?),
    },
    Check {
        name: "smp/kvm-clocks-of-both-cpus-agree",
        rule: "Where bit 0 of flags is set, readings of the clock pages are monotonic across CPUs",
        clause: CLOCK,
        method: "The same, each CPU by a page of its own",
        expectation: "Each reading is at least the other CPU's before",
        run: |cx| {
            fn job() {
                let before = register(SECOND);
                receive(kvm_time::<SECOND>);
                // SAFETY: the value from before.
                unsafe { cpu::write_msr(MSR_SYSTEM_TIME, before) };
            }
            if cx.found.signature != CPUID_SIGNATURE || !cx.found.kvm.contains(Features::CLOCKSOURCE2) {
                return Err(skip("there is no KVM clock"));
            }
            second(cx)?;
            let before = register(FIRST);
            let back = rally(cx, kvm_time::<FIRST>, job);
            // SAFETY: the value from before.
            unsafe { cpu::write_msr(MSR_SYSTEM_TIME, before) };
            let back = back?;
            // SAFETY: the pages are there forever; KVM may write them, hence volatile.
            let flags = [FIRST, SECOND].map(|of| unsafe { (&raw const (*clock_page(of)).flags).read_volatile() });
            if flags.iter().any(|flags| flags & CLOCK_TSC_STABLE == 0) {
                return Err(skip(format_args!("bit 0 of flags promises nothing; the largest step back was {back} ns")));
            }
            in_order(back)
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const PATIENCE: u64 = 1_000_000_000;

    /// A job ends after so long, whatever the first CPU does.
    pub const JOB_MAX: u64 = 15_000_000_000;

    /// What a job finds or leaves.
    pub static RESULT: AtomicU64 = AtomicU64::new(0);

    pub static STOP: AtomicBool = AtomicBool::new(false);

    /// The second CPU.
    pub fn second(_: &Context) -> Result<&'static Cpu, End> {
        let others = cpus::others();
        let why = || skip(others.missing.as_deref().unwrap_or("no other CPU started"));
        others.started.first().copied().ok_or_else(why)
    }

    /// Has the second CPU do something while this one does something else.
    pub fn both<R>(cx: &Context, job: Job, here: impl FnOnce(&'static Cpu) -> R) -> Result<R, End> {
        let cpu = second(cx)?;
        STOP.store(false, SeqCst);
        let ticket = cpu.give(job);
        let result = here(cpu);
        STOP.store(true, SeqCst);
        if cpu.wait(ticket, JOB_MAX + PATIENCE) { Ok(result) } else { Err(error("the second CPU does not come back")) }
    }

    /// Waits until something holds; whether it did.
    pub fn until(patience: u64, mut holds: impl FnMut() -> bool) -> bool {
        until_dyn(patience, &mut holds)
    }

    #[inline(never)]
    fn until_dyn(patience: u64, holds: &mut dyn FnMut() -> bool) -> bool {
        let end = time::now() + patience;
        while !holds() {
            if time::now() > end {
                return false;
            }
            smp::relax();
        }
        true
    }

    pub const COMMANDS: u32 = 1000;

    /// Sends commands one at a time; how many were followed by an interrupt before one was not.
    pub fn send_each(to: u32, event: &'static Event, vector: u8) -> u32 {
        for n in 0..COMMANDS {
            let before = irq::count_of(event);
            // SAFETY: the vector has an event, and the CPU runs.
            unsafe { smp::send_ipi(to, vector) };
            if !until(PATIENCE, || irq::count_of(event) != before) {
                return n;
            }
        }
        COMMANDS
    }

    /// What passes from one CPU to the other: whose turn it is, the last reading, the largest step back.
    pub static TURN: AtomicU32 = AtomicU32::new(0);

    pub static LAST: AtomicU64 = AtomicU64::new(0);

    pub static BACK: AtomicU64 = AtomicU64::new(0);

    pub const FIRST: u32 = 0;

    pub const SECOND: u32 = 1;

    pub const PASSES: u32 = 20_000;

    /// Fewer say nothing.
    pub const PASSES_MIN: u32 = 50;

    /// Nanoseconds for these few, on a machine that runs one of the two CPUs at a time.
    pub const RALLY_MAX: u64 = 10_000_000_000;

    /// The fence keeps the reading after the word that allowed it.
    pub fn tsc() -> u64 {
        // SAFETY: a fence.
        unsafe { core::arch::asm!("lfence", options(nostack, preserves_flags)) };
        time::tsc()
    }

    pub fn clock() -> u64 {
        // SAFETY: a fence.
        unsafe { core::arch::asm!("lfence", options(nostack, preserves_flags)) };
        time::now()
    }

    pub fn pass(read: fn() -> u64, to: u32) {
        let now = read();
        BACK.fetch_max(LAST.swap(now, SeqCst).saturating_sub(now), SeqCst);
        TURN.store(to, SeqCst);
    }

    /// The second CPU's side.
    pub fn receive(read: fn() -> u64) {
        let end = time::now() + JOB_MAX;
        while !STOP.load(SeqCst) && time::now() < end {
            if TURN.load(SeqCst) == SECOND {
                pass(read, FIRST);
            }
            smp::relax();
        }
    }

    /// Passes the word to and fro; the largest step back.
    pub fn rally(cx: &Context, read: fn() -> u64, job: Job) -> Result<u64, End> {
        LAST.store(0, SeqCst);
        BACK.store(0, SeqCst);
        TURN.store(FIRST, SeqCst);
        let passes = both(cx, job, |_| {
            let start = time::now();
            let enough = |done: u32| done >= PASSES || done >= PASSES_MIN && time::now() - start > 2 * PATIENCE;
            let mut done = 0;
            while !enough(done) && until(RALLY_MAX, || TURN.load(SeqCst) == FIRST) && time::now() - start < RALLY_MAX {
                pass(read, SECOND);
                done += 1;
            }
            done
        })?;
        cx.did(format_args!("{passes} passes"));
        if passes < PASSES_MIN {
            return Err(error(format_args!("only {passes} passes in 10 s")));
        }
        Ok(BACK.load(SeqCst))
    }

    pub fn in_order(back: u64) -> Verdict {
        equal("largest step back", 0, back)
    }

    /// CPUID leaf 0x80000007.
    pub fn invariant_tsc() -> bool {
        const POWER: u32 = 0x8000_0007;
        __cpuid(0x8000_0000).eax >= POWER && __cpuid(POWER).edx & 1 << 8 != 0
    }

    /// Clock pages of the two CPUs.
    pub static mut PAGES: [Page<ClockPage>; 2] = [const { Page(ClockPage::EMPTY) }; 2];

    pub fn clock_page(of: u32) -> *const ClockPage {
        // SAFETY: inside of the array; there are no references to it.
        unsafe { (&raw const PAGES).cast::<Page<ClockPage>>().add(of as usize).cast() }
    }

    /// Registers a CPU's page on the CPU that runs; returns what was registered before.
    pub fn register(of: u32) -> u64 {
        let address = guest_kernel::mm::image::physical(clock_page(of).addr());
        // SAFETY: the feature is there; the page lives forever and is that CPU's.
        unsafe {
            let before = cpu::read_msr(MSR_SYSTEM_TIME);
            cpu::write_msr(MSR_SYSTEM_TIME, address | SYSTEM_TIME_ENABLE);
            before
        }
    }

    pub fn kvm_time<const OF: u32>() -> u64 {
        // SAFETY: a fence; and the page is registered on this CPU while the word passes.
        unsafe {
            core::arch::asm!("lfence", options(nostack, preserves_flags));
            pvclock::time_of(clock_page(OF))
        }
    }
}
