//! Page tables and frames.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the table from machine frames to physical ones starts: a `u64` each, read-only.
pub const MACHINE_TO_PHYSICAL: usize = 0xffff_8000_0000_0000;

/// This domain.
pub const DOMID_SELF: u16 = 0x7ff0;

/// Commands of [`hypercall::MMUEXT_OP`](crate::xen::hypercall::MMUEXT_OP).
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

/// Flags of [`hypercall::UPDATE_VA_MAPPING`](crate::xen::hypercall::UPDATE_VA_MAPPING).
pub mod uvmf {
    /// Flushes the address from the TLB of this CPU.
    pub const INVLPG_LOCAL: u64 = 2;
}

/// Commands of [`hypercall::MEMORY_OP`](crate::xen::hypercall::MEMORY_OP).
pub mod memory {
    /// Gives extents back; takes a [`Reservation`](crate::xen::Reservation).
    pub const DECREASE_RESERVATION: u32 = 1;
    /// Pages that the domain has; takes a domain id.
    pub const CURRENT_RESERVATION: u32 = 3;
    /// Pages that it may have; takes a domain id.
    pub const MAXIMUM_RESERVATION: u32 = 4;
    /// Fills physical frames with memory; takes a [`Reservation`](crate::xen::Reservation).
    pub const POPULATE_PHYSMAP: u32 = 6;
    /// Exchanges frames for contiguous ones; takes an [`Exchange`](crate::xen::Exchange).
    pub const EXCHANGE: u32 = 11;
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
    /// See [`mmuext`](crate::xen::mmuext).
    pub command: u32,
    /// Zero.
    pub pad: u32,
    /// A machine frame or an address.
    pub argument: u64,
    /// Further.
    pub argument2: u64,
}
assert_layout!(MmuExtended, size 24, argument at 8);

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
    /// [`DOMID_SELF`](crate::xen::DOMID_SELF).
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
