//! Requests that make no sense, type by type of device.

use crate::catalogue::{Check, attacks};
#[cfg(feature = "guest")]
use {
    crate::support::raw::{Dir, wait_until, write_descriptor},
    crate::support::trial::{DATA_AT, Entry, HEADER_AT, NEXT, READ, SIZE, STATUS_AT, Trial, Unit, WRITE},
    crate::support::{End, holds},
    alloc::vec,
    alloc::vec::Vec,
    code::*,
    shared_abi::virtio::CommonFeatures,
    shared_abi::virtio::balloon::{Features as BalloonFeatures, queues},
    shared_abi::virtio::blk::{Features, RequestType},
    shared_abi::virtio::ring::DescriptorFlags,
};

const FRAMING: &str = "2.7.4.2 Driver Requirements: Message Framing";
const BLOCK_CLAUSE: &str = "5.2.6.1 Driver Requirements: Device Operation";
const NET_CLAUSE: &str = "5.1.9.2.1 Driver Requirements: Packet Transmission";
const BALLOON_CLAUSE: &str = "5.5.6.1 Driver Requirements: Device Operation";
const REQUEST: &str =
    "A block request has a header, whole sectors of the disk, and a status byte that the device can write";
const FRAME: &str = "A frame has a header, a sensible length, and names only negotiated offloads";
const PAGES: &str = "The balloon gets numbers of pages that the guest has and does not use";

/// The checks.
pub(crate) const CHECKS: &[Check] = attacks![
    Attack {
        name: "hostile/block-type-unknown",
        rule: "There are only so many request types",
        clause: BLOCK_CLAUSE,
        method: "Types 0xdeadbeef, 3 and 0x80000000",
        device: BLOCK,
        run: |trial| [0xdead_beef, 3, 0x8000_0000].into_iter().try_for_each(|kind| block(trial, kind, 0, (512, WRITE))),
    },
    Attack {
        name: "hostile/block-without-status",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "A header and nothing that the device could write",
        device: BLOCK,
        run: |trial| {
            trial.shoot(0, 0, |unit| {
                unit.header(RequestType::IN.0, 0);
                vec![(unit.at(HEADER_AT), 16, READ, 0)]
            })
        },
    },
    Attack {
        name: "hostile/block-status-readable",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "The status byte lies in a readable buffer",
        device: BLOCK,
        run: |trial| {
            trial.shoot(0, 0, |unit| {
                unit.header(RequestType::OUT.0, u64::MAX >> 20);
                vec![
                    (unit.at(HEADER_AT), 16, NEXT, 1),
                    (unit.at(DATA_AT), 512, NEXT, 2),
                    (unit.at(STATUS_AT), 1, READ, 0),
                ]
            })
        },
    },
    Attack {
        name: "hostile/block-header-short",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "Headers of 0, 1, 8 and 15 bytes",
        device: BLOCK,
        run: |trial| {
            for len in [0, 1, 8, 15] {
                trial.shoot(0, 0, |unit| {
                    unit.header(RequestType::IN.0, 0);
                    vec![(unit.at(HEADER_AT), len, NEXT, 1), (unit.at(STATUS_AT), 1, WRITE, 0)]
                })?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/block-header-in-single-bytes",
        rule: "Legal, though no driver does it: framing is the driver's choice",
        clause: FRAMING,
        method: "A header in 16 buffers of one byte",
        device: BLOCK,
        run: |trial| {
            trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
            trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |unit| {
                unit.header(RequestType::IN.0, 0);
                let mut entries: Vec<Entry> =
                    (0..16).map(|n| (unit.at(HEADER_AT + usize::from(n)), 1, NEXT, n + 1)).collect();
                entries.push((unit.at(DATA_AT), 512, WRITE | NEXT, 17));
                entries.push((unit.at(STATUS_AT), 1, WRITE, 0));
                let table = unit.arena.part(TABLE_AT, 0x400);
                for (at, &(address, len, flags, next)) in (0..).zip(&entries) {
                    write_descriptor(&table, at, address, len, DescriptorFlags::from_bits_retain(flags), next);
                }
                vec![(table.address(), entries.len() as u32 * 16, crate::support::trial::INDIRECT, 0)]
            })
        },
    },
    Attack {
        name: "hostile/block-sector-past-the-end",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "Reads and writes at, across and far past the end",
        device: BLOCK,
        run: |trial| {
            let end = trial.target.regs.config_read64(0);
            for (sector, len) in [(end, 512), (end - 1, 1024), (end + 1_000_000, 512), (1 << 40, 512)] {
                block(trial, RequestType::IN.0, sector, (len, WRITE))?;
                block(trial, RequestType::OUT.0, sector, (len, READ))?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/block-sector-overflows",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "Sectors 2^64 - 1 and 2^55, whose bytes do not fit 64 bits",
        device: BLOCK,
        run: |trial| {
            for sector in [u64::MAX, 1 << 55, (1 << 55) - 1] {
                block(trial, RequestType::IN.0, sector, (512, WRITE))?;
                block(trial, RequestType::OUT.0, sector, (512, READ))?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/block-length-no-sectors",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "Reads and writes of 1, 511 and 513 bytes",
        device: BLOCK,
        run: |trial| {
            let last = trial.target.regs.config_read64(0) - 1;
            for len in [1, 511, 513] {
                block(trial, RequestType::IN.0, 0, (len, WRITE))?;
                block(trial, RequestType::OUT.0, last, (len, READ))?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/block-write-of-writable-data",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "A write whose data only the device may write",
        device: BLOCK,
        run: |trial| block(trial, RequestType::OUT.0, 1, (512, WRITE)),
    },
    Attack {
        name: "hostile/block-read-into-readable",
        rule: REQUEST,
        clause: BLOCK_CLAUSE,
        method: "A read whose data only the driver may write",
        device: BLOCK,
        run: |trial| block(trial, RequestType::IN.0, 1, (512, READ)),
    },
    Attack {
        name: "hostile/block-segments-garbage",
        rule: "Ranges to discard or zero lie on the disk",
        clause: BLOCK_CLAUSE,
        method: "Segments past the end, of all ones, cut off, and too many",
        device: BLOCK,
        run: |trial| {
            // Ranges that no disk has. None of them is a valid one: the disk stays as it is.
            let end = trial.target.regs.config_read64(0);
            let wanted = Features::DISCARD | Features::WRITE_ZEROES;
            for kind in [RequestType::DISCARD, RequestType::WRITE_ZEROES] {
                let cases: [(u64, u32, u32, u32); 5] = [
                    (end, 8, 0, 16),
                    (u64::MAX, u32::MAX, u32::MAX, 16),
                    (u64::MAX - 7, 8, 0, 16),
                    (end - 1, 2, 0, 17),
                    (end, 1, 0, 4096),
                ];
                for (sector, count, flags, len) in cases {
                    trial.shoot(wanted.bits(), 0, |unit| {
                        unit.header(kind.0, 0);
                        for at in (0..(len as usize).next_multiple_of(16)).step_by(16) {
                            unit.arena.write64(DATA_AT + at, sector);
                            unit.arena.write32(DATA_AT + at + 8, count);
                            unit.arena.write32(DATA_AT + at + 12, flags);
                        }
                        vec![
                            (unit.at(HEADER_AT), 16, NEXT, 1),
                            (unit.at(DATA_AT), len, NEXT, 2),
                            (unit.at(STATUS_AT), 1, WRITE, 0),
                        ]
                    })?;
                }
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/block-id-short",
        rule: "An id has 20 bytes",
        clause: BLOCK_CLAUSE,
        method: "An id is asked for with 0 and with 4 bytes",
        device: BLOCK,
        run: |trial| {
            trial.shoot(0, 0, |unit| {
                unit.header(RequestType::GET_ID.0, 0);
                vec![(unit.at(HEADER_AT), 16, NEXT, 1), (unit.at(STATUS_AT), 1, WRITE, 0)]
            })?;
            block(trial, RequestType::GET_ID.0, 0, (4, WRITE))
        },
    },
    Attack {
        name: "hostile/net-without-header",
        rule: FRAME,
        clause: NET_CLAUSE,
        method: "Packets of 0, 1 and 11 bytes",
        device: NET,
        run: |trial| [0, 1, 11].into_iter().try_for_each(|len| packet(trial, len)),
    },
    Attack {
        name: "hostile/net-header-alone",
        rule: FRAME,
        clause: NET_CLAUSE,
        method: "A header without a frame, and with one byte",
        device: NET,
        run: |trial| [12, 13].into_iter().try_for_each(|len| packet(trial, len)),
    },
    Attack {
        name: "hostile/net-frame-huge",
        rule: FRAME,
        clause: NET_CLAUSE,
        method: "Frames of 64 KiB and of 1 MiB",
        device: NET,
        run: |trial| {
            for len in [12 + 65_536, 1 << 20] {
                let mut unit = trial.unit(0)?;
                let frame = unit.dev.buffer(len)?;
                unit.put(0, (frame.address(), len as u32, READ, 0));
                unit.fire(0);
                unit.settle();
                trial.judge(unit)?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/net-offloads-bogus",
        rule: FRAME,
        clause: NET_CLAUSE,
        method: "Headers of all ones, of every kind of segmentation, with lengths of 0 and 0xffff, none negotiated",
        device: NET,
        run: |trial| offloads(trial, 0),
    },
    Attack {
        name: "hostile/net-offloads-negotiated-and-bogus",
        rule: FRAME,
        clause: NET_CLAUSE,
        method: "The same with everything negotiated that is offered",
        device: NET,
        run: |trial| {
            // Of the low 24 bits; not the control queue and several pairs, which would renumber nothing here but want a driver.
            offloads(trial, 0x00ff_ffff & !(1 << 17 | 1 << 22))
        },
    },
    Attack {
        name: "hostile/net-transmit-writable",
        rule: FRAME,
        clause: NET_CLAUSE,
        method: "A frame in a buffer that only the device may write",
        device: NET,
        run: |trial| trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), 100, WRITE, 0)]),
    },
    Attack {
        name: "hostile/net-receive-useless",
        rule: "Receive buffers are writable and hold a frame",
        clause: "5.1.9.3.1 Driver Requirements: Setting Up Receive Buffers",
        method: "Receive buffers of 1 byte and readable ones, and a request for an answer",
        device: NET,
        run: |trial| {
            // Buffers that hold no frame, and a broadcast that network stacks answer (an ARP request).
            for (len, direction) in [(1, Dir::In), (64, Dir::Out), (0, Dir::In)] {
                let mut unit = trial.unit(0)?;
                for at in 0..SIZE {
                    let head = unit.queues[0].chain(at, &[(unit.at(DATA_AT + 0x100), len, direction)]);
                    unit.queues[0].offer(head);
                }
                unit.queues[0].publish();
                unit.queues[0].notify(&unit.dev);
                let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2];
                unit.arena.part(DATA_AT, 12).fill(0);
                unit.arena.part(DATA_AT + 12, 14).put(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6]);
                unit.arena.part(DATA_AT + 26, 28).put(&arp);
                unit.put(0, (unit.at(DATA_AT), 72, READ, 0));
                unit.fire(0);
                let regs = unit.dev.regs();
                wait_until(50_000_000, || unit.queues[0].used_index() != 0 || regs.status() & 0x40 != 0);
                trial.judge(unit)?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/balloon-pages-outside-memory",
        rule: PAGES,
        clause: BALLOON_CLAUSE,
        method: "Page numbers past the end of memory, at device registers, and 0xffffffff, in and out",
        device: BALLOON,
        run: |trial| {
            const NUMBERS: [u32; 6] = [u32::MAX, 0x8000_0000, 0x1000_0000, 0x000f_ec00, 0x000f_ee00, 0x000d_0000];
            for queue in [0, 1] {
                pages(trial, queue, &NUMBERS, NUMBERS.len() as u32 * 4)?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/balloon-odd-length",
        rule: PAGES,
        clause: BALLOON_CLAUSE,
        method: "Arrays of 1, 3 and 5 bytes",
        device: BALLOON,
        run: |trial| {
            for queue in [0, 1] {
                // What a device might read of a number: pages that no memory has.
                [1, 3, 5].into_iter().try_for_each(|len| pages(trial, queue, &[u32::MAX, u32::MAX], len))?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/balloon-own-rings",
        rule: PAGES,
        clause: BALLOON_CLAUSE,
        method: "The pages of its own rings and of the array of numbers go into the balloon",
        device: BALLOON,
        run: |trial| {
            let mut unit = trial.unit(0)?;
            let queue = &unit.queues[0];
            let own = [queue.table.address(), queue.available.address(), queue.used.address(), unit.at(DATA_AT)];
            (0..).zip(own).for_each(|(at, address)| unit.arena.write32(DATA_AT + 4 * at, (address >> 12) as u32));
            unit.put(0, (unit.at(DATA_AT), 16, READ, 0));
            unit.fire(0);
            unit.settle();
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/balloon-same-page-again-and-again",
        rule: PAGES,
        clause: BALLOON_CLAUSE,
        method: "One page 4096 times in, 8192 times out",
        device: BALLOON,
        run: |trial| {
            const TIMES: usize = 4096;
            let mut unit = trial.unit(0)?;
            let (page, numbers) = (unit.dev.buffer(4096)?, unit.dev.buffer(4 * TIMES)?);
            (0..TIMES).for_each(|at| numbers.write32(4 * at, (page.address() >> 12) as u32));
            for queue in [0, 1, 1] {
                let head = unit.queues[queue].chain(0, &[(numbers.address(), 4 * TIMES as u32, Dir::Out)]);
                unit.queues[queue].send(&unit.dev, head);
                let before = unit.queues[queue].seen();
                wait_until(2_000_000_000, || unit.queues[queue].used_index() != before || unit.needs_reset());
                unit.queues[queue].catch_up();
            }
            page.fill(0x11);
            holds(page.first_not(0x11).is_none(), "a page that was deflated", "usable", "something else in it")?;
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/balloon-statistics-garbage",
        rule: "Statistics are whole entries",
        clause: "5.5.6.3 Memory Statistics",
        method: "Statistics of 1 byte, of all ones, and eight buffers at once",
        device: BALLOON,
        run: statistics,
    },
    Attack {
        name: "hostile/rng-readable-only",
        rule: "The entropy device gets writable buffers",
        clause: "5.4.6.1 Driver Requirements: Device Operation",
        method: "A readable buffer, and one of length 0",
        device: RNG,
        run: |trial| {
            trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), 64, READ, 0)])?;
            trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), 0, WRITE, 0)])
        },
    },
    Attack {
        name: "hostile/console-output-writable",
        rule: "Output lies in readable buffers",
        clause: "5.3.6.1 Driver Requirements: Device Operation",
        method: "A writable buffer on the transmit queue, a readable one on the receive queue, all of the \
            configuration written",
        device: CONSOLE,
        run: |trial| {
            trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), 64, WRITE, 0)])?;
            let mut unit = trial.unit(u64::from(u32::MAX))?;
            let head = unit.queues[0].chain(0, &[(unit.at(DATA_AT), 64, Dir::Out)]);
            unit.queues[0].send(&unit.dev, head);
            (0..64).for_each(|at| unit.dev.regs().config_write(at, 1, 0xff));
            unit.settle();
            trial.judge(unit)
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Where a shot has an indirect table.
    pub const TABLE_AT: usize = 0x2000;

    /// A block request with one data buffer.
    pub fn block(trial: &mut Trial<'_>, kind: u32, sector: u64, (len, direction): (u32, u16)) -> Result<(), End> {
        trial.shoot(0, 0, |unit| {
            unit.header(kind, sector);
            vec![
                (unit.at(HEADER_AT), 16, NEXT, 1),
                (unit.at(DATA_AT), len, NEXT | direction, 2),
                (unit.at(STATUS_AT), 1, WRITE, 0),
            ]
        })
    }

    /// A packet of zeroes.
    pub fn packet(trial: &mut Trial<'_>, len: u32) -> Result<(), End> {
        trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), len, READ, 0)])
    }

    /// Headers that ask for the impossible, before a frame of 100 bytes.
    pub fn offloads(trial: &mut Trial<'_>, features: u64) -> Result<(), End> {
        let mut headers = vec![[0xff; 12]];
        for kind in [1_u8, 3, 4, 5, 0x7f, 0x81, 0x84] {
            for number in [0_u8, 1, 0xff] {
                let mut header = [number; 12];
                header[0] = 1;
                header[1] = kind;
                headers.push(header);
            }
        }
        // A checksum that starts or goes after the frame.
        headers.push([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        headers.push([1, 0, 0, 0, 0, 0, 87, 0, 1, 0, 0, 0]);
        let mut unit = trial.unit(features)?;
        for header in headers {
            unit.arena.part(DATA_AT, 12).put(&header);
            unit.arena.part(DATA_AT + 12, 14).put(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 0]);
            unit.put(0, (unit.at(DATA_AT), 112, READ, 0));
            unit.main().catch_up();
            unit.fire(0);
            unit.settle();
        }
        trial.judge(unit)
    }

    /// An array of page numbers, of so many bytes.
    pub fn pages(trial: &mut Trial<'_>, queue: usize, numbers: &[u32], len: u32) -> Result<(), End> {
        let mut unit = trial.unit(0)?;
        (0..).zip(numbers).for_each(|(at, number)| unit.arena.write32(DATA_AT + 4 * at, *number));
        let head = unit.queues[queue].chain(0, &[(unit.at(DATA_AT), len, Dir::Out)]);
        unit.queues[queue].send(&unit.dev, head);
        wait_until(30_000_000, || unit.queues[queue].used_index() != 0 || unit.needs_reset());
        trial.judge(unit)
    }

    pub fn statistics(trial: &mut Trial<'_>) -> Result<(), End> {
        trial.needs(BalloonFeatures::STATS_VQ.bits(), "STATS_VQ")?;
        for len in [1, 9, 4096] {
            let features = BalloonFeatures::STATS_VQ;
            let mut unit = Unit::prepare(trial.target, features.bits())?;
            let Some(number) = queues(features).stats else { return Ok(()) };
            let mut queue = unit.dev.queue(number, SIZE)?;
            unit.dev.start()?;
            unit.arena.part(DATA_AT, 0x1000).fill(0xff);
            for at in 0..SIZE {
                let head = queue.chain(at, &[(unit.at(DATA_AT), len, Dir::Out)]);
                queue.offer(head);
            }
            queue.publish();
            queue.notify(&unit.dev);
            unit.main().catch_up();
            unit.settle();
            trial.judge(unit)?;
        }
        Ok(())
    }
}
