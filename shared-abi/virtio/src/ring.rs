//! The split virtqueue (section 2.7 "Split Virtqueues").
//!
//! ```text
//! descriptor table   16 * size, aligned to 16   written by the driver
//! available ring     6 + 2 * size, aligned to 2 written by the driver: flags, idx, ring[size], used_event
//! used ring          6 + 8 * size, aligned to 4 written by the device: flags, idx, ring[size], avail_event
//! ```
//!
//! Ordering: the writer of a ring stores its entries, then `idx` with release; the reader loads `idx` with acquire, then
//! the entries. A side that decides whether to notify stores its `idx`, executes a full fence, then reads the other
//! side's event index or flags (section 2.7.13 "Supplying Buffers to The Device").

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest queue size (a power of two).
pub const MAX_SIZE: u16 = 32768;

/// One descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// Device address of the buffer.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`DescriptorFlags`] bits.
    pub flags: u16,
    /// The next descriptor of the chain, if [`DescriptorFlags::NEXT`].
    pub next: u16,
}
assert_layout!(Descriptor, size 16, len at 8, flags at 12, next at 14);

bitflags::bitflags! {
    /// Flags of a descriptor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DescriptorFlags: u16 {
        /// The chain goes on.
        const NEXT = 1;
        /// The device writes this buffer; otherwise it reads it.
        const WRITE = 2;
        /// The buffer is a table of descriptors.
        const INDIRECT = 4;
    }
}

/// One entry of the used ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UsedElement {
    /// Head of the chain.
    pub id: u32,
    /// Bytes that the device wrote into it.
    pub len: u32,
}
assert_layout!(UsedElement, size 8, len at 4);

/// Byte offset of `flags` in the available and in the used ring.
pub const FLAGS_OFFSET: usize = 0;
/// Byte offset of `idx` in the available and in the used ring.
pub const INDEX_OFFSET: usize = 2;
/// Byte offset of `ring` in the available and in the used ring.
pub const ENTRIES_OFFSET: usize = 4;

/// VIRTQ_AVAIL_F_NO_INTERRUPT: the driver wants no interrupts (ignored under EVENT_IDX).
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY: the device wants no notifications (ignored under EVENT_IDX).
pub const USED_NO_NOTIFY: u16 = 1;

/// The size of a queue for which a driver has asked for `asked` entries and whose register then shows `shown`, where
/// `largest` is what it showed before: a device that keeps its own size has rings of that size, and a driver must use those.
pub const fn size_in_use(asked: u16, shown: u16, largest: u16) -> u16 {
    if shown == 0 || shown > largest { asked } else { shown }
}

/// Bytes of a descriptor table.
pub const fn descriptor_table_len(size: u16) -> usize {
    size as usize * size_of::<Descriptor>()
}

/// Bytes of an available ring, `used_event` included.
pub const fn available_len(size: u16) -> usize {
    ENTRIES_OFFSET + 2 * size as usize + 2
}

/// Byte offset of `used_event` in the available ring.
pub const fn used_event_offset(size: u16) -> usize {
    ENTRIES_OFFSET + 2 * size as usize
}

/// Bytes of a used ring, `avail_event` included.
pub const fn used_len(size: u16) -> usize {
    ENTRIES_OFFSET + size_of::<UsedElement>() * size as usize + 2
}

/// Byte offset of `avail_event` in the used ring.
pub const fn avail_event_offset(size: u16) -> usize {
    ENTRIES_OFFSET + size_of::<UsedElement>() * size as usize
}

#[cfg(test)]
mod tests {
    use super::size_in_use;

    #[test]
    fn a_device_that_keeps_its_queue_size_gets_rings_of_that_size() {
        assert_eq!(size_in_use(8, 8, 256), 8);
        assert_eq!(size_in_use(8, 256, 256), 256);
        assert_eq!(size_in_use(8, 4, 256), 4);
    }

    #[test]
    fn a_size_that_cannot_be_is_not_taken_for_the_queues() {
        assert_eq!(size_in_use(8, 0, 256), 8);
        assert_eq!(size_in_use(8, 0xffff, 256), 8);
    }
}
