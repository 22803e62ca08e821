//! The ring: whose a descriptor is, in which turn, and what is written over it.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::packed::{Packed, UsedDescriptor},
    crate::support::raw::{Buf, Dir, Link, link, wait_until},
    crate::support::{Context, End, equal, fail, holds},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    shared_abi::virtio::packed::DescriptorFlags,
    shared_abi::virtio::{CommonFeatures, DeviceType},
};

const COUNTERS: &str = "2.8.1 Driver and Device Ring Wrap Counters";
const LENGTH: &str = "2.8.4 Element Address and Length";
const SIZE_CLAUSE: &str = "2.8.10.1 Structure Size and Alignment";
const QUEUES: &str = "2.8.12 Device Requirements: Virtqueues";
const DESCRIPTORS: &str = "2.8.15 Device Requirements: The Virtqueue Descriptor Table";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "packed/buffer-is-used",
        rule: "A used descriptor has the buffer's id, and the number of bytes that were written",
        clause: LENGTH,
        method: "Give the entropy device one buffer of 64 bytes",
        expectation: "A used descriptor in its place, with its id and a length from 1 to 64",
        run: |cx| {
            let mut source = Source::start(cx, 8)?;
            let used = source.once(5)?;
            holds((1..=LEN).contains(&used.len), "length", format_args!("1 to {LEN}"), used.len)?;
            source.dev.healthy()
        },
    },
    Check {
        name: "packed/used-descriptor-says-that-it-was-written",
        rule: "WRITE in a used descriptor says that the device has written into the buffer",
        clause: "2.8.3 Write Flag",
        method: "Give the entropy device one buffer of 64 bytes",
        expectation: "WRITE",
        run: |cx| {
            let used = Source::start(cx, 8)?.once(0)?;
            holds(used.wrote, "WRITE in the used descriptor", "set", "clear")
        },
    },
    Check {
        name: "packed/any-id-comes-back",
        rule: "The id is the driver's business",
        clause: "2.8.13 The Virtqueue Descriptor Format",
        method: "Buffers of ids 0, 7, 0x1234 and 0xffff, in a ring of 8",
        expectation: "Each comes back with its id",
        run: |cx| {
            let mut source = Source::start(cx, 8)?;
            [0, 7, 0x1234, 0xffff].into_iter().try_for_each(|id| source.once(id).map(drop))
        },
    },
    Check {
        name: "packed/ring-goes-round",
        rule: "Both wrap counters change with each turn",
        clause: COUNTERS,
        method: "Five turns round a ring of 4, a buffer at a time",
        expectation: "Each is used in its place, with the flags of its turn",
        run: |cx| {
            let mut source = Source::start(cx, 4)?;
            let turns = 5 * source.ring.size;
            (0..turns).try_for_each(|n| source.once(n % 4).map(drop).map_err(|end| end.of(format!("buffer {n}"))))
        },
    },
    Check {
        name: "packed/size-is-no-power-of-2",
        rule: "The size of a packed ring need not be a power of 2",
        clause: SIZE_CLAUSE,
        method: "Three turns round a ring of 5, a buffer at a time",
        expectation: "Each is used in its place, with the flags of its turn",
        run: |cx| {
            let mut source = Source::start(cx, 5)?;
            let turns = 3 * source.ring.size;
            (0..turns).try_for_each(|n| source.once(n % 5).map(drop).map_err(|end| end.of(format!("buffer {n}"))))
        },
    },
    Check {
        name: "packed/full-ring-is-used",
        rule: "Used descriptors are written in ring order, one for each buffer",
        clause: QUEUES,
        method: "Fill a ring of 8 with buffers of ids from 7 down to 0, twice, notify once",
        expectation: "Eight used descriptors from the first place on, each id once",
        run: |cx| {
            let mut source = Source::start(cx, 8)?;
            let size = source.ring.size.min(8);
            for _ in 0..2 {
                for id in (0..size).rev() {
                    source.offer(id);
                }
                source.ring.notify(&source.dev);
                let mut seen = 0u32;
                for _ in 0..size {
                    let id = source.ring.wait()?.id;
                    holds(id < size && seen & 1 << id == 0, "id of a used descriptor", "each once", id)?;
                    seen |= 1 << id;
                }
            }
            source.dev.healthy()
        },
    },
    Check {
        name: "packed/what-is-not-available-is-left-alone",
        rule: "A device uses no descriptor whose AVAIL bit has not changed",
        clause: DESCRIPTORS,
        method: "In the first turn descriptors with AVAIL and USED clear, both set, and only USED set; each time notify, wait \
            5 ms; then the same one with AVAIL set; a second buffer",
        expectation: "Unchanged bytes; then both are used",
        run: |cx| {
            let mut source = Source::start(cx, 8)?;
            let (address, len, _) = source.link();
            let both = DescriptorFlags::AVAIL | DescriptorFlags::USED;
            for flags in [DescriptorFlags::empty(), both, DescriptorFlags::USED] {
                source.ring.describe(0, (address, len), 0, flags | DescriptorFlags::WRITE);
                let before = source.ring.descriptor(0);
                source.ring.notify(&source.dev);
                wait_until(QUIET, || source.ring.descriptor(0) != before);
                equal(&format!("a descriptor with the flags {flags:?}"), before, source.ring.descriptor(0))?;
            }
            (0..2).try_for_each(|id| source.once(id).map(drop))
        },
    },
    Check {
        name: "packed/used-descriptor-is-left-alone",
        rule: "A device does not change a descriptor that it has marked as used",
        clause: DESCRIPTORS,
        method: "A ring of 8: one buffer is used; the driver writes a pattern over its address and length; six more buffers",
        expectation: "The pattern, the id and the flags are as they were",
        run: |cx| {
            let mut source = Source::start(cx, 8)?;
            source.once(0)?;
            source.ring.ring.write64(0, 0x5a5a_5a5a_5a5a_5a5a);
            source.ring.ring.write32(8, 0x5a5a_5a5a);
            let before = source.ring.descriptor(0);
            (1..7).try_for_each(|id| source.once(id).map(drop))?;
            equal("the descriptor", before, source.ring.descriptor(0))
        },
    },
    Check {
        name: "packed/other-descriptors-are-left-alone",
        rule: "A device writes used descriptors and nothing else into the ring",
        clause: DESCRIPTORS,
        method: "Fill a ring of 8 with 0x5a but for the flags, which say used before; three buffers",
        expectation: "Three descriptors have changed",
        run: |cx| {
            let mut source = Source::start(cx, 8)?;
            let garbage = (0x5a5a_5a5a_5a5a_5a5a, 0x5a5a_5a5a);
            (0..source.ring.size).for_each(|at| source.ring.describe(at, garbage, 0x5a5a, DescriptorFlags::empty()));
            let before = source.all();
            (0..3).try_for_each(|id| source.once(id).map(drop))?;
            let after = source.all();
            let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
            equal("places that have changed", alloc::vec![0, 1, 2], changed)
        },
    },
    Check {
        name: "packed/buffers-end-is-left-alone",
        rule: "Bytes after the used length are left as they were, although a device may write more than it says",
        clause: LENGTH,
        method: "Fill 64 bytes with 0xa5, give them away",
        expectation: "The bytes after the length of the used descriptor are 0xa5",
        level: Should,
        run: |cx| {
            let mut source = Source::start(cx, 8)?;
            source.data.fill(0xa5);
            let len = source.once(0)?.len as usize;
            let rest = source.data.part(len.min(LEN as usize), source.data.len() - len.min(LEN as usize));
            equal("first byte changed after the length", None, rest.first_not(0xa5))
        },
    },
    Check {
        name: "packed/available-before-driver-ok-is-used-after",
        rule: "What was made available before DRIVER_OK is served once the device is notified",
        clause: "3.1.1 Driver Requirements: Device Initialization",
        method: "Make a buffer available, set DRIVER_OK, notify",
        expectation: "Used",
        run: |cx| {
            let mut source = Source::prepare(cx, 8)?;
            source.offer(0);
            source.dev.start()?;
            source.ring.notify(&source.dev);
            source.ring.wait().map(drop)
        },
    },
    Check {
        name: "packed/reset-forgets-the-counters",
        rule: "After a reset both sides begin at the first place, with both counters 1",
        clause: COUNTERS,
        method: "Six buffers in a ring of 4, reset, a new ring, four buffers",
        expectation: "Each is used in its place, with the flags of its turn",
        run: |cx| {
            let mut source = Source::start(cx, 4)?;
            (0..6).try_for_each(|n| source.once(n % 4).map(drop))?;
            drop(source);
            let mut source = Source::start(cx, 4)?;
            (0..4).try_for_each(|n| source.once(n).map(drop))
        },
    },
    Check {
        name: "packed/split-ring-after-it",
        rule: "The kind of ring is negotiated with each initialization",
        clause: "2.2 Feature Bits",
        method: "A buffer in a packed ring, reset, one in a split ring, reset, one in a packed ring",
        expectation: "Each is used",
        run: |cx| {
            Source::start(cx, 8)?.once(0)?;
            let dev = Dev::with_features(cx.device(DeviceType::RNG)?, 0)?;
            let mut queue = dev.queue(0, 8)?;
            dev.start()?;
            let buf = dev.buffer(64)?;
            let head = queue.chain(0, &[link(&buf, Dir::In)]);
            queue.send(&dev, head);
            let used = queue.wait()?;
            if used.id != 0 {
                return Err(fail("id of the used element", 0, used.id));
            }
            drop(dev);
            Source::start(cx, 8)?.once(0).map(drop)
        },
    },
];

#[cfg(feature = "guest")]
pub(super) mod code {
    use super::*;

    /// Bytes of a buffer.
    pub const LEN: u32 = 64;

    /// How long something is watched that must not change.
    pub const QUIET: u64 = 5_000_000;

    /// An entropy device with a packed ring. All buffers are one.
    pub struct Source<'a> {
        pub dev: Dev<'a>,
        pub ring: Packed,
        pub data: Buf,
    }

    impl<'a> Source<'a> {
        pub fn start(cx: &'a Context, size: u16) -> Result<Self, End> {
            let source = Self::prepare(cx, size)?;
            source.dev.start()?;
            Ok(source)
        }

        /// All but DRIVER_OK.
        pub fn prepare(cx: &'a Context, size: u16) -> Result<Self, End> {
            Self::with(cx, size, CommonFeatures::empty())
        }

        /// The same with more features.
        pub fn with(cx: &'a Context, size: u16, more: CommonFeatures) -> Result<Self, End> {
            let features = CommonFeatures::RING_PACKED | more;
            let dev = Dev::with_features(cx.device(DeviceType::RNG)?, features.bits())?;
            dev.needs(features)?;
            let ring = Packed::on(&dev, 0, size)?;
            let data = dev.buffer(LEN as usize)?;
            Ok(Self { dev, ring, data })
        }

        pub fn link(&self) -> Link {
            link(&self.data, Dir::In)
        }

        pub fn offer(&mut self, id: u16) {
            let link = self.link();
            self.ring.offer(id, &[link]);
        }

        pub fn once(&mut self, id: u16) -> Result<UsedDescriptor, End> {
            let link = self.link();
            self.ring.once(&self.dev, id, &[link])
        }

        /// What stands in the ring.
        pub fn all(&self) -> Vec<Vec<u8>> {
            (0..self.ring.size).map(|at| self.ring.descriptor(at)).collect()
        }
    }
}
