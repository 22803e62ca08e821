//! Registers and descriptor tables of this CPU.

use crate::site::calling;

/// Reads CR0.
pub fn read_cr0() -> usize {
    let value;
    // SAFETY: reading has no effect.
    unsafe { calling!(cpu.read_cr0 => value) };
    value
}

/// Writes CR0.
///
/// # Safety
/// The kernel can go on under the new value.
pub unsafe fn write_cr0(value: usize) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.write_cr0, "rdi" = value) };
}

/// The address of the last page fault.
pub fn read_cr2() -> usize {
    let value;
    // SAFETY: reading has no effect.
    unsafe { calling!(cpu.read_cr2 => value) };
    value
}

/// Reads CR4.
pub fn read_cr4() -> usize {
    let value;
    // SAFETY: reading has no effect.
    unsafe { calling!(cpu.read_cr4 => value) };
    value
}

/// Writes CR4.
///
/// # Safety
/// The kernel can go on under the new value.
pub unsafe fn write_cr4(value: usize) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.write_cr4, "rdi" = value) };
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists; otherwise the CPU raises a general protection fault.
pub unsafe fn read_msr(msr: u32) -> u64 {
    let value;
    // SAFETY: per the contract.
    unsafe { calling!(cpu.read_msr, "edi" = msr => value) };
    value
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists and the kernel can go on under the new value.
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.write_msr, "edi" = msr, "rsi" = value) };
}

/// The operand of `lgdt` and `lidt`.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct TablePointer {
    /// Bytes of the table, minus one.
    pub limit: u16,
    /// Address of the table.
    pub base: u64,
}

/// Loads the GDT.
///
/// # Safety
/// The table lives as long as it is loaded and has the segments in use at their places.
pub unsafe fn load_gdt(pointer: &TablePointer) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.load_gdt, "rdi" = &raw const *pointer) };
}

/// Loads the IDT.
///
/// # Safety
/// The table lives as long as it is loaded, and its handlers work.
pub unsafe fn load_idt(pointer: &TablePointer) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.load_idt, "rdi" = &raw const *pointer) };
}

/// Loads the task register.
///
/// # Safety
/// The selector is that of an available TSS.
pub unsafe fn load_tr(selector: u16) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.load_tr, "edi" = u32::from(selector)) };
}

/// A segment register with a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Segment {
    /// FS.
    Fs = 0,
    /// The GS base that user mode sees.
    UserGs = 1,
    /// The GS base that the kernel sees.
    KernelGs = 2,
}

/// Sets a segment base.
///
/// # Safety
/// Nothing relies on the old base.
pub unsafe fn set_segment_base(segment: Segment, base: u64) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.set_segment_base, "edi" = segment as u32, "rsi" = base) };
}

/// Returns to what the exception frame on the stack says. For the end of entry code: jump here.
///
/// # Safety
/// RSP points to a frame as the CPU pushes it, without error code, and all other registers are as they are to be.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn iret() {
    crate::site::naked_call!(cpu.iret)
}

/// Ends the machine by a fault that cannot be delivered: what reset is where nothing else is known.
pub fn triple_fault() -> ! {
    let none = TablePointer { limit: 0, base: 0 };
    // SAFETY: the machine ends here, so nothing relies on the IDT any more.
    unsafe {
        load_idt(&none);
        core::arch::asm!("ud2", options(noreturn));
    }
}

/// Stops for good.
pub fn park() -> ! {
    loop {
        crate::irq::disable();
        // SAFETY: with interrupts off nothing but a reset or an NMI ends it, and then the loop goes on.
        unsafe { core::arch::asm!("hlt", options(nomem, nostack)) };
    }
}
