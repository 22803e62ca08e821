//! The switch from 32-bit protected mode to 64-bit mode, of the first CPU and of the others, and the page tables for it.
//!
//! They are static, and their permissions are already those that the kernel keeps: nothing is ever writable and
//! executable.
//!
//! ```text
//! boot address space                     maps physical
//! 0x0 .. 4 GiB                           0 .. 4 GiB   (so that the switch of modes goes on where it is)
//! DIRECT_MAP .. + 4 GiB                  0 .. 4 GiB
//! KERNEL_VIRTUAL_BASE .. + 1 GiB         0 .. 1 GiB
//! ```

use crate::mm::DIRECT_MAP;
use crate::trap::segments::{BOOT_GDT_LIMIT, CODE_SELECTOR, DATA_SELECTOR};
use core::arch::global_asm;
use pvops::cpu::msr;
use shared_abi::bundle::KERNEL_VIRTUAL_BASE;
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;
use x86_64::structures::paging::PageTableFlags;

/// Flags of large pages: accessed and dirty are set so that the CPU need not write them.
const READ_EXECUTE: PageTableFlags = PageTableFlags::PRESENT
    .union(PageTableFlags::ACCESSED)
    .union(PageTableFlags::DIRTY)
    .union(PageTableFlags::HUGE_PAGE);
const READ_ONLY: PageTableFlags = READ_EXECUTE.union(PageTableFlags::NO_EXECUTE);
const READ_WRITE: PageTableFlags = READ_ONLY.union(PageTableFlags::WRITABLE);
/// Flags of entries that point to tables.
const TABLE: PageTableFlags = READ_EXECUTE.union(PageTableFlags::WRITABLE).difference(PageTableFlags::HUGE_PAGE);

/// What the way into 64-bit mode turns on.
const CR4: Cr4Flags = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.union(Cr4Flags::PAGE_GLOBAL);
const EFER: EferFlags = EferFlags::LONG_MODE_ENABLE.union(EferFlags::NO_EXECUTE_ENABLE);
const CR0: Cr0Flags = Cr0Flags::PAGING.union(Cr0Flags::WRITE_PROTECT).union(Cr0Flags::PROTECTED_MODE_ENABLE);

// One directory for each of the first four GiB, shared by the three places where they are mapped. Text, rodata and data
// have large pages 1, 2 and 3 (kernel.ld).
#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .data.boot_tables, \"aw\"",
    ".balign 4096",
    "boot_pd:",
    ".quad {rw}",
    ".quad 0x200000 + {rx}",
    ".quad 0x400000 + {ro}",
    ".set page, 3",
    ".rept 2045",
    ".quad page * 0x200000 + {rw}",
    ".set page, page + 1",
    ".endr",
    "boot_pdpt:",
    ".set page, 0",
    ".rept 4",
    ".quad boot_pd + page * 4096 - {base} + {table}",
    ".set page, page + 1",
    ".endr",
    ".fill 508, 8, 0",
    "boot_pdpt_kernel:",
    ".fill 510, 8, 0",
    ".quad boot_pd - {base} + {table}",
    ".quad 0",
    "boot_pml4:",
    ".quad boot_pdpt - {base} + {table}",
    ".fill 272, 8, 0",
    ".quad boot_pdpt - {base} + {table}",
    ".fill 237, 8, 0",
    ".quad boot_pdpt_kernel - {base} + {table}",
    ".balign 4096",
    ".popsection",
    rw = const READ_WRITE.bits(),
    rx = const READ_EXECUTE.bits(),
    ro = const READ_ONLY.bits(),
    table = const TABLE.bits(),
    base = const KERNEL_VIRTUAL_BASE,
);
const _: () = assert!((DIRECT_MAP >> 39) & 511 == 273 && (KERNEL_VIRTUAL_BASE >> 39) & 511 == 511);

// From protected mode without paging to 64-bit mode, on the boot tables, at the linked address of what EDI is the physical
// address of. Leaves EBX, ESI and EBP as they are.
#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".code32",
    ".globl long_mode",
    "long_mode:",
    // EFER and CR0 keep what was there.
    "mov eax, {cr4}",
    "mov cr4, eax",
    "mov eax, offset boot_pml4 - {base}",
    "mov cr3, eax",
    "mov ecx, {efer_number}",
    "rdmsr",
    "or eax, {efer}",
    "wrmsr",
    "mov eax, cr0",
    "or eax, {cr0}",
    "mov cr0, eax",
    "lgdt [boot_gdt_pointer - {base}]",
    ".byte 0xea",
    ".long 8f - {base}",
    ".short {code}",
    ".code64",
    "8: mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    // The upper half of a register means nothing until it is written in this mode.
    "mov edi, edi",
    "movabs rax, {base}",
    "add rax, rdi",
    "jmp rax",
    ".popsection",
    // Outside of the text: a disassembler would take it for instructions.
    ".pushsection .rodata.boot_gdt, \"a\"",
    ".balign 8",
    "boot_gdt_pointer:",
    ".short {limit}",
    ".long BOOT_GDT - {base}",
    ".popsection",
    cr4 = const CR4.bits(),
    efer_number = const msr::EFER,
    efer = const EFER.bits(),
    cr0 = const CR0.bits(),
    limit = const BOOT_GDT_LIMIT,
    code = const CODE_SELECTOR.0,
    data = const DATA_SELECTOR.0,
    base = const KERNEL_VIRTUAL_BASE,
);
