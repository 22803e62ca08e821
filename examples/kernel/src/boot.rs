//! From the VMM's PVH entry (32-bit, no paging, EBX: start info) to `main` in 64-bit mode.
//!
//! ```text
//! 0 .. 2 MiB          read-write: what the VMM passes
//! 2 MiB .. 4 MiB      text, read-execute
//! 4 MiB .. 4 GiB      read-write: data, stack, device registers
//! ```
//! Addresses are physical ones. CR0.WP stays off until the call sites are patched: until then ring 0 may write to text.

core::arch::global_asm!(
    // The note that makes an ELF file bootable: owner "Xen", type XEN_ELFNOTE_PHYS32_ENTRY.
    ".pushsection .note.boot, \"a\", @note",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long pvh_start",
    ".popsection",
    // One 2 MiB page for each of 2,048 entries: present, writable, accessed, dirty, large, no execution (0x80..0e3).
    ".pushsection .data.tables, \"aw\"",
    ".balign 4096",
    "directory:",
    ".quad 0x80000000000000e3",
    ".quad 0x2000e1", // text: neither writable nor no-execute
    ".set page, 2",
    ".rept 2046",
    ".quad 0x80000000000000e3 + page * 0x200000",
    ".set page, page + 1",
    ".endr",
    "level3: .quad directory + 0x3, directory + 0x1003, directory + 0x2003, directory + 0x3003",
    ".fill 508, 8, 0",
    "level4: .quad level3 + 0x3",
    ".fill 511, 8, 0",
    "gdt: .quad 0, 0x00209a0000000000, 0x0000920000000000", // 64-bit code, data
    "gdt_pointer: .short 23",
    ".long gdt",
    ".popsection",
    ".pushsection .bss.stack, \"aw\", @nobits",
    ".balign 16",
    ".skip 0x10000",
    "stack_top:",
    ".popsection",
    ".pushsection .text.boot, \"ax\"",
    ".code32",
    ".globl pvh_start",
    "pvh_start:",
    "mov eax, 0x20", // CR4.PAE
    "mov cr4, eax",
    "mov eax, offset level4",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // EFER: LME, NXE
    "mov eax, 0x900",
    "xor edx, edx",
    "wrmsr",
    "mov eax, 0x80000001", // CR0: PG, PE
    "mov cr0, eax",
    "lgdt [gdt_pointer]",
    ".byte 0xea", // jmp 8:2f
    ".long 2f",
    ".short 8",
    ".code64",
    "2: mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov esp, offset stack_top",
    "mov edi, ebx",
    "call main",
    "ud2",
    ".popsection",
);
