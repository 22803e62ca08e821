//! The world `native`: ring 0 of a machine, real or virtual. Operations are instructions.
//!
//! Functions that hot sites call are naked, so that they change RAX and the flags only, as the sites promise.

pub mod apic;
pub mod startup;
pub mod tsc;

use crate::ops::cpu::msr;
use crate::percpu;
use crate::table::{Backend, CpuOps, EventOps, IrqOps, MemoryOps, MmuOps, Op, Ops, SmpOps, TimeOps, VmmOps, op};
use crate::template::Template;
use crate::types::Flags;
use core::arch::{asm, naked_asm};
use x86_64::registers::control::Cr4Flags;
use x86_64::structures::DescriptorTablePointer;

/// The backend of this world.
pub static BACKEND: Backend = Backend { name: "native", ops: OPS, templates: TEMPLATES };

pub(crate) const OPS: Ops = Ops {
    irq: IrqOps {
        save: Some(irq_save),
        restore: Some(irq_restore),
        disable: Some(irq_disable),
        enable: Some(irq_enable),
        halt: Some(irq_halt),
    },
    cpu: CpuOps {
        read_cr0: Some(read_cr0),
        write_cr0: Some(write_cr0),
        read_cr2: Some(read_cr2),
        read_cr4: Some(read_cr4),
        write_cr4: Some(write_cr4),
        read_msr: Some(read_msr),
        write_msr: Some(write_msr),
        load_gdt: Some(load_gdt),
        load_idt: Some(load_idt),
        load_tr: Some(load_tr),
        set_segment_base: Some(set_segment_base),
        iret: Some(iret),
        protect: Some(protect),
    },
    mmu: MmuOps {
        set_pte: Some(set_pte),
        lazy_begin: Some(nothing),
        lazy_end: Some(nothing),
        read_cr3: Some(read_cr3),
        write_cr3: Some(write_cr3),
        flush_all: Some(flush_all),
        flush_one: Some(flush_one),
        encode: Some(same),
        decode: Some(same),
        adopt_table: Some(table_is_memory),
        release_table: Some(table_is_memory),
        large_pages: Some(large_pages),
    },
    memory: MemoryOps {
        machine_block: Some(machine_block),
        reservation: Some(no_reservation),
        give_back: Some(no_frames),
        populate: Some(no_frames),
    },
    event: EventOps {
        start: Some(apic::start),
        bind: Some(apic::bind),
        bind_message: Some(apic::bind_message),
        mask: Some(apic::mask),
        unmask: Some(apic::unmask),
        end: Some(apic::local::end),
    },
    time: TimeOps { now: Some(tsc::now), set_timer: Some(apic::set_timer) },
    smp: SmpOps {
        cpu: Some(percpu::id),
        enter: Some(apic::enter_cpu),
        relax: Some(relax),
        start_cpu: Some(startup::start_cpu),
        send_ipi: Some(startup::send_ipi),
    },
    vmm: VmmOps { crash: Some(nothing), power_off: Some(no_power_off), write: Some(no_write), read: Some(no_read) },
};

/// What stands at the sites.
pub(crate) const TEMPLATES: &[(Op, Template)] = &[
    (op::irq::save, SAVE),
    (op::irq::restore, RESTORE),
    (op::irq::disable, DISABLE),
    (op::irq::enable, ENABLE),
    (op::irq::halt, HALT),
    (op::cpu::read_cr0, READ_CR0),
    (op::cpu::write_cr0, WRITE_CR0),
    (op::cpu::read_cr2, READ_CR2),
    (op::cpu::read_cr4, READ_CR4),
    (op::cpu::write_cr4, WRITE_CR4),
    (op::cpu::load_gdt, LOAD_GDT),
    (op::cpu::load_idt, LOAD_IDT),
    (op::cpu::load_tr, LOAD_TR),
    (op::cpu::iret, IRET),
    (op::mmu::set_pte, SET_PTE),
    (op::mmu::lazy_begin, NOTHING),
    (op::mmu::lazy_end, NOTHING),
    (op::mmu::read_cr3, READ_CR3),
    (op::mmu::write_cr3, WRITE_CR3),
    (op::mmu::flush_one, FLUSH_ONE),
    (op::mmu::encode, SAME),
    (op::mmu::decode, SAME),
    (op::mmu::adopt_table, NOTHING),
    (op::mmu::release_table, NOTHING),
    (op::smp::relax, RELAX),
];

/// Defines an operation's function and its inline code from the same instructions.
macro_rules! instructions {
    ($($(#[$doc:meta])* $function:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?, $template:ident: $($line:literal),* $(,)?;)*) => {
        $(
            crate::template!($(#[$doc])* pub(crate) $template, $($line),*);

            $(#[$doc])*
            #[unsafe(naked)]
            pub(crate) unsafe extern "sysv64" fn $function($($arg: $ty),*) $(-> $ret)? {
                naked_asm!($($line,)* "ret")
            }
        )*
    };
}

instructions! {
    /// RFLAGS, then interrupts off.
    irq_save() -> Flags, SAVE: "pushfq", "pop rax", "cli";
    /// RFLAGS as they were.
    irq_restore(_flags: Flags), RESTORE: "push rdi", "popfq";
    /// IF = 0.
    irq_disable(), DISABLE: "cli";
    /// IF = 1.
    irq_enable(), ENABLE: "sti";
    /// `sti` keeps interrupts off for one more instruction, so none slips in before `hlt`.
    irq_halt(), HALT: "sti", "hlt";
    /// CR0.
    read_cr0() -> u64, READ_CR0: "mov rax, cr0";
    /// CR0.
    write_cr0(_value: u64), WRITE_CR0: "mov cr0, rdi";
    /// CR2.
    read_cr2() -> u64, READ_CR2: "mov rax, cr2";
    /// CR4.
    read_cr4() -> u64, READ_CR4: "mov rax, cr4";
    /// CR4.
    write_cr4(_value: u64), WRITE_CR4: "mov cr4, rdi";
    /// GDTR.
    load_gdt(_descriptor: *const DescriptorTablePointer), LOAD_GDT: "lgdt [rdi]";
    /// IDTR.
    load_idt(_descriptor: *const DescriptorTablePointer), LOAD_IDT: "lidt [rdi]";
    /// TR.
    load_tr(_selector: u16), LOAD_TR: "ltr di";
    /// A store: the walker sees it at the next TLB miss.
    set_pte(_entry: *mut u64, _value: u64), SET_PTE: "mov [rdi], rsi";
    /// CR3.
    read_cr3() -> u64, READ_CR3: "mov rax, cr3";
    /// CR3.
    write_cr3(_address: u64), WRITE_CR3: "mov cr3, rdi";
    /// One page.
    flush_one(_address: usize), FLUSH_ONE: "invlpg [rdi]";
    /// Frames have one number here.
    same(_entry: u64) -> u64, SAME: "mov rax, rdi";
    /// PAUSE.
    relax(), RELAX: "pause";
}

crate::template!(
    /// The frame is on top of the stack.
    IRET,
    "iretq",
);

/// Called, the frame is below the return address.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn iret() {
    naked_asm!("add rsp, 8", "iretq")
}

crate::template!(
    /// For operations that do nothing here.
    NOTHING,
);

#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn nothing() {
    naked_asm!("ret")
}

/// A page table is memory like any other.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn table_is_memory(_pfn: u64, _level: u32) {
    naked_asm!("ret")
}

pub(crate) unsafe extern "sysv64" fn large_pages() -> u64 {
    1
}

/// Frames are where they seem to be.
pub(crate) unsafe extern "sysv64" fn machine_block(pfn: u64, _order: u32) -> u64 {
    pfn << 12
}

pub(crate) unsafe extern "sysv64" fn no_reservation() -> u64 {
    0
}

pub(crate) unsafe extern "sysv64" fn no_frames(_pfns: *const u64, _count: usize) -> usize {
    0
}

pub(crate) unsafe extern "sysv64" fn no_power_off(_sleep: u32) {}

pub(crate) unsafe extern "sysv64" fn no_write(_bytes: *const u8, _len: usize) -> usize {
    0
}

pub(crate) unsafe extern "sysv64" fn no_read(_bytes: *mut u8, _len: usize) -> usize {
    0
}

/// Turning CR4.PGE off and on flushes global entries too; a write of CR3 would not.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn flush_all() {
    naked_asm!(
        "mov rax, cr4", "push rax", "xor al, {pge}", "mov cr4, rax", "pop rax", "mov cr4, rax", "ret",
        pge = const Cr4Flags::PAGE_GLOBAL.bits(),
    )
}

#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn read_msr(_msr: u32) -> u64 {
    naked_asm!("mov ecx, edi", "rdmsr", "shl rdx, 32", "or rax, rdx", "ret")
}

#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn write_msr(_msr: u32, _value: u64) {
    naked_asm!("mov ecx, edi", "mov eax, esi", "mov rdx, rsi", "shr rdx, 32", "wrmsr", "ret")
}

/// Turns on what this CPU offers of [`PROTECTIONS`](crate::cpu::PROTECTIONS) (Intel SDM volume 3, "Control Registers").
pub(crate) unsafe extern "sysv64" fn protect() -> u64 {
    let offered = crate::cpu::offered_protections().bits();
    // SAFETY: reserved bits of CR4 fault, but CPUID offers these. The kernel neither runs nor touches user pages, CR3 names
    // process-context 0, and machine checks have a handler.
    unsafe {
        write_cr4(read_cr4() | offered);
        // Some software CPUs ignore bits that they do not implement.
        read_cr4() & offered
    }
}

pub(crate) unsafe extern "sysv64" fn set_segment_base(which: u32, base: u64) {
    let msr = match which {
        0 => msr::FS_BASE,
        // User mode's, which is the inactive one here.
        1 => msr::KERNEL_GS_BASE,
        _ => msr::GS_BASE,
    };
    // SAFETY: the three MSRs exist on every 64-bit CPU.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") base as u32, in("edx") (base >> 32) as u32, options(nostack, preserves_flags))
    };
}
