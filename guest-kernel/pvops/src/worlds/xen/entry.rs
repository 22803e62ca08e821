//! What Xen enters the kernel through, how the kernel returns, and the operations of the upcall mask.
//!
//! Xen leaves this on the stack in use (`create_bounce_frame`), from low to high: RCX, R11, the error code of exceptions
//! that have one, RIP, CS, RFLAGS, RSP, SS. Without the first two it is what a CPU pushes, so the kernel's own handlers, as
//! they stand in its IDT, take over from there. RFLAGS shows IF as the upcall mask was.
//!
//! **The flag that stands for IF** is a byte of the shared page, `evtchn_upcall_mask` of CPU 0 (`XEN_SHARED_INFO + 1`): 1 keeps
//! events away. The byte before it, `evtchn_upcall_pending`, says that one is waiting. Xen reads the mask before it enters the
//! kernel, and sets it when it does. So turning interrupts off is a store, and no hypercall. Turning them on is a store, too, but
//! an event that came while the mask was set has not been delivered, and Xen will not look again by itself. Therefore
//! everything that clears the mask looks at the pending byte *afterwards*, and has Xen deliver if it is set ([`deliver`]). In this
//! order none is lost: an event before the look is seen by the look, one after the store by Xen. A return from an exception
//! has the same problem; [`iret`] takes what is pending itself instead of returning first.
//!
//! Functions of hot sites change RAX and the flags only.

use super::event;
use super::handlers::HANDLERS;
use super::hypercall::{self, COUNTS, Refused};
use super::vcpu_info;
use crate::types::Flags;
use core::arch::{global_asm, naked_asm};
use shared_abi::xen::{CODE_SELECTOR, CallbackRegister, TrapInfo, callback, hypercall as number, sched};
use volatile::map_field;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, DescriptorFlags};
use x86_64::structures::idt::{Entry, ExceptionVector, HandlerFunc};

/// A gate of the kernel's IDT.
type Gate = Entry<HandlerFunc>;

/// Defines targets of hot sites that call a function and keep all registers but RAX.
macro_rules! preserving {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? => $target:path;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(naked)]
            $vis unsafe extern "sysv64" fn $name($($arg: $ty),*) $(-> $ret)? {
                core::arch::naked_asm!(
                    "push rcx", "push rdx", "push rsi", "push rdi", "push r8", "push r9", "push r10", "push r11",
                    "sub rsp, 8",
                    "call {target}",
                    "add rsp, 8",
                    "pop r11", "pop r10", "pop r9", "pop r8", "pop rdi", "pop rsi", "pop rdx", "pop rcx",
                    "ret",
                    target = sym $target,
                )
            }
        )*
    };
}
pub(super) use preserving;

const COUNT_OF_VERSION: usize = number::XEN_VERSION as usize * 8;
const COUNT_OF_SCHED: usize = number::SCHED_OP as usize * 8;
const COUNT_OF_IRET: usize = number::IRET as usize * 8;

/// Exceptions.
const EXCEPTIONS: usize = 32;
/// Distance between two of their stubs.
const STUB_SIZE: usize = 16;

global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".balign {size}",
    "xen_exception_stubs:",
    ".set vector, 0",
    ".rept {count}",
    ".balign {size}",
    "pop rcx",
    "pop r11",
    "jmp qword ptr [rip + {handlers} + 8 * vector]",
    ".set vector, vector + 1",
    ".endr",
    ".popsection",
    size = const STUB_SIZE,
    count = const EXCEPTIONS,
    handlers = sym HANDLERS,
);

/// Takes the IDT as the kernel built it: exceptions go to Xen's trap table, the rest is for events.
pub(super) unsafe extern "sysv64" fn load_idt(descriptor: *const DescriptorTablePointer) {
    unsafe extern "C" {
        #[link_name = "xen_exception_stubs"]
        static STUBS: u8;
    }
    // SAFETY: it names a table, per the operation's contract.
    let gates = unsafe {
        let DescriptorTablePointer { limit, base } = descriptor.read();
        core::slice::from_raw_parts(base.as_ptr::<Gate>(), (usize::from(limit) + 1) / size_of::<Gate>())
    };
    let mut traps = [TrapInfo::END; EXCEPTIONS + 1];
    let mut used = 0;
    for (vector, gate) in gates.iter().enumerate().take(256) {
        let attributes = attributes(gate);
        if !attributes.contains(DescriptorFlags::PRESENT) {
            continue;
        }
        HANDLERS.set(vector, gate.handler_addr().as_u64() as usize);
        if vector < EXCEPTIONS {
            let privilege = Descriptor::UserSegment(attributes.bits()).dpl();
            traps[used] = TrapInfo {
                vector: vector as u8,
                flags: TrapInfo::MASK_EVENTS | privilege as u8,
                cs: CODE_SELECTOR,
                pad: 0,
                address: ((&raw const STUBS).addr() + vector * STUB_SIZE) as u64,
            };
            used += 1;
        }
    }
    // SAFETY: the list is ended, and the stubs lead to the kernel's handlers.
    let result = unsafe { hypercall::call2(number::SET_TRAP_TABLE, traps.as_ptr().addr() as u64, 0) };
    Refused::check("set_trap_table", result).unwrap_or_else(|refused| refused.end());
    for (kind, address) in
        [(callback::EVENT, upcall as *const () as usize), (callback::FAILSAFE, failsafe as *const () as usize)]
    {
        let mut register = CallbackRegister { kind, flags: callback::MASK_EVENTS, pad: 0, address: address as u64 };
        // SAFETY: both addresses are entries of this file.
        unsafe { hypercall::command(number::CALLBACK_OP, callback::REGISTER, "callback_op", &mut register) }
            .unwrap_or_else(|refused| refused.end());
    }
}

/// Whether a gate is present, and for which privilege level: `Entry` has no accessor for them. The bits are where segment descriptors
/// have them.
fn attributes(gate: &Gate) -> DescriptorFlags {
    // SAFETY: a gate is 16 bytes, of which these are the first 8.
    DescriptorFlags::from_bits_retain(unsafe { (&raw const *gate).cast::<u64>().read_unaligned() })
}

/// Xen enters here with events pending and masks them. The handler of one is entered as if a CPU had interrupted; those
/// that are left are seen when it returns.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn upcall() {
    naked_asm!("pop rcx", "pop r11", "jmp {next}", next = sym next)
}

/// Goes to the handler of a pending event, or back, with a CPU's frame on the stack.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn next() {
    naked_asm!(
        // A place for the handler's address.
        "push rax",
        "push rax", "push rcx", "push rdx", "push rsi", "push rdi", "push r8", "push r9", "push r10", "push r11",
        "sub rsp, 8",
        "cld",
        "call {take}",
        "add rsp, 8",
        "mov [rsp + 72], rax",
        "pop r11", "pop r10", "pop r9", "pop r8", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rax",
        "cmp qword ptr [rsp], 0",
        "je 2f",
        "ret",
        // `iret` drops a word, too.
        "2: jmp {iret}",
        take = sym event::take_handler,
        iret = sym iret,
    )
}

/// Xen could not load what the kernel returned to: a bug of the kernel. The frame has DS, ES, FS and GS after R11.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn failsafe() {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "add rsp, 32",
        // As the general protection fault that it is.
        "push 0",
        "jmp qword ptr [rip + {handlers} + 8 * {vector}]",
        handlers = sym HANDLERS,
        vector = const ExceptionVector::GeneralProtection as u8,
    )
}

/// Returns to what a CPU's frame says, below a return address. Unmasks events if it says so, and takes those that are
/// pending without another entry from Xen.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "sysv64" fn iret() {
    naked_asm!(
        "add rsp, 8",
        "test byte ptr [rsp + 8], 3",
        "jnz 3f",
        // Xen shows the kernel's privilege level as 0; the CPU knows it as 3.
        "or byte ptr [rsp + 8], 3",
        "test dword ptr [rsp + 16], {interrupt_flag}",
        "jz 2f",
        "mov byte ptr [rip + XEN_SHARED_INFO + 1], 0",
        "cmp byte ptr [rip + XEN_SHARED_INFO], 0",
        "jne 4f",
        // An event that arrives here interrupts the return, which then goes on.
        "2: iretq",
        // To user mode, with its tables and segments.
        "3: lock inc qword ptr [rip + {counts} + {count_of_iret}]",
        "push 0",
        "push rcx",
        "push r11",
        "push rax",
        "mov eax, {number}",
        "syscall",
        "4: mov byte ptr [rip + XEN_SHARED_INFO + 1], 1",
        "and byte ptr [rsp + 8], 0xfc",
        "jmp {next}",
        interrupt_flag = const RFlags::INTERRUPT_FLAG.bits(),
        counts = sym COUNTS,
        count_of_iret = const COUNT_OF_IRET,
        number = const number::IRET,
        next = sym next,
    )
}

/// The mask as it was, then masked.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn irq_save() -> Flags {
    naked_asm!("mov eax, 1", "xchg al, byte ptr [rip + XEN_SHARED_INFO + 1]", "ret")
}

#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn irq_disable() {
    naked_asm!("mov byte ptr [rip + XEN_SHARED_INFO + 1], 1", "ret")
}

#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn irq_restore(_flags: Flags) {
    naked_asm!("test dil, dil", "jz {enable}", "mov byte ptr [rip + XEN_SHARED_INFO + 1], 1", "ret", enable = sym irq_enable)
}

/// Unmasks, and only then looks: an event that arrives in between is seen by one or the other.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn irq_enable() {
    naked_asm!(
        "mov byte ptr [rip + XEN_SHARED_INFO + 1], 0",
        "cmp byte ptr [rip + XEN_SHARED_INFO], 0",
        "jne {deliver}",
        "ret",
        deliver = sym deliver,
    )
}

/// Any hypercall makes Xen deliver what is pending; this one does nothing else.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn deliver() {
    naked_asm!(
        "push rcx", "push r11", "push rdi", "push rsi",
        "lock inc qword ptr [rip + {counts} + {count}]",
        "xor edi, edi",
        "xor esi, esi",
        "mov eax, {number}",
        "syscall",
        "pop rsi", "pop rdi", "pop r11", "pop rcx",
        "ret",
        counts = sym COUNTS,
        count = const COUNT_OF_VERSION,
        number = const number::XEN_VERSION,
    )
}

/// The block command unmasks and waits in one step.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn irq_halt() {
    naked_asm!(
        "push rcx", "push r11", "push rdi", "push rsi",
        "lock inc qword ptr [rip + {counts} + {count}]",
        "mov edi, {block}",
        "xor esi, esi",
        "mov eax, {number}",
        "syscall",
        "pop rsi", "pop rdi", "pop r11", "pop rcx",
        "ret",
        counts = sym COUNTS,
        count = const COUNT_OF_SCHED,
        block = const sched::BLOCK,
        number = const number::SCHED_OP,
    )
}

/// Ends the interrupt in service; only some of real devices need that.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn end() {
    naked_asm!(
        "cmp dword ptr [rip + {needed}], 0",
        "jne {slow}",
        "ret",
        needed = sym event::END_NEEDED,
        slow = sym end_slow,
    )
}

preserving! {
    fn end_slow() => event::end_in_service;
}

/// Xen writes the field before it enters the page fault's handler.
pub(super) unsafe extern "sysv64" fn read_cr2() -> u64 {
    let info = vcpu_info();
    map_field!(info.cr2).read()
}
