//! KVM's steal time: how long this CPU was ready while the host ran something else.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::kvm_features::{buffer, offered},
    crate::support::raw::{Buf, wait_until},
    crate::support::{Context, Verdict, equal, holds},
    code::*,
    pvops::{cpu, time},
    shared_abi::kvm::{Features, MSR_STEAL_TIME, STEAL_TIME_ENABLE},
};

const STEAL: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "kvm/steal-time-address-reads-back",
        rule: "The MSR reads as it was written",
        clause: STEAL,
        method: "Write address and enable bit, read",
        expectation: "As written",
        run: |cx| {
            let page = buffer()?;
            let value = page.address() | STEAL_TIME_ENABLE;
            // SAFETY: the feature is there.
            with(cx, &page, || equal("MSR", value, unsafe { cpu::read_msr(MSR_STEAL_TIME) }))
        },
    },
    Check {
        name: "kvm/steal-time-version-is-even",
        rule: "The version is odd only while the host writes",
        clause: STEAL,
        method: "Read it 20 times between halts",
        expectation: "Even",
        run: |cx| {
            let page = buffer()?;
            with(cx, &page, || {
                (0..20).try_for_each(|_| {
                    wait_until(500_000, || false);
                    equal("lowest bit of the version", 0, page.read32(8) & 1)
                })
            })
        },
    },
    Check {
        name: "kvm/steal-time-does-not-go-back",
        rule: "The count does not decrease",
        clause: STEAL,
        method: "100 readings between halts",
        expectation: "Each is at least the one before",
        run: |cx| {
            let page = buffer()?;
            with(cx, &page, || {
                let mut last = stolen(&page);
                (0..100).try_for_each(|_| {
                    wait_until(500_000, || false);
                    let now = stolen(&page);
                    holds(now >= last, "nanoseconds stolen", format_args!("{last} or more"), now)?;
                    last = now;
                    Ok(())
                })
            })
        },
    },
    Check {
        name: "kvm/steal-time-is-no-more-than-time",
        rule: "Only time that has passed was stolen",
        clause: STEAL,
        method: "Spin for 50 ms of the clock",
        expectation: "No more than these and 10 ms",
        run: |cx| {
            let page = buffer()?;
            with(cx, &page, || {
                // The first entry after the registration reports what was stolen before.
                wait_until(1_000_000, || false);
                let (start, before) = (time::now(), stolen(&page));
                while time::now() < start + 50_000_000 {
                    pvops::smp::relax();
                }
                let (passed, took) = (time::now() - start, stolen(&page) - before);
                cx.did(format_args!("{took} ns stolen of {passed}"));
                // What was stolen right before may be reported only now.
                let most = passed + 10_000_000;
                holds(took <= most, "nanoseconds stolen", format_args!("{most} at most"), took)
            })
        },
    },
    Check {
        name: "kvm/steal-time-stays-in-its-structure",
        rule: "The host writes 64 bytes, flags zero",
        clause: STEAL,
        method: "Surround the structure with 0xa5",
        expectation: "The surroundings stay; flags 0",
        run: |cx| {
            let page = buffer()?;
            page.fill(0xa5);
            let structure = page.part(64, 64);
            structure.fill(0);
            with(cx, &structure, || {
                wait_until(5_000_000, || false);
                equal("flags", 0, structure.read32(12))?;
                equal("first byte changed before it", None, page.part(0, 64).first_not(0xa5))?;
                equal("first byte changed after it", None, page.part(128, 128).first_not(0xa5))
            })
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Registers a structure while `check` runs.
    pub fn with(cx: &Context, structure: &Buf, check: impl FnOnce() -> Verdict) -> Verdict {
        offered(cx, Features::STEAL_TIME)?;
        // SAFETY: the feature is there; the structure is the caller's, aligned, and lives until the MSR is put back.
        unsafe {
            let before = cpu::read_msr(MSR_STEAL_TIME);
            cpu::write_msr(MSR_STEAL_TIME, structure.address() | STEAL_TIME_ENABLE);
            let verdict = check();
            cpu::write_msr(MSR_STEAL_TIME, before);
            verdict
        }
    }

    /// A consistent reading.
    pub fn stolen(structure: &Buf) -> u64 {
        loop {
            let version = structure.read32(8);
            let steal = u64::from(structure.read32(4)) << 32 | u64::from(structure.read32(0));
            if version & 1 == 0 && structure.read32(8) == version {
                return steal;
            }
            pvops::smp::relax();
        }
    }
}
