//! The segments: flat ones for the kernel, and room for the task state segment.

use x86_64::PrivilegeLevel::Ring0;
use x86_64::structures::gdt::{DescriptorFlags, GlobalDescriptorTable, SegmentSelector};

/// Kernel code segment.
pub const CODE_SELECTOR: SegmentSelector = SegmentSelector::new(1, Ring0);
/// Kernel data segment.
pub const DATA_SELECTOR: SegmentSelector = SegmentSelector::new(2, Ring0);

const FLAT: [u64; 3] = [0, DescriptorFlags::KERNEL_CODE64.bits(), DescriptorFlags::KERNEL_DATA.bits()];

/// The table that the boot code loads, before Rust runs. Plain words, because assembly names its address and its length, and
/// a [`GlobalDescriptorTable`] does not define where in it the entries are. Constant, because the segments are marked as
/// accessed: the CPU writes nothing.
#[unsafe(no_mangle)]
pub static BOOT_GDT: [u64; FLAT.len()] = FLAT;

/// Bytes of [`BOOT_GDT`], minus one.
pub const BOOT_GDT_LIMIT: u16 = size_of_val(&FLAT) as u16 - 1;

/// The table of each CPU: the same segments, and its own task state segment.
pub(super) type Gdt = GlobalDescriptorTable<5>;

/// Without the task state segment.
pub(super) const fn flat() -> Gdt {
    Gdt::from_raw_entries(&FLAT)
}
