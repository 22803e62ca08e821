//! Physical devices of the first domain: interrupts and PCI functions.

use crate::assert_layout;

/// Commands of [`hypercall::PHYSDEV_OP`](crate::xen::hypercall::PHYSDEV_OP).
pub mod physdev {
    /// Takes a `u32` with the interrupt; fills in flags. See [`IrqStatus`](crate::xen::IrqStatus).
    pub const IRQ_STATUS_QUERY: u32 = 5;
    /// Takes the I/O privilege level as `u32`.
    pub const SET_IOPL: u32 = 6;
    /// Ends an interrupt; takes it as `u32`.
    pub const EOI: u32 = 12;
    /// Takes a [`MapPirq`](crate::xen::MapPirq).
    pub const MAP_PIRQ: u32 = 13;
    /// Takes a [`SetupGsi`](crate::xen::SetupGsi).
    pub const SETUP_GSI: u32 = 21;
    /// Makes a function known to Xen; takes a [`AddDevice`](crate::xen::AddDevice).
    pub const PCI_DEVICE_ADD: u32 = 25;
    /// [`MapPirq::kind`](crate::xen::MapPirq::kind): a message of a PCI function.
    pub const MAP_MSI: i32 = 0;
    /// [`MapPirq::kind`](crate::xen::MapPirq::kind): an input of the I/O APICs.
    pub const MAP_GSI: i32 = 1;
    /// Flag of [`IRQ_STATUS_QUERY`]: the interrupt needs [`EOI`].
    pub const NEEDS_EOI: u32 = 1;
}

/// `physdev_map_pirq`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MapPirq {
    /// [`DOMID_SELF`](crate::xen::DOMID_SELF).
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
