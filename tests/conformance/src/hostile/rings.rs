//! Chains, indirect tables and rings that no driver builds.

use crate::catalogue::{Check, attacks};
#[cfg(feature = "guest")]
use {
    crate::support::raw::{Buf, write_descriptor},
    crate::support::trial::{
        ARENA, DATA_AT, Entry, HEADER_AT, INDIRECT, NEXT, READ, SIZE, STATUS_AT, Trial, Unit, WRITE,
    },
    crate::support::{End, skip},
    alloc::vec,
    alloc::vec::Vec,
    code::*,
    core::sync::atomic::{Ordering, fence},
    guest_kernel::mm::PAGE_SIZE,
    guest_kernel::mm::frames::{FRAMES, MAX_ORDER},
    shared_abi::virtio::CommonFeatures,
    shared_abi::virtio::blk::RequestType,
    shared_abi::virtio::ring::{self, DescriptorFlags},
};

const TABLE: &str = "2.7.5 The Virtqueue Descriptor Table";
const FRAMING: &str = "2.7.4.2 Driver Requirements: Message Framing";
const INDIRECT_CLAUSE: &str = "2.7.5.3.1 Driver Requirements: Indirect Descriptors";
const AVAILABLE: &str = "2.7.6 The Virtqueue Available Ring";
const INDEX: &str = "2.7.13.3 Updating idx";
const LOOP: &str = "A chain has an end";
const INSIDE: &str = "Buffers lie in memory";
const INDIRECT_FORM: &str = "An indirect table is a whole number of descriptors, alone in its chain, and not nested";

/// The checks.
pub(crate) const CHECKS: &[Check] = attacks![
    Attack {
        name: "hostile/chain-loops-to-itself",
        rule: LOOP,
        clause: TABLE,
        method: "Descriptor 0 says that descriptor 0 is next",
        device: BLOCK,
        run: |trial| {
            trial.shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 0)])?;
            trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), 16, NEXT | WRITE, 0)])
        },
    },
    Attack {
        name: "hostile/chain-loops-over-two",
        rule: LOOP,
        clause: TABLE,
        method: "Descriptors 0 and 1 name each other",
        device: BLOCK,
        run: |trial| trial
            .shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 1), (unit.at(DATA_AT), 512, NEXT, 0)]),
    },
    Attack {
        name: "hostile/chain-next-out-of-range",
        rule: LOOP,
        clause: TABLE,
        method: "A descriptor's next is 0xffff",
        device: BLOCK,
        run: |trial| trial.shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 0xffff)]),
    },
    Attack {
        name: "hostile/chain-next-just-past-the-table",
        rule: LOOP,
        clause: TABLE,
        method: "The last descriptor's next is the queue's size",
        device: BLOCK,
        run: |trial| trial.shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, SIZE)]),
    },
    Attack {
        name: "hostile/chain-writable-before-readable",
        rule: "Readable buffers come before writable ones",
        clause: FRAMING,
        method: "A block request with its status in front",
        device: BLOCK,
        run: |trial| trial
            .shoot(0, 0, |unit| vec![(unit.at(STATUS_AT), 1, WRITE | NEXT, 1), (unit.at(HEADER_AT), 16, READ, 0)]),
    },
    Attack {
        name: "hostile/chain-of-empty-buffers",
        rule: "Buffers have bytes",
        clause: TABLE,
        method: "A block request of three buffers of length 0",
        device: BLOCK,
        run: |trial| {
            trial.shoot(0, 0, |unit| {
                vec![
                    (unit.at(HEADER_AT), 0, NEXT, 1),
                    (unit.at(DATA_AT), 0, NEXT | WRITE, 2),
                    (unit.at(STATUS_AT), 0, WRITE, 0),
                ]
            })
        },
    },
    Attack {
        name: "hostile/chain-of-4-gib",
        rule: "A chain is shorter than 4 GiB",
        clause: FRAMING,
        method: "A chain of as many buffers as the queue has entries, 16 MiB each, to the end of memory and beyond",
        device: NET,
        run: |trial| {
            // Readable, so that a device which takes it for a frame does not ruin the kernel.
            const PIECE: u32 = 16 << 20;
            trial.shoot(0, 0, |_| {
                (0..SIZE)
                    .map(|n| (u64::from(n) * u64::from(PIECE), PIECE, if n + 1 < SIZE { NEXT } else { READ }, n + 1))
                    .collect()
            })?;
            // The same from memory that is certainly there, over and over; 256 entries make 4 GiB.
            trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
            trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |unit| {
                let entry = |n: u16| (1 << 20, PIECE, if n < 255 { NEXT } else { READ }, n + 1);
                write_table(unit, &(0..256).map(entry).collect::<Vec<_>>());
                vec![(unit.at(TABLE_AT), 4096, INDIRECT, 0)]
            })
        },
    },
    Attack {
        name: "hostile/buffer-beyond-memory",
        rule: INSIDE,
        clause: TABLE,
        method: "A buffer at 32 TiB, readable and writable",
        device: BLOCK,
        run: |trial| everywhere(trial, FAR, 4096),
    },
    Attack {
        name: "hostile/buffer-address-wraps",
        rule: INSIDE,
        clause: TABLE,
        method: "A buffer of 4096 bytes at 2^64 - 8",
        device: BLOCK,
        run: |trial| everywhere(trial, u64::MAX - 7, 4096),
    },
    Attack {
        name: "hostile/buffer-of-4-gib",
        rule: INSIDE,
        clause: TABLE,
        method: "A writable buffer of 0xffffffff bytes that starts in the last page of memory",
        device: RNG,
        run: |trial| {
            trial.cx.has("the end of memory")?;
            // A device may write what lies in memory: that must be used for nothing else.
            let page = LastPage::take().ok_or_else(|| skip("the last page of memory is in use"))?;
            trial.shoot(0, 0, |_| vec![(page.address(), u32::MAX, WRITE, 0)])
        },
    },
    Attack {
        name: "hostile/buffer-over-device-registers",
        rule: INSIDE,
        clause: TABLE,
        method: "A readable buffer at the registers of the device or of the I/O APIC",
        device: BLOCK,
        run: |trial| {
            let address = trial.device_memory();
            trial.shoot(0, 0, |unit| vec![(address, 16, NEXT, 1), (unit.at(STATUS_AT), 1, WRITE, 0)])
        },
    },
    Attack {
        name: "hostile/buffer-over-firmware",
        rule: INSIDE,
        clause: TABLE,
        method: "A writable buffer in the last page below 4 GiB",
        device: RNG,
        run: |trial| trial.shoot(0, 0, |_| vec![(0xffff_f000, 64, WRITE, 0)]),
    },
    Attack {
        name: "hostile/buffer-over-own-ring",
        rule: "Buffers and rings lie apart",
        clause: TABLE,
        method: "The entropy device's buffer covers all three parts of its own queue",
        device: RNG,
        run: |trial| {
            for part in 0..3 {
                let mut unit = trial.unit(0)?;
                let queue = &unit.queues[0];
                let (address, len) = match part {
                    0 => (queue.used.address(), ring::used_len(SIZE)),
                    1 => (queue.available.address(), ring::available_len(SIZE)),
                    _ => (queue.table.address(), ring::descriptor_table_len(SIZE)),
                };
                unit.put(0, (address, len as u32, WRITE, 0));
                unit.fire(0);
                unit.settle();
                // The device now reads what it wrote: again, with whatever stands there.
                unit.queues[0].notify(&unit.dev);
                unit.settle();
                trial.judge(unit)?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/indirect-inside-indirect",
        rule: INDIRECT_FORM,
        clause: INDIRECT_CLAUSE,
        method: "An indirect table's entry is indirect again, and refers to that table",
        device: BLOCK,
        run: |trial| table(trial, 32, |unit| vec![
            (unit.at(TABLE_AT), 32, INDIRECT, 0),
            (unit.at(TABLE_AT), 32, INDIRECT | NEXT, 0)
        ]),
    },
    Attack {
        name: "hostile/indirect-length-no-multiple-of-16",
        rule: INDIRECT_FORM,
        clause: INDIRECT_CLAUSE,
        method: "Tables of 24 and of 15 bytes",
        device: BLOCK,
        run: |trial| {
            table(trial, 24, one_header)?;
            table(trial, 15, one_header)
        },
    },
    Attack {
        name: "hostile/indirect-of-no-bytes",
        rule: INDIRECT_FORM,
        clause: INDIRECT_CLAUSE,
        method: "A table of length 0",
        device: BLOCK,
        run: |trial| table(trial, 0, one_header),
    },
    Attack {
        name: "hostile/indirect-with-next",
        rule: INDIRECT_FORM,
        clause: INDIRECT_CLAUSE,
        method: "A descriptor with INDIRECT and NEXT",
        device: BLOCK,
        run: |trial| {
            trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
            trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |unit| {
                write_table(unit, &read_request(unit));
                vec![(unit.at(TABLE_AT), 48, INDIRECT | NEXT, 1), (unit.at(STATUS_AT), 1, WRITE, 0)]
            })
        },
    },
    Attack {
        name: "hostile/indirect-not-negotiated",
        rule: "INDIRECT is used only when it was negotiated",
        clause: INDIRECT_CLAUSE,
        method: "A well-formed table without the feature",
        device: BLOCK,
        run: |trial| {
            trial.shoot(0, 0, |unit| {
                write_table(unit, &read_request(unit));
                vec![(unit.at(TABLE_AT), 48, INDIRECT, 0)]
            })
        },
    },
    Attack {
        name: "hostile/indirect-outside-memory",
        rule: INDIRECT_FORM,
        clause: INDIRECT_CLAUSE,
        method: "A table at 32 TiB, and one at 2^64 - 16",
        device: BLOCK,
        run: |trial| {
            trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
            for address in [FAR, u64::MAX - 15] {
                trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |_| vec![(address, 48, INDIRECT, 0)])?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/indirect-loops",
        rule: INDIRECT_FORM,
        clause: INDIRECT_CLAUSE,
        method: "A table whose entries name each other",
        device: BLOCK,
        run: |trial| table(trial, 32, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 1), (unit.at(DATA_AT), 16, NEXT, 0)]),
    },
    Attack {
        name: "hostile/indirect-longer-than-the-queue",
        rule: "A chain is no longer than the queue",
        clause: INDIRECT_CLAUSE,
        method: "A table of 4096 entries of one byte, all chained",
        device: BLOCK,
        run: |trial| {
            const ENTRIES: u16 = 4096;
            trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
            let mut unit = trial.unit(CommonFeatures::INDIRECT_DESC.bits())?;
            let long = unit.dev.buffer(usize::from(ENTRIES) * 16)?;
            let entry = |n: u16| (unit.at(DATA_AT), 1, if n + 1 < ENTRIES { NEXT } else { WRITE }, n + 1);
            write_entries(&long, &(0..ENTRIES).map(entry).collect::<Vec<_>>());
            unit.put(0, (long.address(), u32::from(ENTRIES) * 16, INDIRECT, 0));
            unit.fire(0);
            unit.settle();
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/available-index-jumps",
        rule: "The index grows by what was offered",
        clause: INDEX,
        method: "The index jumps by the queue's size and one",
        device: BLOCK,
        run: |trial| step(trial, SIZE + 1),
    },
    Attack {
        name: "hostile/available-index-goes-back",
        rule: "The index never goes back",
        clause: INDEX,
        method: "The index goes back by one",
        device: BLOCK,
        run: |trial| step(trial, u16::MAX),
    },
    Attack {
        name: "hostile/head-out-of-range",
        rule: "A head is a descriptor of the table",
        clause: AVAILABLE,
        method: "Heads: the queue's size, and 0xffff",
        device: BLOCK,
        run: |trial| {
            trial.shoot(0, SIZE, read_request)?;
            trial.shoot(0, 0xffff, read_request)
        },
    },
    Attack {
        name: "hostile/same-head-twice",
        rule: "A chain is offered once at a time",
        clause: AVAILABLE,
        method: "Eight entries with the same head",
        device: BLOCK,
        run: |trial| {
            let mut unit = trial.unit(0)?;
            for (at, entry) in (0..).zip(read_request(&unit)) {
                unit.put(at, entry);
            }
            let queue = unit.main();
            (0..8).for_each(|_| queue.offer(0));
            queue.publish();
            unit.queues[0].notify(&unit.dev);
            unit.settle();
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/ring-garbage",
        rule: "Rings hold what a driver put there",
        clause: AVAILABLE,
        method: "The whole table and the available ring filled with 0xff, then with 0x5a, each notified",
        device: BLOCK,
        run: |trial| {
            for byte in [0xff, 0x5a] {
                let unit = trial.unit(CommonFeatures::INDIRECT_DESC.bits())?;
                let queue = &unit.queues[0];
                queue.table.fill(byte);
                queue.available.fill(byte);
                fence(Ordering::SeqCst);
                queue.notify(&unit.dev);
                unit.settle();
                trial.judge(unit)?;
            }
            // An index that the queue's size allows, over a table of nothing but ones: addresses that no memory has.
            let unit = trial.unit(CommonFeatures::INDIRECT_DESC.bits())?;
            let queue = &unit.queues[0];
            queue.table.fill(0xff);
            (0..usize::from(SIZE)).for_each(|at| queue.available.write16(ring::ENTRIES_OFFSET + 2 * at, at as u16));
            queue.available.write16(ring::INDEX_OFFSET, SIZE);
            fence(Ordering::SeqCst);
            queue.notify(&unit.dev);
            unit.settle();
            trial.judge(unit)
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// The last page of memory, which ends a block of free ones.
    pub struct LastPage {
        block: (u64, usize),
    }

    impl LastPage {
        /// Takes all that is free, and gives back all but the block at the end. `None` if the last page is not free.
        pub fn take() -> Option<Self> {
            const BLOCKS_MAX: usize = 4096;
            let mut blocks = Vec::with_capacity(BLOCKS_MAX);
            let mut frames = FRAMES.lock();
            for order in (0..=MAX_ORDER).rev() {
                while blocks.len() < BLOCKS_MAX
                    && let Some(frame) = frames.allocate(order)
                {
                    blocks.push((frame, order));
                }
            }
            let limit = frames.limit();
            let last = blocks.iter().position(|&block| end(block) == limit).map(|at| blocks.swap_remove(at));
            blocks.drain(..).for_each(|(frame, order)| frames.free(frame, order));
            last.map(|block| Self { block })
        }

        pub fn address(&self) -> u64 {
            (end(self.block) - 1) * PAGE_SIZE as u64
        }
    }

    impl Drop for LastPage {
        fn drop(&mut self) {
            FRAMES.lock().free(self.block.0, self.block.1);
        }
    }

    fn end((frame, order): (u64, usize)) -> u64 {
        frame + (1 << order)
    }

    /// An address that no machine of ours has memory at.
    pub const FAR: u64 = 1 << 45;

    /// Where shots have an indirect table in the arena.
    pub const TABLE_AT: usize = 0x2000;

    /// A read of the first sector.
    pub fn read_request(unit: &Unit<'_>) -> Vec<Entry> {
        unit.header(RequestType::IN.0, 0);
        vec![
            (unit.at(HEADER_AT), 16, NEXT, 1),
            (unit.at(DATA_AT), 512, WRITE | NEXT, 2),
            (unit.at(STATUS_AT), 1, WRITE, 0),
        ]
    }

    pub fn one_header(unit: &Unit<'_>) -> Vec<Entry> {
        vec![(unit.at(HEADER_AT), 16, READ, 0)]
    }

    pub fn write_entries(table: &Buf, entries: &[Entry]) {
        for (at, &(address, len, flags, next)) in (0..).zip(entries) {
            write_descriptor(table, at, address, len, DescriptorFlags::from_bits_retain(flags), next);
        }
    }

    pub fn write_table(unit: &Unit<'_>, entries: &[Entry]) {
        write_entries(&unit.arena.part(TABLE_AT, 0x1000), entries);
    }

    /// Sends an indirect table of so many bytes.
    pub fn table(trial: &mut Trial<'_>, len: u32, entries: fn(&Unit<'_>) -> Vec<Entry>) -> Result<(), End> {
        trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
        trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |unit| {
            unit.header(RequestType::IN.0, 0);
            write_table(unit, &entries(unit));
            vec![(unit.at(TABLE_AT), len, INDIRECT, 0)]
        })
    }

    /// A bad buffer as header, as data both ways, and as status.
    pub fn everywhere(trial: &mut Trial<'_>, address: u64, len: u32) -> Result<(), End> {
        trial.shoot(0, 0, |unit| vec![(address, len, NEXT, 1), (unit.at(STATUS_AT), 1, WRITE, 0)])?;
        for kind in [RequestType::IN, RequestType::OUT] {
            trial.shoot(0, 0, |unit| {
                let mut entries = read_request(unit);
                unit.header(kind.0, 0);
                let direction = if kind == RequestType::IN { WRITE } else { READ };
                entries[1] = (address, len, NEXT | direction, 2);
                entries
            })?;
        }
        trial.shoot(0, 0, |unit| {
            let mut entries = read_request(unit);
            entries[2] = (address, 1, WRITE, 0);
            entries
        })
    }

    /// Publishes more than was offered.
    pub fn step(trial: &mut Trial<'_>, by: u16) -> Result<(), End> {
        let mut unit = trial.unit(0)?;
        for (at, entry) in (0..).zip(read_request(&unit)) {
            unit.put(at, entry);
        }
        unit.fire(0);
        unit.settle();
        let queue = unit.main();
        queue.catch_up();
        queue.republish(by);
        unit.queues[0].notify(&unit.dev);
        unit.settle();
        trial.judge(unit)
    }

    const _: () = assert!(TABLE_AT + 0x1000 <= ARENA / 2, "well-formed requests have the second half of the arena");
}
