//! Reads, writes, flushes and the id. `ranges.rs` has discard and write zeroes, `errors.rs` what must fail.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    super::configuration::code::field,
    crate::support::disk::{Disk, OK, scratch},
    crate::support::raw::{Buf, Dir, Link, link},
    crate::support::{Context, Verdict, equal, holds, skip},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    core::mem::offset_of,
    shared_abi::virtio::blk::{Config, Features, ID_LEN, RequestType, SECTOR_SIZE},
};

const LAYOUT: &str = "5.2.4 Device configuration layout";
const OPERATION: &str = "5.2.6 Device Operation";
const DEVICE: &str = "5.2.6.2 Device Requirements: Device Operation";
const FEATURES: &str = "5.2.3 Feature bits";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "block/read-succeeds",
        rule: "A read fills the buffer",
        clause: OPERATION,
        method: "Read sector 0",
        expectation: "Status OK",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            disk.read(0, &data)
        },
    },
    Check {
        name: "block/reads-agree",
        rule: "What is not written does not change",
        clause: OPERATION,
        method: "Read sector 0 twice",
        expectation: "The same",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(2)?;
            let (first, second) = (data.part(0, SECTOR_SIZE), data.part(SECTOR_SIZE, SECTOR_SIZE));
            disk.read(0, &first)?;
            disk.read(0, &second)?;
            equal("both reads the same", true, first.bytes() == second.bytes())
        },
    },
    Check {
        name: "block/large-read-agrees-with-small-ones",
        rule: "A read may be many sectors",
        clause: OPERATION,
        method: "Read 64 KiB at once and sector by sector",
        expectation: "The same",
        run: |cx| {
            const COUNT: usize = 128;
            let mut disk = Disk::start(cx, 0, 8)?;
            if disk.capacity < COUNT as u64 {
                return Err(skip("the disk is smaller than that"));
            }
            let (all, one) = (disk.sectors(COUNT)?, disk.sectors(1)?);
            disk.read(0, &all)?;
            // Each is a request and a comparison, which takes its time where instructions are emulated.
            for n in (0..COUNT).step_by(5) {
                disk.read(n as u64, &one)?;
                let same = one.bytes() == all.part(n * SECTOR_SIZE, SECTOR_SIZE).bytes();
                equal(&format!("sector {n} the same"), true, same)?;
            }
            Ok(())
        },
    },
    Check {
        name: "block/last-sector-reads",
        rule: "Sectors count from 0 to the capacity",
        clause: OPERATION,
        method: "Read the last sector",
        expectation: "Status OK",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            disk.read(disk.capacity - 1, &data)
        },
    },
    Check {
        name: "block/status-byte-is-written",
        rule: "The device writes the status byte",
        clause: DEVICE,
        method: "Preset it with 0xaa, read a sector",
        expectation: "0",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            let answer = disk.request(RequestType::IN, 0, &[link(&data, Dir::In)])?;
            equal("status, which was 0xaa before", OK, answer.status)
        },
    },
    Check {
        name: "block/write-reads-back",
        rule: "A write stores the buffer",
        clause: OPERATION,
        method: "Write a pattern to the last sector, read it",
        expectation: "The pattern",
        run: |cx| write_reads_back(cx, 1),
    },
    Check {
        name: "block/large-write-reads-back",
        rule: "A write may be many sectors",
        clause: OPERATION,
        method: "Write 16 KiB, read sector by sector",
        expectation: "The pattern",
        run: |cx| write_reads_back(cx, 32),
    },
    Check {
        name: "block/write-in-parts-reads-back",
        rule: "A write may have many buffers",
        clause: OPERATION,
        method: "Write 8 sectors from 8 buffers in reverse memory order; without seg_max a refusal is advice",
        expectation: "Each where it belongs",
        run: |cx| {
            scratch(cx, Features::empty(), 8, |disk, first| {
                let data = disk.sectors(8)?;
                let sector = |n: usize| data.part((7 - n) * SECTOR_SIZE, SECTOR_SIZE);
                let links: Vec<Link> = (0..8).map(|n| link(&sector(n), Dir::Out)).collect();
                (0..8).for_each(|n| sector(n).pattern(n as u8));
                let answer = disk.request(RequestType::OUT, first, &links)?;
                disk.many(equal("status", OK, answer.status))?;
                let back = disk.sectors(1)?;
                for n in 0..8 {
                    disk.read(first + u64::from(n), &back)?;
                    equal(&format!("first byte of sector {n} that is not as written"), None, back.differs(n))?;
                }
                Ok(())
            })
        },
    },
    Check {
        name: "block/write-touches-its-sectors-only",
        rule: "A write changes the sectors that it names",
        clause: OPERATION,
        method: "Write sector 1 of three",
        expectation: "Sectors 0 and 2 stay",
        run: |cx| {
            scratch(cx, Features::empty(), 3, |disk, first| {
                let data = disk.sectors(3)?;
                data.pattern(0x22);
                disk.write(first, &data)?;
                let middle = disk.sectors(1)?;
                middle.fill(0xee);
                disk.write(first + 1, &middle)?;
                let expected = [data.part(0, SECTOR_SIZE).bytes(), data.part(2 * SECTOR_SIZE, SECTOR_SIZE).bytes()];
                disk.read(first, &data)?;
                equal("sector before as it was", true, expected[0] == data.part(0, SECTOR_SIZE).bytes())?;
                equal("sector after as it was", true, expected[1] == data.part(2 * SECTOR_SIZE, SECTOR_SIZE).bytes())?;
                equal("first other byte in the middle", None, data.part(SECTOR_SIZE, SECTOR_SIZE).first_not(0xee))
            })
        },
    },
    Check {
        name: "block/overwrite-wins",
        rule: "The last write is what is read",
        clause: OPERATION,
        method: "Write two patterns one after the other",
        expectation: "The second",
        run: |cx| {
            scratch(cx, Features::empty(), 1, |disk, first| {
                let data = disk.sectors(1)?;
                for seed in [1, 2] {
                    data.pattern(seed);
                    disk.write(first, &data)?;
                }
                data.fill(0);
                disk.read(first, &data)?;
                equal("first byte that is not as written last", None, data.differs(2))
            })
        },
    },
    Check {
        name: "block/writes-in-flight-all-arrive",
        rule: "Requests in flight are all served",
        clause: OPERATION,
        method: "Eight writes to eight sectors with one notification",
        expectation: "Each reads back",
        run: |cx| {
            scratch(cx, Features::empty(), 8, |disk, first| {
                let data = disk.sectors(8)?;
                data.pattern(0x33);
                let sectors: Vec<u64> = (first..first + 8).collect();
                at_once(disk, RequestType::OUT, &data, &sectors)?;
                data.fill(0);
                disk.read(first, &data)?;
                equal("first byte that is not as written", None, data.differs(0x33))
            })
        },
    },
    Check {
        name: "block/reads-in-flight-do-not-mix",
        rule: "Requests in flight are served apart",
        clause: OPERATION,
        method: "Sixteen reads of different sectors with one notification",
        expectation: "Each as from a plain read",
        run: |cx| {
            scratch(cx, Features::empty(), 16, |disk, first| {
                let data = disk.sectors(16)?;
                data.pattern(0x44);
                disk.write(first, &data)?;
                let sectors: Vec<u64> = (0..16).map(|n| first + (n * 7) % 16).collect();
                let back = disk.sectors(16)?;
                at_once(disk, RequestType::IN, &back, &sectors)?;
                for n in 0..16 {
                    let expected = data.part(n * 7 % 16 * SECTOR_SIZE, SECTOR_SIZE).bytes();
                    let same = back.part(n * SECTOR_SIZE, SECTOR_SIZE).bytes() == expected;
                    equal(&format!("data of request {n} its own"), true, same)?;
                }
                Ok(())
            })
        },
    },
    Check {
        name: "block/flush-succeeds",
        rule: "A flush is answered",
        clause: DEVICE,
        method: "Flush",
        expectation: "Status OK, used length at most 1; less is advice",
        run: |cx| {
            let mut disk = Disk::start_with(cx, Features::FLUSH)?;
            let answer = disk.request(RequestType::FLUSH, 0, &[])?;
            equal("status", OK, answer.status)?;
            crate::support::raw::counted(1, answer.used.len)
        },
    },
    Check {
        name: "block/flush-behind-writes-succeeds",
        rule: "A flush makes completed writes stable",
        clause: DEVICE,
        method: "Write, flush, read",
        expectation: "Status OK thrice, and the pattern",
        run: |cx| {
            scratch(cx, Features::FLUSH, 4, |disk, first| {
                let data = disk.sectors(4)?;
                data.pattern(0x55);
                disk.write(first, &data)?;
                equal("status of a flush", OK, disk.request(RequestType::FLUSH, 0, &[])?.status)?;
                data.fill(0);
                disk.read(first, &data)?;
                equal("first byte that is not as written", None, data.differs(0x55))
            })
        },
    },
    Check {
        name: "block/flushed-data-outlives-a-reset",
        rule: "A flush makes completed writes stable",
        clause: DEVICE,
        method: "Write, flush, reset the device, start over, read",
        expectation: "Status OK thrice, and the pattern",
        run: |cx| {
            scratch(cx, Features::FLUSH, 4, |disk, first| {
                let data = disk.sectors(4)?;
                data.pattern(0x77);
                disk.write(first, &data)?;
                equal("status of a flush", OK, disk.request(RequestType::FLUSH, 0, &[])?.status)?;
                // Starting over resets the device.
                let mut again = Disk::start(cx, 0, 8)?;
                let data = again.sectors(4)?;
                again.read(first, &data)?;
                equal("first byte that is not as written", None, data.differs(0x77))
            })
        },
    },
    Check {
        name: "block/id-succeeds",
        rule: "GET_ID fills 20 bytes",
        clause: OPERATION,
        method: "Ask for the id twice",
        expectation: "Status OK, printable up to the first NUL, the same twice",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.dev.buffer(ID_LEN)?;
            let mut ids = Vec::new();
            for _ in 0..2 {
                data.fill(0xff);
                equal("status", OK, disk.request(RequestType::GET_ID, 0, &[link(&data, Dir::In)])?.status)?;
                ids.push(data.bytes());
            }
            equal("the same id twice", true, ids[0] == ids[1])?;
            let strange = ids[0].iter().take_while(|&&byte| byte != 0).find(|byte| !(0x20..0x7f).contains(*byte));
            equal("byte of the id that is not printable", None, strange)
        },
    },
    Check {
        name: "block/each-queue-answers",
        rule: "A device with MQ serves every queue",
        clause: FEATURES,
        method: "Read sector 0 through each queue, where MQ is offered",
        expectation: "Status OK on each",
        run: |cx| {
            let mut disk = Disk::start_with(cx, Features::MQ)?;
            let count = field(&disk, offset_of!(Config, num_queues), 2) as u16;
            holds(count >= 1, "num_queues", "1 or more", count)?;
            let data = disk.sectors(1)?;
            disk.read(0, &data)?;
            drop(disk);
            for index in 1..count {
                let mut disk = Disk::start_on(cx, Features::MQ.bits(), 8, index)?;
                let data = disk.sectors(1)?;
                disk.read(0, &data).map_err(|end| end.of(format_args!("queue {index}")))?;
            }
            Ok(())
        },
    },
    Check {
        name: "block/seg-max-segments-are-taken",
        rule: "A request may have seg_max buffers",
        clause: LAYOUT,
        method: "A read of seg_max sectors, one buffer each (as far as queue and disk allow)",
        expectation: "Status OK",
        run: |cx| {
            let mut disk = Disk::start(cx, Features::SEG_MAX.bits(), 256)?;
            disk.dev.needs(Features::SEG_MAX)?;
            let most = field(&disk, offset_of!(Config, seg_max), 4) as usize;
            let count = most.min(usize::from(disk.queue.size) - 2).min(disk.capacity as usize);
            let data = disk.sectors(count)?;
            let links: Vec<Link> =
                (0..count).map(|n| link(&data.part(n * SECTOR_SIZE, SECTOR_SIZE), Dir::In)).collect();
            equal(&format!("status with {count} buffers"), OK, disk.request(RequestType::IN, 0, &links)?.status)
        },
    },
    Check {
        name: "block/flush-among-requests-in-flight",
        rule: "Requests in flight are all served, whatever their kind",
        clause: OPERATION,
        method: "Four writes, a flush, four writes with one notification",
        expectation: "Nine times status OK; all eight read back",
        run: |cx| {
            scratch(cx, Features::FLUSH, 8, |disk, first| {
                let data = disk.sectors(8)?;
                data.pattern(0x2b);
                for n in 0..9u16 {
                    // Four writes, a flush, four writes.
                    let sector = usize::from(n - u16::from(n > 4)) % 8;
                    let part = data.part(sector * SECTOR_SIZE, SECTOR_SIZE);
                    let links = match n {
                        4 => disk.links(n, RequestType::FLUSH, 0, &[]),
                        _ => disk.links(n, RequestType::OUT, first + sector as u64, &[link(&part, Dir::Out)]),
                    };
                    let head = disk.queue.chain(3 * n, &links);
                    disk.queue.offer(head);
                }
                disk.queue.publish();
                disk.queue.notify(&disk.dev);
                disk.queue.skip(9)?;
                (0..9).try_for_each(|n| equal(&format!("status of request {n}"), OK, disk.status_of(n)))?;
                data.fill(0);
                disk.read(first, &data)?;
                equal("first byte that is not as written", None, data.differs(0x2b))
            })
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub fn write_reads_back(cx: &Context, count: usize) -> Verdict {
        scratch(cx, Features::empty(), count as u64, |disk, first| {
            let data = disk.sectors(count)?;
            data.pattern(0x11);
            disk.write(first, &data)?;
            data.fill(0);
            for n in 0..count {
                disk.read(first + n as u64, &data.part(n * SECTOR_SIZE, SECTOR_SIZE))?;
            }
            equal("first byte that is not as written", None, data.differs(0x11))
        })
    }

    /// Runs single-sector requests at once; sector n of `data` belongs to request n.
    pub fn at_once(disk: &mut Disk<'_>, kind: RequestType, data: &Buf, sectors: &[u64]) -> Verdict {
        let dir = if kind == RequestType::IN { Dir::In } else { Dir::Out };
        for (n, &sector) in sectors.iter().enumerate() {
            let part = data.part(n * SECTOR_SIZE, SECTOR_SIZE);
            let links = disk.links(n as u16, kind, sector, &[link(&part, dir)]);
            let head = disk.queue.chain(3 * n as u16, &links);
            disk.queue.offer(head);
        }
        disk.queue.publish();
        disk.queue.notify(&disk.dev);
        disk.queue.skip(sectors.len() as u16)?;
        (0..sectors.len() as u16).try_for_each(|n| equal(&format!("status of request {n}"), OK, disk.status_of(n)))
    }
}
