//! The entry by PVH: the ELF note that names it, and from the start info to `kernel_main`.
//!
//! The VMM enters `pvh_start` in 32-bit protected mode without paging, EBX pointing to the start info
//! (`shared_abi::pvh`). `check_cpu` (`unfit`) and `long_mode` lead on to the kernel's linked address.

use super::{STACK, STACK_SIZE, info, kernel_main};
use core::arch::{global_asm, naked_asm};
use shared_abi::bundle::KERNEL_VIRTUAL_BASE;
use shared_abi::pvh::{NOTE_PHYS32_ENTRY, START_MAGIC};

#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .note.boot, \"a\", @note",
    ".balign 4",
    ".long 4, 8, {kind}",
    ".asciz \"Xen\"",
    ".quad pvh_start - {base}",
    ".popsection",
    kind = const NOTE_PHYS32_ENTRY,
    base = const KERNEL_VIRTUAL_BASE,
);

// Register use: EBX start info throughout; EBP:ESI the TSC at entry.
#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".code32",
    ".globl pvh_start",
    "pvh_start:",
    "cld",
    "rdtsc",
    "mov esi, eax",
    "mov ebp, edx",
    "cmp dword ptr [ebx], {magic}",
    "jne 9f",
    "mov edi, ebx",
    "jmp check_cpu",
    ".globl pvh_checked",
    "pvh_checked:",
    "mov ebx, edi",
    "mov edi, offset {high} - {base}",
    "jmp long_mode",
    // Not started by PVH: nothing is known, not even a console.
    "9: hlt",
    "jmp 9b",
    ".code64",
    ".popsection",
    magic = const START_MAGIC,
    base = const KERNEL_VIRTUAL_BASE,
    high = sym high_half,
);

/// The first code at its linked address: the stack, then Rust.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
unsafe extern "sysv64" fn high_half() {
    naked_asm!(
        "lea rsp, [rip + {stack} + {top}]",
        "shl rbp, 32",
        "mov eax, esi",
        "or rax, rbp",
        "mov [rip + ENTRY_TSC], rax",
        "mov edi, ebx",
        "xor ebp, ebp",
        "call {main}",
        "ud2",
        stack = sym STACK,
        top = const 4096 + STACK_SIZE,
        main = sym enter_kernel,
    )
}

/// On the kernel's stack, with the boot tables.
extern "sysv64" fn enter_kernel(start_info: u64) -> ! {
    // SAFETY: what the loader passed, read once.
    let info = unsafe { info::read(start_info) };
    // SAFETY: `entry!` defines it with this signature.
    unsafe { kernel_main(info, pvops::detect::detect()) }
}
