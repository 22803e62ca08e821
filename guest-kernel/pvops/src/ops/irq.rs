//! The interrupt flag.

use crate::site::hot;
use crate::types::Flags;

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

/// Where code that an interrupt stopped at `rip` is to go on, if that is not `rip`: after a `hlt` that `sti` should have
/// protected. The CPU lets no interrupt in between the two (Intel SDM volume 2, "STI"), but a hypervisor that forgets
/// this state over an exit does; to halt after that is to wait for an interrupt that has come already.
///
/// # Safety
/// `rip` is the address of an instruction of the kernel that was about to run, in a world where [`halt`] is `sti; hlt`.
pub unsafe fn after_unprotected_halt(rip: usize) -> Option<usize> {
    const STI: u8 = 0xfb;
    const HLT: u8 = 0xf4;
    // SAFETY: an instruction can be read where it runs; a `hlt` of ours has its `sti` before it.
    let found = unsafe { *(rip as *const u8) == HLT && *((rip - 1) as *const u8) == STI };
    found.then_some(rip + 1)
}
