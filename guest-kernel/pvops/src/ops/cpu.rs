//! Registers and descriptor tables of this CPU.

use crate::site::calling;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;

/// Reads CR0, bits without a name included.
pub fn read_cr0() -> Cr0Flags {
    let value: u64;
    // SAFETY: reading has no effect.
    unsafe { calling!(cpu.read_cr0 => value) };
    Cr0Flags::from_bits_retain(value)
}

/// Writes CR0.
///
/// # Safety
/// The kernel can go on under the new value.
pub unsafe fn write_cr0(value: Cr0Flags) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.write_cr0, "rdi" = value.bits()) };
}

/// The address of the last page fault.
pub fn read_cr2() -> VirtAddr {
    let value;
    // SAFETY: reading has no effect.
    unsafe { calling!(cpu.read_cr2 => value) };
    // The CPU raises page faults for canonical addresses only.
    VirtAddr::new_truncate(value)
}

/// Reads CR4, bits without a name included.
pub fn read_cr4() -> Cr4Flags {
    let value: u64;
    // SAFETY: reading has no effect.
    unsafe { calling!(cpu.read_cr4 => value) };
    Cr4Flags::from_bits_retain(value)
}

/// Writes CR4.
///
/// # Safety
/// The kernel can go on under the new value.
pub unsafe fn write_cr4(value: Cr4Flags) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.write_cr4, "rdi" = value.bits()) };
}

/// Bits of CR4 that the kernel turns on where CPUID offers them (Intel SDM volume 3, "Control Registers"): machine checks
/// raise an exception instead of shutting the CPU down; user mode cannot read where descriptor tables are (UMIP); TLB
/// entries carry the address space they belong to (PCID); the kernel can neither execute user pages (SMEP) nor touch them
/// by mistake (SMAP).
pub const PROTECTIONS: Cr4Flags = Cr4Flags::MACHINE_CHECK_EXCEPTION
    .union(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION)
    .union(Cr4Flags::PCID)
    .union(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION)
    .union(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);

/// Which of [`PROTECTIONS`] CPUID offers (leaves 1 and 7).
pub fn offered_protections() -> Cr4Flags {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    let features = __cpuid(1);
    let extended = if __cpuid(0).eax >= 7 { Some(__cpuid_count(7, 0)) } else { None };
    let (ebx7, ecx7) = extended.map_or((0, 0), |leaf| (leaf.ebx, leaf.ecx));
    protections_of(features.ecx, features.edx, ebx7, ecx7)
}

/// From ECX and EDX of leaf 1, and EBX and ECX of leaf 7.
pub(crate) fn protections_of(ecx1: u32, edx1: u32, ebx7: u32, ecx7: u32) -> Cr4Flags {
    [
        (edx1 >> 7, Cr4Flags::MACHINE_CHECK_EXCEPTION),
        (ecx7 >> 2, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        (ecx1 >> 17, Cr4Flags::PCID),
        (ebx7 >> 7, Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        (ebx7 >> 20, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
    ]
    .into_iter()
    .filter(|(offered, _)| offered & 1 != 0)
    .map(|(_, protection)| protection)
    .collect()
}

/// Turns on, on this CPU, what it offers of [`PROTECTIONS`] and its world leaves to the kernel; returns what is on.
pub fn protect() -> Cr4Flags {
    let value: u64;
    // SAFETY: the kernel does nothing that these forbid.
    unsafe { calling!(cpu.protect => value) };
    Cr4Flags::from_bits_truncate(value)
}

/// Numbers of model-specific registers. `x86_64` knows them too, but gives a number only to its own instructions.
pub mod msr {
    /// `IA32_APIC_BASE`: [`ApicBaseFlags`](x86_64::registers::model_specific::ApicBaseFlags), and where the registers are.
    pub const APIC_BASE: u32 = 0x1b;
    /// `IA32_TSC_DEADLINE`.
    pub const TSC_DEADLINE: u32 = 0x6e0;
    /// The local APIC's register at offset 0 in x2APIC mode.
    pub const X2APIC_FIRST: u32 = 0x800;
    /// `IA32_EFER`: [`EferFlags`](x86_64::registers::model_specific::EferFlags).
    pub const EFER: u32 = 0xc000_0080;
    /// Base of FS.
    pub const FS_BASE: u32 = 0xc000_0100;
    /// Base of GS.
    pub const GS_BASE: u32 = 0xc000_0101;
    /// The base of GS that `swapgs` brings.
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
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

/// Loads the GDT.
///
/// # Safety
/// The table lives as long as it is loaded and has the segments in use at their places.
pub unsafe fn load_gdt(pointer: &DescriptorTablePointer) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.load_gdt, "rdi" = &raw const *pointer) };
}

/// Loads the IDT.
///
/// # Safety
/// The table lives as long as it is loaded, and its handlers work.
pub unsafe fn load_idt(pointer: &DescriptorTablePointer) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.load_idt, "rdi" = &raw const *pointer) };
}

/// Loads the task register.
///
/// # Safety
/// The selector is that of an available TSS.
pub unsafe fn load_tr(selector: SegmentSelector) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.load_tr, "edi" = u32::from(selector.0)) };
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
pub unsafe fn set_segment_base(segment: Segment, base: VirtAddr) {
    // SAFETY: per the contract.
    unsafe { calling!(cpu.set_segment_base, "edi" = segment as u32, "rsi" = base.as_u64()) };
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
    let none = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
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
