//! The world `kvm`: `native`, with KVM's clock where it is offered, and with interrupts that KVM lets end by a store. All
//! else stays instructions: with hardware help those cost no exit, so a hypercall could only be slower.

use crate::native;
use crate::table::{Backend, EventOps, Ops, TimeOps};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
use shared_abi::kvm::{ClockPage, MSR_PV_EOI, MSR_SYSTEM_TIME, PV_EOI_ENABLE, SYSTEM_TIME_ENABLE};

/// The backend of this world.
pub static BACKEND: Backend = Backend { name: "kvm", ops: OPS, templates: native::TEMPLATES };

const OPS: Ops = Ops {
    time: TimeOps { now: Some(now), ..native::OPS.time },
    event: EventOps { end: Some(end), ..native::OPS.event },
    ..native::OPS
};

/// Tells KVM where the word of this CPU is by which interrupts may be ended; the CPU's local APIC is open. Each end that
/// KVM allows so saves an exit.
///
/// # Safety
/// `physical` translates the address of a static of this crate to a guest physical one; the feature PV_EOI is there.
pub unsafe fn start_eoi(physical: impl FnOnce(usize) -> u64) {
    let address = physical(crate::percpu::eoi_word().addr());
    // SAFETY: the MSR exists with the feature; the word is this CPU's and lives for ever.
    unsafe { crate::cpu::write_msr(MSR_PV_EOI, address | PV_EOI_ENABLE) };
}

/// Interrupts that this CPU has ended without the local APIC.
pub fn ends_saved() -> u64 {
    crate::percpu::ends_saved()
}

/// The word of the first CPU as it is now.
pub fn eoi_word() -> u32 {
    // SAFETY: a static; the host may change it, hence volatile.
    unsafe { crate::percpu::eoi_word().read_volatile() }
}

/// The target of a hot site: changes the flags and RAX only. Without a lock: KVM writes the word only while this CPU is not
/// in the guest. Where the feature is off the bit is never set.
#[unsafe(naked)]
unsafe extern "sysv64" fn end() {
    naked_asm!(
        "btr dword ptr gs:[{word}], 0",
        "jc 2f",
        "jmp {write}",
        "2: inc qword ptr gs:[{saved}]",
        "ret",
        word = const offset_of!(crate::percpu::PerCpu, eoi),
        saved = const offset_of!(crate::percpu::PerCpu, ends_saved),
        write = sym crate::apic::end,
    )
}

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
