//! KVM's paravirtual interface: CPUID leaves, the clock page, the wall clock.
//!
//! The kernel's own clock page is left registered after each check; meanwhile it goes on by its last parameters.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::kvm_features::{buffer, here, offered},
    crate::support::raw::{Buf, wait_until},
    crate::support::{Context, End, Verdict, equal, holds, skip},
    code::*,
    core::arch::x86_64::__cpuid,
    core::sync::atomic::{Ordering, fence},
    pvops::{cpu, time},
    shared_abi::kvm::{
        self, CLOCK_TSC_STABLE, CPUID_1_ECX_HYPERVISOR, CPUID_FEATURES, CPUID_FIRST, CPUID_SIGNATURE, Features,
        MSR_SYSTEM_TIME, MSR_SYSTEM_TIME_OLD, MSR_WALL_CLOCK, MSR_WALL_CLOCK_OLD, SYSTEM_TIME_ENABLE,
    },
};

const KVM_CLOCK: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW";
const WALL_CLOCK: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_WALL_CLOCK_NEW";
const CPUID: &str = "Linux Documentation/virt/kvm/x86/cpuid.rst";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "kvm/hypervisor-bit-is-set",
        rule: "CPUID says that there is a hypervisor",
        clause: CPUID,
        method: "Bit 31 of ECX of leaf 1",
        expectation: "Set",
        run: |cx| {
            // The kernel looks for hypervisors only where the bit is set: this asks for itself.
            let leaf = __cpuid(CPUID_FIRST);
            let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
            if signature.as_flattened() != CPUID_SIGNATURE {
                return here(cx).and_then(|()| Err(skip("the first interface is not KVM's")));
            }
            holds(__cpuid(1).ecx & CPUID_1_ECX_HYPERVISOR != 0, "bit 31 of ECX of leaf 1", 1, 0)
        },
    },
    Check {
        name: "kvm/base-leaf-covers-features",
        rule: "The base leaf names the highest leaf",
        clause: CPUID,
        method: "EAX of the base leaf",
        expectation: "0, or from the feature leaf on",
        run: |cx| {
            here(cx)?;
            let highest = __cpuid(CPUID_FIRST).eax;
            let fine = highest == 0 || highest > CPUID_FIRST;
            holds(fine, "highest leaf", "0, or from 0x40000001 on", format_args!("{highest:#x}"))
        },
    },
    Check {
        name: "kvm/clock-is-offered",
        rule: "The clock MSRs are announced",
        clause: CPUID,
        method: "Bit 3 of the feature leaf",
        expectation: "Set",
        level: Should,
        run: |cx| {
            here(cx)?;
            let features = __cpuid(CPUID_FIRST + CPUID_FEATURES).eax;
            holds(features & Features::CLOCKSOURCE2.bits() != 0, "features", "bit 3", format_args!("{features:#x}"))
        },
    },
    Check {
        name: "kvm/clock-page-is-written",
        rule: "The page is filled before the write of the MSR returns",
        clause: KVM_CLOCK,
        method: "Register a page, read it",
        expectation: "A multiplier other than 0, an even version other than 0",
        run: |cx| {
            with_clock(cx, |page| {
                let (version, mul) = (page.read32(0), page.read32(MUL));
                holds(mul != 0, "multiplier", "not 0", mul)?;
                holds(version != 0 && version % 2 == 0, "version", "even, not 0", version)
            })
        },
    },
    Check {
        name: "kvm/clock-version-is-even",
        rule: "The version is odd only while the host writes",
        clause: KVM_CLOCK,
        method: "Read it 2000 times",
        expectation: "Even",
        run: |cx| with_clock(cx, |page| (0..2000).try_for_each(|_| equal(
            "lowest bit of the version",
            0,
            page.read32(0) & 1
        ))),
    },
    Check {
        name: "kvm/clock-padding-is-zero",
        rule: "Reserved fields are zero",
        clause: KVM_CLOCK,
        method: "Register a page full of zeroes, read pad0 and pad",
        expectation: "Zero",
        run: |cx| {
            with_clock(cx, |page| {
                equal("pad0", 0, page.read32(4))?;
                equal("pad", 0, page.read16(30))
            })
        },
    },
    Check {
        name: "kvm/clock-flags-are-known",
        rule: "Flags are announced by CPUID",
        clause: KVM_CLOCK,
        method: "Read flags",
        expectation: "Bits 0 and 1 only; bit 0 only if CLOCKSOURCE_STABLE is offered",
        run: |cx| {
            let stable = cx.found.kvm.contains(Features::CLOCKSOURCE_STABLE);
            with_clock(cx, |page| {
                let flags = page.read8(29);
                equal("flags without bits 0 and 1", 0, flags & !3)?;
                holds(stable || flags & CLOCK_TSC_STABLE == 0, "flags without CLOCKSOURCE_STABLE", 0, flags)
            })
        },
    },
    Check {
        name: "kvm/clock-stamp-is-not-ahead",
        rule: "tsc_timestamp is a TSC of the past",
        clause: KVM_CLOCK,
        method: "Compare it with the TSC",
        expectation: "Not later",
        run: |cx| {
            with_clock(cx, |page| {
                let (stamp, tsc) = (u64::from(page.read32(12)) << 32 | u64::from(page.read32(8)), time::tsc());
                holds(stamp <= tsc, "tsc_timestamp", format_args!("{tsc} or less"), stamp)
            })
        },
    },
    Check {
        name: "kvm/clock-page-never-goes-back",
        rule: "The page's time does not go back on one vCPU",
        clause: KVM_CLOCK,
        method: "Register a page of our own, compute the time from it for 300 ms, with the version even and unchanged",
        expectation: "No reading more than a microsecond below the one before",
        run: |cx| with_clock(cx, never_goes_back),
    },
    Check {
        name: "kvm/clock-stays-in-its-page",
        rule: "The host writes 32 bytes",
        clause: KVM_CLOCK,
        method: "Surround the structure with 0xa5",
        expectation: "The surroundings stay",
        run: |cx| {
            let page = buffer()?;
            page.fill(0xa5);
            let middle = page.part(64, 32);
            middle.fill(0);
            registered(cx, middle.address() | SYSTEM_TIME_ENABLE, || wait_until(5_000_000, || false))?;
            equal("first byte changed before it", None, page.part(0, 64).first_not(0xa5))?;
            equal("first byte changed after it", None, page.part(96, 160).first_not(0xa5))
        },
    },
    Check {
        name: "kvm/clock-address-reads-back",
        rule: "The MSR reads as it was written",
        clause: KVM_CLOCK,
        method: "Write address and enable bit, read",
        expectation: "As written",
        run: |cx| {
            let page = buffer()?;
            let value = page.address() | SYSTEM_TIME_ENABLE;
            // SAFETY: the MSR is there: `registered` has written it.
            equal("MSR", value, registered(cx, value, || unsafe { cpu::read_msr(MSR_SYSTEM_TIME) })?)
        },
    },
    Check {
        name: "kvm/clock-disabled-is-not-written",
        rule: "With bit 0 clear the host writes no more",
        clause: KVM_CLOCK,
        method: "Disable, clear the page, wait 10 ms",
        expectation: "The page stays clear",
        run: |cx| {
            let page = buffer()?;
            registered(cx, page.address(), || wait_until(10_000_000, || false))?;
            equal("first byte that was written", None, page.part(0, 32).first_not(0))
        },
    },
    Check {
        name: "kvm/two-pages-tell-the-same-time",
        rule: "Each registration continues the same clock",
        clause: KVM_CLOCK,
        method: "Read the time by two pages, one after the other",
        expectation: "The second is later, by less than 1 s",
        run: |cx| {
            let [first, second] = [0; 2].map(|_| {
                let page = buffer()?;
                registered(cx, page.address() | SYSTEM_TIME_ENABLE, || nanoseconds(&page))
            });
            let (first, second) = (first?, second?);
            let fine = second >= first && second - first < 1_000_000_000;
            holds(fine, "time by the second page", format_args!("{first} or little more"), second)
        },
    },
    Check {
        name: "kvm/tsc-frequency-agrees",
        rule: "Leaf 0x40000010 has the TSC frequency",
        clause: CPUID,
        method: "Compare EAX with the scale in the clock page",
        expectation: "Within 1 percent",
        run: |cx| {
            here(cx)?;
            let Some(khz) = cx.found.tsc_khz else { return Err(skip("the hypervisor does not report it")) };
            with_clock(cx, |page| {
                let scale = pvops::scale::Scale { mul: page.read32(MUL), shift: page.read8(SHIFT) as i8 };
                let saw = scale.apply(u64::from(khz) * 1000);
                let fine = saw.abs_diff(1_000_000_000) < 10_000_000;
                holds(fine, "nanoseconds of a second of TSC ticks", "1000000000 within 1%", saw)
            })
        },
    },
    Check {
        name: "kvm/wall-clock-is-written",
        rule: "The wall clock is filled when its MSR is written",
        clause: WALL_CLOCK,
        method: "Register an address, read",
        expectation: "An even version, a time after 2020, nanoseconds below 10^9",
        run: |cx| {
            let (version, seconds, nanoseconds) = wall_clock(cx)?;
            holds(version % 2 == 0, "version", "even", version)?;
            holds(seconds > 1_577_836_800, "seconds since 1970", "after 2020", seconds)?;
            holds(nanoseconds < 1_000_000_000, "nanoseconds", "below 1000000000", nanoseconds)
        },
    },
    Check {
        name: "kvm/wall-clock-is-stable",
        rule: "The time of boot does not change",
        clause: WALL_CLOCK,
        method: "Ask twice, 20 ms apart",
        expectation: "Within 10 ms of each other",
        run: |cx| {
            let time = |(_, seconds, nanoseconds): (u32, u32, u32)| {
                u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds)
            };
            let first = time(wall_clock(cx)?);
            wait_until(20_000_000, || false);
            let apart = first.abs_diff(time(wall_clock(cx)?));
            holds(apart < 10_000_000, "nanoseconds between two answers", "fewer than 10000000", apart)
        },
    },
    Check {
        name: "kvm/old-clock-tells-the-same-time",
        rule: "The old MSR pair is the same clock",
        clause: "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME",
        method: "Read the time by MSR 0x4b564d01, then by MSR 0x12",
        expectation: "Less than 1 s apart",
        run: |cx| {
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
        },
    },
    Check {
        name: "kvm/old-wall-clock-agrees",
        rule: "The old MSR pair is the same clock",
        clause: "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_WALL_CLOCK",
        method: "Ask by MSR 0x11 and by MSR 0x4b564d00",
        expectation: "Within 1 s of each other",
        run: |cx| {
            let seconds = |(_, seconds, _): (u32, u32, u32)| seconds;
            let old = seconds(wall_clock_by(cx, Features::CLOCKSOURCE, MSR_WALL_CLOCK_OLD)?);
            let new = seconds(wall_clock(cx)?);
            holds(old.abs_diff(new) <= 1, "seconds by the old MSR", format_args!("{new} within 1"), old)
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Offset of the multiplier in the clock page.
    pub const MUL: usize = core::mem::offset_of!(kvm::ClockPage, tsc_to_system_mul);

    pub const SHIFT: usize = core::mem::offset_of!(kvm::ClockPage, tsc_shift);

    /// Registers another clock page while `check` runs.
    pub fn registered<R>(cx: &Context, address: u64, check: impl FnOnce() -> R) -> Result<R, End> {
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

    pub fn with_clock(cx: &Context, check: impl FnOnce(&Buf) -> Verdict) -> Verdict {
        let page = buffer()?;
        registered(cx, page.address() | SYSTEM_TIME_ENABLE, || check(&page))?
    }

    pub fn nanoseconds(page: &Buf) -> u64 {
        let long = |at: usize| u64::from(page.read32(at + 4)) << 32 | u64::from(page.read32(at));
        let scale = pvops::scale::Scale { mul: page.read32(MUL), shift: page.read8(SHIFT) as i8 };
        long(16).wrapping_add(scale.apply(time::tsc().saturating_sub(long(8))))
    }

    /// The kernel's own clock hides a step back from its readers, so this looks at the page.
    pub fn never_goes_back(page: &Buf) -> Verdict {
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

    /// Version, seconds and nanoseconds of the time of boot.
    pub fn wall_clock(cx: &Context) -> Result<(u32, u32, u32), End> {
        wall_clock_by(cx, Features::CLOCKSOURCE2, MSR_WALL_CLOCK)
    }

    pub fn wall_clock_by(cx: &Context, feature: Features, msr: u32) -> Result<(u32, u32, u32), End> {
        offered(cx, feature)?;
        let page = buffer()?;
        // SAFETY: the feature is there; KVM writes the page once, before the write returns.
        unsafe { cpu::write_msr(msr, page.address()) };
        Ok((page.read32(0), page.read32(4), page.read32(8)))
    }
}
