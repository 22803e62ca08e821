//! The world `xen`: ring 3 under Xen's paravirtual interface. Operations are hypercalls, or stores to the page that the
//! domain shares with Xen.
//!
//! [`enter`] prepares everything that the kernel expects of boot code; from then on the table works. [`hypercall`] has the
//! calls and their counts, `entry` what Xen enters and returns through, [`memory`] page tables and frames, [`event`]
//! channels. Numbers and layouts are in `shared_abi::xen`.

mod enter;
mod entry;
pub mod event;
mod handlers;
pub mod hypercall;
#[cfg(target_os = "none")]
mod inline;
pub mod memory;

pub use enter::{Boot, EnterError, enter, log};

use crate::per_cpu;
use crate::percpu::{self, PerCpu};
use crate::table::{Backend, CpuOps, EventOps, IrqOps, MemoryOps, MmuOps, Op, Ops, SmpOps, TimeOps, VmmOps};
use crate::template::Template;
use crate::types::Start;
use crate::worlds::{native, pvclock};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use hypercall::Refused;
use shared_abi::xen::{PlatformOp, SharedInfo, SingleShot, VcpuInfo, console, hypercall as number, sched, vcpu};
use volatile::VolatilePtr;
use volatile::access::ReadOnly;
use x86_64::structures::DescriptorTablePointer;

/// The page that the domain shares with Xen. It is backed by Xen's own frame from [`enter`] on.
///
/// A symbol of its own, because inline code names it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.xen_shared_info")]
static mut XEN_SHARED_INFO: SharedPage = SharedPage { bytes: [0; size_of::<SharedInfo>()] };

/// Page-sized and page-aligned; all zeroes until Xen's frame backs it.
#[repr(C, align(4096))]
union SharedPage {
    bytes: [u8; size_of::<SharedInfo>()],
    info: core::mem::ManuallyDrop<SharedInfo>,
}

/// Where the shared page is. Xen changes it at any time: volatile or atomic accesses only.
pub fn shared_info() -> *mut SharedInfo {
    (&raw mut XEN_SHARED_INFO).cast()
}

/// What the page has of CPU 0, for plain reads. Words that both sides change are atomics of [`event`].
pub fn vcpu_info() -> VolatilePtr<'static, VcpuInfo, ReadOnly> {
    // SAFETY: a part of a static, to which there are no references.
    unsafe { VolatilePtr::new_read_only(NonNull::new_unchecked(&raw mut (*shared_info()).vcpus[0])) }
}

/// The backend of this world.
pub static BACKEND: Backend = Backend { name: "xen", ops: OPS, templates: TEMPLATES };

const OPS: Ops = Ops {
    irq: IrqOps {
        save: Some(entry::irq_save),
        restore: Some(entry::irq_restore),
        disable: Some(entry::irq_disable),
        enable: Some(entry::irq_enable),
        halt: Some(entry::irq_halt),
    },
    cpu: CpuOps {
        // Xen emulates these instructions, and allows what a guest may do.
        read_cr0: Some(native::read_cr0),
        write_cr0: Some(native::write_cr0),
        read_cr2: Some(entry::read_cr2),
        read_cr4: Some(native::read_cr4),
        write_cr4: Some(native::write_cr4),
        read_msr: Some(native::read_msr),
        write_msr: Some(native::write_msr),
        load_gdt: Some(keep_segments),
        load_idt: Some(entry::load_idt),
        load_tr: Some(no_task_register),
        set_segment_base: Some(set_segment_base),
        iret: Some(entry::iret),
        protect: Some(protected_by_xen),
    },
    mmu: MmuOps {
        set_pte: Some(memory::set_pte),
        lazy_begin: Some(memory::lazy_begin),
        lazy_end: Some(memory::lazy_end),
        read_cr3: Some(memory::read_cr3),
        write_cr3: Some(memory::write_cr3),
        flush_all: Some(memory::flush_all),
        flush_one: Some(memory::flush_one),
        encode: Some(memory::encode),
        decode: Some(memory::decode),
        adopt_table: Some(memory::adopt_table),
        release_table: Some(memory::release_table),
        large_pages: Some(memory::large_pages),
    },
    memory: MemoryOps {
        machine_block: Some(memory::machine_block),
        reservation: Some(memory::reservation),
        give_back: Some(memory::give_back),
        populate: Some(memory::populate),
    },
    event: EventOps {
        start: Some(event::start),
        bind: Some(event::bind),
        bind_message: Some(event::bind_message),
        mask: Some(event::mask),
        unmask: Some(event::unmask),
        end: Some(entry::end),
    },
    time: TimeOps { now: Some(pvclock::now), set_timer: Some(set_timer) },
    smp: SmpOps {
        cpu: Some(percpu::id),
        enter: Some(enter_cpu),
        relax: Some(native::relax),
        start_cpu: Some(no_start),
        send_ipi: Some(no_ipi),
    },
    vmm: VmmOps {
        crash: Some(crash),
        power_off: Some(power_off),
        write: Some(write_console),
        read: Some(read_console),
    },
};

/// Code with addresses in it cannot be linked into a program that may be anywhere, as tests on a host are.
const TEMPLATES: &[(Op, Template)] = {
    #[cfg(target_os = "none")]
    {
        inline::TEMPLATES
    }
    #[cfg(not(target_os = "none"))]
    {
        &[(crate::table::op::smp::relax, native::RELAX)]
    }
};

/// Xen's flat segments serve as well as ours.
unsafe extern "sysv64" fn keep_segments(_descriptor: *const DescriptorTablePointer) {}

/// Xen has the task state segment; exceptions arrive on the stack in use.
unsafe extern "sysv64" fn no_task_register(_selector: u16) {}

/// CR4 is Xen's: it protects itself from the kernel, and nothing else.
unsafe extern "sysv64" fn protected_by_xen() -> u64 {
    0
}

/// The number of a virtual CPU is its slot.
unsafe extern "sysv64" fn enter_cpu(slot: u64) {
    percpu::enter(slot as usize, slot as u32);
}

/// The kernel uses one virtual CPU here.
unsafe extern "sysv64" fn no_start(_cpu: u32, _start: *const Start) -> u64 {
    3
}

unsafe extern "sysv64" fn no_ipi(_cpu: u32, _vector: u32) {}

unsafe extern "sysv64" fn set_segment_base(which: u32, base: u64) {
    // SAFETY: bases are addresses that the caller wants.
    let result = unsafe { hypercall::call2(number::SET_SEGMENT_BASE, which.into(), base) };
    Refused::check("set_segment_base", result).unwrap_or_else(|refused| refused.end());
}

/// The deadline in force on each CPU, so that "none" is not asked for over and over.
static DEADLINE: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(u64::MAX));

unsafe extern "sysv64" fn set_timer(deadline: u64) {
    if DEADLINE.get().swap(deadline, Relaxed) == deadline && deadline == u64::MAX {
        return;
    }
    let timer = SingleShot { deadline, flags: 0, pad: 0 };
    let (command, argument) = match deadline {
        u64::MAX => (vcpu::STOP_SINGLESHOT_TIMER, 0),
        _ => (vcpu::SET_SINGLESHOT_TIMER, (&raw const timer).addr() as u64),
    };
    // SAFETY: the argument lives across the call.
    let result = unsafe { hypercall::call3(number::VCPU_OP, command.into(), 0, argument) };
    Refused::check("set_singleshot_timer", result).unwrap_or_else(|refused| refused.end());
}

unsafe extern "sysv64" fn crash() {
    shutdown(sched::REASON_CRASH)
}

/// The initial domain switches the hardware off, which Xen does for it; another domain only ends.
unsafe extern "sysv64" fn power_off(sleep: u32) {
    if let Ok(value) = u16::try_from(sleep) {
        let mut operation = PlatformOp::enter_acpi_sleep(value);
        // SAFETY: the argument is the structure of the hypercall.
        unsafe { hypercall::call2(number::PLATFORM_OP, (&raw mut operation).addr() as u64, 0) };
    }
    shutdown(sched::REASON_POWEROFF)
}

fn shutdown(reason: u32) -> ! {
    loop {
        // SAFETY: the domain ends here.
        unsafe { hypercall::call2(number::SCHED_OP, sched::SHUTDOWN.into(), (&raw const reason).addr() as u64) };
    }
}

unsafe extern "sysv64" fn write_console(bytes: *const u8, len: usize) -> usize {
    // SAFETY: the caller's bytes are readable; Xen copies them.
    unsafe { hypercall::call3(number::CONSOLE_IO, console::WRITE.into(), len as u64, bytes.addr() as u64) };
    len
}

unsafe extern "sysv64" fn read_console(bytes: *mut u8, len: usize) -> usize {
    // SAFETY: the caller's buffer has room for so many.
    let read = unsafe { hypercall::call3(number::CONSOLE_IO, console::READ.into(), len as u64, bytes.addr() as u64) };
    usize::try_from(read).map_or(0, |read| read.min(len))
}
