//! Which interrupt chips the machine has and where its ISA interrupts arrive: from the MADT (ACPI 6.5, section 5.2.12,
//! "Multiple APIC Description Table"), which `acpi` reads; without one, the layout of every PC and of our board.

use heapless::Vec;
use pvops::event::{Chips, IO_APICS_MAX, IoApic, Trigger};
use shared_abi::board::{IO_APIC_BASE, LOCAL_APIC_BASE};

/// ISA interrupts.
const ISA_MAX: usize = 16;

/// An ISA interrupt that does not arrive at the line of its number, or not as an edge, active high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt.
    pub irq: u8,
    /// The line (ACPI's global system interrupt).
    pub line: u32,
    /// MPS INTI flags.
    pub flags: u16,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct Routing {
    /// Registers of the local APICs.
    pub local: u64,
    /// I/O APICs.
    pub io: Vec<IoApic, IO_APICS_MAX>,
    /// What is not as usual.
    pub overrides: Vec<Override, ISA_MAX>,
}

impl Routing {
    /// No chips yet, and nothing unusual.
    pub const fn new(local: u64) -> Self {
        Self { local, io: Vec::new(), overrides: Vec::new() }
    }

    /// The layout of a machine without a MADT.
    pub fn usual() -> Self {
        let mut routing = Self::new(LOCAL_APIC_BASE);
        let _ = routing.io.push(IoApic { address: IO_APIC_BASE, first_line: 0 });
        routing
    }

    /// For pvops.
    pub fn chips(&self) -> Chips<'_> {
        Chips { local: self.local, io: &self.io }
    }

    /// The line of an ISA interrupt, and how it signals.
    pub fn isa(&self, irq: u8) -> (u32, Trigger) {
        let usual = Override { irq, line: irq.into(), flags: 0 };
        let found = self.overrides.iter().find(|other| other.irq == irq).unwrap_or(&usual);
        (found.line, trigger(found.flags))
    }
}

/// MPS INTI flags (table 5.26): polarity in bits 0 and 1, trigger in bits 2 and 3; 0 and what is reserved are as on the ISA bus.
fn trigger(flags: u16) -> Trigger {
    const LOW: u16 = 0b11;
    const LEVEL: u16 = 0b11;
    match (flags >> 2 & 0b11 == LEVEL, flags & 0b11 == LOW) {
        (false, false) => Trigger::Edge,
        (false, true) => Trigger::EdgeLow,
        (true, true) => Trigger::Level,
        (true, false) => Trigger::LevelHigh,
    }
}

#[cfg(test)]
mod tests;
