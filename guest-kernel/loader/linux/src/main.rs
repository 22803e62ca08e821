//! The real-mode start of a bzImage, for hypervisors that boot nothing else (Linux Documentation/arch/x86/boot.rst). It has
//! the header that they read and write; then it asks the BIOS for the memory map, builds PVH's start info, and enters the
//! kernel by its one entry. The kernel lies where it belongs: mkimage has put its segments after this part as they are in
//! memory, and the loader of a bzImage puts that part at 1 MiB.
//!
//! Everything is addressed from the data segment, which the protocol makes that of this part. It trusts its loader.

#![no_std]
#![no_main]

use core::arch::global_asm;
use core::panic::PanicInfo;
use shared_abi::bzimage::{ENTRY, LOAD, MAGIC, VERSION};
use shared_abi::pvh::START_MAGIC;

/// Entries of the memory map that are asked for.
const E820_MAX: usize = 128;

// The header: fields that the loader or mkimage writes are zero.
global_asm!(
    ".pushsection .setup, \"awx\"",
    ".code16",
    ".globl linux_start",
    "linux_start:",
    ".org 0x1fe, 0",
    ".short 0xaa55",
    // 0x200: the entry.
    ".byte 0xeb, linux_code - 0x202",
    ".ascii \"HdrS\"",
    ".short {version}",
    ".org 0x20e, 0",
    ".short linux_version - 0x200",
    ".org 0x211, 0",
    // LOADED_HIGH.
    ".byte 1",
    ".org 0x214, 0",
    ".long {load}",
    "linux_ramdisk: .long 0",
    "linux_ramdisk_size: .long 0",
    ".org 0x228, 0",
    "linux_cmdline: .long 0",
    // The highest byte of an initrd, the alignment, which is not used.
    ".long 0x7fffffff, 0x1000",
    ".org 0x238, 0",
    // The longest command line.
    ".long 2047",
    ".org 0x258, 0",
    ".quad {load}",
    ".org {entry} - 8, 0",
    ".quad {magic}",
    "linux_entry: .long 0",
    "linux_version: .asciz \"ringside\"",
    version = const VERSION,
    load = const LOAD,
    entry = const ENTRY,
    magic = const u64::from_le_bytes(MAGIC),
);

global_asm!(
    "linux_code:",
    "cli",
    "cld",
    "mov ax, ds",
    "mov es, ax",
    "mov ss, ax",
    "mov sp, 0x7ff0",
    "sti",
    // A20, where the firmware has not enabled it.
    "in al, 0x92",
    "test al, 2",
    "jnz 1f",
    "or al, 2",
    "and al, 0xfe",
    "out 0x92, al",
    "1: xor ebx, ebx",
    "mov di, offset linux_map",
    "2: mov eax, 0xe820",
    "mov edx, 0x534d4150",
    "mov ecx, 20",
    "int 0x15",
    "jc 3f",
    "cmp eax, 0x534d4150",
    "jne 3f",
    // PVH's entries have 24 bytes, the last four reserved.
    "mov dword ptr [di + 20], 0",
    "inc dword ptr [linux_entries]",
    "add di, 24",
    "cmp dword ptr [linux_entries], {e820_max}",
    "jae 3f",
    "test ebx, ebx",
    "jnz 2b",
    "3: cli",
    "xor ebp, ebp",
    "mov bp, ds",
    "shl ebp, 4",
    "mov eax, [linux_cmdline]",
    "mov [linux_info_cmdline], eax",
    "lea eax, [ebp + linux_map]",
    "mov [linux_info_map], eax",
    "mov eax, [linux_ramdisk_size]",
    "test eax, eax",
    "jz 4f",
    "mov [linux_module + 8], eax",
    "mov eax, [linux_ramdisk]",
    "mov [linux_module], eax",
    "lea eax, [ebp + linux_module]",
    "mov [linux_info_modules], eax",
    "mov dword ptr [linux_info_module_count], 1",
    "4: lea eax, [ebp + linux_gdt]",
    "mov [linux_gdt_pointer + 2], eax",
    "lea eax, [ebp + linux_flat]",
    "mov [linux_far], eax",
    "lgdt [linux_gdt_pointer]",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    // jmp far [linux_far], with an address of 32 bits: the assembler has no word for it.
    ".byte 0x66, 0xff, 0x2e",
    ".short linux_far",
    ".code32",
    "linux_flat:",
    "mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ss, eax",
    "lea ebx, [ebp + linux_info]",
    "mov eax, [ebp + linux_entry]",
    "jmp eax",
    ".balign 8",
    "linux_far: .long 0",
    ".short 0x08",
    ".balign 8",
    "linux_gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff",
    "linux_gdt_pointer: .short 23",
    ".long 0",
    ".balign 8",
    // hvm_start_info, version 1.
    "linux_info: .long {start_info}, 1, 0",
    "linux_info_module_count: .long 0",
    "linux_info_modules: .quad 0",
    "linux_info_cmdline: .quad 0",
    ".quad 0",
    "linux_info_map: .quad 0",
    "linux_entries: .long 0, 0",
    // hvm_modlist_entry.
    "linux_module: .quad 0, 0, 0, 0",
    "linux_map: .fill {e820_max} * 24, 1, 0",
    ".popsection",
    start_info = const START_MAGIC,
    e820_max = const E820_MAX,
);

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
