//! Virtio 1.4: device ids, status, features and the layouts that both sides share.
//!
//! Source: "Virtual I/O Device (VIRTIO) Version 1.4". All fields are little-endian, as is every machine that this runs on.
//! Every layout is `repr(C)` with its size and offsets asserted at compile time. There is no code but what computes with
//! these numbers.
#![no_std]
#![forbid(unsafe_code)]

pub mod balloon;
pub mod blk;
pub mod console;
pub mod mmio;
pub mod net;
pub mod packed;
pub mod pci;
pub mod ring;

pub use bitflags;
pub use zerocopy;

/// Asserts at compile time that a layout has the size and the field offsets that its specification gives.
#[macro_export]
macro_rules! assert_layout {
    ($ty:ty, size $size:expr $(, $field:ident at $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $offset);)*
        };
    };
}

/// Device id (section 5 "Device Types"). Open: a transport may show anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceType(pub u32);

impl DeviceType {
    /// An empty slot (virtio-mmio).
    pub const NONE: Self = Self(0);
    /// Network card.
    pub const NET: Self = Self(1);
    /// Block device.
    pub const BLOCK: Self = Self(2);
    /// Console.
    pub const CONSOLE: Self = Self(3);
    /// Entropy source.
    pub const RNG: Self = Self(4);
    /// Memory balloon.
    pub const BALLOON: Self = Self(5);

    /// The usual name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NONE => "none",
            Self::NET => "net",
            Self::BLOCK => "block",
            Self::CONSOLE => "console",
            Self::RNG => "rng",
            Self::BALLOON => "balloon",
            _ => "unknown",
        }
    }
}

bitflags::bitflags! {
    /// Device status (section 2.1 "Device Status Field"). Zero resets.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The guest has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The guest can drive the device.
        const DRIVER = 2;
        /// The driver is set up.
        const DRIVER_OK = 4;
        /// The feature subset is acceptable.
        const FEATURES_OK = 8;
        /// Only a reset helps.
        const DEVICE_NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
    }
}

bitflags::bitflags! {
    /// Features that belong to no device type (section 6 "Reserved Feature Bits").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommonFeatures: u64 {
        /// VIRTIO_F_INDIRECT_DESC.
        const INDIRECT_DESC = 1 << 28;
        /// VIRTIO_F_EVENT_IDX.
        const EVENT_IDX = 1 << 29;
        /// VIRTIO_F_VERSION_1.
        const VERSION_1 = 1 << 32;
        /// VIRTIO_F_ACCESS_PLATFORM.
        const ACCESS_PLATFORM = 1 << 33;
        /// VIRTIO_F_RING_PACKED.
        const RING_PACKED = 1 << 34;
        /// VIRTIO_F_IN_ORDER.
        const IN_ORDER = 1 << 35;
        /// VIRTIO_F_ORDER_PLATFORM.
        const ORDER_PLATFORM = 1 << 36;
        /// VIRTIO_F_NOTIFICATION_DATA.
        const NOTIFICATION_DATA = 1 << 38;
        /// VIRTIO_F_RING_RESET.
        const RING_RESET = 1 << 40;
    }
}

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
