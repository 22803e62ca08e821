//! The clock and the one-shot timer. Times are nanoseconds since an arbitrary start.

use crate::site::calling;

/// The time. Never goes back.
pub fn now() -> u64 {
    let value;
    // SAFETY: reading the clock has no effect.
    unsafe { calling!(time.now => value) };
    value
}

/// Asks for one timer interrupt at `deadline`, at once if that has passed; replaces the deadline before.
pub fn set_timer(deadline: u64) {
    // SAFETY: the timer vector has a handler before interrupts are first enabled.
    unsafe { calling!(time.set_timer, "rdi" = deadline) };
}

/// No timer interrupt.
pub const NEVER: u64 = u64::MAX;

/// The time stamp counter. Every world lets the kernel read it.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: no world that we run in traps it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
