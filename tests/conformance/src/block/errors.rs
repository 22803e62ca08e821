//! Requests that a disk refuses, and that it goes on after them.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::disk::{Answer, Disk, IOERR, OK, UNSUPP, UNWRITTEN, scratch},
    crate::support::raw::{Dir, link},
    crate::support::{Context, Verdict, advice, equal, holds, skip},
    alloc::format,
    code::*,
    shared_abi::virtio::blk::{Features, ID_LEN, RequestType},
};

const OPERATION: &str = "5.2.6 Device Operation";
const DEVICE: &str = "5.2.6.2 Device Requirements: Device Operation";
/// Binds the driver alone: what the device does about it is its own.
const DRIVER: &str = "5.2.6.1 Driver Requirements: Device Operation";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "block/unknown-type-is-unsupported",
        rule: "A request that the device does not know is UNSUPP",
        clause: OPERATION,
        method: "Types 0x7fff and 0xffffffff without data",
        expectation: "Status 2",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            for kind in [0x7fff, u32::MAX] {
                let answer = disk.request(RequestType(kind), 0, &[])?;
                equal(&format!("status of type {kind:#x}"), UNSUPP, answer.status)?;
            }
            Ok(())
        },
    },
    Check {
        name: "block/unknown-type-with-data-is-unsupported",
        rule: "A request that the device does not know is UNSUPP",
        clause: OPERATION,
        method: "Type 0x7fff with a writable sector",
        expectation: "Status 2",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            equal("status", UNSUPP, disk.request(RequestType(0x7fff), 0, &[link(&data, Dir::In)])?.status)
        },
    },
    Check {
        name: "block/read-beyond-the-end-fails",
        rule: "A read beyond the capacity fails",
        clause: DRIVER,
        method: "Read the sector at capacity",
        expectation: "Status 1",
        level: Should,
        run: |cx| fails(cx, 1, |disk| disk.capacity),
    },
    Check {
        name: "block/read-across-the-end-fails",
        rule: "A read beyond the capacity fails",
        clause: DRIVER,
        method: "Read two sectors from the last on",
        expectation: "Status 1",
        level: Should,
        run: |cx| fails(cx, 2, |disk| disk.capacity - 1),
    },
    Check {
        name: "block/read-of-sector-2-to-64-fails",
        rule: "A sector number does not wrap",
        clause: DRIVER,
        method: "Read sector 0xffffffffffffffff and 2^55",
        expectation: "Status 1",
        level: Should,
        run: |cx| {
            fails(cx, 1, |_| u64::MAX)?;
            fails(cx, 1, |_| 1 << 55)
        },
    },
    Check {
        name: "block/write-beyond-the-end-fails",
        rule: "A write beyond the capacity fails",
        clause: DRIVER,
        method: "Write the sector at capacity",
        expectation: "Status 1; the capacity stays",
        level: Should,
        run: |cx| {
            scratch(cx, Features::empty(), 1, |disk, _| {
                let data = disk.sectors(1)?;
                let end = disk.capacity;
                equal("status", IOERR, disk.request(RequestType::OUT, end, &[link(&data, Dir::Out)])?.status)?;
                equal("capacity", end, disk.dev.regs().config_read64(0))
            })
        },
    },
    Check {
        name: "block/write-across-the-end-changes-nothing-inside",
        rule: "A request that fails for its range is not half done",
        clause: DRIVER,
        method: "Write two sectors from the last on",
        expectation: "Status 1; the last sector stays",
        level: Should,
        run: |cx| {
            scratch(cx, Features::empty(), 1, |disk, first| {
                let before = disk.sectors(1)?;
                disk.read(first, &before)?;
                let data = disk.sectors(2)?;
                data.pattern(0x66);
                equal("status", IOERR, disk.request(RequestType::OUT, first, &[link(&data, Dir::Out)])?.status)?;
                let after = disk.sectors(1)?;
                disk.read(first, &after)?;
                equal("last sector as it was", true, before.bytes() == after.bytes())
            })
        },
    },
    Check {
        name: "block/length-that-is-no-sector-fails",
        rule: "Data is a multiple of 512 bytes",
        clause: DRIVER,
        method: "Read 100 bytes",
        expectation: "Not status 0",
        level: Should,
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.dev.buffer(100)?;
            let status = disk.request(RequestType::IN, 0, &[link(&data, Dir::In)])?.status;
            holds(status != OK && status != UNWRITTEN, "status", "an error", status)
        },
    },
    Check {
        name: "block/used-length-of-a-failed-read",
        rule: "The used length counts bytes that were written from the first writable one on",
        clause: "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        method: "Preset a sector with 0x5a, then with 0xa5, read beyond the end",
        expectation: "A used length up to the first byte that was not written: 0 if none was, although the status was",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            let mut read = |preset| {
                data.fill(preset);
                disk.request(RequestType::IN, disk.capacity, &[link(&data, Dir::In)])
                    .map(|answer| (answer, data.bytes()))
            };
            let ((first, before), (Answer { status, used }, after)) = (read(0x5a)?, read(0xa5)?);
            // What was written twice differs from a preset. The status counts only where it follows data without a gap.
            let written = before.iter().zip(&after).take_while(|bytes| *bytes != (&0x5a, &0xa5)).count();
            let most = written + usize::from(written == data.len());
            let (what, saw) =
                (format!("used length, {written} bytes written before a gap"), first.used.len.max(used.len));
            holds(saw as usize <= most, &what, format!("up to {most}"), saw)?;
            // No driver reads there: what the device says about it is its own.
            advice(holds(status != OK && status != UNWRITTEN, "status", "an error", status))
        },
    },
    Check {
        name: "block/goes-on-after-errors",
        rule: "An error ends a request, not the device",
        clause: DEVICE,
        method: "Ten requests of unknown types, with and without data, then a read",
        expectation: "Status OK, no DEVICE_NEEDS_RESET",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            for _ in 0..5 {
                disk.request(RequestType(0x7fff), 0, &[])?;
                disk.request(RequestType(0xffff), 0, &[link(&data, Dir::In)])?;
            }
            disk.read(0, &data)?;
            disk.dev.healthy()
        },
    },
    Check {
        name: "block/read-only-disk-refuses-writes",
        rule: "A read-only device fails writes",
        clause: DEVICE,
        method: "Write a sector of a disk that offers RO, read it",
        expectation: "Status 1; the sector stays",
        run: |cx| {
            let mut disk = Disk::start_read_only(cx)?;
            let (before, data) = (disk.sectors(1)?, disk.sectors(1)?);
            disk.read(0, &before)?;
            data.pattern(0x31);
            equal("status", IOERR, disk.request(RequestType::OUT, 0, &[link(&data, Dir::Out)])?.status)?;
            disk.read(0, &data)?;
            equal("sector as it was", true, before.bytes() == data.bytes())
        },
    },
    Check {
        name: "block/read-only-disk-refuses-ranges",
        rule: "A read-only device changes nothing",
        clause: DEVICE,
        method: "Discard and zero a sector of a disk that offers RO, read it",
        expectation: "Status 1 or 2 for the second, any for the first; the sector stays",
        run: |cx| {
            let mut disk = Disk::start_read_only(cx)?;
            let (before, after) = (disk.sectors(1)?, disk.sectors(1)?);
            disk.read(0, &before)?;
            let range = disk.dev.buffer(16)?;
            range.write32(8, 1);
            for kind in [RequestType::DISCARD, RequestType::WRITE_ZEROES] {
                let status = disk.request(kind, 0, &[link(&range, Dir::Out)])?.status;
                // To ignore a discard is to do it.
                let sound = kind == RequestType::DISCARD || status == IOERR;
                holds(sound || status == UNSUPP, &format!("status of type {}", kind.0), "1 or 2", status)?;
            }
            disk.read(0, &after)?;
            equal("sector as it was", true, before.bytes() == after.bytes())
        },
    },
    Check {
        name: "block/read-only-disk-serves-the-rest",
        rule: "A read-only device serves all but writes",
        clause: OPERATION,
        method: "Read the first and the last sector, ask for the id, flush where offered",
        expectation: "Status OK each time",
        run: |cx| {
            let mut disk = Disk::start_read_only(cx)?;
            let data = disk.sectors(1)?;
            disk.read(0, &data)?;
            disk.read(disk.capacity - 1, &data)?;
            let id = disk.dev.buffer(ID_LEN)?;
            equal("status of GET_ID", OK, disk.request(RequestType::GET_ID, 0, &[link(&id, Dir::In)])?.status)?;
            if disk.dev.has(Features::FLUSH.bits()) {
                equal("status of a flush", OK, disk.request(RequestType::FLUSH, 0, &[])?.status)?;
            }
            disk.dev.healthy()
        },
    },
    Check {
        name: "block/zone-requests-are-unsupported-without-zones",
        rule: "Without ZONED, requests about zones are UNSUPP",
        clause: DEVICE,
        method: "ZONE_APPEND, ZONE_REPORT, ZONE_OPEN, ZONE_CLOSE, ZONE_FINISH, ZONE_RESET and ZONE_RESET_ALL without the feature",
        expectation: "Status 2",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            for (kind, dir) in ZONE_REQUESTS {
                let links = [link(&data, dir)];
                let parts = if kind == ZONE_APPEND || kind == ZONE_REPORT { &links[..] } else { &[] };
                let status = disk.request(RequestType(kind), 0, parts)?.status;
                equal(&format!("status of type {kind}"), UNSUPP, status)?;
            }
            Ok(())
        },
    },
    Check {
        name: "block/requests-not-offered-are-unsupported",
        rule: "A request that the device does not offer is UNSUPP",
        clause: DEVICE,
        method: "DISCARD, WRITE_ZEROES, GET_LIFETIME and SECURE_ERASE, each where its feature is not offered",
        expectation: "Status 2",
        run: |cx| {
            const LIFETIME: RequestType = RequestType(10);
            const SECURE_ERASE: RequestType = RequestType(14);
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.dev.buffer(64)?;
            let mut tried = false;
            for (feature, kind, dir) in [
                (Features::DISCARD, RequestType::DISCARD, Dir::Out),
                (Features::WRITE_ZEROES, RequestType::WRITE_ZEROES, Dir::Out),
                (Features::LIFETIME, LIFETIME, Dir::In),
                (Features::SECURE_ERASE, SECURE_ERASE, Dir::Out),
            ] {
                if disk.dev.offered & feature.bits() == 0 {
                    let part = data.part(0, if dir == Dir::Out { 16 } else { 64 });
                    let status = disk.request(kind, 0, &[link(&part, dir)])?.status;
                    equal(&format!("status of type {}", kind.0), UNSUPP, status)?;
                    tried = true;
                }
            }
            if tried { Ok(()) } else { Err(skip("the disk offers all requests")) }
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const ZONE_APPEND: u32 = 15;
    pub const ZONE_REPORT: u32 = 16;
    /// The types, and the direction of their data.
    pub const ZONE_REQUESTS: [(u32, Dir); 7] = [
        (ZONE_APPEND, Dir::Out),
        (ZONE_REPORT, Dir::In),
        (18, Dir::Out),
        (20, Dir::Out),
        (22, Dir::Out),
        (24, Dir::Out),
        (26, Dir::Out),
    ];

    /// A read there ends in IOERR.
    pub fn fails(cx: &Context, count: usize, sector: impl FnOnce(&Disk<'_>) -> u64) -> Verdict {
        let mut disk = Disk::start(cx, 0, 8)?;
        let (data, sector) = (disk.sectors(count)?, sector(&disk));
        let status = disk.request(RequestType::IN, sector, &[link(&data, Dir::In)])?.status;
        equal(&format!("status of {count} sectors from {sector:#x}"), IOERR, status)
    }
}
