//! Clocks and the timer, against each other.

use super::raw::wait_until;
use super::{Context, Row, Verdict, equal, holds};
use guest_kernel::trap::irq;
use pvops::time;

pub const ROWS: &[Row] = &[
    ("clock/tsc-is-monotonic", |cx| monotonic(cx, time::tsc)),
    ("clock/clock-is-monotonic", |cx| monotonic(cx, time::now)),
    ("clock/clock-advances", clock_advances),
    ("clock/tsc-and-clock-agree", |_| tsc_and_clock(|| spin(100_000_000))),
    ("clock/rates-are-stable", rates_are_stable),
    ("clock/timer-and-clock-agree", timer_and_clock_agree),
    ("clock/timer-does-not-fire-early", timer_does_not_fire_early),
    ("clock/timer-in-the-past-fires-at-once", timer_in_the_past_fires_at_once),
    ("clock/clock-goes-on-while-halted", |_| tsc_and_clock(halted)),
];

/// How often something is done: as often as is wanted, or until its time is over on a machine that is too slow for that,
/// but never less than is needed to say anything.
pub struct Quota {
    pub wanted: u32,
    pub needed: u32,
    /// Nanoseconds.
    pub time: u64,
}

impl Quota {
    /// Does it, and says in the evidence how often.
    ///
    /// # Errors
    /// The first one of `once`.
    pub fn fill(&self, cx: &Context, what: &str, mut once: impl FnMut() -> Verdict) -> Verdict {
        // Looking at the clock may cost more than what is done.
        const BETWEEN_LOOKS: u32 = 64;
        // A run without patching is a second one, which only looks whether it is the same.
        const UNPATCHED_SHARE: u64 = 5;
        let unpatched = guest_kernel::patching::patches().count(None) > 0;
        let time = if unpatched { self.time / UNPATCHED_SHARE } else { self.time };
        let start = time::now();
        let mut done = 0;
        while done < self.wanted {
            if done >= self.needed && done.is_multiple_of(BETWEEN_LOOKS) && time::now() - start > time {
                break;
            }
            once()?;
            done += 1;
        }
        cx.did(format_args!("{done} {what} in {} ms", (time::now() - start) / 1_000_000));
        Ok(())
    }
}

/// Spins for some nanoseconds of the clock.
fn spin(nanoseconds: u64) {
    let end = time::now() + nanoseconds;
    while time::now() < end {
        pvops::smp::relax();
    }
}

/// Halts for 50 ms.
fn halted() {
    wait_until(50_000_000, || false);
}

fn monotonic(cx: &Context, read: fn() -> u64) -> Verdict {
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

fn clock_advances(_: &Context) -> Verdict {
    let (start, clock) = (time::tsc(), time::now());
    while time::now() == clock {
        let passed = time::tsc() - start;
        holds(passed < 1_000_000, "TSC ticks without a change of the clock", "fewer than 1000000", passed)?;
    }
    Ok(())
}

/// Fails unless two durations agree within a percent.
fn within_a_percent(what: &str, expected: u64, saw: u64) -> Verdict {
    holds(expected.abs_diff(saw) <= expected / 100, what, format_args!("{expected} ns within 1%"), saw)
}

/// TSC ticks as nanoseconds, and nanoseconds of the clock, for something that takes time.
fn measure(what: impl FnOnce()) -> (u64, u64) {
    let (tsc, clock) = (time::tsc(), time::now());
    what();
    let (tsc_end, clock_end) = (time::tsc(), time::now());
    (pvops::worlds::native::tsc::scale().apply(tsc_end - tsc), clock_end - clock)
}

fn tsc_and_clock(what: impl FnOnce()) -> Verdict {
    let (tsc, clock) = measure(what);
    within_a_percent("nanoseconds by the TSC", clock, tsc)
}

fn rates_are_stable(_: &Context) -> Verdict {
    let [first, second] = [0; 2].map(|_| {
        let (tsc, clock) = measure(|| spin(50_000_000));
        tsc * 1000 / (clock / 1000)
    });
    holds(first.abs_diff(second) <= first / 100, "TSC nanoseconds in a second of the clock", first, second)
}

/// A counter and the clock at one moment. A hypervisor may be elsewhere between the two readings: then once more.
fn together(read: impl Fn() -> u64) -> (u64, u64) {
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

/// The timer's own rate cancels out: two halves of the same length count the same ticks.
fn timer_and_clock_agree(cx: &Context) -> Verdict {
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
}

/// Waits for the next timer interrupt; nanoseconds until then.
fn until_timer(deadline_in: u64) -> Option<u64> {
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

/// A rate that nobody told is the kernel's own measurement, over a time so short that it may be some percent off.
fn timer_does_not_fire_early(cx: &Context) -> Verdict {
    let tolerance = if cx.found.apic_khz.is_some() { 100 } else { 10 };
    for milliseconds in [1, 5, 20] {
        let wanted = milliseconds * 1_000_000;
        let took = until_timer(wanted).unwrap_or(0);
        let early = wanted - wanted / tolerance - 50_000;
        holds(took >= early, "nanoseconds until the interrupt", format_args!("{wanted} or more"), took)?;
    }
    Ok(())
}

fn timer_in_the_past_fires_at_once(_: &Context) -> Verdict {
    let before = irq::timer_count();
    time::set_timer(time::now() - 1_000_000);
    let start = time::now();
    while irq::timer_count() == before && time::now() - start < 100_000_000 {
        pvops::smp::relax();
    }
    equal("timer interrupts within 100 ms", true, irq::timer_count() > before)
}
