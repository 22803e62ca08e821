//! 16-bit code after the first sector: what can only be asked in real mode before the start, and the way there and back
//! for BIOS calls from 64-bit mode.
//!
//! The BIOS's interrupt table stays untouched: 64-bit code runs with interrupts off and loads no other.

use core::arch::global_asm;
use shared_abi::disk::BIOS_LOAD;

/// Entries of the memory map that are asked for.
pub(crate) const E820_MAX: usize = 128;

/// Registers at a BIOS call, and what it returns.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Registers {
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
    pub(crate) esi: u32,
    pub(crate) flags: u32,
}

/// An entry of the memory map as function 0xe820 of interrupt 0x15 gives it (ACPI 6.5, 15.1).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct E820Entry {
    pub(crate) addr: u64,
    pub(crate) size: u64,
    pub(crate) kind: u32,
    /// Bit 0 clear: to be ignored.
    pub(crate) attributes: u32,
}

/// "Disk address packet" of the extended read (function 0x42 of interrupt 0x13).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct DiskAddress {
    pub(crate) size: u16,
    pub(crate) blocks: u16,
    pub(crate) offset: u16,
    pub(crate) segment: u16,
    pub(crate) first: u64,
}

unsafe extern "C" {
    /// The drive that we were started from.
    pub(crate) static bios_drive: u8;
    /// What function 0xe820 said, and how many entries.
    pub(crate) static bios_e820: [E820Entry; E820_MAX];
    pub(crate) static bios_e820_count: u16;
    /// For [`bios_call`].
    pub(crate) static mut bios_registers: Registers;
    /// For disk reads; where 16-bit code can reach it.
    pub(crate) static mut bios_packet: DiskAddress;
}

unsafe extern "sysv64" {
    /// Calls a BIOS interrupt with [`bios_registers`], and puts there what it returns.
    pub(crate) fn bios_call(interrupt: u8);
}

// The rest, still in real mode: A20, the memory map, then up.
global_asm!(
    ".pushsection .boot16, \"awx\"",
    ".code16",
    ".globl bios_rest",
    "bios_rest:",
    "mov eax, 0x80000000",
    "cpuid",
    "cmp eax, 0x80000001",
    "jb 2f",
    "mov eax, 0x80000001",
    "cpuid",
    "test edx, 1 << 29",
    "jnz 3f",
    "2: mov si, offset bios_no_cpu",
    "call bios_say",
    "8: hlt",
    "jmp 8b",
    "bios_no_cpu: .asciz \"ringside loader: this CPU has no 64-bit mode\\r\\n\"",
    // A20 by the BIOS, and by the chipset's fast gate if that fails.
    "3: mov ax, 0x2401",
    "int 0x15",
    "in al, 0x92",
    "test al, 2",
    "jnz 4f",
    "or al, 2",
    "and al, 0xfe",
    "out 0x92, al",
    "4: xor ebx, ebx",
    "mov es, bx",
    "mov di, offset bios_e820",
    "5: mov dword ptr [di + 20], 1",
    "mov eax, 0xe820",
    "mov edx, 0x534d4150",
    "mov ecx, 24",
    "int 0x15",
    "jc 6f",
    "cmp eax, 0x534d4150",
    "jne 6f",
    "inc word ptr [bios_e820_count]",
    "add di, 24",
    "cmp word ptr [bios_e820_count], {e820_max}",
    "jae 6f",
    "test ebx, ebx",
    "jnz 5b",
    "6: mov dword ptr [bios_resume], offset bios_long",
    // From real mode to 64-bit mode at once, and on at bios_resume.
    "bios_up:",
    "cli",
    "lgdt [bios_gdt_pointer]",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov eax, offset bios_pml4",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000001",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long 7f",
    ".short 0x08",
    ".code64",
    "7: mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov eax, [bios_resume]",
    "jmp rax",
    "bios_long:",
    "mov rdi, offset __bss_start",
    "mov rcx, offset __bss_end",
    "sub rcx, rdi",
    "xor eax, eax",
    "rep stosb",
    "mov rsp, offset bios_stack_top",
    "xor ebp, ebp",
    "call bios_main",
    "ud2",
    ".popsection",
    e820_max = const E820_MAX,
);

// A call from 64-bit mode: down to real mode, the interrupt, and up again by bios_up.
global_asm!(
    ".pushsection .boot16, \"awx\"",
    ".globl bios_call",
    "bios_call:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [bios_interrupt + 1], dil",
    "mov [bios_stack_kept], rsp",
    "mov dword ptr [bios_resume], offset bios_back",
    "push 0x18",
    "lea rax, [rip + 2f]",
    "push rax",
    "retfq",
    ".code32",
    // The limits of 16-bit segments stay when the mode ends: real mode wants 64 KiB.
    "2: mov eax, 0x28",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "and eax, 0xfffffeff",
    "wrmsr",
    "xor eax, eax",
    "mov cr4, eax",
    ".byte 0xea",
    ".long 3f",
    ".short 0x20",
    ".code16",
    "3: mov eax, cr0",
    "and al, 0xfe",
    "mov cr0, eax",
    ".byte 0xea",
    ".short 4f, 0",
    "4: xor ax, ax",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov sp, {load}",
    "sti",
    "mov eax, [bios_registers]",
    "mov ebx, [bios_registers + 4]",
    "mov ecx, [bios_registers + 8]",
    "mov edx, [bios_registers + 12]",
    "mov esi, [bios_registers + 16]",
    // Bytes: the number is written into them, and the jump makes the CPU read them again.
    "jmp bios_interrupt",
    ".globl bios_interrupt",
    "bios_interrupt:",
    ".byte 0xcd, 0",
    "cli",
    "pushfd",
    "push eax",
    "xor ax, ax",
    "mov ds, ax",
    "pop eax",
    "mov [bios_registers], eax",
    "mov [bios_registers + 4], ebx",
    "mov [bios_registers + 8], ecx",
    "mov [bios_registers + 12], edx",
    "mov [bios_registers + 16], esi",
    "pop eax",
    "mov [bios_registers + 20], eax",
    "jmp bios_up",
    ".code64",
    "bios_back:",
    "mov rsp, [bios_stack_kept]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "cld",
    "ret",
    ".balign 8",
    "bios_stack_kept: .quad 0",
    "bios_resume: .quad 0",
    // 64-bit code, data, 32-bit code, 16-bit code, 16-bit data.
    "bios_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00009b000000ffff, 0x000093000000ffff",
    "bios_gdt_pointer: .short 47",
    ".long bios_gdt",
    ".balign 8",
    ".globl bios_registers",
    "bios_registers: .fill 6, 4, 0",
    ".globl bios_packet",
    "bios_packet: .fill 16, 1, 0",
    ".globl bios_e820_count",
    "bios_e820_count: .short 0",
    ".balign 8",
    ".globl bios_e820",
    "bios_e820: .fill {e820_max} * 24, 1, 0",
    ".popsection",
    load = const BIOS_LOAD,
    e820_max = const E820_MAX,
);

// The first 4 GiB where they are, in large pages; the stack of 64-bit code.
global_asm!(
    ".pushsection .data.tables, \"aw\"",
    ".balign 4096",
    "bios_pml4:",
    ".quad bios_pdpt + 3",
    ".fill 511, 8, 0",
    "bios_pdpt:",
    ".set page, 0",
    ".rept 4",
    ".quad bios_pd + page * 4096 + 3",
    ".set page, page + 1",
    ".endr",
    ".fill 508, 8, 0",
    "bios_pd:",
    ".set page, 0",
    ".rept 2048",
    ".quad page * 0x200000 + 0x83",
    ".set page, page + 1",
    ".endr",
    ".popsection",
    ".pushsection .bss.stack, \"aw\", @nobits",
    ".balign 16",
    ".fill 0x8000, 1, 0",
    "bios_stack_top:",
    ".popsection",
);
