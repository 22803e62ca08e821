//! Types that the table, its wrappers and the worlds share.

use x86_64::PhysAddr;

/// A mask or pending state of interrupts as `save` returns it; only meaningful to `restore`.
pub type Flags = usize;

/// Where another CPU begins: 64-bit mode, the kernel's page tables, interrupts off.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Start {
    /// The first function.
    pub entry: extern "sysv64" fn(argument: usize) -> !,
    /// Its argument.
    pub argument: usize,
    /// Top of its stack, a multiple of 16.
    pub stack: usize,
    /// The top-level page table, as [`read_cr3`](crate::mmu::read_cr3) names it.
    pub tables: PhysAddr,
}

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
    /// By an edge, active low.
    EdgeLow,
}

/// Marks a line that no chip has: a virtual interrupt of the hypervisor, with that number.
pub const VIRTUAL: u32 = 1 << 31;

/// A line, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line(pub u32);

impl core::fmt::Display for Line {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 & VIRTUAL {
            0 => write!(f, "line {}", self.0),
            _ => write!(f, "virtual interrupt {}", self.0 & !VIRTUAL),
        }
    }
}

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0x20;
/// Vector of interrupts that went away; they are not to be ended.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// I/O APICs that are used at most.
pub const IO_APICS_MAX: usize = 8;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its registers.
    pub address: u64,
    /// The line of its first input.
    pub first_line: u32,
}

/// Where the interrupt chips are.
#[derive(Clone, Copy, Debug)]
pub struct Chips<'a> {
    /// Registers of the local APICs.
    pub local: u64,
    /// The I/O APICs; the first [`IO_APICS_MAX`] are used.
    pub io: &'a [IoApic],
}

/// Maps device registers: physical address and length to an address; 0 when that cannot be done.
pub type MapRegisters = extern "sysv64" fn(physical: u64, len: usize) -> usize;
