//! A second CPU against the first. What the second does are functions without arguments, so what both share is static.

use super::{Context, End, Row, Verdict, equal, error, holds, skip};
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use guest_kernel::boot::Page;
use guest_kernel::smp::{self as cpus, Cpu, Job};
use guest_kernel::task::Event;
use guest_kernel::trap::irq;
use pvops::cpu::{self, msr::KERNEL_GS_BASE};
use pvops::worlds::pvclock;
use pvops::{smp, time};
use shared_abi::kvm::{CLOCK_TSC_STABLE, CPUID_SIGNATURE, ClockPage, Features, MSR_SYSTEM_TIME, SYSTEM_TIME_ENABLE};
use spin::Once;

pub const ROWS: &[Row] = &[
    ("smp/second-cpu-starts", second_cpu_starts),
    ("smp/numbers-are-the-cpus-own", numbers_are_the_cpus_own),
    ("smp/registers-are-the-cpus-own", registers_are_the_cpus_own),
    ("smp/locked-additions-add-up", locked_additions_add_up),
    ("smp/ipi-arrives", ipi_arrives),
    ("smp/ipi-comes-back", ipi_comes_back),
    ("smp/ipi-ends-halt", ipi_ends_halt),
    ("smp/tsc-never-goes-back-across-cpus", tsc_never_goes_back),
    ("smp/clock-never-goes-back-across-cpus", |cx| in_order(rally(cx, clock, || receive(clock))?)),
    ("smp/kvm-clocks-of-both-cpus-agree", kvm_clocks_of_both_cpus_agree),
];

const PATIENCE: u64 = 1_000_000_000;
/// A job ends after so long, whatever the first CPU does.
const JOB_MAX: u64 = 15_000_000_000;

/// What a job finds or leaves behind.
static RESULT: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// The second CPU.
fn second(_: &Context) -> Result<&'static Cpu, End> {
    let others = cpus::others();
    let why = || skip(others.missing.as_deref().unwrap_or("no other CPU started"));
    others.started.first().copied().ok_or_else(why)
}

fn second_cpu_starts(cx: &Context) -> Verdict {
    second(cx)?;
    match &cpus::others().missing {
        None => Ok(()),
        Some(why) => Err(error(why)),
    }
}

/// Has the second CPU do something while this one does something else.
fn both<R>(cx: &Context, job: Job, here: impl FnOnce(&'static Cpu) -> R) -> Result<R, End> {
    let cpu = second(cx)?;
    STOP.store(false, SeqCst);
    let ticket = cpu.give(job);
    let result = here(cpu);
    STOP.store(true, SeqCst);
    if cpu.wait(ticket, JOB_MAX + PATIENCE) { Ok(result) } else { Err(error("the second CPU does not come back")) }
}

/// Waits until something holds; whether it did.
fn until(patience: u64, mut holds: impl FnMut() -> bool) -> bool {
    let end = time::now() + patience;
    while !holds() {
        if time::now() > end {
            return false;
        }
        smp::relax();
    }
    true
}

fn numbers_are_the_cpus_own(cx: &Context) -> Verdict {
    let job = || RESULT.store(smp::cpu().into(), SeqCst);
    let id = both(cx, job, |cpu| cpu.id)?;
    equal("number on the second CPU", u64::from(id), RESULT.load(SeqCst))?;
    holds(smp::cpu() != id, "number on the first CPU", format_args!("not {id}"), smp::cpu())
}

fn registers_are_the_cpus_own(cx: &Context) -> Verdict {
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
}

fn locked_additions_add_up(cx: &Context) -> Verdict {
    static SUM: AtomicU64 = AtomicU64::new(0);
    fn add() {
        (0..20_000).for_each(|_| {
            SUM.fetch_add(1, SeqCst);
        });
    }
    SUM.store(0, SeqCst);
    both(cx, add, |_| add())?;
    equal("sum", 40_000, SUM.load(SeqCst))
}

/// A vector of the checks' own.
pub fn vector() -> Result<(&'static Event, u8), End> {
    static VECTOR: Once<Option<(&'static Event, u8)>> = Once::new();
    let made = VECTOR.call_once(|| irq::bind_vector("conform").ok());
    made.ok_or_else(|| error("no vector is left"))
}

const COMMANDS: u32 = 1000;

/// Sends commands one at a time; how many were followed by an interrupt before one was not.
fn send_each(to: u32, event: &'static Event, vector: u8) -> u32 {
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

fn ipi_arrives(cx: &Context) -> Verdict {
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
}

fn ipi_comes_back(cx: &Context) -> Verdict {
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
}

fn ipi_ends_halt(cx: &Context) -> Verdict {
    let cpu = second(cx)?;
    for n in 0..50 {
        until(1_000_000, || false);
        let ticket = cpu.give(|| ());
        holds(cpu.wait(ticket, PATIENCE), "wakes", "50", n)?;
    }
    Ok(())
}

/// What passes from one CPU to the other: whose turn it is, the last reading, the largest step back.
static TURN: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static BACK: AtomicU64 = AtomicU64::new(0);
const FIRST: u32 = 0;
const SECOND: u32 = 1;
const PASSES: u32 = 20_000;
/// Fewer say nothing.
const PASSES_MIN: u32 = 50;
/// Nanoseconds for these few, on a machine that runs one of the two CPUs at a time.
const RALLY_MAX: u64 = 10_000_000_000;

/// The fence keeps the reading behind the word that allowed it.
fn tsc() -> u64 {
    // SAFETY: a fence.
    unsafe { core::arch::asm!("lfence", options(nostack, preserves_flags)) };
    time::tsc()
}

fn clock() -> u64 {
    // SAFETY: a fence.
    unsafe { core::arch::asm!("lfence", options(nostack, preserves_flags)) };
    time::now()
}

fn pass(read: fn() -> u64, to: u32) {
    let now = read();
    BACK.fetch_max(LAST.swap(now, SeqCst).saturating_sub(now), SeqCst);
    TURN.store(to, SeqCst);
}

/// The second CPU's side.
fn receive(read: fn() -> u64) {
    let end = time::now() + JOB_MAX;
    while !STOP.load(SeqCst) && time::now() < end {
        if TURN.load(SeqCst) == SECOND {
            pass(read, FIRST);
        }
        smp::relax();
    }
}

/// Passes the word to and fro; the largest step back.
fn rally(cx: &Context, read: fn() -> u64, job: Job) -> Result<u64, End> {
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

fn in_order(back: u64) -> Verdict {
    equal("largest step back", 0, back)
}

fn tsc_never_goes_back(cx: &Context) -> Verdict {
    let back = rally(cx, tsc, || receive(tsc))?;
    if !invariant_tsc() {
        return Err(skip(format_args!("CPUID promises no invariant TSC; the largest step back was {back} ticks")));
    }
    in_order(back)
}

/// CPUID leaf 0x80000007.
fn invariant_tsc() -> bool {
    const POWER: u32 = 0x8000_0007;
    __cpuid(0x8000_0000).eax >= POWER && __cpuid(POWER).edx & 1 << 8 != 0
}

/// Clock pages of the two CPUs.
static mut PAGES: [Page<ClockPage>; 2] = [const { Page(ClockPage::EMPTY) }; 2];

fn clock_page(of: u32) -> *const ClockPage {
    // SAFETY: inside of the array; nobody makes a reference of it.
    unsafe { (&raw const PAGES).cast::<Page<ClockPage>>().add(of as usize).cast() }
}

/// Registers a CPU's page on the CPU that runs; returns what was registered before.
fn register(of: u32) -> u64 {
    let address = guest_kernel::mm::image::physical(clock_page(of).addr());
    // SAFETY: the feature is there; the page lives for ever and is that CPU's.
    unsafe {
        let before = cpu::read_msr(MSR_SYSTEM_TIME);
        cpu::write_msr(MSR_SYSTEM_TIME, address | SYSTEM_TIME_ENABLE);
        before
    }
}

fn kvm_time<const OF: u32>() -> u64 {
    // SAFETY: a fence; and the page is registered on this CPU while the word passes.
    unsafe {
        core::arch::asm!("lfence", options(nostack, preserves_flags));
        pvclock::time_of(clock_page(OF))
    }
}

fn kvm_clocks_of_both_cpus_agree(cx: &Context) -> Verdict {
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
    // SAFETY: the pages are there for ever; KVM may write them, hence volatile.
    let flags = [FIRST, SECOND].map(|of| unsafe { (&raw const (*clock_page(of)).flags).read_volatile() });
    if flags.iter().any(|flags| flags & CLOCK_TSC_STABLE == 0) {
        return Err(skip(format_args!("bit 0 of flags promises nothing; the largest step back was {back} ns")));
    }
    in_order(back)
}
