//! Reports on the serial port that the CPU cannot run this kernel. Without this it would reset without a message.

use core::arch::global_asm;
use shared_abi::board::COM1_PORT;
use shared_abi::bundle::KERNEL_VIRTUAL_BASE;

/// Features of an extended CPU that the boot page tables need: 64-bit mode and no-execute pages (Intel SDM
/// volume 2, CPUID, leaf 0x80000001, EDX).
const NEEDED: u32 = 1 << 29 | 1 << 20;
/// "Transmitter holding register empty" of the line status register (16550D data sheet, section 8.4).
const LSR_THR_EMPTY: u8 = 1 << 5;
/// Reads of the line status register that a byte waits for: without a UART all of them read ones.
const LSR_POLLS: u32 = 1 << 16;

// In protected mode, without paging and without a stack: EDI, ESI and EBP are preserved, EAX to EDX are not.
#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .rodata.unfit, \"a\"",
    "unfit_message:",
    ".asciz \"ringside: this CPU has no 64-bit mode with no-execute pages (CPUID 0x80000001, EDX, bits 29 and 20)\\r\\n\"",
    ".popsection",
    ".pushsection .text.boot, \"ax\"",
    ".code32",
    ".globl check_cpu",
    "check_cpu:",
    "mov eax, 0x80000000",
    "cpuid",
    "cmp eax, 0x80000001",
    "jb 2f",
    "mov eax, 0x80000001",
    "cpuid",
    "and edx, {needed}",
    "cmp edx, {needed}",
    "jne 2f",
    "jmp pvh_checked",
    "2: mov esi, offset unfit_message - {base}",
    "3: mov ecx, {polls}",
    "mov dx, {port} + 5",
    "4: in al, dx",
    "test al, {empty}",
    "loopz 4b",
    "lodsb",
    "test al, al",
    "jz 5f",
    "mov dx, {port}",
    "out dx, al",
    "jmp 3b",
    "5: hlt",
    "jmp 5b",
    ".code64",
    ".popsection",
    needed = const NEEDED,
    polls = const LSR_POLLS,
    port = const COM1_PORT,
    empty = const LSR_THR_EMPTY,
    base = const KERNEL_VIRTUAL_BASE,
);
