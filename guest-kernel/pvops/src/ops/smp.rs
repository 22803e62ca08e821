//! Processors: their numbers, starting them, and interrupts from one to another.

use crate::site::{calling, hot};
pub use crate::types::Start;

/// The world does not start CPUs, or not this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the world answered.
    pub code: u64,
}

/// Number of this CPU: its local APIC id in the native worlds.
pub fn cpu() -> u32 {
    let value: u64;
    // SAFETY: reading has no effect.
    unsafe { calling!(smp.cpu => value) };
    value as u32
}

/// Gives this CPU its [per-CPU](crate::percpu) block, its clock and its interrupts; its timer stays off. Each CPU calls it
/// once, before anything that is the CPU's own; the first one does by [`event::start`](crate::ops::event::start).
///
/// # Safety
/// `slot` is below [`CPUS`](crate::percpu::CPUS) and no other CPU's; interrupts are off, and their handlers are set up.
pub unsafe fn enter(slot: usize) {
    // SAFETY: per the contract.
    unsafe { calling!(smp.enter, "rdi" = slot) };
}

/// One turn of a spin loop.
#[inline(always)]
pub fn relax() {
    // SAFETY: no effect on memory.
    unsafe { hot!(smp.relax) };
}

/// Asks for another CPU to begin at `start`. Whether it does shows only by what it does there.
///
/// # Errors
/// [`Refused`].
///
/// # Safety
/// The CPU does not run yet. The stack is its own; entry and stack are never unmapped from the tables. No further CPU is
/// started before this one has begun.
pub unsafe fn start_cpu(cpu: u32, start: &Start) -> Result<(), Refused> {
    let code: u64;
    // SAFETY: per the contract.
    unsafe { calling!(smp.start_cpu, "edi" = cpu, "rsi" = &raw const *start => code) };
    if code == 0 { Ok(()) } else { Err(Refused { code }) }
}

/// Raises a vector on another CPU.
///
/// # Safety
/// The vector has a handler, and the CPU is one that was started.
pub unsafe fn send_ipi(cpu: u32, vector: u8) {
    // SAFETY: per the contract.
    unsafe { calling!(smp.send_ipi, "edi" = cpu, "esi" = u32::from(vector)) };
}
