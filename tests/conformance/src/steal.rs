//! KVM's steal time: how long this CPU was ready while the host ran something else.

use super::kvm_features::{buffer, offered};
use super::raw::{Buf, wait_until};
use super::{Context, Verdict, equal, holds};
use pvops::{cpu, time};
use shared_abi::kvm::{Features, MSR_STEAL_TIME, STEAL_TIME_ENABLE};

/// Registers a structure while `check` runs.
fn with(cx: &Context, structure: &Buf, check: impl FnOnce() -> Verdict) -> Verdict {
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
fn stolen(structure: &Buf) -> u64 {
    loop {
        let version = structure.read32(8);
        let steal = u64::from(structure.read32(4)) << 32 | u64::from(structure.read32(0));
        if version & 1 == 0 && structure.read32(8) == version {
            return steal;
        }
        pvops::smp::relax();
    }
}

pub fn address_reads_back(cx: &Context) -> Verdict {
    let page = buffer()?;
    let value = page.address() | STEAL_TIME_ENABLE;
    // SAFETY: the feature is there.
    with(cx, &page, || equal("MSR", value, unsafe { cpu::read_msr(MSR_STEAL_TIME) }))
}

pub fn version_is_even(cx: &Context) -> Verdict {
    let page = buffer()?;
    with(cx, &page, || {
        (0..20).try_for_each(|_| {
            wait_until(500_000, || false);
            equal("lowest bit of the version", 0, page.read32(8) & 1)
        })
    })
}

pub fn does_not_go_back(cx: &Context) -> Verdict {
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
}

pub fn no_more_than_time(cx: &Context) -> Verdict {
    let page = buffer()?;
    with(cx, &page, || {
        // The first entry behind the registration tells what was stolen before.
        wait_until(1_000_000, || false);
        let (start, before) = (time::now(), stolen(&page));
        while time::now() < start + 50_000_000 {
            pvops::smp::relax();
        }
        let (passed, took) = (time::now() - start, stolen(&page) - before);
        cx.did(format_args!("{took} ns stolen of {passed}"));
        // What was stolen right before may be told only now.
        let most = passed + 10_000_000;
        holds(took <= most, "nanoseconds stolen", format_args!("{most} at most"), took)
    })
}

pub fn stays_in_its_structure(cx: &Context) -> Verdict {
    let page = buffer()?;
    page.fill(0xa5);
    let structure = page.part(64, 64);
    structure.fill(0);
    with(cx, &structure, || {
        wait_until(5_000_000, || false);
        equal("flags", 0, structure.read32(12))?;
        equal("first byte changed before it", None, page.part(0, 64).first_not(0xa5))?;
        equal("first byte changed behind it", None, page.part(128, 128).first_not(0xa5))
    })
}
