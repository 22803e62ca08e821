//! Xen's paravirtual interface for x86-64, as far as the guest uses it.
//!
//! Source: Xen's public headers, `xen/include/public`: `xen.h`, `arch-x86/xen.h`, `arch-x86/xen-x86_64.h`, `elfnote.h`,
//! `event_channel.h`, `memory.h`, `physdev.h`, `sched.h`, `vcpu.h`. Machine addresses and machine frames (mfn) are those of
//! the hardware, physical ones (pfn) those that the guest counts by.

use crate::assert_layout;
use crate::kvm::ClockPage;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Types of ELF notes with the owner "Xen" (`elfnote.h`).
pub mod note {
    /// Virtual address of the entry.
    pub const ENTRY: u32 = 1;
    /// Virtual address of physical address 0.
    pub const VIRT_BASE: u32 = 3;
    /// What `p_paddr` of the ELF's segments counts from.
    pub const PADDR_OFFSET: u32 = 4;
    /// Interface version, [`INTERFACE`](super::INTERFACE).
    pub const XEN_VERSION: u32 = 5;
    /// Name of the guest.
    pub const GUEST_OS: u32 = 6;
    /// "generic".
    pub const LOADER: u32 = 8;
    /// Features by name.
    pub const FEATURES: u32 = 10;
    /// Features by bit; [`FEATURE_DOM0`](super::FEATURE_DOM0) is needed to be the initial domain.
    pub const SUPPORTED_FEATURES: u32 = 17;

    /// Names of all types, from 0 on, as the header has them behind `XEN_ELFNOTE_`.
    pub const NAMES: [&str; 20] = [
        "INFO",
        "ENTRY",
        "HYPERCALL_PAGE",
        "VIRT_BASE",
        "PADDR_OFFSET",
        "XEN_VERSION",
        "GUEST_OS",
        "GUEST_VERSION",
        "LOADER",
        "PAE_MODE",
        "FEATURES",
        "BSD_SYMTAB",
        "HV_START_LOW",
        "L1_MFN_VALID",
        "SUSPEND_CANCEL",
        "INIT_P2M",
        "MOD_START_PFN",
        "SUPPORTED_FEATURES",
        "PHYS32_ENTRY",
        "PHYS32_RELOC",
    ];
}

/// What [`note::XEN_VERSION`] says: the interface of Xen 3.0 and everything after.
pub const INTERFACE: &str = "xen-3.0";
/// `XENFEAT_dom0`: the guest can be the initial domain.
pub const FEATURE_DOM0: u32 = 1 << 11;

/// The oldest Xen that is known to do what the guest asks for: 4.0, the first with `PHYSDEVOP_map_pirq` by bus and slot.
pub const OLDEST_VERSION: (u16, u16) = (4, 0);

/// Where the table from machine frames to physical ones starts: a `u64` each, read-only.
pub const MACHINE_TO_PHYSICAL: usize = 0xffff_8000_0000_0000;
/// The kernel's flat code segment; privilege level 3, which Xen shows as 0 in exception frames.
pub const CODE_SELECTOR: u16 = 0xe033;
/// The kernel's flat data segment.
pub const DATA_SELECTOR: u16 = 0xe02b;
/// This domain.
pub const DOMID_SELF: u16 = 0x7ff0;

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
        /// Handlers of exceptions: a list of [`TrapInfo`](super::TrapInfo).
        SET_TRAP_TABLE = 0 "set_trap_table";
        /// A list of [`MmuUpdate`](super::MmuUpdate), its length, where to put how many were done, domain.
        MMU_UPDATE = 1 "mmu_update";
        /// Stack segment and pointer of the kernel, for entries from user mode.
        STACK_SWITCH = 3 "stack_switch";
        /// Takes a [`PlatformOp`](super::PlatformOp).
        PLATFORM_OP = 7 "platform_op";
        /// See `memory.h`.
        MEMORY_OP = 12 "memory_op";
        /// A list of [`Call`](super::Call), its length.
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
        /// A list of [`MmuExtended`](super::MmuExtended), its length, where to put how many were done, domain.
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

/// Commands of [`hypercall::MMUEXT_OP`].
pub mod mmuext {
    /// A frame is a level 1 table and stays one.
    pub const PIN_L1_TABLE: u32 = 0;
    /// A frame is a level 4 table and stays one.
    pub const PIN_L4_TABLE: u32 = 3;
    /// A pinned frame need not stay a table.
    pub const UNPIN_TABLE: u32 = 4;
    /// The level 4 table of the kernel.
    pub const NEW_BASEPTR: u32 = 5;
    /// Flushes this CPU's TLB.
    pub const TLB_FLUSH_LOCAL: u32 = 6;
    /// Flushes one address from it.
    pub const INVLPG_LOCAL: u32 = 7;
    /// The level 4 table of user mode; 0 for none.
    pub const NEW_USER_BASEPTR: u32 = 15;
}

/// Flags of [`hypercall::UPDATE_VA_MAPPING`].
pub mod uvmf {
    /// Flushes the address from the TLB of this CPU.
    pub const INVLPG_LOCAL: u64 = 2;
}

/// Commands of [`hypercall::MEMORY_OP`].
pub mod memory {
    /// Gives extents back; takes a [`Reservation`](super::Reservation).
    pub const DECREASE_RESERVATION: u32 = 1;
    /// Pages that the domain has; takes a domain id.
    pub const CURRENT_RESERVATION: u32 = 3;
    /// Pages that it may have; takes a domain id.
    pub const MAXIMUM_RESERVATION: u32 = 4;
    /// Fills physical frames with memory; takes a [`Reservation`](super::Reservation).
    pub const POPULATE_PHYSMAP: u32 = 6;
    /// Exchanges frames for contiguous ones; takes an [`Exchange`](super::Exchange).
    pub const EXCHANGE: u32 = 11;
}

/// Commands of [`hypercall::SCHED_OP`].
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

/// Commands of [`hypercall::VCPU_OP`].
pub mod vcpu {
    /// Ends the 10 ms tick that a domain starts with.
    pub const STOP_PERIODIC_TIMER: u32 = 7;
    /// Takes a [`SingleShot`](super::SingleShot).
    pub const SET_SINGLESHOT_TIMER: u32 = 8;
    /// No timer event.
    pub const STOP_SINGLESHOT_TIMER: u32 = 9;
}

/// Commands of [`hypercall::EVENT_CHANNEL_OP`] and virtual interrupts.
pub mod event {
    /// Takes a [`BindVirq`](super::BindVirq).
    pub const BIND_VIRQ: u32 = 1;
    /// Takes a [`BindPirq`](super::BindPirq).
    pub const BIND_PIRQ: u32 = 2;
    /// Closes a channel; takes its number.
    pub const CLOSE: u32 = 3;
    /// Sends an event; takes the channel.
    pub const SEND: u32 = 4;
    /// A channel from this CPU to itself; takes a [`BindIpi`](super::BindIpi).
    pub const BIND_IPI: u32 = 7;
    /// Unmasks a channel and delivers what is pending; takes its number.
    pub const UNMASK: u32 = 9;
    /// The timer's virtual interrupt.
    pub const VIRQ_TIMER: u32 = 0;
    /// Input on the emergency console; for the initial domain.
    pub const VIRQ_CONSOLE: u32 = 2;
    /// Channels of the 2-level interface on 64 bits.
    pub const CHANNELS: usize = 4096;
}

/// Commands of [`hypercall::PHYSDEV_OP`].
pub mod physdev {
    /// Takes a `u32` with the interrupt; fills in flags. See [`IrqStatus`](super::IrqStatus).
    pub const IRQ_STATUS_QUERY: u32 = 5;
    /// Takes the I/O privilege level as `u32`.
    pub const SET_IOPL: u32 = 6;
    /// Ends an interrupt; takes it as `u32`.
    pub const EOI: u32 = 12;
    /// Takes a [`MapPirq`](super::MapPirq).
    pub const MAP_PIRQ: u32 = 13;
    /// Takes a [`SetupGsi`](super::SetupGsi).
    pub const SETUP_GSI: u32 = 21;
    /// Makes a function known to Xen; takes a [`AddDevice`](super::AddDevice).
    pub const PCI_DEVICE_ADD: u32 = 25;
    /// [`MapPirq::kind`](super::MapPirq::kind): a message of a PCI function.
    pub const MAP_MSI: i32 = 0;
    /// [`MapPirq::kind`](super::MapPirq::kind): an input of the I/O APICs.
    pub const MAP_GSI: i32 = 1;
    /// Flag of [`IRQ_STATUS_QUERY`]: the interrupt needs [`EOI`].
    pub const NEEDS_EOI: u32 = 1;
}

/// Types of [`hypercall::CALLBACK_OP`]'s [`CallbackRegister`].
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

/// Commands of [`hypercall::CONSOLE_IO`].
pub mod console {
    /// Length, buffer.
    pub const WRITE: u32 = 0;
    /// Size, buffer; returns how many bytes there were.
    pub const READ: u32 = 1;
}

/// `start_info`, at the entry in RSI (`xen.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StartInfo {
    /// `xen-<version>-<platform>`, ended by a NUL.
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Machine address of [`SharedInfo`].
    pub shared_info: u64,
    /// [`StartInfo::PRIVILEGED`] and others.
    pub flags: u32,
    /// Zero.
    pub pad0: u32,
    /// Machine frame of the store's ring.
    pub store_mfn: u64,
    /// Channel of the store.
    pub store_evtchn: u32,
    /// Zero.
    pub pad1: u32,
    /// Console ring of a guest, or console of the initial domain.
    pub console: [u64; 2],
    /// Virtual address of the level 4 table.
    pub pt_base: u64,
    /// Frames of the initial page tables, one behind the other from `pt_base` on.
    pub nr_pt_frames: u64,
    /// Virtual address of the list that gives a machine frame for every physical one.
    pub mfn_list: u64,
    /// Virtual address of the initrd.
    pub mod_start: u64,
    /// Bytes of it.
    pub mod_len: u64,
    /// Command line, ended by a NUL.
    pub cmd_line: [u8; 1024],
    /// First frame of the list where it is not mapped.
    pub first_p2m_pfn: u64,
    /// Frames of it.
    pub nr_p2m_frames: u64,
}
assert_layout!(StartInfo, size 0x490, nr_pages at 0x20, shared_info at 0x28, flags at 0x30, pt_base at 0x58, mfn_list at 0x68, cmd_line at 0x80, first_p2m_pfn at 0x480);

impl StartInfo {
    /// What `magic` starts with.
    pub const MAGIC: &'static [u8] = b"xen-3.";
    /// Flag: may reach hardware.
    pub const PRIVILEGED: u32 = 1;
    /// Flag: is the initial domain.
    pub const INITIAL_DOMAIN: u32 = 2;
    /// Flag: `mod_start` is a physical frame number.
    pub const MODULE_IS_PFN: u32 = 8;
}

/// `vcpu_info`: what a CPU and Xen tell each other (`xen.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VcpuInfo {
    /// Some channel of this CPU is pending.
    pub upcall_pending: u8,
    /// 1: no upcalls.
    pub upcall_mask: u8,
    /// Zero.
    pub pad: [u8; 6],
    /// Words of [`SharedInfo::pending`] to look at, by bit.
    pub pending_sel: u64,
    /// CR2 of the last page fault.
    pub cr2: u64,
    /// Zero.
    pub pad1: u64,
    /// The clock. Its layout is KVM's.
    pub time: ClockPage,
}
assert_layout!(VcpuInfo, size 64, upcall_mask at 1, pending_sel at 8, cr2 at 0x10, time at 0x20);

/// `shared_info`: one page that a domain shares with Xen (`xen.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SharedInfo {
    /// One for each of the first 32 CPUs.
    pub vcpus: [VcpuInfo; 32],
    /// Bit by channel: an event is pending.
    pub pending: [u64; 64],
    /// Bit by channel: it is not delivered.
    pub mask: [u64; 64],
    /// Version, seconds, nanoseconds of the time of day at system time 0.
    pub wall_clock: [u32; 4],
    /// Machine-dependent, and unused.
    pub rest: [u8; 0x3f0],
}
assert_layout!(SharedInfo, size 0x1000, pending at 0x800, mask at 0xa00, wall_clock at 0xc00);

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

/// `mmu_update_t`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuUpdate {
    /// Machine address of the entry; its low two bits are the command: 0 writes a page-table entry.
    pub address: u64,
    /// The new entry.
    pub value: u64,
}
assert_layout!(MmuUpdate, size 16, value at 8);

/// `mmuext_op`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MmuExtended {
    /// See [`mmuext`].
    pub command: u32,
    /// Zero.
    pub pad: u32,
    /// A machine frame or an address.
    pub argument: u64,
    /// Further.
    pub argument2: u64,
}
assert_layout!(MmuExtended, size 24, argument at 8);

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

/// `xen_memory_reservation`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Reservation {
    /// Virtual address of a list of frame numbers.
    pub extents: u64,
    /// Length of the list.
    pub count: u64,
    /// Each has 2^order pages.
    pub order: u32,
    /// Bits 0-7: width of addresses that a device can reach, 0 for any.
    pub flags: u32,
    /// [`DOMID_SELF`].
    pub domain: u16,
    /// Zero.
    pub pad: [u16; 3],
}
assert_layout!(Reservation, size 32, order at 16, domain at 24);

/// `xen_memory_exchange`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Exchange {
    /// What is given.
    pub input: Reservation,
    /// What is taken: physical frames in, machine frames out.
    pub output: Reservation,
    /// Zero; how many extents were exchanged.
    pub exchanged: u64,
}
assert_layout!(Exchange, size 72, output at 32, exchanged at 64);

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

/// `evtchn_bind_virq`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindVirq {
    /// Which.
    pub virq: u32,
    /// CPU.
    pub cpu: u32,
    /// Filled in: the channel.
    pub channel: u32,
}

/// `evtchn_bind_pirq`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindPirq {
    /// Interrupt.
    pub pirq: u32,
    /// 1: others may share it.
    pub flags: u32,
    /// Filled in: the channel.
    pub channel: u32,
}

/// `evtchn_bind_ipi`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindIpi {
    /// CPU.
    pub cpu: u32,
    /// Filled in: the channel.
    pub channel: u32,
}

/// `physdev_map_pirq`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MapPirq {
    /// [`DOMID_SELF`].
    pub domain: u16,
    /// Zero.
    pub pad0: u16,
    /// [`physdev::MAP_MSI`] or [`physdev::MAP_GSI`].
    pub kind: i32,
    /// Input of the I/O APICs; -1 for a message.
    pub index: i32,
    /// -1 for any; filled in.
    pub pirq: i32,
    /// Bus.
    pub bus: i32,
    /// Slot and function.
    pub devfn: i32,
    /// Entry of the MSI-X table.
    pub entry: i32,
    /// Zero.
    pub pad1: u32,
    /// Address of the BAR with the MSI-X table; 0 for MSI.
    pub table: u64,
}
assert_layout!(MapPirq, size 40, kind at 4, pirq at 12, entry at 24, table at 32);

/// `physdev_setup_gsi`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SetupGsi {
    /// Input.
    pub gsi: i32,
    /// 1 for level.
    pub triggering: u8,
    /// 1 for active low.
    pub polarity: u8,
    /// Zero.
    pub pad: u16,
}

/// `physdev_pci_device_add`, without optional fields.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct AddDevice {
    /// PCI segment.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Slot times 8 plus function.
    pub devfn: u8,
    /// Zero: an ordinary function.
    pub flags: u32,
    /// The physical function of a virtual one: bus and devfn.
    pub physical: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
}
assert_layout!(AddDevice, size 12, flags at 4, physical at 8);

/// `physdev_irq_status_query`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IrqStatus {
    /// Interrupt.
    pub irq: u32,
    /// Filled in: [`physdev::NEEDS_EOI`].
    pub flags: u32,
}

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
