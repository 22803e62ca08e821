//! Chains of every shape: what a driver may do with descriptors, one for one, out of order, divided, indirect.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::disk::plain,
    crate::support::disk::{Disk, scratch},
    crate::support::raw::{Buf, Dir, Link, PATIENCE, link, wait_until, write_descriptor, write_indirect},
    crate::support::rng::Rng,
    crate::support::{Context, End, Verdict, equal, holds},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    shared_abi::virtio::blk::{Features, RequestStatus, RequestType, SECTOR_SIZE},
    shared_abi::virtio::ring::DescriptorFlags,
    shared_abi::virtio::{CommonFeatures, Status},
};

const FRAMING: &str = "2.7.4.1 Device Requirements: Message Framing";
const TABLE: &str = "2.7.5 The Virtqueue Descriptor Table";
const INDIRECT_CLAUSE: &str = "2.7.5.3 Indirect Descriptors";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "queue/one-descriptor",
        rule: "A chain may be one descriptor",
        clause: TABLE,
        method: "One writable buffer for the entropy device",
        expectation: "It is used",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let buf = rng.dev.buffer(16)?;
            rng.fill(&buf).map(drop)
        },
    },
    Check {
        name: "queue/three-descriptors",
        rule: "A chain may have readable and writable parts",
        clause: TABLE,
        method: "Header, sector, status",
        expectation: "Status OK",
        run: |cx| shape(cx, |disk, data| plain(disk, data).map(|links| disk.queue.chain(0, &links))),
    },
    Check {
        name: "queue/descriptors-in-descending-order",
        rule: "Any free descriptors may form a chain",
        clause: TABLE,
        method: "The same in descriptors 6, 3 and 1",
        expectation: "Status OK, id 6",
        run: |cx| shape(cx, |disk, data| plain(disk, data).map(|links| disk.queue.chain_at(&[6, 3, 1], &links))),
    },
    Check {
        name: "queue/header-in-two-parts",
        rule: "A device makes no assumptions about how a message is divided",
        clause: FRAMING,
        method: "Two descriptors of 8 bytes for the header",
        expectation: "Status OK, data as from a plain read",
        run: |cx| shape(cx, |disk, data| divided_header(disk, data, 2)),
    },
    Check {
        name: "queue/header-in-sixteen-parts",
        rule: "A device makes no assumptions about how a message is divided; it may have a reasonable limit",
        clause: FRAMING,
        method: "Sixteen descriptors of 1 byte for the header",
        expectation: "Status OK, data as from a plain read",
        level: Should,
        run: |cx| shape(cx, |disk, data| divided_header(disk, data, 16)),
    },
    Check {
        name: "queue/status-behind-data",
        rule: "A device makes no assumptions about how a message is divided",
        clause: FRAMING,
        method: "One descriptor for a sector and the status byte",
        expectation: "Status OK, data as from a plain read",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 64)?;
            let expected = disk.sectors(1)?;
            disk.read(0, &expected)?;
            let data = disk.dev.buffer(SECTOR_SIZE + 1)?;
            data.fill(0x5a);
            let header = link(&disk.header(0, RequestType::IN, 0), Dir::Out);
            let head = disk.queue.chain(0, &[header, link(&data, Dir::In)]);
            let used = disk.run(head)?.used;
            equal("status", OK, data.read8(SECTOR_SIZE))?;
            holds(used.len <= 513, "used length", "at most 513", used.len)?;
            equal("data as from a plain read", true, expected.bytes() == data.part(0, SECTOR_SIZE).bytes())
        },
    },
    Check {
        name: "queue/header-before-data",
        rule: "A device makes no assumptions about how a message is divided",
        clause: FRAMING,
        method: "One descriptor for the header and a sector to write",
        expectation: "Status OK, and the sector reads back",
        run: |cx| {
            scratch(cx, Features::empty(), 1, |disk, sector| {
                let message = disk.dev.buffer(16 + SECTOR_SIZE)?;
                message.pattern(3);
                message.write32(0, RequestType::OUT.0);
                message.write32(4, 0);
                message.write64(8, sector);
                let status = link(&disk.status(0), Dir::In);
                let head = disk.queue.chain(0, &[link(&message, Dir::Out), status]);
                equal("status", OK, disk.run(head)?.status)?;
                let back = disk.sectors(1)?;
                disk.read(sector, &back)?;
                equal("data as written", true, back.bytes() == message.part(16, SECTOR_SIZE).bytes())
            })
        },
    },
    Check {
        name: "queue/many-small-parts",
        rule: "A device makes no assumptions about how a message is divided",
        clause: FRAMING,
        method: "A sector in 32 parts of 16 bytes, or as many as seg_max says; without seg_max what fails is advice",
        expectation: "Status OK, data as from a plain read",
        run: |cx| {
            shape_with(cx, CommonFeatures::empty(), 0, Parts::Many, |disk, data| {
                let mut parts = 32;
                if disk.dev.offered & Features::SEG_MAX.bits() != 0 {
                    parts = parts.min(disk.dev.regs().config_read(12, 4).max(1) as usize);
                }
                while !SECTOR_SIZE.is_multiple_of(parts) || parts + 2 > usize::from(disk.queue.size) {
                    parts -= 1;
                }
                let size = SECTOR_SIZE / parts;
                let links: Vec<Link> = (0..parts).map(|n| link(&data.part(n * size, size), Dir::In)).collect();
                let links = disk.links(0, RequestType::IN, 0, &links);
                Ok(disk.queue.chain(0, &links))
            })
        },
    },
    Check {
        name: "queue/parts-of-odd-sizes-at-odd-addresses",
        rule: "Buffers need no alignment",
        clause: FRAMING,
        method: "A sector in parts of 1, 3, 127 and 381 bytes at odd addresses; without seg_max what fails is advice",
        expectation: "Status OK, data as from a plain read",
        run: |cx| {
            shape_with(cx, CommonFeatures::empty(), 1, Parts::Many, |disk, data| {
                let mut at = 0;
                let links: Vec<Link> = [1, 3, 127, 381]
                    .into_iter()
                    .map(|len| {
                        at += len;
                        link(&data.part(at - len, len), Dir::In)
                    })
                    .collect();
                let links = disk.links(0, RequestType::IN, 0, &links);
                Ok(disk.queue.chain(0, &links))
            })
        },
    },
    Check {
        name: "queue/part-across-a-page-boundary",
        rule: "Buffers need no alignment",
        clause: FRAMING,
        method: "A sector 100 bytes before the end of a page",
        expectation: "Status OK, data as from a plain read",
        run: |cx| {
            shape_with(cx, CommonFeatures::empty(), 4096 - 100, Parts::One, |disk, data| {
                plain(disk, data).map(|links| disk.queue.chain(0, &links))
            })
        },
    },
    Check {
        name: "queue/longest-chain",
        rule: "A chain may be as long as the queue; a device may have a reasonable limit",
        clause: FRAMING,
        method: "As many writable bytes as the queue has entries, up to 256, one descriptor each",
        expectation: "Used length from 1 to that number",
        level: Should,
        run: |cx| longest(cx, Shape::Direct),
    },
    Check {
        name: "queue/indirect-chain",
        rule: "An indirect table holds a chain",
        clause: INDIRECT_CLAUSE,
        method: "Header, sector, status in a table",
        expectation: "Status OK, data as from a plain read",
        run: |cx| indirect_shape(cx, &[0, 1, 2]),
    },
    Check {
        name: "queue/indirect-table-of-one",
        rule: "An indirect table may have one entry",
        clause: INDIRECT_CLAUSE,
        method: "One writable buffer in a table",
        expectation: "It is used",
        run: |cx| {
            let mut rng = Rng::start(cx, INDIRECT.bits(), 8)?;
            rng.dev.needs(INDIRECT)?;
            let (data, table) = (rng.dev.buffer(16)?, rng.dev.buffer(16)?);
            write_indirect(&table, &[link(&data, Dir::In)]);
            let head = rng.queue.indirect(2, &table, 1);
            rng.queue.send(&rng.dev, head);
            let used = rng.queue.wait()?;
            equal("id of the used element", 2, used.id)?;
            holds((1..=16).contains(&used.len), "used length", "1 to 16", used.len)
        },
    },
    Check {
        name: "queue/indirect-table-out-of-order",
        rule: "Entries of an indirect table are linked by next",
        clause: INDIRECT_CLAUSE,
        method: "Header, sector, status in entries 0, 3 and 1 of a table of four",
        expectation: "Status OK",
        run: |cx| indirect_shape(cx, &[0, 3, 1]),
    },
    Check {
        name: "queue/longest-indirect-chain",
        rule: "An indirect chain may be as long as the queue; a device may have a reasonable limit",
        clause: FRAMING,
        method: "As many writable bytes as the queue has entries, up to 256, in one table",
        expectation: "Used length from 1 to that number",
        level: Should,
        run: |cx| longest(cx, Shape::Indirect),
    },
    Check {
        name: "queue/indirect-and-direct-mixed",
        rule: "Indirect and plain chains may share a queue",
        clause: INDIRECT_CLAUSE,
        method: "Four of each in turn",
        expectation: "Every status OK",
        run: |cx| {
            let mut disk = Disk::start(cx, INDIRECT.bits(), 64)?;
            disk.dev.needs(INDIRECT)?;
            let (data, tables) = (disk.sectors(8)?, disk.dev.buffer(8 * 64)?);
            for n in 0..8u16 {
                let at = usize::from(n);
                let sector = data.part(at * SECTOR_SIZE, SECTOR_SIZE);
                let links = disk.links(n, RequestType::IN, 0, &[link(&sector, Dir::In)]);
                let head = if n % 2 == 0 {
                    let table = tables.part(at * 64, 48);
                    write_indirect(&table, &links);
                    disk.queue.indirect(3 * n, &table, 3)
                } else {
                    disk.queue.chain(3 * n, &links)
                };
                disk.queue.offer(head);
            }
            disk.queue.publish();
            disk.queue.notify(&disk.dev);
            disk.queue.skip(8)?;
            for n in 0..8 {
                equal(&format!("status of request {n}"), OK, disk.status_of(n))?;
            }
            Ok(())
        },
    },
    Check {
        name: "queue/direct-then-indirect",
        rule: "A device handles normal descriptors followed by one that refers to an indirect table",
        clause: "2.7.5.3.2 Device Requirements: Indirect Descriptors",
        method: "The header in a descriptor of the ring, sector and status in a table",
        expectation: "Status OK, data as from a plain read",
        run: |cx| {
            // Header in the ring, the rest in a table after it.
            shape_with(cx, INDIRECT, 0, Parts::One, |disk, data| {
                let links = plain(disk, data)?;
                let table = disk.dev.buffer(2 * 16)?;
                write_indirect(&table, &links[1..]);
                let (address, len, _) = links[0];
                write_descriptor(&disk.queue.table, 0, address, len, DescriptorFlags::NEXT, 4);
                disk.queue.indirect(4, &table, 2);
                Ok(0)
            })
        },
    },
    Check {
        name: "queue/write-flag-of-a-table-is-ignored",
        rule: "A device ignores the write flag of a descriptor that refers to an indirect table",
        clause: "2.7.5.3.2 Device Requirements: Indirect Descriptors",
        method: "A read whose table is referred to with the write flag set",
        expectation: "Status OK, data as from a plain read",
        run: |cx| {
            shape_with(cx, INDIRECT, 0, Parts::One, |disk, data| {
                let links = plain(disk, data)?;
                let table = disk.dev.buffer(3 * 16)?;
                write_indirect(&table, &links);
                let flags = DescriptorFlags::INDIRECT | DescriptorFlags::WRITE;
                write_descriptor(&disk.queue.table, 2, table.address(), 48, flags, 0);
                Ok(2)
            })
        },
    },
    Check {
        name: "queue/zero-length-part-is-survived",
        rule: "No text allows or forbids an empty buffer: a device serves it, or asks for a reset",
        clause: TABLE,
        method: "A read with an empty buffer between header and sector; then, after a reset, a plain one",
        expectation: "Status OK and the right data, or DEVICE_NEEDS_RESET; the plain read succeeds",
        level: Should,
        run: |cx| {
            {
                let mut disk = Disk::start(cx, 0, 8)?;
                let (expected, data) = (disk.sectors(1)?, disk.sectors(1)?);
                disk.read(0, &expected)?;
                let mut links = plain(&mut disk, &data)?;
                links.insert(1, (data.address(), 0, Dir::In));
                let head = disk.queue.chain(0, &links);
                disk.queue.send(&disk.dev, head);
                let gave_up = || disk.dev.regs().status() & Status::DEVICE_NEEDS_RESET.bits() != 0;
                let ended = wait_until(PATIENCE, || disk.queue.used_index() != disk.queue.seen() || gave_up());
                holds(ended, "a chain with an empty buffer", "an answer or DEVICE_NEEDS_RESET", "neither")?;
                if gave_up() {
                    cx.did("the device asked for a reset");
                } else {
                    equal("status", OK, disk.status_of(0))?;
                    equal("data as from a plain read", true, expected.bytes() == data.bytes())?;
                    cx.did("the buffer was passed over");
                }
            }
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            disk.read(0, &data)
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const OK: u8 = RequestStatus::OK.0;

    pub const INDIRECT: CommonFeatures = CommonFeatures::INDIRECT_DESC;

    /// Reads sector 0 plainly and by a chain of another shape; `build` writes it and returns its head.
    pub fn shape(cx: &Context, build: impl FnOnce(&mut Disk<'_>, &Buf) -> Result<u16, End>) -> Verdict {
        shape_with(cx, CommonFeatures::empty(), 0, Parts::One, build)
    }

    /// How many buffers a sector is divided into.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Parts {
        One,
        Many,
    }

    /// The same with a feature, and with the data at an offset in its pages.
    pub fn shape_with(
        cx: &Context,
        features: CommonFeatures,
        offset: usize,
        parts: Parts,
        build: impl FnOnce(&mut Disk<'_>, &Buf) -> Result<u16, End>,
    ) -> Verdict {
        let mut disk = Disk::start(cx, features.bits(), 64)?;
        disk.dev.needs(features)?;
        let expected = disk.sectors(1)?;
        disk.read(0, &expected)?;
        let data = disk.dev.buffer(offset + SECTOR_SIZE + 16)?.part(offset, SECTOR_SIZE);
        data.fill(0x5a);
        let head = build(&mut disk, &data)?;
        let answer = disk.run(head)?;
        let status = equal("status", OK, answer.status);
        if parts == Parts::Many {
            disk.many(status)?
        } else {
            status?
        }
        equal("data as from a plain read", true, expected.bytes() == data.bytes())?;
        disk.dev.healthy()
    }

    pub fn divided_header(disk: &mut Disk<'_>, data: &Buf, parts: usize) -> Result<u16, End> {
        let header = disk.header(0, RequestType::IN, 0);
        let size = 16 / parts;
        let mut links: Vec<Link> = (0..parts).map(|n| link(&header.part(n * size, size), Dir::Out)).collect();
        links.extend([link(data, Dir::In), link(&disk.status(0), Dir::In)]);
        Ok(disk.queue.chain(0, &links))
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Shape {
        Direct,
        Indirect,
    }

    pub fn longest(cx: &Context, shape: Shape) -> Verdict {
        let features = if shape == Shape::Indirect { INDIRECT } else { CommonFeatures::empty() };
        let mut rng = Rng::start(cx, features.bits(), 256)?;
        rng.dev.needs(features)?;
        let count = rng.queue.size;
        let data = rng.dev.buffer(count.into())?;
        let links: Vec<Link> = (0..count).map(|n| link(&data.part(n.into(), 1), Dir::In)).collect();
        let head = if shape == Shape::Indirect {
            let table = rng.dev.buffer(usize::from(count) * 16)?;
            write_indirect(&table, &links);
            rng.queue.indirect(0, &table, count)
        } else {
            rng.queue.chain(0, &links)
        };
        rng.queue.send(&rng.dev, head);
        let used = rng.queue.wait()?;
        holds((1..=u32::from(count)).contains(&used.len), "used length", format!("1 to {count}"), used.len)?;
        rng.dev.healthy()
    }

    pub fn indirect_shape(cx: &Context, places: &'static [u16]) -> Verdict {
        shape_with(cx, INDIRECT, 0, Parts::One, |disk, data| {
            let table = disk.dev.buffer(4 * 16)?;
            for (n, (address, len, dir)) in plain(disk, data)?.into_iter().enumerate() {
                let next = places.get(n + 1).copied();
                let mut flags = if dir == Dir::In { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
                flags.set(DescriptorFlags::NEXT, next.is_some());
                write_descriptor(&table, places[n], address, len, flags, next.unwrap_or(0));
            }
            Ok(disk.queue.indirect(5, &table, places.iter().max().map_or(1, |last| last + 1)))
        })
    }
}
