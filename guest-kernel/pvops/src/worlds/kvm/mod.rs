//! The world `kvm`: `native`, with KVM's clock where it is offered, and with interrupts that KVM lets end by a store. All
//! else stays instructions: with hardware help those cost no exit, so a hypercall could only be slower.

use crate::percpu;
use crate::table::{Backend, CpuOps, EventOps, IrqOps, MemoryOps, MmuOps, Ops, SmpOps, TimeOps, VmmOps};
use crate::worlds::native::{self, apic, startup};
use crate::worlds::pvclock;
use core::arch::naked_asm;
use core::mem::offset_of;
use shared_abi::kvm::{MSR_PV_EOI, PV_EOI_ENABLE};

/// The backend of this world.
pub static BACKEND: Backend = Backend { name: "kvm", ops: OPS, templates: native::TEMPLATES };

const OPS: Ops = Ops {
    irq: IrqOps {
        save: Some(native::irq_save),
        restore: Some(native::irq_restore),
        disable: Some(native::irq_disable),
        enable: Some(native::irq_enable),
        halt: Some(native::irq_halt),
    },
    cpu: CpuOps {
        read_cr0: Some(native::read_cr0),
        write_cr0: Some(native::write_cr0),
        read_cr2: Some(native::read_cr2),
        read_cr4: Some(native::read_cr4),
        write_cr4: Some(native::write_cr4),
        read_msr: Some(native::read_msr),
        write_msr: Some(native::write_msr),
        load_gdt: Some(native::load_gdt),
        load_idt: Some(native::load_idt),
        load_tr: Some(native::load_tr),
        set_segment_base: Some(native::set_segment_base),
        iret: Some(native::iret),
        protect: Some(native::protect),
    },
    mmu: MmuOps {
        set_pte: Some(native::set_pte),
        lazy_begin: Some(native::nothing),
        lazy_end: Some(native::nothing),
        read_cr3: Some(native::read_cr3),
        write_cr3: Some(native::write_cr3),
        flush_all: Some(native::flush_all),
        flush_one: Some(native::flush_one),
        encode: Some(native::same),
        decode: Some(native::same),
        adopt_table: Some(native::table_is_memory),
        release_table: Some(native::table_is_memory),
        large_pages: Some(native::large_pages),
    },
    memory: MemoryOps {
        machine_block: Some(native::machine_block),
        reservation: Some(native::no_reservation),
        give_back: Some(native::no_frames),
        populate: Some(native::no_frames),
    },
    event: EventOps {
        start: Some(apic::start),
        bind: Some(apic::bind),
        bind_message: Some(apic::bind_message),
        mask: Some(apic::mask),
        unmask: Some(apic::unmask),
        end: Some(end),
    },
    time: TimeOps { now: Some(pvclock::now), set_timer: Some(apic::set_timer) },
    smp: SmpOps {
        cpu: Some(percpu::id),
        enter: Some(enter_cpu),
        relax: Some(native::relax),
        start_cpu: Some(startup::start_cpu),
        send_ipi: Some(startup::send_ipi),
    },
    vmm: VmmOps {
        crash: Some(native::nothing),
        power_off: Some(native::no_power_off),
        write: Some(native::no_write),
        read: Some(native::no_read),
    },
};

/// As in the world `native`, and KVM's clock for this CPU where it is in use.
unsafe extern "sysv64" fn enter_cpu(slot: u64) {
    // SAFETY: the same contract.
    unsafe { apic::enter_cpu(slot) };
    pvclock::open_clock(slot as usize);
}

/// Gives KVM the address of this CPU's word by which interrupts may be ended; the CPU's local APIC is open. Each end that
/// KVM allows so saves an exit.
///
/// # Safety
/// `physical` translates the address of a static of this crate to a guest physical one; the feature PV_EOI is there.
pub unsafe fn start_eoi(physical: impl FnOnce(usize) -> u64) {
    let address = physical(crate::percpu::eoi_word().as_raw_ptr().addr().get());
    // SAFETY: the MSR exists with the feature; the word is this CPU's and never freed.
    unsafe { crate::ops::cpu::write_msr(MSR_PV_EOI, address | PV_EOI_ENABLE) };
}

/// Interrupts that this CPU has ended without the local APIC.
pub fn ends_saved() -> u64 {
    crate::percpu::ends_saved()
}

/// The word of the first CPU as it is now.
pub fn eoi_word() -> u32 {
    crate::percpu::eoi_word().read()
}

/// The target of a hot site: changes the flags and RAX only. Without a lock: KVM writes the word only while this CPU is not
/// in the guest. Where the feature is off the bit is never set.
#[unsafe(naked)]
unsafe extern "sysv64" fn end() {
    naked_asm!(
        "btr dword ptr gs:[{word}], 0",
        "jc 2f",
        "jmp {write}",
        "2: inc qword ptr gs:[{saved}]",
        "ret",
        word = const offset_of!(crate::percpu::Block, eoi),
        saved = const offset_of!(crate::percpu::Block, ends_saved),
        write = sym crate::worlds::native::apic::local::end,
    )
}
