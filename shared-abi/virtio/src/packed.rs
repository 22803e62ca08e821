//! The packed virtqueue (section 2.8 "Packed Virtqueues").
//!
//! ```text
//! descriptor ring            16 * size, aligned to 16   written by both
//! driver event suppression   4, aligned to 4            written by the driver
//! device event suppression   4, aligned to 4            written by the device
//! ```
//!
//! Each side has a wrap counter, which is 1 at first and changes with each turn round the ring. A descriptor is available
//! when [`DescriptorFlags::AVAIL`] is the driver's counter and [`DescriptorFlags::USED`] is not, and used when both are the
//! device's counter.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// Device address of the buffer; means nothing in a used descriptor.
    pub addr: u64,
    /// Bytes; in a used descriptor those that the device wrote, if it has [`DescriptorFlags::WRITE`].
    pub len: u32,
    /// Name of the buffer; of a list it stands in the last descriptor.
    pub id: u16,
    /// [`DescriptorFlags`] bits, written last.
    pub flags: u16,
}
assert_layout!(Descriptor, size 16, len at 8, id at 12, flags at 14);

bitflags::bitflags! {
    /// Flags of a descriptor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DescriptorFlags: u16 {
        /// The list goes on.
        const NEXT = 1;
        /// The device writes this buffer; in a used descriptor: it wrote some of it.
        const WRITE = 2;
        /// The buffer is a table of descriptors, in which [`Self::WRITE`] is the only flag.
        const INDIRECT = 4;
        /// VIRTQ_DESC_F_AVAIL.
        const AVAIL = 1 << 7;
        /// VIRTQ_DESC_F_USED.
        const USED = 1 << 15;
    }
}

/// Which notifications one side wants of the other (section 2.8.14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventSuppression {
    /// Place of a descriptor, and [`WRAP_COUNTER`] where the counter is 1; for [`EVENTS_DESCRIPTOR`].
    pub descriptor: u16,
    /// One of the constants below.
    pub flags: u16,
}
assert_layout!(EventSuppression, size 4, flags at 2);

/// In [`EventSuppression::descriptor`]: the wrap counter with which the descriptor is meant.
pub const WRAP_COUNTER: u16 = 1 << 15;
/// RING_EVENT_FLAGS_ENABLE: a notification for everything.
pub const EVENTS_ENABLE: u16 = 0;
/// RING_EVENT_FLAGS_DISABLE: none.
pub const EVENTS_DISABLE: u16 = 1;
/// RING_EVENT_FLAGS_DESC: one for a certain descriptor, with EVENT_IDX only.
pub const EVENTS_DESCRIPTOR: u16 = 2;
