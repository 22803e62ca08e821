//! Clocks and the timer, against each other.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::quota::Quota,
    crate::support::raw::wait_until,
    crate::support::{Context, Verdict, equal, holds},
    code::*,
    guest_kernel::trap::irq,
    pvops::time,
};

const KVM_CLOCK: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW";
const TSC: &str = "Intel SDM volume 3, Time-Stamp Counter";
const TIMER: &str = "Intel SDM volume 3, APIC Timer";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "clock/tsc-is-monotonic",
        rule: "The TSC does not go back on a CPU",
        clause: TSC,
        method: "1000000 readings; fewer on a machine that needs more than 6 s for them, but 10000",
        expectation: "Each is at least the one before",
        run: |cx| monotonic(cx, time::tsc),
    },
    Check {
        name: "clock/clock-is-monotonic",
        rule: "The clock does not go back",
        clause: KVM_CLOCK,
        method: "1000000 readings; fewer on a machine that needs more than 6 s for them, but 10000",
        expectation: "Each is at least the one before",
        run: |cx| monotonic(cx, time::now),
    },
    Check {
        name: "clock/clock-advances",
        rule: "The clock does not stand still",
        clause: KVM_CLOCK,
        method: "Read it until it changes, for a million TSC ticks at most",
        expectation: "It changes",
        run: |_| {
            let (start, clock) = (time::tsc(), time::now());
            while time::now() == clock {
                let passed = time::tsc() - start;
                holds(passed < 1_000_000, "TSC ticks without a change of the clock", "fewer than 1000000", passed)?;
            }
            Ok(())
        },
    },
    Check {
        name: "clock/tsc-and-clock-agree",
        rule: "TSC and clock run at the rates that the hypervisor reports",
        clause: KVM_CLOCK,
        method: "Compare both over 100 ms",
        expectation: "Within 1 percent",
        run: |_| tsc_and_clock(|| spin(100_000_000)),
    },
    Check {
        name: "clock/rates-are-stable",
        rule: "Rates do not change while nothing else does",
        clause: TSC,
        method: "Compare ticks per nanosecond over 50 ms, twice",
        expectation: "Within 1 percent",
        run: |_| {
            let [first, second] = [0; 2].map(|_| {
                let (tsc, clock) = measure(|| spin(50_000_000));
                tsc * 1000 / (clock / 1000)
            });
            holds(first.abs_diff(second) <= first / 100, "TSC nanoseconds in a second of the clock", first, second)
        },
    },
    Check {
        name: "clock/timer-and-clock-agree",
        rule: "The timer runs at the rate that the hypervisor reports",
        clause: TIMER,
        method: "Count down by the APIC timer over 100 ms of the clock, twice at most",
        expectation: "Both halves within 1 percent of the whole",
        run: |cx| {
            // The timer's own rate cancels out: two halves of the same length count the same ticks.
            cx.has("the counter of the local APIC's timer")?;
            let flags = pvops::irq::save();
            time::set_timer(time::NEVER);
            let counting = pvops::worlds::native::apic::Counting::start();
            let mut marks = [(0, 0); 3];
            for mark in &mut marks {
                *mark = together(|| counting.ticks().into());
                spin(50_000_000);
            }
            drop(counting);
            // SAFETY: the flags of a moment ago; no lock is held.
            unsafe { pvops::irq::restore(flags) };
            let rate = |from: (u64, u64), to: (u64, u64)| (to.0 - from.0) * 1_000_000 / (to.1 - from.1).max(1);
            let (whole, first) = (rate(marks[0], marks[2]), rate(marks[0], marks[1]));
            holds(whole > 0, "timer ticks in a millisecond", "some", whole)?;
            holds(whole.abs_diff(first) <= whole / 100, "timer ticks in a millisecond of the first half", whole, first)
        },
    },
    Check {
        name: "clock/timer-does-not-fire-early",
        rule: "A deadline is not before its time",
        clause: TIMER,
        method: "Deadlines in 1, 5 and 20 ms",
        expectation: "Interrupts at these times or later, within 50 us and 1 percent (10 where the rate is not reported)",
        run: |cx| {
            // A rate that is not reported is the kernel's own measurement, over a time so short that it may be some percent off.
            let tolerance = if cx.found.apic_khz.is_some() { 100 } else { 10 };
            for milliseconds in [1, 5, 20] {
                let wanted = milliseconds * 1_000_000;
                let took = until_timer(wanted).unwrap_or(0);
                let early = wanted - wanted / tolerance - 50_000;
                holds(took >= early, "nanoseconds until the interrupt", format_args!("{wanted} or more"), took)?;
            }
            Ok(())
        },
    },
    Check {
        name: "clock/timer-in-the-past-fires-at-once",
        rule: "A deadline that has passed interrupts at once",
        clause: TIMER,
        method: "A deadline a millisecond ago",
        expectation: "An interrupt within 100 ms",
        run: |_| {
            let before = irq::timer_count();
            time::set_timer(time::now() - 1_000_000);
            let start = time::now();
            while irq::timer_count() == before && time::now() - start < 100_000_000 {
                pvops::smp::relax();
            }
            equal("timer interrupts within 100 ms", true, irq::timer_count() > before)
        },
    },
    Check {
        name: "clock/clock-goes-on-while-halted",
        rule: "The clock counts while the CPU halts",
        clause: KVM_CLOCK,
        method: "Halt for 50 ms, compare TSC and clock",
        expectation: "Within 1 percent of each other",
        run: |_| tsc_and_clock(halted),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Spins for some nanoseconds of the clock.
    pub fn spin(nanoseconds: u64) {
        let end = time::now() + nanoseconds;
        while time::now() < end {
            pvops::smp::relax();
        }
    }

    /// Halts for 50 ms.
    pub fn halted() {
        wait_until(50_000_000, || false);
    }

    pub fn monotonic(cx: &Context, read: fn() -> u64) -> Verdict {
        let mut last = read();
        Quota { wanted: 1_000_000, needed: 10_000, time: 6_000_000_000 }.fill(cx, "readings", || {
            let now = read();
            if now < last {
                return holds(false, "a reading", format_args!("{last} or more"), now);
            }
            last = now;
            Ok(())
        })
    }

    /// Fails unless two durations agree within a percent.
    pub fn within_a_percent(what: &str, expected: u64, saw: u64) -> Verdict {
        holds(expected.abs_diff(saw) <= expected / 100, what, format_args!("{expected} ns within 1%"), saw)
    }

    /// TSC ticks as nanoseconds, and nanoseconds of the clock, for something that takes time.
    pub fn measure(what: impl FnOnce()) -> (u64, u64) {
        let (tsc, clock) = (time::tsc(), time::now());
        what();
        let (tsc_end, clock_end) = (time::tsc(), time::now());
        (pvops::worlds::native::tsc::scale().apply(tsc_end - tsc), clock_end - clock)
    }

    pub fn tsc_and_clock(what: impl FnOnce()) -> Verdict {
        let (tsc, clock) = measure(what);
        within_a_percent("nanoseconds by the TSC", clock, tsc)
    }

    /// A counter and the clock at one moment. A hypervisor may be elsewhere between the two readings: then once more.
    pub fn together(read: impl Fn() -> u64) -> (u64, u64) {
        const TRIES: u32 = 20;
        const CLOSE: u64 = 100_000;
        let once = || {
            let (before, count, after) = (time::now(), read(), time::now());
            (after - before, (count, before.midpoint(after)))
        };
        let mut best = once();
        for _ in 1..TRIES {
            if best.0 <= CLOSE {
                break;
            }
            best = core::cmp::min_by_key(best, once(), |(apart, _)| *apart);
        }
        best.1
    }

    /// Waits for the next timer interrupt; nanoseconds until then.
    pub fn until_timer(deadline_in: u64) -> Option<u64> {
        let (before, start) = (irq::timer_count(), time::now());
        time::set_timer(start + deadline_in);
        let end = start + deadline_in + 1_000_000_000;
        while irq::timer_count() == before {
            if time::now() > end {
                return None;
            }
            pvops::smp::relax();
        }
        Some(time::now() - start)
    }
}
