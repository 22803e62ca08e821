//! Discard and write zeroes of the block device: requests whose data are ranges of sectors.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::disk::{Disk, UNWRITTEN, scratch},
    crate::support::disk::{OK, UNSUPP},
    crate::support::raw::{Dir, link},
    crate::support::{Context, End, Verdict, equal, holds, skip},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    core::mem::offset_of,
    shared_abi::virtio::blk::{Config, Features, RequestType, SECTOR_SIZE, Segment},
};

const LAYOUT: &str = "5.2.4 Device configuration layout";
const OPERATION: &str = "5.2.6 Device Operation";
const DEVICE: &str = "5.2.6.2 Device Requirements: Device Operation";
/// Binds the driver alone: what the device does about it is its own.
const DRIVER: &str = "5.2.6.1 Driver Requirements: Device Operation";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "block/discard-succeeds",
        rule: "A discard is answered",
        clause: OPERATION,
        method: "Discard 8 sectors",
        expectation: "Status OK",
        run: |cx| middle(cx, DISCARD, |_| Ok(())),
    },
    Check {
        name: "block/discard-leaves-neighbours",
        rule: "A discard touches the sectors that it names",
        clause: OPERATION,
        method: "Discard the middle 8 of 24 sectors",
        expectation: "The others stay",
        run: |cx| neighbours(cx, DISCARD),
    },
    Check {
        name: "block/discard-beyond-the-end-fails",
        rule: "A discard beyond the capacity fails",
        clause: DRIVER,
        method: "Discard 8 sectors from the last on",
        expectation: "Not status 0",
        level: Should,
        run: |cx| refused(status_on_last(cx, DISCARD, RANGE)?),
    },
    Check {
        name: "block/discard-with-unmap-is-unsupported",
        rule: "The unmap flag of a discard is UNSUPP",
        clause: DEVICE,
        method: "Discard with flags 1",
        expectation: "Status 2",
        run: |cx| unsupported(cx, DISCARD, 1),
    },
    Check {
        name: "block/discard-with-unknown-flags-is-unsupported",
        rule: "Unknown flags are UNSUPP",
        clause: DEVICE,
        method: "Discard with flags 0x80",
        expectation: "Status 2",
        run: |cx| unsupported(cx, DISCARD, 0x80),
    },
    Check {
        name: "block/discard-limits-are-valid",
        rule: "Limits of discard leave room",
        clause: LAYOUT,
        method: "Read max_discard_sectors and max_discard_seg",
        expectation: "1 or more",
        run: |cx| {
            let fields = [offset_of!(Config, max_discard_sectors), offset_of!(Config, max_discard_seg)];
            limits(cx, Features::DISCARD, fields)
        },
    },
    Check {
        name: "block/write-zeroes-zeroes",
        rule: "Write zeroes makes sectors read as zero",
        clause: DEVICE,
        method: "Write a pattern, then zeroes to 8 sectors, without unmap",
        expectation: "Zero",
        run: |cx| zeroes(cx, 0),
    },
    Check {
        name: "block/write-zeroes-with-unmap-zeroes",
        rule: "Sectors read as zero with unmap too",
        clause: DEVICE,
        method: "The same with unmap",
        expectation: "Zero",
        run: |cx| zeroes(cx, 1),
    },
    Check {
        name: "block/write-zeroes-leaves-neighbours",
        rule: "Write zeroes touches the sectors that it names",
        clause: OPERATION,
        method: "Zero the middle 8 of 24 sectors",
        expectation: "The others stay",
        run: |cx| neighbours(cx, ZEROES),
    },
    Check {
        name: "block/write-zeroes-of-two-ranges",
        rule: "A request may name as many ranges as max_write_zeroes_seg says",
        clause: OPERATION,
        method: "Two ranges in one request, where allowed",
        expectation: "Both zero, the sector between stays",
        run: |cx| {
            scratch(cx, Features::WRITE_ZEROES, 3, |disk, first| {
                if disk.dev.regs().config_read(offset_of!(Config, max_write_zeroes_seg), 4) < 2 {
                    return Err(skip("max_write_zeroes_seg is 1"));
                }
                let data = disk.sectors(3)?;
                data.fill(0x99);
                disk.write(first, &data)?;
                let both = [(first, 1, 0), (first + 2, 1, 0)];
                equal("status", OK, ranges(disk, RequestType::WRITE_ZEROES, &both)?)?;
                disk.read(first, &data)?;
                for (n, value) in [(0, 0), (1, 0x99), (2, 0)] {
                    let sector = data.part(n * SECTOR_SIZE, SECTOR_SIZE);
                    equal("first unexpected byte", None, sector.first_not(value))?;
                }
                Ok(())
            })
        },
    },
    Check {
        name: "block/write-zeroes-beyond-the-end-fails",
        rule: "Write zeroes beyond the capacity fails",
        clause: DRIVER,
        method: "Zero 8 sectors from the last on",
        expectation: "Not status 0; the last sector stays",
        level: Should,
        run: |cx| refused(status_on_last(cx, ZEROES, RANGE)?),
    },
    Check {
        name: "block/write-zeroes-with-unknown-flags-is-unsupported",
        rule: "Unknown flags are UNSUPP",
        clause: DEVICE,
        method: "Flags 0x80",
        expectation: "Status 2",
        run: |cx| unsupported(cx, ZEROES, 0x80),
    },
    Check {
        name: "block/write-zeroes-limits-are-valid",
        rule: "Limits of write zeroes leave room",
        clause: LAYOUT,
        method: "Read max_write_zeroes_sectors and max_write_zeroes_seg",
        expectation: "1 or more",
        run: |cx| {
            let fields = [offset_of!(Config, max_write_zeroes_sectors), offset_of!(Config, max_write_zeroes_seg)];
            limits(cx, Features::WRITE_ZEROES, fields)
        },
    },
    Check {
        name: "block/zeroes-then-write-keeps-the-write",
        rule: "Requests that follow each other take effect in order",
        clause: OPERATION,
        method: "Zero a sector, wait, write it, wait, read",
        expectation: "The pattern",
        run: |cx| {
            scratch(cx, Features::WRITE_ZEROES, 1, |disk, first| {
                let data = disk.sectors(1)?;
                equal("status", OK, ranges(disk, RequestType::WRITE_ZEROES, &[(first, 1, 1)])?)?;
                data.pattern(0x21);
                disk.write(first, &data)?;
                data.fill(0);
                disk.read(first, &data)?;
                equal("first byte that is not as written", None, data.differs(0x21))
            })
        },
    },
    Check {
        name: "block/discard-of-most-ranges",
        rule: "A request may name as many ranges as max_discard_seg says",
        clause: LAYOUT,
        method: "As many single sectors, every second one (up to sixteen)",
        expectation: "Status OK, the sectors between stay",
        run: |cx| most(cx, Most::Discard),
    },
    Check {
        name: "block/write-zeroes-of-most-ranges",
        rule: "A request may name as many ranges as max_write_zeroes_seg says",
        clause: LAYOUT,
        method: "As many single sectors, every second one (up to sixteen)",
        expectation: "Status OK, they read as zero, the sectors between stay",
        run: |cx| most(cx, Most::Zeroes),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Sectors that the checks work on, and the range in their middle.
    pub const COUNT: u64 = 24;

    pub const RANGE: u64 = 8;

    /// Runs a request with these ranges; returns its status.
    pub fn ranges(disk: &mut Disk<'_>, kind: RequestType, segments: &[(u64, u64, u32)]) -> Result<u8, End> {
        let data = disk.dev.buffer(segments.len() * size_of::<Segment>())?;
        for (n, &(sector, count, flags)) in segments.iter().enumerate() {
            let at = n * size_of::<Segment>();
            data.write64(at, sector);
            data.write32(at + 8, count as u32);
            data.write32(at + 12, flags);
        }
        Ok(disk.request(kind, 0, &[link(&data, Dir::Out)])?.status)
    }

    /// Writes a pattern to all sectors, then runs a request on the middle; `after` looks at what stands there then.
    pub fn middle(
        cx: &Context,
        (feature, kind, flags): (Features, RequestType, u32),
        after: impl FnOnce(&dyn Fn(u64, u64) -> crate::support::raw::Buf) -> Verdict,
    ) -> Verdict {
        scratch(cx, feature, COUNT, |disk, first| {
            let data = disk.sectors(COUNT as usize)?;
            data.pattern(0x77);
            disk.write(first, &data)?;
            equal("status", OK, ranges(disk, kind, &[(first + RANGE, RANGE, flags)])?)?;
            disk.read(first, &data)?;
            after(&|from, count| data.part(from as usize * SECTOR_SIZE, count as usize * SECTOR_SIZE))
        })
    }

    pub const DISCARD: (Features, RequestType, u32) = (Features::DISCARD, RequestType::DISCARD, 0);

    pub const ZEROES: (Features, RequestType, u32) = (Features::WRITE_ZEROES, RequestType::WRITE_ZEROES, 0);

    /// The sectors before and after the range hold the pattern. It starts at each sector pair anew: see `Buf::pattern`.
    pub fn neighbours(cx: &Context, request: (Features, RequestType, u32)) -> Verdict {
        scratch(cx, request.0, COUNT, |disk, first| {
            let (data, expected) = (disk.sectors(COUNT as usize)?, disk.sectors(COUNT as usize)?);
            expected.pattern(0x78);
            disk.write(first, &expected)?;
            equal("status", OK, ranges(disk, request.1, &[(first + RANGE, RANGE, request.2)])?)?;
            disk.read(first, &data)?;
            for (from, what) in [(0, "sectors before as they were"), (2 * RANGE, "sectors after as they were")] {
                let part = |buf: &crate::support::raw::Buf| {
                    buf.part(from as usize * SECTOR_SIZE, RANGE as usize * SECTOR_SIZE).bytes()
                };
                equal(what, true, part(&data) == part(&expected))?;
            }
            Ok(())
        })
    }

    pub fn zeroes(cx: &Context, flags: u32) -> Verdict {
        let (feature, kind, _) = ZEROES;
        middle(cx, (feature, kind, flags), |sectors| {
            equal("first byte that is not 0", None, sectors(RANGE, RANGE).first_not(0))
        })
    }

    pub fn status_on_last(
        cx: &Context,
        (feature, kind, flags): (Features, RequestType, u32),
        count: u64,
    ) -> Result<u8, End> {
        let mut status = UNWRITTEN;
        scratch(cx, feature, 1, |disk, first| {
            let (before, after) = (disk.sectors(1)?, disk.sectors(1)?);
            before.pattern(0x12);
            disk.write(first, &before)?;
            status = ranges(disk, kind, &[(first, count, flags)])?;
            disk.read(first, &after)?;
            equal("first byte of the last sector that changed", None, after.differs(0x12))
        })?;
        Ok(status)
    }

    /// With these flags a request is UNSUPP.
    pub fn unsupported(cx: &Context, (feature, kind, _): (Features, RequestType, u32), flags: u32) -> Verdict {
        equal("status", UNSUPP, status_on_last(cx, (feature, kind, flags), 1)?)
    }

    pub fn refused(status: u8) -> Verdict {
        holds(status != OK && status != UNWRITTEN, "status", "an error", status)
    }

    pub fn limits(cx: &Context, feature: Features, fields: [usize; 2]) -> Verdict {
        let disk = Disk::start_with(cx, feature)?;
        for (at, what) in fields.into_iter().zip(["sectors of a range", "ranges of a request"]) {
            let most = disk.dev.regs().config_read(at, 4);
            holds(most >= 1, what, "1 or more", most)?;
        }
        Ok(())
    }

    /// Which request is made with as many ranges as its limit says.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Most {
        Discard,
        Zeroes,
    }

    /// Every second sector, up to the limit of ranges (and sixteen of them).
    pub fn most(cx: &Context, most: Most) -> Verdict {
        let ((feature, kind, flags), limit) = match most {
            Most::Discard => (DISCARD, offset_of!(Config, max_discard_seg)),
            Most::Zeroes => (ZEROES, offset_of!(Config, max_write_zeroes_seg)),
        };
        scratch(cx, feature, 32, |disk, first| {
            let count = u64::from(disk.dev.regs().config_read(limit, 4).min(16));
            let (data, expected) = (disk.sectors(32)?, disk.sectors(32)?);
            expected.pattern(0x79);
            disk.write(first, &expected)?;
            let segments: Vec<_> = (0..count).map(|n| (first + 2 * n, 1, flags)).collect();
            equal("status", OK, ranges(disk, kind, &segments)?)?;
            disk.read(first, &data)?;
            for n in 0..32 {
                let part = |buf: &crate::support::raw::Buf| buf.part(n * SECTOR_SIZE, SECTOR_SIZE);
                if n % 2 == 1 || n as u64 >= 2 * count {
                    equal(&format!("sector {n} as it was"), true, part(&data).bytes() == part(&expected).bytes())?;
                } else if most == Most::Zeroes {
                    equal(&format!("first byte of sector {n} that is not zero"), None, part(&data).first_not(0))?;
                }
            }
            Ok(())
        })
    }
}
