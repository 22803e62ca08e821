//! The segments: flat ones for the kernel, and room for the task state segment.

/// Kernel code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Kernel data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// The TSS, two slots.
pub const TSS_SELECTOR: u16 = 0x18;

/// The descriptor table of the first CPU, which the boot code loads; [`init`](super::init) fills in the TSS.
#[unsafe(no_mangle)]
pub static mut BOOT_GDT: [u64; 5] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0];
