//! Where other CPUs begin: a page below 1 MiB that a startup command enters in real mode. Its code, copied there, does no
//! more than reach protected mode; `cpu_start` in the kernel's text goes on without paging and into 64-bit mode as the first
//! CPU did, on the boot tables; then it takes the kernel's own, and calls what `pvops::smp::Start` says.
//!
//! So nothing is ever writable and executable under paging here either: the page is plain data once paging is on.

use crate::mm::Range;
use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use pvops::smp::Start;
use shared_abi::bundle::KERNEL_VIRTUAL_BASE;
use x86_64::registers::control::Cr0Flags;
use x86_64::structures::gdt::{DescriptorFlags, SegmentSelector};
use x86_64::{PhysAddr, PrivilegeLevel};

/// Bytes of the trampoline: a page, because the startup command carries a page number.
pub const SIZE: u64 = 4096;
/// The BIOS's data and the first PCs' video memory start here: RAM below it is RAM.
const LOW_END: u64 = 0x9_f000;

/// What the next CPU is to do.
static mut NEXT: Start = Start { entry: nowhere, argument: 0, stack: 0, tables: PhysAddr::zero() };

extern "sysv64" fn nowhere(_: usize) -> ! {
    pvops::cpu::park()
}

/// Places in the page: the table pointer, whose base is filled in where the code is copied to, and the table.
const POINTER: usize = 8;
const GDT: usize = 16;
/// Selectors in that table, whose code segment is one of 32 bits.
const CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
const DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);

/// What CR0 says of the caches, which a CPU starts without.
const NO_CACHES: Cr0Flags = Cr0Flags::CACHE_DISABLE.union(Cr0Flags::NOT_WRITE_THROUGH);

#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .rodata.trampoline, \"a\"",
    ".balign 8",
    ".code16",
    ".globl cpu_trampoline",
    "cpu_trampoline:",
    "jmp 2f",
    ".balign 8",
    ".short 23",
    ".long 0",
    ".balign 8",
    ".quad 0, {code_segment}, {data_segment}",
    "2: cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "lgdt [{pointer}]",
    // CR0: the caches on, protected mode.
    "mov eax, cr0",
    "and eax, {caches}",
    "or eax, {protected_mode}",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long cpu_start - {base}",
    ".short {code}",
    ".globl cpu_trampoline_end",
    "cpu_trampoline_end:",
    ".code64",
    ".popsection",
    pointer = const POINTER,
    code_segment = const DescriptorFlags::KERNEL_CODE32.bits(),
    data_segment = const DescriptorFlags::KERNEL_DATA.bits(),
    caches = const !NO_CACHES.bits() as u32,
    protected_mode = const Cr0Flags::PROTECTED_MODE_ENABLE.bits(),
    code = const CODE.0,
    base = const KERNEL_VIRTUAL_BASE,
);

#[cfg(target_os = "none")]
global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".code32",
    ".globl cpu_start",
    "cpu_start:",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov edi, offset {high} - {base}",
    "jmp long_mode",
    ".code64",
    ".popsection",
    data = const DATA.0,
    base = const KERNEL_VIRTUAL_BASE,
    high = sym high_half,
);

/// At its linked address: the kernel's tables, the stack, then Rust.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
unsafe extern "sysv64" fn high_half() {
    naked_asm!(
        "lea rdx, [rip + {next}]",
        "mov rax, [rdx + {tables}]",
        "mov cr3, rax",
        "mov rsp, [rdx + {stack}]",
        "mov rdi, [rdx + {argument}]",
        "xor ebp, ebp",
        "call [rdx + {entry}]",
        "ud2",
        next = sym NEXT,
        tables = const offset_of!(Start, tables),
        stack = const offset_of!(Start, stack),
        argument = const offset_of!(Start, argument),
        entry = const offset_of!(Start, entry),
    )
}

/// The highest unused page of low RAM.
pub fn place(ram: &[Range], reserved: &[Range]) -> Option<u64> {
    let page = |range: &Range| {
        let start = (range.end.min(LOW_END) / SIZE * SIZE).checked_sub(SIZE)?;
        (start >= range.start.max(SIZE)).then_some(start)
    };
    let free = |&start: &u64| reserved.iter().all(|hole| hole.end <= start || start + SIZE <= hole.start);
    ram.iter().filter_map(page).filter(free).max()
}

/// Copies the code into its page and passes the address to pvops.
///
/// # Safety
/// `page` comes from [`place`], was kept from the frame allocator, and is mapped by the direct map.
pub unsafe fn install(page: u64) {
    unsafe extern "C" {
        static cpu_trampoline: u8;
        static cpu_trampoline_end: u8;
    }
    let code = &raw const cpu_trampoline;
    let len = (&raw const cpu_trampoline_end).addr() - code.addr();
    let there = crate::mm::direct(page) as *mut u8;
    // SAFETY: the page is ours per the contract, and the code is shorter; the base follows its limit unaligned.
    unsafe {
        there.copy_from_nonoverlapping(code, len);
        there.add(POINTER + 2).cast::<u32>().write_unaligned(page as u32 + GDT as u32);
        pvops::worlds::native::startup::set_trampoline((page / SIZE) as u8, &raw mut NEXT);
    }
}
