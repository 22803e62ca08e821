//! KVM's paravirtual end of interrupt: a word in which the host sets a bit, which the guest clears instead of writing the
//! local APIC's register. The kernel's own word is registered since boot; `pvops` ends interrupts by it.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::kvm_features::{buffer, offered},
    crate::support::raw::wait_until,
    crate::support::second_cpu,
    crate::support::{equal, holds, skip},
    code::*,
    guest_kernel::trap::irq,
    pvops::worlds::kvm,
    pvops::{cpu, time},
    shared_abi::kvm::{Features, MSR_PV_EOI, PV_EOI_ENABLE},
};

const EOI: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_EOI_EN";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "kvm/eoi-address-reads-back",
        rule: "The MSR reads as it was written",
        clause: EOI,
        method: "Write address and enable bit, read",
        expectation: "As written",
        run: |cx| {
            offered(cx, Features::PV_EOI)?;
            let word = buffer()?;
            let value = word.address() | PV_EOI_ENABLE;
            // SAFETY: the feature is there.
            equal("MSR", value, registered(value, || unsafe { cpu::read_msr(MSR_PV_EOI) }))
        },
    },
    Check {
        name: "kvm/eoi-word-is-clear-between-interrupts",
        rule: "The host sets the bit only for an interrupt in service",
        clause: EOI,
        method: "200 interrupts, then look at the word 1000 times in a task",
        expectation: "Bit 0 clear",
        run: |cx| {
            offered(cx, Features::PV_EOI)?;
            interrupts()?;
            for _ in 0..1000 {
                let flags = pvops::irq::save();
                let word = kvm::eoi_word();
                // SAFETY: the flags of a moment ago; no lock is held.
                unsafe { pvops::irq::restore(flags) };
                equal("bit 0 with no interrupt in service", 0, word & 1)?;
            }
            Ok(())
        },
    },
    Check {
        name: "kvm/eoi-by-the-word-ends-interrupts",
        rule: "Clearing the bit ends the interrupt",
        clause: EOI,
        method: "200 interrupts of one vector, one at a time; each is ended by the word where the host set the bit",
        expectation: "Each comes; skipped where none was ended by the word",
        run: |cx| {
            offered(cx, Features::PV_EOI)?;
            let saved = interrupts()?;
            cx.did(format_args!("{saved} of {INTERRUPTS} interrupts ended by the word"));
            // A host whose processor virtualizes the local APIC never sets the bit.
            if saved == 0 { Err(skip("the host let no interrupt end by the word")) } else { Ok(()) }
        },
    },
    Check {
        name: "kvm/eoi-disabled-is-not-written",
        rule: "A word that is registered no more is not written",
        clause: EOI,
        method: "Register a word, register another, take 200 interrupts",
        expectation: "The first stays clear",
        run: |cx| {
            offered(cx, Features::PV_EOI)?;
            let word = buffer()?;
            registered(word.address() | PV_EOI_ENABLE, || ());
            interrupts()?;
            let end = time::now() + 5_000_000;
            wait_until(5_000_000, || time::now() > end);
            equal("first byte that was written", None, word.first_not(0))
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const INTERRUPTS: u64 = 200;

    /// Registers another word while `check` runs, with interrupts off: nothing would clear it.
    pub fn registered<R>(value: u64, check: impl FnOnce() -> R) -> R {
        let flags = pvops::irq::save();
        // SAFETY: the callers have seen the feature; the word is theirs until the kernel's own is registered again. No
        // interrupt is in service in a task.
        let result = unsafe {
            let own = cpu::read_msr(MSR_PV_EOI);
            cpu::write_msr(MSR_PV_EOI, value);
            let result = check();
            cpu::write_msr(MSR_PV_EOI, own);
            result
        };
        // SAFETY: the flags of a moment ago; no lock is held.
        unsafe { pvops::irq::restore(flags) };
        result
    }

    /// Interrupts this CPU by itself, one at a time; how many ended by the word.
    pub fn interrupts() -> Result<u64, crate::support::End> {
        let (event, vector) = second_cpu::vector()?;
        let saved = kvm::ends_saved();
        for n in 0..INTERRUPTS {
            let before = irq::count_of(event);
            // SAFETY: the vector has an event; this CPU runs.
            unsafe { pvops::smp::send_ipi(pvops::smp::cpu(), vector) };
            let came = wait_until(1_000_000_000, || irq::count_of(event) != before);
            holds(came, "interrupts that came, each after the end of the one before", INTERRUPTS, n)?;
        }
        Ok(kvm::ends_saved() - saved)
    }
}
