//! Virtio over PCI (section 4.1 "Virtio Over PCI Bus"), the modern interface.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// PCI vendor of all virtio devices.
pub const VENDOR_ID: u16 = 0x1af4;
/// PCI device id of a modern device: this plus the device type. Below it, from 0x1000 on, are transitional ids.
pub const MODERN_DEVICE_ID: u16 = 0x1040;
/// First transitional (legacy) device id.
pub const TRANSITIONAL_DEVICE_ID: u16 = 0x1000;

/// PCI capability id of the vendor-specific capability that describes a structure.
pub const CAPABILITY_VENDOR: u8 = 0x09;
/// PCI capability id of MSI-X.
pub const CAPABILITY_MSIX: u8 = 0x11;
/// Vector number that means "none".
pub const NO_VECTOR: u16 = 0xffff;

/// `cfg_type` of a `virtio_pci_cap`.
pub mod cfg_type {
    /// [`super::CommonConfig`].
    pub const COMMON: u8 = 1;
    /// Notification addresses; a u32 `notify_off_multiplier` follows the capability.
    pub const NOTIFY: u8 = 2;
    /// One byte: interrupt status, cleared by reading.
    pub const ISR: u8 = 3;
    /// The device's configuration.
    pub const DEVICE: u8 = 4;
    /// Access through PCI configuration space.
    pub const PCI: u8 = 5;
}

/// `virtio_pci_cap`, as it lies in PCI configuration space.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Capability {
    /// [`CAPABILITY_VENDOR`].
    pub cap_vndr: u8,
    /// Offset of the next capability.
    pub cap_next: u8,
    /// Bytes of this one.
    pub cap_len: u8,
    /// What the structure is: see [`cfg_type`].
    pub cfg_type: u8,
    /// The BAR it is in, 0 to 5.
    pub bar: u8,
    /// Distinguishes several of a type.
    pub id: u8,
    /// Zero.
    pub padding: [u8; 2],
    /// Offset in the BAR.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}
assert_layout!(Capability, size 16, cfg_type at 3, bar at 4, offset at 8, length at 12);

/// `virtio_pci_common_cfg`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the field names are the specification's")]
pub struct CommonConfig {
    pub device_feature_select: u32,
    pub device_feature: u32,
    pub driver_feature_select: u32,
    pub driver_feature: u32,
    pub config_msix_vector: u16,
    pub num_queues: u16,
    pub device_status: u8,
    pub config_generation: u8,
    pub queue_select: u16,
    pub queue_size: u16,
    pub queue_msix_vector: u16,
    pub queue_enable: u16,
    pub queue_notify_off: u16,
    pub queue_desc: u64,
    pub queue_driver: u64,
    pub queue_device: u64,
    pub queue_notify_data: u16,
    pub queue_reset: u16,
    pub reserved: u32,
}
assert_layout!(CommonConfig, size 64, config_msix_vector at 16, device_status at 20, queue_select at 22, queue_notify_off at 30, queue_desc at 32, queue_device at 48, queue_reset at 58);
