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

bitflags::bitflags! {
    /// Protections in CR4 that the kernel turns on where they are offered (Intel SDM volume 3, "Control Registers").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Protections: u64 {
        /// Machine checks raise an exception instead of shutting the CPU down.
        const MACHINE_CHECK = 1 << 6;
        /// User mode cannot read where descriptor tables are (UMIP).
        const UMIP = 1 << 11;
        /// TLB entries carry the address space they belong to (PCID).
        const PCID = 1 << 17;
        /// The kernel cannot execute user pages (SMEP).
        const SMEP = 1 << 20;
        /// The kernel cannot touch user pages by mistake (SMAP).
        const SMAP = 1 << 21;
    }
}

impl Protections {
    /// What CPUID offers (leaves 1 and 7).
    pub fn offered() -> Self {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        let features = __cpuid(1);
        let extended = if __cpuid(0).eax >= 7 { Some(__cpuid_count(7, 0)) } else { None };
        let (ebx7, ecx7) = extended.map_or((0, 0), |leaf| (leaf.ebx, leaf.ecx));
        Self::from_cpuid(features.ecx, features.edx, ebx7, ecx7)
    }

    /// From ECX and EDX of leaf 1, and EBX and ECX of leaf 7.
    pub(crate) fn from_cpuid(ecx1: u32, edx1: u32, ebx7: u32, ecx7: u32) -> Self {
        [
            (edx1 >> 7, Self::MACHINE_CHECK),
            (ecx7 >> 2, Self::UMIP),
            (ecx1 >> 17, Self::PCID),
            (ebx7 >> 7, Self::SMEP),
            (ebx7 >> 20, Self::SMAP),
        ]
        .into_iter()
        .filter(|(offered, _)| offered & 1 != 0)
        .map(|(_, protection)| protection)
        .collect()
    }
}

/// Turns on, on this CPU, what it offers of [`Protections`] and its world leaves to the kernel; returns what is on.
pub fn protect() -> Protections {
    let value: u64;
    // SAFETY: the kernel does nothing that these forbid.
    unsafe { calling!(cpu.protect => value) };
    Protections::from_bits_truncate(value)
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

/// Finishes all that came before, drops what was prefetched, and fetches anew (Intel SDM volume 3, "Serializing
/// Instructions"). By CPUID: the one such instruction that works in ring 3, too, and does nothing else.
pub fn serialize() {
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    let _ = core::arch::x86_64::__cpuid(0);
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
}

/// Lets no memory access or MSR write that follows overtake a store that stands before: what a write to an MSR of the local
/// APIC needs, which waits for nothing (Intel SDM volume 3, "MSR Access in x2APIC Mode"). A fence of the compiler is a locked
/// operation on this target, and that is not enough.
pub(crate) fn fence_before_msr() {
    // SAFETY: fences of SSE2, which is part of the architecture; no vector register is touched.
    unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) };
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
        super::irq::disable();
        // SAFETY: with interrupts off nothing but a reset or an NMI ends it, and then the loop goes on.
        unsafe { core::arch::asm!("hlt", options(nomem, nostack)) };
    }
}
