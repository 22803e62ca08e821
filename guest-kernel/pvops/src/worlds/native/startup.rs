//! Starting CPUs and interrupting them in the native worlds, by commands of the local APIC (Intel SDM volume 3, "MP
//! Initialization Protocol" and "Issuing Interprocessor Interrupts").

use super::apic::local;
use crate::types::Start;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use volatile::VolatilePtr;

/// Commands: delivery mode and level.
const INIT: u32 = 0b101 << 8 | ASSERT;
const STARTUP: u32 = 0b110 << 8 | ASSERT;
const ASSERT: u32 = 1 << 14;
/// Nanoseconds from INIT to the first startup command, and to the second.
const AFTER_INIT: u64 = 10_000_000;
const AFTER_STARTUP: u64 = 200_000;

/// Answers of `start_cpu`.
const ASKED: u64 = 0;
const NO_TRAMPOLINE: u64 = 1;
const NO_SUCH_CPU: u64 = 2;

/// Physical page number of the trampoline; 0 before there is one.
static PAGE: AtomicU32 = AtomicU32::new(0);
/// Where its code looks for what to do.
static MAILBOX: AtomicPtr<Start> = AtomicPtr::new(core::ptr::null_mut());

/// Tells where CPUs start: a page below 1 MiB whose real-mode code goes on as `mailbox` says.
///
/// # Safety
/// The page holds such code, and both are used for this alone.
pub unsafe fn set_trampoline(page: u8, mailbox: *mut Start) {
    MAILBOX.store(mailbox, Ordering::Relaxed);
    PAGE.store(page.into(), Ordering::Release);
}

pub(crate) unsafe extern "sysv64" fn start_cpu(cpu: u32, start: *const Start) -> u64 {
    let page = PAGE.load(Ordering::Acquire);
    if page == 0 || !local::is_there() {
        return NO_TRAMPOLINE;
    }
    if !local::can_reach(cpu) {
        return NO_SUCH_CPU;
    }
    let Some(mailbox) = NonNull::new(MAILBOX.load(Ordering::Relaxed)) else { return NO_TRAMPOLINE };
    // SAFETY: `set_trampoline`'s contract for the mailbox, that of `smp::start_cpu` for the rest: no CPU reads it now.
    unsafe { VolatilePtr::new(mailbox).write(*start) };
    local::command(cpu, INIT);
    wait(AFTER_INIT);
    local::command(cpu, STARTUP | page);
    wait(AFTER_STARTUP);
    // A CPU that has started ignores the second one.
    local::command(cpu, STARTUP | page);
    ASKED
}

pub(crate) unsafe extern "sysv64" fn send_ipi(cpu: u32, vector: u32) {
    if local::is_there() && local::can_reach(cpu) {
        local::command(cpu, ASSERT | vector & 0xff);
    }
}

fn wait(nanoseconds: u64) {
    let end = crate::ops::time::now() + nanoseconds;
    while crate::ops::time::now() < end {
        crate::ops::smp::relax();
    }
}
