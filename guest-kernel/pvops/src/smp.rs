//! Processors. The place for starting them and for sending them interrupts.

use crate::site::{calling, hot};

/// Number of this CPU: its local APIC id in the native worlds.
pub fn cpu() -> u32 {
    let value: u64;
    // SAFETY: reading has no effect.
    unsafe { calling!(smp.cpu => value) };
    value as u32
}

/// One turn of a spin loop.
#[inline(always)]
pub fn relax() {
    // SAFETY: no effect on memory.
    unsafe { hot!(smp.relax) };
}
