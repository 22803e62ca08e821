//! Lists of descriptors, in the ring and in tables, of which requests for the disk are made.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::disk::{UNWRITTEN, scratch},
    crate::support::packed::Packed,
    crate::support::raw::{Buf, Dir, Link, counted, link},
    crate::support::{Context, End, Verdict, equal, holds},
    alloc::vec::Vec,
    code::*,
    shared_abi::virtio::blk::{Features, RequestStatus, RequestType, SECTOR_SIZE},
    shared_abi::virtio::{CommonFeatures, DeviceType},
};

const NEXT: &str = "2.8.6 Next Flag: Descriptor Chaining";
const INDIRECT: &str = "2.8.7 Indirect Flag: Scatter-Gather Support";
const MIXED: &str = "2.8.5 Scatter-Gather Support";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "packed/list-has-one-used-descriptor",
        rule: "A list is used by one descriptor, in the place of its first, and skipped whole",
        clause: NEXT,
        method: "Two reads of header, data and status each, in a ring of 8, one after the other",
        expectation: "Used at places 0 and 3; what was written before",
        run: |cx| {
            with_pattern(cx, 8, CommonFeatures::empty(), |disk| {
                (0..2).try_for_each(|id| disk.read(id, &[SECTOR_SIZE]))?;
                disk.dev.healthy()
            })
        },
    },
    Check {
        name: "packed/last-descriptor-names-the-list",
        rule: "The id of a list is that of its last descriptor",
        clause: NEXT,
        method: "A read whose last descriptor has id 1, and the others 2",
        expectation: "The used descriptor has id 1",
        run: |cx| {
            with_pattern(cx, 8, CommonFeatures::empty(), |disk| {
                let request = disk.request(RequestType::IN, &[SECTOR_SIZE])?;
                disk.ring.offer_named(1, 2, &request.links);
                disk.ring.notify(&disk.dev);
                equal("id of the used descriptor", 1, disk.ring.wait()?.id)
            })
        },
    },
    Check {
        name: "packed/list-goes-round",
        rule: "A list may go on at the start of the ring, with the flags of the next turn",
        clause: NEXT,
        method: "Twelve reads of three descriptors each in a ring of 4, one at a time",
        expectation: "What was written before",
        run: |cx| {
            with_pattern(cx, 4, CommonFeatures::empty(), |disk| {
                (0..12).try_for_each(|n| disk.read(n % 4, &[SECTOR_SIZE]))
            })
        },
    },
    Check {
        name: "packed/lists-in-flight-come-back",
        rule: "Each list is used once, and skipped by its own length",
        clause: NEXT,
        method: "Reads of 1, 2 and 3 parts of data at once in a ring of 16, three times",
        expectation: "Three used descriptors, each id once; what was written before",
        run: |cx| with_pattern(cx, 16, CommonFeatures::empty(), lists_in_flight),
    },
    Check {
        name: "packed/list-is-used-in-its-order",
        rule: "The descriptors of a list are used in the order in which they were made available",
        clause: "2.8.18 Device Requirements: Scatter-Gather Support",
        method: "Read a sector in parts of 1, 255, 16 and 240 bytes",
        expectation: "What was written before",
        run: |cx| with_pattern(cx, 16, CommonFeatures::empty(), |disk| disk.read(1, &[1, 255, 16, 240])),
    },
    Check {
        name: "packed/list-as-long-as-the-ring",
        rule: "A list may have as many descriptors as the queue where the device sets no other limit",
        clause: MIXED,
        method: "Read a sector in six parts through a ring of 8, twice",
        expectation: "What was written before",
        level: Should,
        run: |cx| {
            with_pattern(cx, 8, CommonFeatures::empty(), |disk| {
                (0..2).try_for_each(|id| disk.read(id, &[100, 100, 100, 100, 100, 12]))
            })
        },
    },
    Check {
        name: "packed/readable-is-not-written",
        rule: "A device does not write to a device-readable buffer",
        clause: "2.8.15 Device Requirements: The Virtqueue Descriptor Table",
        method: "Write a sector",
        expectation: "Header and data are as they were",
        run: |cx| {
            with_pattern(cx, 8, CommonFeatures::empty(), |disk| {
                let request = disk.request(RequestType::OUT, &[SECTOR_SIZE])?;
                request.data.pattern(SEED);
                let before = request.header.bytes();
                disk.ring.once(&disk.dev, 0, &request.links)?;
                equal("status of a write", RequestStatus::OK.0, request.status.read8(0))?;
                equal("the header", before, request.header.bytes())?;
                equal("first byte of the data that changed", None, request.data.differs(SEED))
            })
        },
    },
    Check {
        name: "packed/length-counts-what-was-written",
        rule: "The length of a used descriptor counts the bytes that the device wrote, those of the status as well",
        clause: "2.8.4 Element Address and Length",
        method: "Read a sector",
        expectation: "At most 513; 513 as recommended",
        run: |cx| {
            with_pattern(cx, 8, CommonFeatures::empty(), |disk| {
                let request = disk.request(RequestType::IN, &[SECTOR_SIZE])?;
                let used = disk.ring.once(&disk.dev, 0, &request.links)?;
                counted(SECTOR_SIZE as u32 + 1, used.len)
            })
        },
    },
    Check {
        name: "packed/indirect-list-is-used",
        rule: "A descriptor may refer to a table, whose ids are ignored; it takes one place in the ring",
        clause: INDIRECT,
        method: "Twenty reads in three parts through a table each, in a ring of 4",
        expectation: "What was written before",
        run: |cx| {
            with_pattern(cx, 4, CommonFeatures::INDIRECT_DESC, |disk| {
                (0..20).try_for_each(|n| disk.read_indirect(n % 4, &[16, 480, 16]))?;
                disk.dev.healthy()
            })
        },
    },
    Check {
        name: "packed/direct-and-indirect-lists",
        rule: "Lists in the ring and in tables may be mixed in one ring",
        clause: MIXED,
        method: "Nine reads in a ring of 8, in turn through the ring and through a table",
        expectation: "What was written before",
        run: |cx| {
            with_pattern(cx, 8, CommonFeatures::INDIRECT_DESC, |disk| {
                (0..9).try_for_each(|n| match n % 2 {
                    0 => disk.read(n % 4, &[SECTOR_SIZE]),
                    _ => disk.read_indirect(n % 4, &[SECTOR_SIZE]),
                })
            })
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Of the pattern on the disk.
    pub const SEED: u8 = 0x42;

    /// A disk with a packed ring.
    pub struct PackedDisk<'a> {
        pub dev: Dev<'a>,
        pub ring: Packed,
        sector: u64,
    }

    /// A request for the sector.
    pub struct Request {
        pub links: Vec<Link>,
        pub header: Buf,
        pub data: Buf,
        pub status: Buf,
    }

    /// Writes a pattern to the last sector through a split ring, and gives the check the disk with a packed one.
    pub fn with_pattern(
        cx: &Context,
        size: u16,
        more: CommonFeatures,
        check: impl FnOnce(&mut PackedDisk<'_>) -> Verdict,
    ) -> Verdict {
        let features = CommonFeatures::RING_PACKED | more;
        let target = cx.device(DeviceType::BLOCK)?;
        Dev::with_features(target, features.bits())?.needs(features)?;
        scratch(cx, Features::empty(), 1, |disk, sector| {
            let pattern = disk.sectors(1)?;
            pattern.pattern(SEED);
            disk.write(sector, &pattern)?;
            let dev = Dev::with_features(target, features.bits())?;
            let ring = Packed::on(&dev, 0, size)?;
            dev.start()?;
            check(&mut PackedDisk { dev, ring, sector })
        })
    }

    impl PackedDisk<'_> {
        /// A request whose data has these parts.
        pub fn request(&self, kind: RequestType, parts: &[usize]) -> Result<Request, End> {
            let (header, data, status) = (self.dev.buffer(16)?, self.dev.buffer(SECTOR_SIZE)?, self.dev.buffer(1)?);
            header.write32(0, kind.0);
            header.write64(8, self.sector);
            status.write8(0, UNWRITTEN);
            let dir = if kind == RequestType::OUT { Dir::Out } else { Dir::In };
            let mut links = alloc::vec![link(&header, Dir::Out)];
            let mut at = 0;
            for &len in parts {
                links.push(link(&data.part(at, len), dir));
                at += len;
            }
            links.push(link(&status, Dir::In));
            Ok(Request { links, header, data, status })
        }

        /// Reads the sector through the ring, and compares.
        pub fn read(&mut self, id: u16, parts: &[usize]) -> Verdict {
            let request = self.request(RequestType::IN, parts)?;
            self.ring.once(&self.dev, id, &request.links)?;
            request.succeeded()
        }

        /// The same through a table.
        pub fn read_indirect(&mut self, id: u16, parts: &[usize]) -> Verdict {
            let request = self.request(RequestType::IN, parts)?;
            let table = self.dev.buffer(request.links.len() * 16)?;
            self.ring.offer_indirect(id, &table, &request.links);
            self.ring.notify(&self.dev);
            let used = self.ring.wait()?;
            equal("id of the used descriptor", id, used.id)?;
            request.succeeded()
        }
    }

    impl Request {
        /// A read of what the disk has.
        fn succeeded(&self) -> Verdict {
            equal("status of a read", RequestStatus::OK.0, self.status.read8(0))?;
            equal("first byte that is not as written", None, self.data.differs(SEED))
        }
    }

    pub fn lists_in_flight(disk: &mut PackedDisk<'_>) -> Verdict {
        let parts: [&[usize]; 3] = [&[512], &[200, 312], &[1, 500, 11]];
        for _ in 0..3 {
            let mut requests = Vec::new();
            for (id, parts) in (0..).zip(parts) {
                let request = disk.request(RequestType::IN, parts)?;
                disk.ring.offer(id, &request.links);
                requests.push(request);
            }
            disk.ring.notify(&disk.dev);
            let mut seen = 0u8;
            for _ in 0..requests.len() {
                let used = disk.ring.wait()?;
                holds(used.id < 3 && seen & 1 << used.id == 0, "id of a used descriptor", "each once", used.id)?;
                seen |= 1 << used.id;
                requests[usize::from(used.id)].succeeded()?;
            }
        }
        disk.dev.healthy()
    }
}
