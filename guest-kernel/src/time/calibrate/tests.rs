//! Frequencies measured on a machine of our own, whose time is the sum of what its accesses take.

use crate::time::calibrate::{Measured, Reference, Stamp, from_cpuid, measure, refine};
use std::cell::Cell;

const TSC: u64 = 2_400_000_000;
const TIMER: u64 = 1_000_000_000;

/// Nanoseconds.
struct Machine {
    now: Cell<u64>,
    accesses: Cell<u64>,
}

impl Machine {
    fn new() -> Self {
        Self { now: Cell::new(1_000_000), accesses: Cell::new(0) }
    }

    /// An access, of which one in seven takes 50 times as long: the hypervisor was elsewhere.
    fn access(&self) -> u64 {
        let nth = self.accesses.replace(self.accesses.get() + 1);
        self.now.set(self.now.get() + if nth.is_multiple_of(7) { 50_000 } else { 1000 });
        self.now.get()
    }

    fn count(&self, hz: u64) -> u64 {
        (u128::from(self.now.get()) * u128::from(hz) / 1_000_000_000) as u64
    }

    fn stamp(&self) -> Stamp {
        let tsc = self.count(TSC);
        self.access();
        Stamp { tsc, timer: self.count(TIMER) }
    }
}

struct Counter<'a> {
    machine: &'a Machine,
    hz: u64,
    bits: u32,
    stands_still: bool,
}

impl<'a> Counter<'a> {
    fn new(machine: &'a Machine, hz: u64, bits: u32) -> Self {
        Self { machine, hz, bits, stands_still: false }
    }
}

impl Reference for Counter<'_> {
    fn name(&self) -> &'static str {
        "a counter"
    }

    fn hz(&self) -> u64 {
        self.hz
    }

    fn mask(&self) -> u64 {
        (1 << self.bits) - 1
    }

    fn read(&mut self) -> u64 {
        self.machine.access();
        if self.stands_still { self.mask() } else { self.machine.count(self.hz) & self.mask() }
    }
}

fn assert_within(percent: u64, found: u64, right: u64) {
    assert!(found.abs_diff(right) <= right / 100 * percent, "{found} Hz is more than {percent} % from {right} Hz");
}

#[test]
fn every_reference_gives_both_frequencies() {
    for (hz, bits) in [(100_000_000, 32), (3_579_545, 24), (1_193_182, 16)] {
        let machine = Machine::new();
        let mut counter = Counter::new(&machine, hz, bits);
        let Some(Measured { tsc, timer }) = measure(&mut counter, || machine.stamp()) else {
            panic!("{hz} Hz: nothing measured")
        };
        assert_within(1, tsc, TSC);
        assert_within(1, timer, TIMER);
    }
}

#[test]
fn a_counter_that_wraps_meanwhile_does_no_harm() {
    let machine = Machine::new();
    // 16 bits at 1.19 MHz wrap after 54.9 ms.
    machine.now.set(54_800_000);
    let measured = measure(&mut Counter::new(&machine, 1_193_182, 16), || machine.stamp());
    assert_within(1, measured.map_or(0, |measured| measured.tsc), TSC);
}

#[test]
fn a_counter_that_is_not_there_ends_within_a_tenth_of_a_second() {
    let machine = Machine::new();
    let mut counter = Counter { stands_still: true, ..Counter::new(&machine, 1_193_182, 16) };
    let start = machine.now.get();
    assert_eq!(measure(&mut counter, || machine.stamp()), None);
    let took = machine.now.get() - start;
    assert!(took <= 100_000_000, "{took} ns");
}

#[test]
fn a_second_measurement_is_better_and_one_that_took_too_long_does_not_count() {
    let machine = Machine::new();
    let mut counter = Counter::new(&machine, 1_193_182, 16);
    let mut reading = |ms: u64| {
        machine.now.set(ms * 1_000_000);
        (counter.read(), machine.count(TSC))
    };
    let [first, good, late] = [100, 140, 100 + 55 + 40].map(&mut reading);
    let counter = Counter::new(&machine, 1_193_182, 16);
    let refined = refine(&counter, TSC / 100 * 101, [first, good]).unwrap_or(0);
    assert!(refined.abs_diff(TSC) < TSC / 1000, "{refined}");
    assert_eq!(refine(&counter, TSC / 100 * 101, [first, late]), None);
    assert_eq!(refine(&counter, TSC, [first, first]), None);
}

#[test]
fn cpuid_gives_the_crystal_times_a_ratio_or_with_one_the_base_frequency() {
    const NONE: [u32; 3] = [0; 3];
    assert_eq!(from_cpuid([2, 188, 25_500_000], [2400, 0, 0]), Some(2_397_000_000));
    assert_eq!(from_cpuid([2, 200, 0], [2400, 3000, 100]), Some(2_400_000_000), "no crystal");
    assert_eq!(from_cpuid(NONE, [2400, 0, 0]), None, "the base frequency alone is for show");
    assert_eq!(from_cpuid(NONE, NONE), None);
    assert_eq!(from_cpuid([0, 188, 24_000_000], NONE), None, "a ratio by zero");
}
