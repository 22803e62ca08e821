//! Processors: their numbers, starting them, and interrupts from one to another.

use crate::site::{calling, hot};

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
    pub tables: u64,
}

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
/// The CPU does not run yet. The stack is its own; entry and stack are mapped by the tables for ever. No further CPU is
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

pub use crate::startup::set_trampoline;
