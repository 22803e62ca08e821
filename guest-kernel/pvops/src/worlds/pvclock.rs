//! KVM's clock, which is Xen's, too: a page per CPU by which the TSC becomes nanoseconds (Linux
//! `arch/x86/include/asm/pvclock-abi.h`, `arch/x86/kernel/pvclock.c`).
//!
//! The page and the TSC are read between two looks at the page's version: a TSC value from after a change would be scaled by
//! the parameters from before it. Where the page promises that readings are monotonic across CPUs (`TSC_STABLE`), that is
//! all. Elsewhere each CPU reads a page of its own, and `Steady` keeps readings in order.

use crate::per_cpu;
use crate::percpu::{self, CPUS, PerCpu};
use crate::scale::Scale;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use shared_abi::kvm::{
    CLOCK_GUEST_STOPPED, CLOCK_TSC_STABLE, ClockPage, Features, MSR_SYSTEM_TIME, SYSTEM_TIME_ENABLE,
};
use volatile::{VolatilePtr, map_field};

/// A page of its own cache line.
#[repr(C, align(64))]
struct Line(ClockPage);

/// What KVM writes, by slot of the CPU.
static mut PAGES: [Line; CPUS] = [const { Line(ClockPage::EMPTY) }; CPUS];
/// The page that each CPU reads. A CPU without one reads the first one's.
static CLOCKS: PerCpu<AtomicPtr<ClockPage>> = per_cpu!(AtomicPtr::new(core::ptr::null_mut()));
/// Translates the address of a static; 0 before [`start_clock`].
static PHYSICAL: AtomicUsize = AtomicUsize::new(0);
static STEADY: Steady = Steady::new();
static STOPS: AtomicU64 = AtomicU64::new(0);
/// The flag `TSC_STABLE` means something: CPUID says so (Linux `Documentation/virt/kvm/x86/msr.rst`).
static PROMISES: AtomicBool = AtomicBool::new(false);

/// Gives KVM the first CPU's page to write the time to, and returns the ratio of TSC ticks to nanoseconds in it. The other
/// CPUs get theirs when they [enter](crate::ops::smp::enter).
///
/// # Safety
/// `physical` translates the address of a static of this crate to a guest physical one; the feature CLOCKSOURCE2 is there;
/// this is the first CPU. `features` are KVM's.
pub unsafe fn start_clock(physical: fn(usize) -> u64, features: Features) -> Scale {
    PROMISES.store(features.contains(Features::CLOCKSOURCE_STABLE), Ordering::Relaxed);
    PHYSICAL.store(physical as usize, Ordering::Relaxed);
    open_clock(0);
    scale_in_use().unwrap_or(Scale { mul: 0, shift: 0 })
}

/// Gives KVM this CPU's page, where its clock is in use.
pub(crate) fn open_clock(slot: usize) {
    let physical = PHYSICAL.load(Ordering::Relaxed);
    if physical == 0 {
        return;
    }
    // SAFETY: only `start_clock` stores there.
    let physical = unsafe { core::mem::transmute::<usize, fn(usize) -> u64>(physical) };
    // SAFETY: inside of the array, to which there are no references.
    let page: *mut ClockPage = unsafe { (&raw mut PAGES).cast::<Line>().add(slot) }.cast();
    // SAFETY: the MSR exists with the feature; the page lives forever. KVM writes it before the write returns.
    unsafe { crate::ops::cpu::write_msr(MSR_SYSTEM_TIME, physical(page.addr()) | SYSTEM_TIME_ENABLE) };
    CLOCKS.get().store(page, Ordering::Release);
}

/// Reads the time from a page of this layout that the hypervisor set up and keeps. It has no flags for the guest to clear.
#[cfg(feature = "xen")]
pub(crate) fn use_clock(page: *const ClockPage) {
    CLOCKS.get().store(page.cast_mut(), Ordering::Release);
}

/// The page that this CPU reads; `None` before there is one.
fn clock() -> Option<NonNull<ClockPage>> {
    let page = |slot| NonNull::new(CLOCKS.of(slot)?.load(Ordering::Acquire));
    page(percpu::slot()).or_else(|| page(0))
}

/// The ratio of TSC ticks to nanoseconds that the page in use gives; `None` before there is one.
pub fn scale_in_use() -> Option<Scale> {
    // SAFETY: pages in use live forever.
    clock().map(|page| unsafe { read(page, crate::ops::time::tsc) }.scale)
}

/// How often the host said that it had stopped the machine for a while.
pub fn guest_stops() -> u64 {
    STOPS.load(Ordering::Relaxed)
}

/// The time by a clock page, as its host means it.
///
/// # Safety
/// The page is mapped, and its host writes it for this CPU.
pub unsafe fn time_of(page: *const ClockPage) -> u64 {
    // SAFETY: per the contract.
    unsafe { read(NonNull::new_unchecked(page.cast_mut()), ordered_tsc) }.time
}

pub(crate) unsafe extern "sysv64" fn now() -> u64 {
    let Some(page) = clock() else { return 0 };
    // SAFETY: pages in use live forever.
    let reading = unsafe { read(page, ordered_tsc) };
    if reading.flags & CLOCK_GUEST_STOPPED != 0 {
        // SAFETY: as above. The guest takes the flag back; the host sets it while this CPU does not run.
        let page = unsafe { VolatilePtr::new(page) };
        map_field!(page.flags).write(reading.flags & !CLOCK_GUEST_STOPPED);
        STOPS.fetch_add(1, Ordering::Relaxed);
    }
    let promised = reading.flags & CLOCK_TSC_STABLE != 0 && PROMISES.load(Ordering::Relaxed);
    STEADY.time(percpu::slot(), reading.time, promised)
}

/// The TSC, not read before what stands before it.
fn ordered_tsc() -> u64 {
    // SAFETY: SSE2's fence is part of the architecture.
    unsafe { core::arch::asm!("lfence", options(nostack, preserves_flags)) };
    crate::ops::time::tsc()
}

/// What a page and the TSC say together.
struct Reading {
    time: u64,
    flags: u8,
    scale: Scale,
}

/// # Safety
/// The page is mapped. Its host may change it at any time.
unsafe fn read(page: NonNull<ClockPage>, tsc: impl Fn() -> u64) -> Reading {
    // SAFETY: per the contract; checked by the version.
    let page = unsafe { VolatilePtr::new_read_only(page) };
    let version = map_field!(page.version);
    loop {
        let before = version.read();
        fence(Ordering::Acquire);
        let clock = page.read();
        let tsc = tsc();
        fence(Ordering::Acquire);
        if before & 1 == 0 && version.read() == before {
            let scale = Scale { mul: clock.tsc_to_system_mul, shift: clock.tsc_shift };
            let time = clock.system_time.wrapping_add(scale.apply(tsc.saturating_sub(clock.tsc_timestamp)));
            return Reading { time, flags: clock.flags, scale };
        }
        core::hint::spin_loop();
    }
}

/// Keeps the readings of all CPUs in order. A small step back is a reading that another CPU has overtaken: it gets that
/// CPU's time. After a large one the clock itself has changed, forward a while ago or back now: it goes on from where it
/// was, instead of standing still until the hardware has caught up.
struct Steady {
    last: AtomicU64,
    /// Added to the readings of each CPU: one for all would run away where two CPUs are apart for good.
    shifts: [AtomicU64; CPUS],
}

/// The largest step back, in nanoseconds, that counts as small.
const SMALL: u64 = 1_000_000;

impl Steady {
    const fn new() -> Self {
        Self { last: AtomicU64::new(0), shifts: [const { AtomicU64::new(0) }; CPUS] }
    }

    /// The time for a reading of the CPU with a slot. One that is `promised` to be in order with those of all CPUs is the time,
    /// unless readings had to be put in order before: then a step back may be hidden in what has been added to them.
    fn time(&self, slot: usize, reading: u64, promised: bool) -> u64 {
        if promised && self.last.load(Ordering::Relaxed) == 0 { reading } else { self.after(slot, reading) }
    }

    /// The time for a reading of the CPU with a slot.
    fn after(&self, slot: usize, reading: u64) -> u64 {
        let shift = &self.shifts[slot];
        let time = reading.wrapping_add(shift.load(Ordering::Relaxed));
        let last = self.last.fetch_max(time, Ordering::Relaxed);
        let back = last.saturating_sub(time);
        if back > SMALL {
            shift.fetch_add(back, Ordering::Relaxed);
        }
        last.max(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, UnsafeCell};

    /// A page that its host changes while it is read.
    struct Host {
        page: UnsafeCell<ClockPage>,
    }

    impl Host {
        fn new(tsc_timestamp: u64, system_time: u64) -> Self {
            // 1 tick is 1 ns.
            let clock = ClockPage {
                version: 2,
                tsc_timestamp,
                system_time,
                tsc_to_system_mul: 1 << 31,
                tsc_shift: 1,
                ..ClockPage::EMPTY
            };
            Self { page: UnsafeCell::new(clock) }
        }

        fn update(&self, tsc_timestamp: u64, system_time: u64) {
            // SAFETY: one thread; the reader holds no reference.
            unsafe {
                let page = &mut *self.page.get();
                *page = ClockPage { version: page.version + 2, tsc_timestamp, system_time, ..*page };
            }
        }

        fn read(&self, tsc: impl Fn() -> u64) -> u64 {
            // SAFETY: the page lives.
            unsafe { read(NonNull::new(self.page.get()).unwrap(), tsc) }.time
        }
    }

    #[test]
    fn the_tsc_belongs_to_the_version_that_it_is_scaled_by() {
        // The machine was stopped: its TSC went on by an hour that its clock is not to show.
        const HOUR: u64 = 3_600_000_000_000;
        let host = Host::new(1000, 5000);
        let reads = Cell::new(0);
        let time = host.read(|| {
            reads.set(reads.get() + 1);
            if reads.get() == 1 {
                host.update(1000 + HOUR, 5100);
            }
            1010 + HOUR
        });
        assert_eq!((time, reads.get()), (5110, 2), "read again, with the parameters of the second version");
    }

    #[test]
    fn a_tsc_before_the_page_is_no_time_passed() {
        assert_eq!(Host::new(1000, 5000).read(|| 990), 5000);
    }

    #[test]
    fn small_steps_back_do_not_show() {
        let clock = Steady::new();
        assert_eq!([5000, 4000, 5001].map(|reading| clock.after(0, reading)), [5000, 5000, 5001]);
    }

    #[test]
    fn a_jump_forward_does_not_stop_the_clock() {
        const DAY: u64 = 86_400_000_000_000;
        let clock = Steady::new();
        assert_eq!(clock.after(0, 1000), 1000);
        assert_eq!(clock.after(0, 1000 + DAY), 1000 + DAY, "the host says so");
        let back = clock.after(0, 2000);
        assert_eq!(back, 1000 + DAY, "never back");
        let (later, latest) = (clock.after(0, 3000), clock.after(0, 1_003_000));
        assert!(later >= back && later - back <= 1000, "it goes on from there, not in a day");
        assert_eq!(latest - later, 1_000_000, "at its own speed");
    }

    #[test]
    fn a_promise_that_comes_late_does_not_set_the_clock_back() {
        let clock = Steady::new();
        assert_eq!(clock.time(0, 7_000_000_000, true), 7_000_000_000);
        assert_eq!(clock.time(0, 10_000_000_000, false), 10_000_000_000);
        let after_the_step = clock.time(0, 5_001_000_000, false);
        assert!(clock.time(0, 5_002_000_000, true) >= after_the_step, "in order with what was added to it");
    }

    #[test]
    fn cpus_that_are_apart_see_one_clock_at_its_own_speed() {
        const APART: u64 = 5_000_000_000;
        let clock = Steady::new();
        let start = clock.after(0, APART);
        let mut last = start;
        for n in 1..1000 {
            for (slot, from) in [(0, APART), (1, 0)] {
                let time = clock.after(slot, from + n * 1000);
                assert!(time >= last, "CPU {slot} sees a step back");
                last = time;
            }
        }
        assert!(last - start <= 1_000_000, "{} ns passed in 999 us", last - start);
    }
}
