//! Hypercalls: their numbers, several in one, and the small ones.

use crate::assert_layout;

/// The oldest Xen that is known to do what the guest asks for: 4.0, the first with `PHYSDEVOP_map_pirq` by bus and slot.
pub const OLDEST_VERSION: (u16, u16) = (4, 0);

/// The kernel's flat code segment; privilege level 3, which Xen shows as 0 in exception frames.
pub const CODE_SELECTOR: u16 = 0xe033;

/// The kernel's flat data segment.
pub const DATA_SELECTOR: u16 = 0xe02b;

/// Numbers of hypercalls. RAX is the number; RDI, RSI, RDX, R10, R8 the arguments; `syscall`; RCX and R11 are lost.
pub mod hypercall {
    macro_rules! numbers {
        ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal;)*) => {
            $($(#[$doc])* pub const $name: u32 = $number;)*

            /// Name of a hypercall in the headers; "?" for one that the guest does not use.
            pub const fn name(number: u32) -> &'static str {
                match number { $($number => $text,)* _ => "?" }
            }
        };
    }

    numbers! {
        /// Handlers of exceptions: a list of [`TrapInfo`](crate::xen::TrapInfo).
        SET_TRAP_TABLE = 0 "set_trap_table";
        /// A list of [`MmuUpdate`](crate::xen::MmuUpdate), its length, where to put how many were done, domain.
        MMU_UPDATE = 1 "mmu_update";
        /// Stack segment and pointer of the kernel, for entries from user mode.
        STACK_SWITCH = 3 "stack_switch";
        /// Takes a [`PlatformOp`](crate::xen::PlatformOp).
        PLATFORM_OP = 7 "platform_op";
        /// See `memory.h`.
        MEMORY_OP = 12 "memory_op";
        /// A list of [`Call`](crate::xen::Call), its length.
        MULTICALL = 13 "multicall";
        /// Address, entry, flags.
        UPDATE_VA_MAPPING = 14 "update_va_mapping";
        /// See `version.h`. Command 0 makes Xen look at pending events, too.
        XEN_VERSION = 17 "xen_version";
        /// Command, length, buffer.
        CONSOLE_IO = 18 "console_io";
        /// Returns to what the frame on the stack says.
        IRET = 23 "iret";
        /// Command, CPU, argument.
        VCPU_OP = 24 "vcpu_op";
        /// Which, base.
        SET_SEGMENT_BASE = 25 "set_segment_base";
        /// A list of [`MmuExtended`](crate::xen::MmuExtended), its length, where to put how many were done, domain.
        MMUEXT_OP = 26 "mmuext_op";
        /// See `sched.h`.
        SCHED_OP = 29 "sched_op";
        /// See `callback.h`.
        CALLBACK_OP = 30 "callback_op";
        /// See `event_channel.h`.
        EVENT_CHANNEL_OP = 32 "event_channel_op";
        /// See `physdev.h`.
        PHYSDEV_OP = 33 "physdev_op";
    }

    /// Numbers are below this.
    pub const COUNT: usize = 64;
}

/// Commands of [`hypercall::SCHED_OP`](crate::xen::hypercall::SCHED_OP).
pub mod sched {
    /// Lets other domains run.
    pub const YIELD: u32 = 0;
    /// Unmasks events and waits for one.
    pub const BLOCK: u32 = 1;
    /// Ends the domain; takes a reason as `u32`.
    pub const SHUTDOWN: u32 = 2;
    /// Reason: switched off.
    pub const REASON_POWEROFF: u32 = 0;
    /// Reason: crashed.
    pub const REASON_CRASH: u32 = 3;
}

/// Commands of [`hypercall::VCPU_OP`](crate::xen::hypercall::VCPU_OP).
pub mod vcpu {
    /// Ends the 10 ms tick that a domain starts with.
    pub const STOP_PERIODIC_TIMER: u32 = 7;
    /// Takes a [`SingleShot`](crate::xen::SingleShot).
    pub const SET_SINGLESHOT_TIMER: u32 = 8;
    /// No timer event.
    pub const STOP_SINGLESHOT_TIMER: u32 = 9;
}

/// Types of [`hypercall::CALLBACK_OP`](crate::xen::hypercall::CALLBACK_OP)'s [`CallbackRegister`].
pub mod callback {
    /// The only command that the guest uses.
    pub const REGISTER: u32 = 0;
    /// An event is pending.
    pub const EVENT: u16 = 0;
    /// A return to the guest failed.
    pub const FAILSAFE: u16 = 1;
    /// Flag: events are masked on entry.
    pub const MASK_EVENTS: u16 = 1;
}

/// Commands of [`hypercall::CONSOLE_IO`](crate::xen::hypercall::CONSOLE_IO).
pub mod console {
    /// Length, buffer.
    pub const WRITE: u32 = 0;
    /// Size, buffer; returns how many bytes there were.
    pub const READ: u32 = 1;
}

/// `trap_info`. A list ends with address 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TrapInfo {
    /// Vector.
    pub vector: u8,
    /// Privilege level that may raise it by instruction, and [`TrapInfo::MASK_EVENTS`].
    pub flags: u8,
    /// Code segment.
    pub cs: u16,
    /// Zero.
    pub pad: u32,
    /// Handler.
    pub address: u64,
}
assert_layout!(TrapInfo, size 16, cs at 2, address at 8);

impl TrapInfo {
    /// Ends a list.
    pub const END: Self = Self { vector: 0, flags: 0, cs: 0, pad: 0, address: 0 };
    /// Events are masked on entry, as interrupts are by an interrupt gate.
    pub const MASK_EVENTS: u8 = 4;
}

/// `multicall_entry`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Call {
    /// Number.
    pub number: u64,
    /// Filled in by Xen.
    pub result: i64,
    /// Arguments.
    pub arguments: [u64; 6],
}
assert_layout!(Call, size 64, result at 8, arguments at 16);

/// `vcpu_set_singleshot_timer`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SingleShot {
    /// System time in nanoseconds.
    pub deadline: u64,
    /// Zero: a deadline that has passed gives an event at once.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}
assert_layout!(SingleShot, size 16, flags at 8);

/// `xen_platform_op` with `XENPF_enter_acpi_sleep`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PlatformOp {
    /// `XENPF_enter_acpi_sleep`.
    command: u32,
    /// `XENPF_INTERFACE_VERSION`.
    version: u32,
    /// Values for the PM1a and PM1b control ports.
    values: [u16; 2],
    /// Sleep state.
    state: u32,
    /// Zero.
    flags: u32,
    /// Room for other commands.
    rest: [u8; 116],
}
assert_layout!(PlatformOp, size 136, values at 8, state at 12);

impl PlatformOp {
    /// Enters state S5, soft off.
    pub const fn enter_acpi_sleep(pm1a: u16) -> Self {
        Self { command: 51, version: 0x0300_0001, values: [pm1a, 0], state: 5, flags: 0, rest: [0; 116] }
    }
}

/// `callback_register`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CallbackRegister {
    /// See [`callback`].
    pub kind: u16,
    /// [`callback::MASK_EVENTS`].
    pub flags: u16,
    /// Zero.
    pub pad: u32,
    /// Where.
    pub address: u64,
}
assert_layout!(CallbackRegister, size 16, address at 8);
