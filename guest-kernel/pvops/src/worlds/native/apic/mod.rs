//! The interrupt chips of the native worlds: the operations of the groups `event` and `time` on the local APIC (`local`)
//! and the I/O APICs (`io`).

pub(crate) mod io;
pub mod local;

use crate::ops::cpu::msr;
use crate::per_cpu;
use crate::percpu::PerCpu;
use crate::scale::Scale;
use crate::types::{Chips, IO_APICS_MAX, MapRegisters, SPURIOUS_VECTOR, TIMER_VECTOR};
use core::arch::x86_64::_rdtsc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use io::Io;
use local::register;
use shared_abi::board;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
/// LVT timer entry: the timer ends when the TSC reaches a value, not when a count reaches 0.
const TSC_DEADLINE: u32 = 0b10 << 17;
const DIVIDE_BY_1: u32 = 0b1011;
/// Interrupts by line or message name their CPU in eight bits, the last of which values means all CPUs.
const REACHABLE_IDS: u32 = 0xff;

static IO: [Io; IO_APICS_MAX] = [const { Io::none() }; IO_APICS_MAX];
/// From nanoseconds to what the timer counts: ticks of its own, or of the TSC.
static TIMER_MUL: AtomicU32 = AtomicU32::new(0);
static TIMER_SHIFT: AtomicU8 = AtomicU8::new(0);
/// The timer compares the TSC with a deadline.
static BY_DEADLINE: AtomicBool = AtomicBool::new(false);
/// The deadline in force on each CPU, so that "none" is not programmed over and over.
static DEADLINE: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(u64::MAX));

/// Takes the interrupt chips over: all lines masked, the local APIC on. The timer works after [`set_timer_hz`] or
/// [`use_tsc_deadline`]. Returns 0, or 1 plus what stood in the version register of a local APIC that does not answer.
pub(crate) unsafe extern "sysv64" fn start(map: MapRegisters, chips: *const Chips<'static>) -> u64 {
    const BLOCK: usize = 4096;
    // SAFETY: per `event::start`'s contract.
    let chips = unsafe { &*chips };
    if let Err(version) = local::take_over(|| map(chips.local, BLOCK)) {
        return u64::from(version) + 1;
    }
    // SAFETY: the first CPU, whose local APIC was taken over.
    unsafe { enter_cpu(0) };
    local::write(register::DIVIDE, DIVIDE_BY_1);
    local::write(register::TIMER, timer_entry());
    for (io, chip) in IO.iter().zip(chips.io) {
        if let Some(base) = NonNull::new(map(chip.address, BLOCK) as *mut io::Block) {
            // SAFETY: just mapped, for good; per `event::start`'s contract nothing else uses the chip.
            unsafe { io.take_over(base, chip.first_line) };
        }
    }
    0
}

/// Gives this CPU its block, and lets its local APIC deliver interrupts; its timer stays off. The first CPU enters by
/// [`start`].
pub(crate) unsafe extern "sysv64" fn enter_cpu(slot: u64) {
    if slot > 0 {
        local::enter_mode();
    }
    crate::percpu::enter(slot as usize, local::read_id());
    local::write(register::TASK_PRIORITY, 0);
    local::write(register::SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    // The 8259 interrupts through this pin, where there is one; KVM opens the pin at reset.
    local::write(register::LINT0, MASKED);
}

/// Sets the frequency of the local APIC's timer, which counts down from now on.
pub fn set_timer_hz(hz: u64) {
    set_timer_scale(hz, false);
}

/// Has the timer wait for the TSC to reach a value (Intel SDM volume 3, "TSC-Deadline Mode"): it needs no frequency of its
/// own, and one register instead of two. Only where CPUID offers it (leaf 1, ECX bit 24).
pub fn use_tsc_deadline(tsc_hz: u64) {
    set_timer_scale(tsc_hz, true);
}

fn set_timer_scale(hz: u64, by_deadline: bool) {
    let scale = Scale::new(1_000_000_000, hz.max(1));
    TIMER_MUL.store(scale.mul, Relaxed);
    TIMER_SHIFT.store(scale.shift as u8, Relaxed);
    if BY_DEADLINE.swap(by_deadline, Relaxed) != by_deadline && local::is_there() {
        local::write(register::INITIAL_COUNT, 0);
        local::write(register::TIMER, timer_entry());
        crate::ops::cpu::fence_before_msr();
    }
}

/// Whether the timer is in TSC-deadline mode.
pub fn uses_tsc_deadline() -> bool {
    BY_DEADLINE.load(Relaxed)
}

fn timer_entry() -> u32 {
    u32::from(TIMER_VECTOR) | if BY_DEADLINE.load(Relaxed) { TSC_DEADLINE } else { 0 }
}

/// The timer counts without interrupting, to compare its frequency with a known one. Dropped, it interrupts again.
#[derive(Debug)]
pub struct Counting(());

impl Counting {
    /// Starts at 0.
    pub fn start() -> Self {
        if local::is_there() {
            local::write(register::TIMER, MASKED | u32::from(TIMER_VECTOR));
            local::write(register::INITIAL_COUNT, u32::MAX);
        }
        Self(())
    }

    /// Ticks so far; 0 in a world without this timer.
    pub fn ticks(&self) -> u32 {
        if local::is_there() { u32::MAX - local::read(register::CURRENT_COUNT) } else { 0 }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if local::is_there() {
            local::write(register::INITIAL_COUNT, 0);
            local::write(register::TIMER, timer_entry());
            crate::ops::cpu::fence_before_msr();
            DEADLINE.get().store(u64::MAX, Relaxed);
        }
    }
}

pub(crate) unsafe extern "sysv64" fn set_timer(deadline: u64) {
    if DEADLINE.get().swap(deadline, Relaxed) == deadline && deadline == u64::MAX {
        return;
    }
    let scale = Scale { mul: TIMER_MUL.load(Relaxed), shift: TIMER_SHIFT.load(Relaxed) as i8 };
    // Half a range at most: the kernel asks again when that ends too early.
    let wait = || scale.apply(deadline.saturating_sub(crate::ops::time::now()).min(1 << 31));
    if BY_DEADLINE.load(Relaxed) {
        // SAFETY: ring 0. A deadline of 0 disarms the timer; one that has passed interrupts at once.
        let end = if deadline == u64::MAX { 0 } else { unsafe { _rdtsc() }.wrapping_add(wait()).max(1) };
        // SAFETY: CPUID offers the mode, so the register is there.
        unsafe { crate::worlds::native::write_msr(msr::TSC_DEADLINE, end) };
    } else {
        let count = if deadline == u64::MAX { 0 } else { wait().clamp(1, u32::MAX.into()) as u32 };
        local::write(register::INITIAL_COUNT, count);
    }
}

/// The message that raises a vector on this CPU, as an edge, packed.
pub(crate) unsafe extern "sysv64" fn bind_message(_device: u32, _entry: u32, vector: u32, _table: u64) -> u64 {
    match crate::ops::smp::cpu() {
        id if id < REACHABLE_IDS => (board::LOCAL_APIC_BASE | u64::from(id) << 12) << 32 | u64::from(vector),
        _ => u64::MAX,
    }
}

pub(crate) unsafe extern "sysv64" fn bind(line: u32, vector: u32, trigger: u32) -> u64 {
    let id = crate::ops::smp::cpu();
    let Some((io, pin)) = input(line).filter(|_| id < REACHABLE_IDS) else { return 0 };
    without_interrupts(|| io.bind(pin, vector, trigger, id));
    1
}

pub(crate) unsafe extern "sysv64" fn mask(line: u32) {
    if let Some((io, pin)) = input(line) {
        without_interrupts(|| io.mask(pin));
    }
}

pub(crate) unsafe extern "sysv64" fn unmask(line: u32) {
    if let Some((io, pin)) = input(line) {
        without_interrupts(|| io.unmask(pin));
    }
}

/// The I/O APIC that has a line, and the pin there.
fn input(line: u32) -> Option<(&'static Io, u32)> {
    IO.iter().find_map(|io| Some((io, io.pin(line)?)))
}

/// For what interrupt handlers may do, too.
pub(crate) fn without_interrupts<R>(what: impl FnOnce() -> R) -> R {
    let flags = crate::ops::irq::save();
    let result = what();
    // SAFETY: the flags of a moment ago.
    unsafe { crate::ops::irq::restore(flags) };
    result
}
