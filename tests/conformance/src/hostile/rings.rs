//! Chains, indirect tables and rings that no driver builds.

use super::super::End;
use super::super::raw::{Buf, write_descriptor};
use super::Row;
use super::trial::{ARENA, DATA_AT, Entry, HEADER_AT, INDIRECT, NEXT, READ, SIZE, STATUS_AT, Trial, Unit, WRITE};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use shared_abi::virtio::blk::RequestType;
use shared_abi::virtio::ring::{self, DescriptorFlags};
use shared_abi::virtio::{CommonFeatures, DeviceType};

const BLOCK: DeviceType = DeviceType::BLOCK;
const RNG: DeviceType = DeviceType::RNG;

pub const ROWS: &[Row] = &[
    ("hostile/chain-loops-to-itself", BLOCK, |trial| {
        trial.shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 0)])?;
        trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), 16, NEXT | WRITE, 0)])
    }),
    ("hostile/chain-loops-over-two", BLOCK, |trial| {
        trial.shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 1), (unit.at(DATA_AT), 512, NEXT, 0)])
    }),
    ("hostile/chain-next-out-of-range", BLOCK, |trial| {
        trial.shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 0xffff)])
    }),
    ("hostile/chain-next-just-past-the-table", BLOCK, |trial| {
        trial.shoot(0, 0, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, SIZE)])
    }),
    ("hostile/chain-writable-before-readable", BLOCK, |trial| {
        trial.shoot(0, 0, |unit| vec![(unit.at(STATUS_AT), 1, WRITE | NEXT, 1), (unit.at(HEADER_AT), 16, READ, 0)])
    }),
    ("hostile/chain-of-empty-buffers", BLOCK, |trial| {
        trial.shoot(0, 0, |unit| {
            vec![
                (unit.at(HEADER_AT), 0, NEXT, 1),
                (unit.at(DATA_AT), 0, NEXT | WRITE, 2),
                (unit.at(STATUS_AT), 0, WRITE, 0),
            ]
        })
    }),
    ("hostile/chain-of-4-gib", DeviceType::NET, chain_of_4_gib),
    ("hostile/buffer-beyond-memory", BLOCK, |trial| everywhere(trial, FAR, 4096)),
    ("hostile/buffer-address-wraps", BLOCK, |trial| everywhere(trial, u64::MAX - 7, 4096)),
    ("hostile/buffer-of-4-gib", RNG, |trial| trial.shoot(0, 0, |unit| vec![(unit.at(DATA_AT), u32::MAX, WRITE, 0)])),
    ("hostile/buffer-over-device-registers", BLOCK, |trial| {
        let address = trial.device_memory();
        trial.shoot(0, 0, |unit| vec![(address, 16, NEXT, 1), (unit.at(STATUS_AT), 1, WRITE, 0)])
    }),
    ("hostile/buffer-over-firmware", RNG, |trial| trial.shoot(0, 0, |_| vec![(0xffff_f000, 64, WRITE, 0)])),
    ("hostile/buffer-over-own-ring", RNG, over_own_ring),
    ("hostile/indirect-inside-indirect", BLOCK, |trial| {
        table(trial, 32, |unit| vec![(unit.at(TABLE_AT), 32, INDIRECT, 0), (unit.at(TABLE_AT), 32, INDIRECT | NEXT, 0)])
    }),
    ("hostile/indirect-length-no-multiple-of-16", BLOCK, |trial| {
        table(trial, 24, one_header)?;
        table(trial, 15, one_header)
    }),
    ("hostile/indirect-of-no-bytes", BLOCK, |trial| table(trial, 0, one_header)),
    ("hostile/indirect-with-next", BLOCK, |trial| {
        trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
        trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |unit| {
            write_table(unit, &read_request(unit));
            vec![(unit.at(TABLE_AT), 48, INDIRECT | NEXT, 1), (unit.at(STATUS_AT), 1, WRITE, 0)]
        })
    }),
    ("hostile/indirect-not-negotiated", BLOCK, |trial| {
        trial.shoot(0, 0, |unit| {
            write_table(unit, &read_request(unit));
            vec![(unit.at(TABLE_AT), 48, INDIRECT, 0)]
        })
    }),
    ("hostile/indirect-outside-memory", BLOCK, |trial| {
        trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
        for address in [FAR, u64::MAX - 15] {
            trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |_| vec![(address, 48, INDIRECT, 0)])?;
        }
        Ok(())
    }),
    ("hostile/indirect-loops", BLOCK, |trial| {
        table(trial, 32, |unit| vec![(unit.at(HEADER_AT), 16, NEXT, 1), (unit.at(DATA_AT), 16, NEXT, 0)])
    }),
    ("hostile/indirect-longer-than-the-queue", BLOCK, indirect_longer_than_the_queue),
    ("hostile/available-index-jumps", BLOCK, |trial| step(trial, SIZE + 1)),
    ("hostile/available-index-goes-back", BLOCK, |trial| step(trial, u16::MAX)),
    ("hostile/head-out-of-range", BLOCK, |trial| {
        trial.shoot(0, SIZE, read_request)?;
        trial.shoot(0, 0xffff, read_request)
    }),
    ("hostile/same-head-twice", BLOCK, same_head_twice),
    ("hostile/ring-garbage", BLOCK, ring_garbage),
];

/// An address that no machine of ours has memory at.
const FAR: u64 = 1 << 45;
/// Where shots have an indirect table in the arena.
const TABLE_AT: usize = 0x2000;

/// A read of the first sector.
fn read_request(unit: &Unit<'_>) -> Vec<Entry> {
    unit.header(RequestType::IN.0, 0);
    vec![(unit.at(HEADER_AT), 16, NEXT, 1), (unit.at(DATA_AT), 512, WRITE | NEXT, 2), (unit.at(STATUS_AT), 1, WRITE, 0)]
}

fn one_header(unit: &Unit<'_>) -> Vec<Entry> {
    vec![(unit.at(HEADER_AT), 16, READ, 0)]
}

fn write_entries(table: &Buf, entries: &[Entry]) {
    for (at, &(address, len, flags, next)) in (0..).zip(entries) {
        write_descriptor(table, at, address, len, DescriptorFlags::from_bits_retain(flags), next);
    }
}

fn write_table(unit: &Unit<'_>, entries: &[Entry]) {
    write_entries(&unit.arena.part(TABLE_AT, 0x1000), entries);
}

/// Sends an indirect table of so many bytes.
fn table(trial: &mut Trial<'_>, len: u32, entries: fn(&Unit<'_>) -> Vec<Entry>) -> Result<(), End> {
    trial.needs(CommonFeatures::INDIRECT_DESC.bits(), "INDIRECT_DESC")?;
    trial.shoot(CommonFeatures::INDIRECT_DESC.bits(), 0, |unit| {
        unit.header(RequestType::IN.0, 0);
        write_table(unit, &entries(unit));
        vec![(unit.at(TABLE_AT), len, INDIRECT, 0)]
    })
}

/// A bad buffer as header, as data both ways, and as status.
fn everywhere(trial: &mut Trial<'_>, address: u64, len: u32) -> Result<(), End> {
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

/// Readable, so that a device which takes it for a frame does not ruin the kernel.
fn chain_of_4_gib(trial: &mut Trial<'_>) -> Result<(), End> {
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
}

fn over_own_ring(trial: &mut Trial<'_>) -> Result<(), End> {
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
}

fn indirect_longer_than_the_queue(trial: &mut Trial<'_>) -> Result<(), End> {
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
}

/// Publishes more than was offered.
fn step(trial: &mut Trial<'_>, by: u16) -> Result<(), End> {
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

fn same_head_twice(trial: &mut Trial<'_>) -> Result<(), End> {
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
}

fn ring_garbage(trial: &mut Trial<'_>) -> Result<(), End> {
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
}

const _: () = assert!(TABLE_AT + 0x1000 <= ARENA / 2, "well-formed requests have the second half of the arena");
