//! The interrupt flag.

use crate::site::hot;
use crate::table::Flags;

/// Turns interrupts off and returns what they were, for [`restore`].
#[inline(always)]
#[must_use]
pub fn save() -> Flags {
    let flags;
    // SAFETY: turning interrupts off cannot break memory safety; the asm is a compiler barrier.
    unsafe { hot!(irq.save => flags) };
    flags
}

/// Puts the interrupt flag back.
///
/// # Safety
/// `flags` comes from [`save`], and no lock that interrupt handlers take is held.
#[inline(always)]
pub unsafe fn restore(flags: Flags) {
    // SAFETY: per the contract.
    unsafe { hot!(irq.restore, "rdi" = flags) };
}

/// Turns interrupts off.
#[inline(always)]
pub fn disable() {
    // SAFETY: as in `save`.
    unsafe { hot!(irq.disable) };
}

/// Turns interrupts on.
///
/// # Safety
/// The handlers are set up, and no lock that they take is held.
#[inline(always)]
pub unsafe fn enable() {
    // SAFETY: per the contract.
    unsafe { hot!(irq.enable) };
}

/// Turns interrupts on and waits for one. One that became pending while interrupts were off ends the wait at once.
///
/// # Safety
/// As [`enable`].
#[inline(always)]
pub unsafe fn halt() {
    // SAFETY: per the contract.
    unsafe { hot!(irq.halt) };
}
