//! The entry of a paravirtual guest: its ELF notes, and from Xen's start info to `kernel_main`.
//!
//! Xen enters in 64-bit mode at privilege level 3, on its own page tables, with RSI pointing to the start info and events
//! masked (`xen/include/public/xen.h`, "Start-of-day memory layout").

use super::{STACK, STACK_SIZE, info, kernel_main};
use crate::mm::DIRECT_MAP;
use core::arch::{global_asm, naked_asm};
use shared_abi::bundle::KERNEL_VIRTUAL_BASE;
use shared_abi::xen::{FEATURE_DOM0, StartInfo, note};

#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .note.boot, \"a\", @note",
    ".macro xen_number type, value",
    ".balign 4",
    ".long 4, 8, \\type",
    ".asciz \"Xen\"",
    ".quad \\value",
    ".endm",
    ".macro xen_text type, text",
    ".balign 4",
    ".long 4, 43f - 42f, \\type",
    ".asciz \"Xen\"",
    "42: .asciz \"\\text\"",
    "43:",
    ".endm",
    "xen_number {entry}, xen_start",
    "xen_number {virt_base}, {base}",
    "xen_number {paddr_offset}, 0",
    "xen_number {supported}, {dom0}",
    "xen_text {version}, xen-3.0",
    "xen_text {guest_os}, Ringside",
    "xen_text {loader}, generic",
    ".balign 4",
    ".popsection",
    entry = const note::ENTRY,
    virt_base = const note::VIRT_BASE,
    paddr_offset = const note::PADDR_OFFSET,
    supported = const note::SUPPORTED_FEATURES,
    version = const note::XEN_VERSION,
    guest_os = const note::GUEST_OS,
    loader = const note::LOADER,
    base = const KERNEL_VIRTUAL_BASE,
    dom0 = const FEATURE_DOM0,
);

/// Where Xen enters.
#[cfg(target_os = "none")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.boot")]
unsafe extern "sysv64" fn xen_start() {
    naked_asm!(
        "cld",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rip + ENTRY_TSC], rax",
        "lea rsp, [rip + {stack} + {top}]",
        "mov rdi, rsi",
        "xor ebp, ebp",
        "call {enter}",
        "ud2",
        stack = sym STACK,
        top = const 4096 + STACK_SIZE,
        enter = sym enter_kernel,
    )
}

extern "sysv64" fn enter_kernel(start: *const StartInfo) -> ! {
    // SAFETY: Xen passed it, and this is the first thing that happens.
    let boot = match unsafe { pvops::worlds::xen::enter(start, KERNEL_VIRTUAL_BASE as usize, DIRECT_MAP) } {
        Ok(boot) => boot,
        Err(error) => {
            pvops::worlds::xen::log(format_args!("ringside: cannot run on this Xen: {error}\n"));
            // Without the board's tables Xen does not know how to switch it off and would only halt: so it ends by a reset.
            pvops::vmm::crash();
            pvops::cpu::park()
        }
    };
    // SAFETY: the start info is mapped and nothing writes it.
    let info = unsafe { info::from_xen(&boot, &(*start).cmd_line) };
    // SAFETY: as in the parent module.
    unsafe { kernel_main(info, pvops::detect::on_xen()) }
}
