//! The configuration of a block device.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::disk::Disk,
    crate::support::{Context, Verdict, advice, equal, holds, skip, worst},
    alloc::format,
    code::*,
    core::mem::offset_of,
    shared_abi::virtio::blk::{Config, Features},
};

const LAYOUT: &str = "5.2.4 Device configuration layout";
const INIT: &str = "5.2.5.2 Device Requirements: Device Initialization";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "block/capacity-is-not-0",
        rule: "capacity is the number of 512-byte sectors",
        clause: LAYOUT,
        method: "Read it",
        expectation: "1 or more",
        level: Should,
        run: |cx| {
            let disk = Disk::start(cx, 0, 8)?;
            holds(disk.capacity > 0, "capacity", "1 or more", disk.capacity)
        },
    },
    Check {
        name: "block/seg-max-is-valid",
        rule: "seg_max leaves room for data",
        clause: LAYOUT,
        method: "Read it, where offered",
        expectation: "1 to 32768",
        run: |cx| {
            let disk = Disk::start_with(cx, Features::SEG_MAX)?;
            let seg_max = field(&disk, offset_of!(Config, seg_max), 4);
            holds((1..=32768).contains(&seg_max), "seg_max", "1 to 32768", seg_max)
        },
    },
    Check {
        name: "block/blk-size-is-valid",
        rule: "blk_size is the optimal size of a sector",
        clause: LAYOUT,
        method: "Read it, where offered",
        expectation: "A power of 2 from 512 on",
        level: Should,
        run: |cx| {
            let disk = Disk::start_with(cx, Features::BLK_SIZE)?;
            let size = field(&disk, offset_of!(Config, blk_size), 4);
            holds(size >= 512 && size.is_power_of_two(), "blk_size", "a power of 2 from 512 on", size)
        },
    },
    Check {
        name: "block/topology-is-valid",
        rule: "Topology counts blocks",
        clause: LAYOUT,
        method: "Read it, where offered",
        expectation: "An exponent below 16, an alignment offset inside of the block",
        level: Should,
        run: |cx| {
            let disk = Disk::start_with(cx, Features::TOPOLOGY)?;
            let exponent = field(&disk, offset_of!(Config, physical_block_exp), 1);
            let offset = field(&disk, offset_of!(Config, alignment_offset), 1);
            holds(exponent < 16, "physical_block_exp", "below 16", exponent)?;
            holds(offset < 1 << exponent, "alignment_offset", "inside of the block", offset)
        },
    },
    Check {
        name: "block/writeback-reads-as-written",
        rule: "The cache mode is 0 or 1",
        clause: INIT,
        method: "Write 0 and 1 to writeback, where CONFIG_WCE is offered",
        expectation: "As written",
        run: |cx| {
            let disk = Disk::start_with(cx, Features::CONFIG_WCE)?;
            let at = offset_of!(Config, writeback);
            let before = field(&disk, at, 1);
            holds(before <= 1, "writeback", "0 or 1", before)?;
            for value in [1 - before, before] {
                disk.dev.regs().config_write(at, 1, value);
                equal("writeback", value, field(&disk, at, 1))?;
            }
            Ok(())
        },
    },
    Check {
        name: "block/writeback-is-0-without-flush",
        rule: "With CONFIG_WCE and without FLUSH the cache mode is writethrough at first",
        clause: INIT,
        method: "Negotiate CONFIG_WCE alone, read writeback",
        expectation: "0",
        run: |cx| {
            let disk = Disk::start_with(cx, Features::CONFIG_WCE)?;
            equal("writeback", 0, field(&disk, offset_of!(Config, writeback), 1))
        },
    },
    Check {
        name: "block/padding-is-0",
        rule: "unused0 and unused1 are 0",
        clause: INIT,
        method: "Read each of them that has an offered field next to it",
        expectation: "0; for unused1 this is advice if no field after it is offered, because the configuration may end there",
        run: padding,
    },
];

#[cfg(feature = "guest")]
pub(super) mod code {
    use super::*;

    pub fn field(disk: &Disk<'_>, offset: usize, width: usize) -> u32 {
        disk.dev.regs().config_read(offset, width)
    }

    pub fn padding(cx: &Context) -> Verdict {
        let disk = Disk::start(cx, 0, 8)?;
        let offers = |features: Features| disk.dev.offered & features.bits() != 0;
        let zero = |at: usize, len: usize| {
            let read = |at| disk.dev.regs().config_read(at, 1);
            (at..at + len).try_for_each(|at| equal(&format!("byte {at} of the configuration"), 0, read(at)))
        };
        let between = offers(Features::CONFIG_WCE | Features::MQ);
        let at_the_end = offers(Features::WRITE_ZEROES | Features::SECURE_ERASE);
        if !between && !at_the_end {
            return Err(skip("no field next to the padding is offered"));
        }
        let first = if between { zero(offset_of!(Config, unused0), 1) } else { Ok(()) };
        let second = if at_the_end { zero(offset_of!(Config, unused1), 3) } else { Ok(()) };
        worst(first, if offers(Features::SECURE_ERASE) { second } else { advice(second) })
    }
}
