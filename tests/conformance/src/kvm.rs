//! KVM's paravirtual interface: CPUID leaves, the clock page, the wall clock.
//!
//! The kernel's own clock page is left registered behind each check; meanwhile it goes on by its last parameters.

use super::kvm_features::{buffer, here, offered};
use super::raw::{Buf, wait_until};
use super::{Context, End, Row, Verdict, equal, holds, skip};
use super::{eoi, steal};
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{Ordering, fence};
use pvops::{cpu, time};
use shared_abi::kvm::{
    self, CLOCK_TSC_STABLE, CPUID_1_ECX_HYPERVISOR, CPUID_FEATURES, CPUID_FIRST, CPUID_SIGNATURE, Features,
    MSR_SYSTEM_TIME, MSR_SYSTEM_TIME_OLD, MSR_WALL_CLOCK, MSR_WALL_CLOCK_OLD, SYSTEM_TIME_ENABLE,
};

pub const ROWS: &[Row] = &[
    ("kvm/hypervisor-bit-is-set", |cx| {
        // The kernel looks for hypervisors only where the bit is set: this asks for itself.
        let leaf = __cpuid(CPUID_FIRST);
        let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        if signature.as_flattened() != CPUID_SIGNATURE {
            return here(cx).and_then(|()| Err(skip("the first interface is not KVM's")));
        }
        holds(__cpuid(1).ecx & CPUID_1_ECX_HYPERVISOR != 0, "bit 31 of ECX of leaf 1", 1, 0)
    }),
    ("kvm/base-leaf-covers-features", |cx| {
        here(cx)?;
        let highest = __cpuid(CPUID_FIRST).eax;
        let fine = highest == 0 || highest > CPUID_FIRST;
        holds(fine, "highest leaf", "0, or from 0x40000001 on", format_args!("{highest:#x}"))
    }),
    ("kvm/clock-is-offered", |cx| {
        here(cx)?;
        let features = __cpuid(CPUID_FIRST + CPUID_FEATURES).eax;
        holds(features & Features::CLOCKSOURCE2.bits() != 0, "features", "bit 3", format_args!("{features:#x}"))
    }),
    ("kvm/clock-page-is-written", |cx| {
        with_clock(cx, |page| {
            let (version, mul) = (page.read32(0), page.read32(MUL));
            holds(mul != 0, "multiplier", "not 0", mul)?;
            holds(version != 0 && version % 2 == 0, "version", "even, not 0", version)
        })
    }),
    ("kvm/clock-version-is-even", |cx| {
        with_clock(cx, |page| (0..2000).try_for_each(|_| equal("lowest bit of the version", 0, page.read32(0) & 1)))
    }),
    ("kvm/clock-padding-is-zero", |cx| {
        with_clock(cx, |page| {
            equal("pad0", 0, page.read32(4))?;
            equal("pad", 0, page.read16(30))
        })
    }),
    ("kvm/clock-flags-are-known", |cx| {
        let stable = cx.found.kvm.contains(Features::CLOCKSOURCE_STABLE);
        with_clock(cx, |page| {
            let flags = page.read8(29);
            equal("flags without bits 0 and 1", 0, flags & !3)?;
            holds(stable || flags & CLOCK_TSC_STABLE == 0, "flags without CLOCKSOURCE_STABLE", 0, flags)
        })
    }),
    ("kvm/clock-stamp-is-not-ahead", |cx| {
        with_clock(cx, |page| {
            let (stamp, tsc) = (u64::from(page.read32(12)) << 32 | u64::from(page.read32(8)), time::tsc());
            holds(stamp <= tsc, "tsc_timestamp", format_args!("{tsc} or less"), stamp)
        })
    }),
    ("kvm/clock-page-never-goes-back", |cx| with_clock(cx, never_goes_back)),
    ("kvm/clock-stays-in-its-page", clock_stays_in_its_page),
    ("kvm/clock-address-reads-back", clock_address_reads_back),
    ("kvm/clock-disabled-is-not-written", clock_disabled_is_not_written),
    ("kvm/two-pages-tell-the-same-time", two_pages_tell_the_same_time),
    ("kvm/tsc-frequency-agrees", tsc_frequency_agrees),
    ("kvm/wall-clock-is-written", |cx| {
        let (version, seconds, nanoseconds) = wall_clock(cx)?;
        holds(version % 2 == 0, "version", "even", version)?;
        holds(seconds > 1_577_836_800, "seconds since 1970", "behind 2020", seconds)?;
        holds(nanoseconds < 1_000_000_000, "nanoseconds", "below 1000000000", nanoseconds)
    }),
    ("kvm/wall-clock-is-stable", |cx| {
        let time =
            |(_, seconds, nanoseconds): (u32, u32, u32)| u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds);
        let first = time(wall_clock(cx)?);
        wait_until(20_000_000, || false);
        let apart = first.abs_diff(time(wall_clock(cx)?));
        holds(apart < 10_000_000, "nanoseconds between two answers", "fewer than 10000000", apart)
    }),
    ("kvm/old-clock-tells-the-same-time", old_clock_tells_the_same_time),
    ("kvm/old-wall-clock-agrees", old_wall_clock_agrees),
    ("kvm/eoi-address-reads-back", eoi::address_reads_back),
    ("kvm/eoi-word-is-clear-between-interrupts", eoi::clear_between_interrupts),
    ("kvm/eoi-by-the-word-ends-interrupts", eoi::ends_interrupts),
    ("kvm/eoi-disabled-is-not-written", eoi::disabled_is_not_written),
    ("kvm/steal-time-address-reads-back", steal::address_reads_back),
    ("kvm/steal-time-version-is-even", steal::version_is_even),
    ("kvm/steal-time-does-not-go-back", steal::does_not_go_back),
    ("kvm/steal-time-is-no-more-than-time", steal::no_more_than_time),
    ("kvm/steal-time-stays-in-its-structure", steal::stays_in_its_structure),
];

/// Offset of the multiplier in the clock page.
const MUL: usize = core::mem::offset_of!(kvm::ClockPage, tsc_to_system_mul);
const SHIFT: usize = core::mem::offset_of!(kvm::ClockPage, tsc_shift);

/// Registers another clock page while `check` runs.
fn registered<R>(cx: &Context, address: u64, check: impl FnOnce() -> R) -> Result<R, End> {
    here(cx)?;
    if !cx.found.kvm.contains(Features::CLOCKSOURCE2) {
        return Err(skip("KVM offers no clock"));
    }
    // SAFETY: the feature is there, and the address is that of a page of the caller's, who keeps it until KVM has
    // the kernel's own page again.
    unsafe {
        let own = cpu::read_msr(MSR_SYSTEM_TIME);
        cpu::write_msr(MSR_SYSTEM_TIME, address);
        let result = check();
        cpu::write_msr(MSR_SYSTEM_TIME, own);
        Ok(result)
    }
}

fn with_clock(cx: &Context, check: impl FnOnce(&Buf) -> Verdict) -> Verdict {
    let page = buffer()?;
    registered(cx, page.address() | SYSTEM_TIME_ENABLE, || check(&page))?
}

fn clock_stays_in_its_page(cx: &Context) -> Verdict {
    let page = buffer()?;
    page.fill(0xa5);
    let middle = page.part(64, 32);
    middle.fill(0);
    registered(cx, middle.address() | SYSTEM_TIME_ENABLE, || wait_until(5_000_000, || false))?;
    equal("first byte changed before it", None, page.part(0, 64).first_not(0xa5))?;
    equal("first byte changed behind it", None, page.part(96, 160).first_not(0xa5))
}

fn clock_address_reads_back(cx: &Context) -> Verdict {
    let page = buffer()?;
    let value = page.address() | SYSTEM_TIME_ENABLE;
    // SAFETY: the MSR is there: `registered` has written it.
    equal("MSR", value, registered(cx, value, || unsafe { cpu::read_msr(MSR_SYSTEM_TIME) })?)
}

fn clock_disabled_is_not_written(cx: &Context) -> Verdict {
    let page = buffer()?;
    registered(cx, page.address(), || wait_until(10_000_000, || false))?;
    equal("first byte that was written", None, page.part(0, 32).first_not(0))
}

fn nanoseconds(page: &Buf) -> u64 {
    let long = |at: usize| u64::from(page.read32(at + 4)) << 32 | u64::from(page.read32(at));
    let scale = pvops::scale::Scale { mul: page.read32(MUL), shift: page.read8(SHIFT) as i8 };
    long(16).wrapping_add(scale.apply(time::tsc().saturating_sub(long(8))))
}

/// The kernel's own clock hides a step back from its readers, so this looks at the page.
fn never_goes_back(page: &Buf) -> Verdict {
    /// What rounding may cost where KVM moves the parameters.
    const ROUNDING: u64 = 1000;
    let (mut last, mut readings) = (0, 0u32);
    let until = pvops::time::now() + 300_000_000;
    while pvops::time::now() < until {
        let version = page.read32(0);
        fence(Ordering::SeqCst);
        let now = nanoseconds(page);
        fence(Ordering::SeqCst);
        if version & 1 == 0 && page.read32(0) == version {
            holds(now + ROUNDING >= last, "nanoseconds by the page", format_args!("{last} or more"), now)?;
            (last, readings) = (now, readings + 1);
        }
    }
    holds(readings > 100, "readings with a stable version in 300 ms", "more than 100", readings)
}

fn two_pages_tell_the_same_time(cx: &Context) -> Verdict {
    let [first, second] = [0; 2].map(|_| {
        let page = buffer()?;
        registered(cx, page.address() | SYSTEM_TIME_ENABLE, || nanoseconds(&page))
    });
    let (first, second) = (first?, second?);
    let fine = second >= first && second - first < 1_000_000_000;
    holds(fine, "time by the second page", format_args!("{first} or little more"), second)
}

fn tsc_frequency_agrees(cx: &Context) -> Verdict {
    here(cx)?;
    let Some(khz) = cx.found.tsc_khz else { return Err(skip("the hypervisor does not tell it")) };
    with_clock(cx, |page| {
        let scale = pvops::scale::Scale { mul: page.read32(MUL), shift: page.read8(SHIFT) as i8 };
        let saw = scale.apply(u64::from(khz) * 1000);
        let fine = saw.abs_diff(1_000_000_000) < 10_000_000;
        holds(fine, "nanoseconds of a second of TSC ticks", "1000000000 within 1%", saw)
    })
}

/// Version, seconds and nanoseconds of the time of boot.
fn wall_clock(cx: &Context) -> Result<(u32, u32, u32), End> {
    wall_clock_by(cx, Features::CLOCKSOURCE2, MSR_WALL_CLOCK)
}

fn wall_clock_by(cx: &Context, feature: Features, msr: u32) -> Result<(u32, u32, u32), End> {
    offered(cx, feature)?;
    let page = buffer()?;
    // SAFETY: the feature is there; KVM writes the page once, before the write returns.
    unsafe { cpu::write_msr(msr, page.address()) };
    Ok((page.read32(0), page.read32(4), page.read32(8)))
}

fn old_clock_tells_the_same_time(cx: &Context) -> Verdict {
    offered(cx, Features::CLOCKSOURCE)?;
    let (new, old) = (buffer()?, buffer()?);
    let by_new = registered(cx, new.address() | SYSTEM_TIME_ENABLE, || nanoseconds(&new))?;
    // SAFETY: the feature is there; both MSRs are the same registration, which goes back to the kernel's own page.
    let by_old = unsafe {
        let own = cpu::read_msr(MSR_SYSTEM_TIME);
        cpu::write_msr(MSR_SYSTEM_TIME_OLD, old.address() | SYSTEM_TIME_ENABLE);
        let time = nanoseconds(&old);
        cpu::write_msr(MSR_SYSTEM_TIME_OLD, 0);
        cpu::write_msr(MSR_SYSTEM_TIME, own);
        time
    };
    // The old pair may switch KVM to another way of keeping time, which steps where the TSC is not stable.
    let fine = by_old.abs_diff(by_new) < 1_000_000_000;
    holds(fine, "time by the old MSR", format_args!("within a second of {by_new}"), by_old)
}

fn old_wall_clock_agrees(cx: &Context) -> Verdict {
    let seconds = |(_, seconds, _): (u32, u32, u32)| seconds;
    let old = seconds(wall_clock_by(cx, Features::CLOCKSOURCE, MSR_WALL_CLOCK_OLD)?);
    let new = seconds(wall_clock(cx)?);
    holds(old.abs_diff(new) <= 1, "seconds by the old MSR", format_args!("{new} within 1"), old)
}
