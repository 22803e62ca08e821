//! Frequencies by comparison: a counter whose frequency is known, and two that are not. Pure logic; the hardware is in
//! `reference`.

/// A counter of known frequency.
pub(super) trait Reference {
    /// For people.
    fn name(&self) -> &'static str;
    /// Counts a second.
    fn hz(&self) -> u64;
    /// The largest value, all ones; the next one is 0.
    fn mask(&self) -> u64;
    /// The value. It counts up.
    fn read(&mut self) -> u64;
}

/// The time stamp counter and the local APIC's timer at one moment; both count up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// TSC.
    pub tsc: u64,
    /// Ticks of the timer.
    pub timer: u64,
}

/// Frequencies in Hz, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    /// Of the TSC.
    pub tsc: u64,
    /// Of the local APIC's timer.
    pub timer: u64,
}

/// A measurement takes a second divided by this: a quarter of a millisecond, so that the boot stays short.
const WINDOWS_PER_SECOND: u64 = 4000;
/// A reference that does not move for so many TSC ticks is not there. At 6 GHz, 16 ms: more than the period of any of them.
const PATIENCE: u64 = 100_000_000;

/// Measures against a reference, within a percent where reading it takes a microsecond; `None` if it does not count.
pub(super) fn measure(reference: &mut dyn Reference, mut stamp: impl FnMut() -> Stamp) -> Option<Measured> {
    let window = (reference.hz() / WINDOWS_PER_SECOND).max(1);
    let (first, start) = sample(reference, &mut stamp);
    let (mut last, mut moved) = (first, start.tsc);
    while elapsed(reference, first, last) < window {
        let (value, now) = (reference.read(), stamp().tsc);
        if value != last {
            (last, moved) = (value, now);
        } else if now.wrapping_sub(moved) > PATIENCE {
            return None;
        }
    }
    let (last, end) = sample(reference, &mut stamp);
    let ticks = elapsed(reference, first, last);
    let hz = |count: u64| u64::try_from(u128::from(count) * u128::from(reference.hz()) / u128::from(ticks.max(1))).ok();
    Some(Measured { tsc: hz(end.tsc.wrapping_sub(start.tsc))?.max(1), timer: hz(end.timer - start.timer)?.max(1) })
}

/// The reference and the moment at which it was read: of several tries the one that took least, so that neither an exit that
/// took long nor code that ran for the first time counts.
fn sample(reference: &mut dyn Reference, stamp: &mut impl FnMut() -> Stamp) -> (u64, Stamp) {
    const TRIES: u32 = 5;
    let mut one = || {
        let (before, value, after) = (stamp(), reference.read(), stamp());
        let took = after.tsc.wrapping_sub(before.tsc);
        let middle = Stamp { tsc: before.tsc.wrapping_add(took / 2), timer: before.timer.midpoint(after.timer) };
        (took, (value, middle))
    };
    let first = one();
    (1..TRIES).fold(first, |best, _| core::cmp::min_by_key(best, one(), |(took, _)| *took)).1
}

/// The TSC frequency that two readings of a reference and the TSC give; `None` if the reference has wrapped in between or
/// stood still. `about` is the frequency as known before.
pub(super) fn refine(reference: &dyn Reference, about: u64, [first, last]: [(u64, u64); 2]) -> Option<u64> {
    let ticks = elapsed(reference, first.0, last.0);
    let tsc = last.1.wrapping_sub(first.1);
    let expected = u128::from(tsc) * u128::from(reference.hz()) / u128::from(about.max(1));
    if ticks == 0 || expected > u128::from(reference.mask() / 8 * 7) {
        return None;
    }
    u64::try_from(u128::from(tsc) * u128::from(reference.hz()) / u128::from(ticks)).ok()
}

fn elapsed(reference: &dyn Reference, from: u64, to: u64) -> u64 {
    to.wrapping_sub(from) & reference.mask()
}

/// The TSC frequency by CPUID (Intel SDM volume 2, leaves 0x15 and 0x16), given as EAX, EBX, ECX of each: that of the crystal
/// times a ratio. Where the ratio is there and the crystal's frequency is not, the TSC runs at the processor's base frequency.
/// Leaf 0x16 alone says nothing of the TSC.
pub(super) fn from_cpuid(leaf15: [u32; 3], leaf16: [u32; 3]) -> Option<u64> {
    let [denominator, numerator, crystal] = leaf15.map(u64::from);
    let base = u64::from(leaf16[0] & 0xffff) * 1_000_000;
    match (denominator, numerator, crystal) {
        (0, ..) | (_, 0, _) => None,
        (_, _, 0) => Some(base),
        (denominator, numerator, crystal) => Some(crystal * numerator / denominator),
    }
    .filter(|&hz| hz > 0)
}

#[cfg(test)]
mod tests;
