//! The world `kvm`: `native`, with KVM's clock where it is offered. Interrupts and page tables stay instructions: with
//! hardware help those cost no exit, so a hypercall could only be slower.

use crate::native;
use crate::table::{Backend, Ops, TimeOps};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
use shared_abi::kvm::{ClockPage, MSR_SYSTEM_TIME, SYSTEM_TIME_ENABLE};

/// The backend of this world.
pub static BACKEND: Backend = Backend { name: "kvm", ops: OPS, templates: native::TEMPLATES };

const OPS: Ops = Ops { time: TimeOps { now: Some(now), ..native::OPS.time }, ..native::OPS };

static CLOCK: AtomicPtr<ClockPage> = AtomicPtr::new(core::ptr::null_mut());
static LAST: AtomicU64 = AtomicU64::new(0);

/// Gives KVM the page to write the time to, and returns the TSC frequency that follows from it.
///
/// # Safety
/// `address` is the guest physical address of `page`, which nothing else uses and which lives for ever; the feature
/// CLOCKSOURCE2 is there.
pub unsafe fn start_clock(page: &'static mut ClockPage, address: u64) -> native::Scale {
    let page = &raw mut *page;
    // SAFETY: the MSR exists with the feature; KVM writes the page before the write returns.
    unsafe { crate::cpu::write_msr(MSR_SYSTEM_TIME, address | SYSTEM_TIME_ENABLE) };
    CLOCK.store(page, Ordering::Release);
    let clock = read(page);
    native::Scale { mul: clock.tsc_to_system_mul, shift: clock.tsc_shift }
}

/// A consistent copy of the page.
fn read(page: *const ClockPage) -> ClockPage {
    loop {
        // SAFETY: the page is mapped for ever; the host may change it at any time, hence volatile and the version check.
        let before = unsafe { (&raw const (*page).version).read_volatile() };
        fence(Ordering::Acquire);
        // SAFETY: as above.
        let copy = unsafe { page.read_volatile() };
        fence(Ordering::Acquire);
        // SAFETY: as above.
        let after = unsafe { (&raw const (*page).version).read_volatile() };
        if before == after && before & 1 == 0 {
            return copy;
        }
        crate::smp::relax();
    }
}

/// The time by a clock page, as its host means it.
///
/// # Safety
/// The page is mapped, and KVM writes it for this CPU.
pub unsafe fn time_of(page: *const ClockPage) -> u64 {
    let clock = read(page);
    let scale = native::Scale { mul: clock.tsc_to_system_mul, shift: clock.tsc_shift };
    clock.system_time.wrapping_add(scale.apply(crate::time::tsc().saturating_sub(clock.tsc_timestamp)))
}

unsafe extern "sysv64" fn now() -> u64 {
    let page = CLOCK.load(Ordering::Acquire);
    if page.is_null() {
        return 0;
    }
    // SAFETY: `start_clock`'s page lives for ever.
    let time = unsafe { time_of(page) };
    // A host that moves the parameters may set the clock back by a tick; readers must not see it.
    LAST.fetch_max(time, Ordering::Relaxed).max(time)
}
