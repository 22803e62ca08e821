//! Interrupt lines: I/O APIC inputs in the native worlds, event channels on Xen.

use crate::site::{calling, hot};

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Trigger {
    /// By an edge, active high.
    Edge,
    /// By a level, active low.
    Level,
    /// By a level, active high.
    LevelHigh,
}

/// Connects a line to a vector and leaves it masked.
///
/// # Safety
/// The vector has a handler.
pub unsafe fn bind(line: u32, vector: u8, trigger: Trigger) {
    // SAFETY: per the contract.
    unsafe { calling!(event.bind, "edi" = line, "esi" = u32::from(vector), "edx" = trigger as u32) };
}

/// Keeps a line from interrupting.
pub fn mask(line: u32) {
    // SAFETY: a masked line cannot break memory safety.
    unsafe { calling!(event.mask, "edi" = line) };
}

/// Lets a bound line interrupt.
pub fn unmask(line: u32) {
    // SAFETY: `bind`'s contract gave the line a handler; an unbound line stays masked.
    unsafe { calling!(event.unmask, "edi" = line) };
}

/// Ends the interrupt in service on this CPU.
#[inline(always)]
pub fn end() {
    // SAFETY: ending early only lets the next interrupt in.
    unsafe { hot!(event.end) };
}

pub use crate::apic::{
    MsiMessage, NoLocalApic, SPURIOUS_VECTOR, TIMER_VECTOR, init_interrupt_chips, msi_message, open_this_cpu,
};
