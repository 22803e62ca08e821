//! The last step: a block of memory outside the kernel's place with everything that is needed while the kernel is put
//! there, and the way from 64-bit mode down to where PVH starts: 32-bit protected mode, no paging, flat segments.
//!
//! ```text
//! block + 0        code, position independent
//!       + 0x1000   Control, GDT, the list of moves; the stack grows down from 0x3000
//!       + 0x3000   page tables: 5 or 4 levels, the first 4 GiB mapped where they are
//!       + 0xa000   StartInfo, module list, memory map, command line
//! ```
//! What overlaps the kernel's place (firmware's tables, this program itself) is not needed any more once the code runs.

use crate::kernel::SEGMENTS_MAX;
use crate::map::ENTRIES_MAX;
use crate::{Error, Kernel, MemoryMap};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::ops::Range;
use core::ptr;
use shared_abi::pvh::{MemmapEntry, ModlistEntry, START_INFO_VERSION, START_MAGIC, StartInfo};
use zerocopy::IntoBytes;

const CODE_MAX: usize = 0x1000;
const TABLES: u64 = 0x3000;
const DATA: usize = 0xa000;
const MODULES: usize = DATA + size_of::<StartInfo>();
const MEMORY_MAP: usize = MODULES + size_of::<ModlistEntry>();
const CMDLINE: usize = MEMORY_MAP + ENTRIES_MAX * size_of::<MemmapEntry>();
/// The kernel reads this much from the start of a command line.
const CMDLINE_SLACK: usize = shared_abi::disk::CMDLINE_MAX;

/// Bytes of the block for a command line of so many bytes: below 4 GiB, page aligned, not in the kernel's place.
pub const fn block_size(cmdline: usize) -> usize {
    (CMDLINE + cmdline + 1 + CMDLINE_SLACK).next_multiple_of(0x1000)
}

/// What the kernel is started with.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Kernel<'a>,
    /// Its command line, without NUL.
    pub cmdline: &'a [u8],
    /// Where its initrd is.
    pub initrd: Option<Range<u64>>,
    /// ACPI's root pointer, or 0.
    pub rsdp: u64,
    /// The memory.
    pub map: &'a MemoryMap,
}

/// Bytes to copy and then to clear.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Move {
    from: u64,
    to: u64,
    bytes: u64,
    zeros: u64,
}

/// What the code reads.
#[repr(C)]
struct Control {
    tables: u64,
    stack: u64,
    moves: u64,
    count: u64,
    entry: u32,
    start_info: u32,
    gdt_limit: [u16; 4],
    gdt_base: u64,
    gdt: [u64; 4],
    list: [Move; SEGMENTS_MAX],
}
const _: () = assert!(CODE_MAX + size_of::<Control>() + 256 < TABLES as usize);

/// Flat, 32 bits: execute and read, read and write; the TSS that PVH wants, at address 0.
const GDT: [u64; 4] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8900_0000_0067];
const CODE: u16 = 0x08;
const STACK_AND_DATA: u16 = 0x10;
const TASK: u16 = 0x18;

// RDI: the control structure, in the block that the code runs in.
global_asm!(
    ".pushsection .text",
    ".balign 16",
    "ringside_handover:",
    "cli",
    "cld",
    "mov rbx, rdi",
    "mov rax, [rbx + {tables}]",
    "mov cr3, rax",
    "mov rsp, [rbx + {stack}]",
    "mov r8, [rbx + {moves}]",
    "mov r9, [rbx + {count}]",
    "2: test r9, r9",
    "jz 3f",
    "mov rsi, [r8 + {from}]",
    "mov rdi, [r8 + {to}]",
    "mov rcx, [r8 + {bytes}]",
    "rep movsb",
    "mov rcx, [r8 + {zeros}]",
    "xor eax, eax",
    "rep stosb",
    "add r8, {move_size}",
    "dec r9",
    "jmp 2b",
    "3: mov esi, [rbx + {entry}]",
    "mov edi, [rbx + {start_info}]",
    "lgdt [rbx + {gdt_limit}]",
    "lea rax, [rip + 4f]",
    "push {code}",
    "push rax",
    "retfq",
    ".code32",
    "4: mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ss, eax",
    // Paging off, then long mode; CR4 and the rest of CR0 as PVH wants them.
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "and eax, 0xfffffeff",
    "wrmsr",
    "xor eax, eax",
    "mov cr4, eax",
    "inc eax",
    "mov cr0, eax",
    "mov eax, {task}",
    "ltr ax",
    "push 0",
    "popfd",
    "mov ebx, edi",
    "jmp esi",
    ".code64",
    "ringside_handover_end:",
    ".popsection",
    tables = const offset_of!(Control, tables),
    stack = const offset_of!(Control, stack),
    moves = const offset_of!(Control, moves),
    count = const offset_of!(Control, count),
    entry = const offset_of!(Control, entry),
    start_info = const offset_of!(Control, start_info),
    // The pointer for lgdt is the last limit, immediately followed by the base.
    gdt_limit = const offset_of!(Control, gdt_limit) + 6,
    from = const offset_of!(Move, from),
    to = const offset_of!(Move, to),
    bytes = const offset_of!(Move, bytes),
    zeros = const offset_of!(Move, zeros),
    move_size = const size_of::<Move>(),
    code = const CODE,
    data = const STACK_AND_DATA,
    task = const TASK,
);

unsafe extern "C" {
    #[link_name = "ringside_handover"]
    static HANDOVER: u8;
    #[link_name = "ringside_handover_end"]
    static HANDOVER_END: u8;
}

/// A block that is ready.
#[derive(Debug)]
pub struct Handover {
    block: *mut u8,
}

impl Handover {
    /// Fills in a block.
    ///
    /// # Errors
    /// [`Error::NotInRam`].
    ///
    /// # Safety
    /// `block` has [`block_size`] bytes that nothing else uses, mapped where they are, writable and executable, below
    /// 4 GiB, and neither they nor the kernel's file nor the initrd lie in the kernel's [`span`](Kernel::span).
    pub unsafe fn prepare(block: *mut u8, boot: &Boot<'_>) -> Result<Self, Error> {
        let base = block.addr() as u64;
        let mut list = [Move::default(); SEGMENTS_MAX];
        for (slot, segment) in list.iter_mut().zip(&boot.kernel.segments) {
            let place = segment.paddr..segment.paddr + segment.memory;
            if !boot.map.is_ram(&place) {
                return Err(Error::NotInRam(place.start, place.end));
            }
            let bytes = segment.bytes.len() as u64;
            let zeros = segment.memory - bytes;
            *slot = Move { from: segment.bytes.as_ptr().addr() as u64, to: place.start, bytes, zeros };
        }
        let control_at = base + CODE_MAX as u64;
        let control = Control {
            tables: base + TABLES,
            stack: base + TABLES,
            moves: control_at + offset_of!(Control, list) as u64,
            count: boot.kernel.segments.len() as u64,
            entry: boot.kernel.entry,
            start_info: (base + DATA as u64) as u32,
            gdt_limit: [0, 0, 0, size_of_val(&GDT) as u16 - 1],
            gdt_base: control_at + offset_of!(Control, gdt) as u64,
            gdt: GDT,
            list,
        };
        // SAFETY: all of it lies in the block, which is ours; the code lies between its two labels.
        unsafe {
            block.write_bytes(0, block_size(boot.cmdline.len()));
            let len = (&raw const HANDOVER_END).addr() - (&raw const HANDOVER).addr();
            assert!(len <= CODE_MAX);
            block.copy_from_nonoverlapping(&raw const HANDOVER, len);
            block.add(CODE_MAX).cast::<Control>().write(control);
            write_tables(block.add(TABLES as usize).cast());
            write_boot_data(block, boot);
        }
        Ok(Self { block })
    }

    /// Starts the kernel.
    ///
    /// # Safety
    /// Nothing of the firmware is needed any more, and all memory that the map calls RAM is free.
    pub unsafe fn go(self) -> ! {
        // SAFETY: prepare has put the code and its control structure there.
        unsafe {
            asm!("jmp rax", in("rax") self.block, in("rdi") self.block.add(CODE_MAX), options(noreturn));
        }
    }
}

/// Large pages for the first 4 GiB below a table of each level; how many levels count depends on the mode that we are in.
///
/// # Safety
/// There is room for seven tables.
unsafe fn write_tables(tables: *mut [u64; 512]) {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 0x83;
    let base = tables.addr() as u64;
    let at = |index: usize| base + index as u64 * 4096;
    // With 57-bit addresses firmware's CR3 has one more level. Without, the table of level 4 is in the first place.
    let five = usize::from(five_levels());
    // SAFETY: indices 0 to 6, which are zero so far.
    unsafe {
        if five == 1 {
            (*tables)[0] = at(1) | PRESENT_WRITABLE;
        }
        (*tables.add(five))[0] = at(five + 1) | PRESENT_WRITABLE;
        for gib in 0..4 {
            (*tables.add(five + 1))[gib] = at(five + 2 + gib) | PRESENT_WRITABLE;
            let directory = &mut *tables.add(five + 2 + gib);
            for (index, entry) in directory.iter_mut().enumerate() {
                *entry = (gib as u64) << 30 | (index as u64) << 21 | LARGE;
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn five_levels() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn five_levels() -> bool {
    let cr4: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    cr4 & 1 << 12 != 0
}

/// # Safety
/// As [`Handover::prepare`].
unsafe fn write_boot_data(block: *mut u8, boot: &Boot<'_>) {
    let at = |offset: usize| (block.addr() + offset) as u64;
    let info = StartInfo {
        magic: START_MAGIC,
        version: START_INFO_VERSION,
        nr_modules: boot.initrd.is_some().into(),
        modlist_paddr: if boot.initrd.is_some() { at(MODULES) } else { 0 },
        cmdline_paddr: at(CMDLINE),
        rsdp_paddr: boot.rsdp,
        memmap_paddr: at(MEMORY_MAP),
        memmap_entries: boot.map.entries().len() as u32,
        ..StartInfo::default()
    };
    let initrd = boot.initrd.clone().unwrap_or_default();
    let module = ModlistEntry { paddr: initrd.start, size: initrd.end - initrd.start, ..ModlistEntry::default() };
    let parts: [(usize, &[u8]); 4] = [
        (DATA, info.as_bytes()),
        (MODULES, module.as_bytes()),
        (MEMORY_MAP, boot.map.entries().as_bytes()),
        (CMDLINE, boot.cmdline),
    ];
    for (offset, bytes) in parts {
        // SAFETY: the layout above gives each part its room.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), block.add(offset), bytes.len()) };
    }
}
