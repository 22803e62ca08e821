//! The memory balloon (section 5.5 "Traditional Memory Balloon Device").
//!
//! Queues 0 (inflate) and 1 (deflate) carry arrays of u32 page frame numbers. The statistics queue is the driver's to
//! fill: the device returns the buffer when it wants new numbers. On the reporting queue the driver puts free ranges as
//! device-writable buffers and gets them back unchanged in length.
//!
//! Devices in the field number only the queues that they offer (see [`queues`]), so a driver accepts each of the three
//! features that it was offered, or keeps the number free.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Page frame numbers count pages of this size, whatever the page size of the guest.
pub const PAGE_SIZE: usize = 4096;

bitflags::bitflags! {
    /// Feature bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// A page may be used only after the device acknowledged its deflation.
        const MUST_TELL_HOST = 1 << 0;
        /// There is a statistics queue.
        const STATS_VQ = 1 << 1;
        /// The driver may deflate when it runs out of memory.
        const DEFLATE_ON_OOM = 1 << 2;
        /// There is a free page hint queue.
        const FREE_PAGE_HINT = 1 << 3;
        /// The guest fills free pages with `poison_val`.
        const PAGE_POISON = 1 << 4;
        /// There is a reporting queue.
        const REPORTING = 1 << 5;
    }
}

/// `virtio_balloon_config`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// Pages that the host wants; the device writes.
    pub num_pages: u32,
    /// Pages that the balloon has; the driver writes.
    pub actual: u32,
    /// Command of the free page hint queue.
    pub free_page_hint_cmd_id: u32,
    /// Fill value of free pages.
    pub poison_val: u32,
}
assert_layout!(Config, size 16, actual at 4, free_page_hint_cmd_id at 8, poison_val at 12);

/// One statistic; packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct Stat {
    /// See [`stat_tag`]; unknown ones are ignored.
    pub tag: u16,
    /// The value; memory is in bytes.
    pub value: u64,
}
assert_layout!(Stat, size 10, value at 2);

/// Tags of [`Stat`].
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod stat_tag {
    pub const SWAP_IN: u16 = 0;
    pub const SWAP_OUT: u16 = 1;
    pub const MAJOR_FAULTS: u16 = 2;
    pub const MINOR_FAULTS: u16 = 3;
    pub const FREE_MEMORY: u16 = 4;
    pub const TOTAL_MEMORY: u16 = 5;
    pub const AVAILABLE_MEMORY: u16 = 6;
    pub const DISK_CACHES: u16 = 7;
    pub const HUGETLB_ALLOCATIONS: u16 = 8;
    pub const HUGETLB_FAILURES: u16 = 9;
}

/// Numbers of the queues that exist under a set of offered features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Inflate.
    pub inflate: u16,
    /// Deflate.
    pub deflate: u16,
    /// Statistics.
    pub stats: Option<u16>,
    /// Free page hints.
    pub free_page: Option<u16>,
    /// Free page reporting.
    pub reporting: Option<u16>,
}

/// Numbers the queues of a device that offers `features`: a queue that is not offered takes no number
/// (section 5.5.2 "Virtqueues" lists them; QEMU and Linux agree on the numbering).
pub const fn queues(features: Features) -> Queues {
    let mut next = 2;
    let mut number = [None; 3];
    let wanted = [
        features.contains(Features::STATS_VQ),
        features.contains(Features::FREE_PAGE_HINT),
        features.contains(Features::REPORTING),
    ];
    let mut i = 0;
    while i < 3 {
        if wanted[i] {
            number[i] = Some(next);
            next += 1;
        }
        i += 1;
    }
    Queues { inflate: 0, deflate: 1, stats: number[0], free_page: number[1], reporting: number[2] }
}
