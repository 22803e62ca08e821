//! Interrupt lines: I/O APIC inputs in the native worlds, event channels on Xen.

use crate::site::{calling, hot};
pub use crate::types::{
    Chips, IO_APICS_MAX, IoApic, Line, MapRegisters, SPURIOUS_VECTOR, TIMER_VECTOR, Trigger, VIRTUAL,
};

/// There is no local APIC where one was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLocalApic {
    /// What stood in the version register.
    pub version: u32,
}

/// Takes the interrupt controllers over, with all lines masked.
///
/// # Errors
/// [`NoLocalApic`].
///
/// # Safety
/// Interrupts are off, their handlers are set up, the chips are there, and nothing else uses them.
pub unsafe fn start(map: MapRegisters, chips: &Chips<'_>) -> Result<(), NoLocalApic> {
    let code: u64;
    // SAFETY: per the contract.
    unsafe { calling!(event.start, "rdi" = map, "rsi" = &raw const *chips => code) };
    match code.checked_sub(1) {
        None => Ok(()),
        Some(version) => Err(NoLocalApic { version: version as u32 }),
    }
}

/// The world cannot bring an interrupt here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoute;

/// Connects a line to a vector and leaves it masked.
///
/// # Errors
/// [`NoRoute`].
///
/// # Safety
/// The vector has a handler.
pub unsafe fn bind(line: u32, vector: u8, trigger: Trigger) -> Result<(), NoRoute> {
    let bound: u64;
    // SAFETY: per the contract.
    unsafe { calling!(event.bind, "edi" = line, "esi" = u32::from(vector), "edx" = trigger as u32 => bound) };
    if bound == 0 { Err(NoRoute) } else { Ok(()) }
}

/// What a device writes to interrupt by message (Intel SDM, "Message Signalled Interrupts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// An entry of an MSI-X table.
#[derive(Clone, Copy, Debug)]
pub struct MessageEntry {
    /// Bus, slot and function: bus times 256 plus slot times 8 plus function.
    pub function: u16,
    /// Number of the entry.
    pub entry: u16,
    /// Address of the BAR that the table is in.
    pub table_bar: u64,
}

/// Connects a message of a PCI function to a vector. `Some` is to be written to the table; with `None` it has been.
///
/// # Errors
/// [`NoRoute`].
///
/// # Safety
/// The vector has a handler, and the function is the caller's.
pub unsafe fn bind_message(at: MessageEntry, vector: u8) -> Result<Option<MsiMessage>, NoRoute> {
    let message: u64;
    // SAFETY: per the contract.
    unsafe {
        calling!(event.bind_message, "edi" = u32::from(at.function), "esi" = u32::from(at.entry), "edx" = u32::from(vector), "rcx" = at.table_bar => message)
    };
    match message {
        0 => Ok(None),
        u64::MAX => Err(NoRoute),
        message => Ok(Some(MsiMessage { address: message >> 32, data: message as u32 })),
    }
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
