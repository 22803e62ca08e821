//! KVM's paravirtual end of interrupt: a word in which the host sets a bit, which the guest clears instead of writing the
//! local APIC's register. The kernel's own word is registered since boot; `pvops` ends interrupts by it.

use super::kvm_features::{buffer, offered};
use super::raw::wait_until;
use super::{Context, Verdict, equal, holds, skip, smp};
use guest_kernel::trap::irq;
use pvops::worlds::kvm;
use pvops::{cpu, time};
use shared_abi::kvm::{Features, MSR_PV_EOI, PV_EOI_ENABLE};

const INTERRUPTS: u64 = 200;

/// Registers another word while `check` runs, with interrupts off: nobody would clear it.
fn registered<R>(value: u64, check: impl FnOnce() -> R) -> R {
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

pub fn address_reads_back(cx: &Context) -> Verdict {
    offered(cx, Features::PV_EOI)?;
    let word = buffer()?;
    let value = word.address() | PV_EOI_ENABLE;
    // SAFETY: the feature is there.
    equal("MSR", value, registered(value, || unsafe { cpu::read_msr(MSR_PV_EOI) }))
}

/// Interrupts this CPU by itself, one at a time; how many ended by the word.
fn interrupts() -> Result<u64, super::End> {
    let (event, vector) = smp::vector()?;
    let saved = kvm::ends_saved();
    for n in 0..INTERRUPTS {
        let before = irq::count_of(event);
        // SAFETY: the vector has an event; this CPU runs.
        unsafe { pvops::smp::send_ipi(pvops::smp::cpu(), vector) };
        let came = wait_until(1_000_000_000, || irq::count_of(event) != before);
        holds(came, "interrupts that came, each behind the end of the one before", INTERRUPTS, n)?;
    }
    Ok(kvm::ends_saved() - saved)
}

pub fn ends_interrupts(cx: &Context) -> Verdict {
    offered(cx, Features::PV_EOI)?;
    let saved = interrupts()?;
    cx.did(format_args!("{saved} of {INTERRUPTS} interrupts ended by the word"));
    // A host whose processor virtualizes the local APIC never sets the bit.
    if saved == 0 { Err(skip("the host let no interrupt end by the word")) } else { Ok(()) }
}

pub fn clear_between_interrupts(cx: &Context) -> Verdict {
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
}

pub fn disabled_is_not_written(cx: &Context) -> Verdict {
    offered(cx, Features::PV_EOI)?;
    let word = buffer()?;
    registered(word.address() | PV_EOI_ENABLE, || ());
    interrupts()?;
    let end = time::now() + 5_000_000;
    wait_until(5_000_000, || time::now() > end);
    equal("first byte that was written", None, word.first_not(0))
}
