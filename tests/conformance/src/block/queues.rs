//! A block device with several queues: each serves alone and all at once, and answers where it was asked.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::disk::OK,
    crate::support::disk::UNWRITTEN,
    crate::support::raw::{Buf, Dir, Queue, link, wait_until},
    crate::support::{Context, End, equal, holds},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    core::mem::offset_of,
    shared_abi::virtio::DeviceType,
    shared_abi::virtio::blk::{Config, Features, RequestType, SECTOR_SIZE},
};

const FEATURES: &str = "5.2.3 Feature bits";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "block/queues-serve-at-once",
        rule: "A device with MQ serves every queue",
        clause: FEATURES,
        method: "A read of another sector in each queue (up to eight), all notified before any answer is read",
        expectation: "Status OK, the right data and id on each",
        run: |cx| {
            let mut disk = Disk::start(cx)?;
            let expected = disk.sectors()?;
            let count = disk.queues.len();
            let reads = (0..count).map(|queue| disk.read(queue, 3, queue as u64)).collect::<Result<Vec<_>, _>>()?;
            (0..count).for_each(|queue| disk.go(queue));
            for (queue, read) in reads.iter().enumerate() {
                let used = disk.queues[queue].wait()?;
                equal(&format!("id of the used element of queue {queue}"), 3, used.id)?;
                equal(&format!("status of queue {queue}"), OK, read.status.read8(0))?;
                equal(&format!("data of queue {queue} as from queue 0"), true, read.data.bytes() == expected[queue])?;
            }
            disk.dev.healthy()
        },
    },
    Check {
        name: "block/queues-answer-where-asked",
        rule: "A buffer is used in the queue that it came by",
        clause: "2.6 Virtqueues",
        method: "With MQ, a read through each queue in turn, while all others are live",
        expectation: "The used index of that queue grows by one, the others stay",
        run: |cx| {
            let mut disk = Disk::start(cx)?;
            let count = disk.queues.len();
            for asked in 0..count {
                let before: Vec<u16> = disk.queues.iter().map(Queue::used_index).collect();
                let read = disk.read(asked, 0, 0)?;
                disk.go(asked);
                disk.queues[asked].wait()?;
                equal(&format!("status of queue {asked}"), OK, read.status.read8(0))?;
                wait_until(QUIET / 4, || false);
                for (queue, &before) in before.iter().enumerate() {
                    let expected = before + u16::from(queue == asked);
                    let what = format!("used index of queue {queue} when queue {asked} was asked");
                    equal(&what, expected, disk.queues[queue].used_index())?;
                }
            }
            Ok(())
        },
    },
    Check {
        name: "block/long-queue-holds-no-other-up",
        rule: "A device with MQ serves every queue",
        clause: FEATURES,
        method: "Four reads in the first queue, one in the last, notified one after the other",
        expectation: "All are used, with status OK",
        run: |cx| {
            let mut disk = Disk::start(cx)?;
            let last = disk.queues.len() - 1;
            let reads = (0..4).map(|n| disk.read(0, 3 * n, 0)).collect::<Result<Vec<_>, _>>()?;
            let other = disk.read(last, 12, 1)?;
            disk.go(0);
            disk.go(last);
            // With one queue it is the fifth request there.
            disk.queues[0].wait_for(if last == 0 { 5 } else { 4 })?;
            disk.queues[last].wait_for(1)?;
            equal("status of the last queue", OK, other.status.read8(0))?;
            reads.iter().try_for_each(|read| equal("status of queue 0", OK, read.status.read8(0)))
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Queues that are tried, at most.
    pub const MOST: u16 = 8;

    /// How long a queue is watched that must not answer.
    pub const QUIET: u64 = 20_000_000;

    /// A block device with all its queues live.
    pub struct Disk<'a> {
        pub dev: Dev<'a>,
        pub queues: Vec<Queue>,
    }

    /// A read of one sector.
    pub struct Read {
        pub data: Buf,
        pub status: Buf,
    }

    impl<'a> Disk<'a> {
        pub fn start(cx: &'a Context) -> Result<Self, End> {
            let dev = Dev::with_features(cx.device(DeviceType::BLOCK)?, Features::MQ.bits())?;
            dev.needs(Features::MQ)?;
            let count = dev.regs().config_read(offset_of!(Config, num_queues), 2) as u16;
            holds(count > 0, "num_queues", "1 or more", count)?;
            let queues = (0..count.min(MOST)).map(|index| dev.queue(index, 16)).collect::<Result<_, _>>()?;
            dev.start()?;
            Ok(Self { dev, queues })
        }

        /// Writes a read of a sector into descriptors from `first` on, without showing it.
        pub fn read(&mut self, queue: usize, first: u16, sector: u64) -> Result<Read, End> {
            let header = self.dev.buffer(16)?;
            header.write32(0, RequestType::IN.0);
            header.write64(8, sector);
            let (data, status) = (self.dev.buffer(SECTOR_SIZE)?, self.dev.buffer(1)?);
            status.write8(0, UNWRITTEN);
            let queue = &mut self.queues[queue];
            let head = queue.chain(first, &[link(&header, Dir::Out), link(&data, Dir::In), link(&status, Dir::In)]);
            queue.offer(head);
            Ok(Read { data, status })
        }

        pub fn go(&self, queue: usize) {
            self.queues[queue].publish();
            self.queues[queue].notify(&self.dev);
        }

        /// The first sectors, through queue 0.
        pub fn sectors(&mut self) -> Result<Vec<Vec<u8>>, End> {
            let mut sectors = Vec::new();
            for sector in 0..self.queues.len() as u64 {
                let read = self.read(0, 0, sector)?;
                self.go(0);
                self.queues[0].wait()?;
                equal("status", OK, read.status.read8(0))?;
                sectors.push(read.data.bytes());
            }
            Ok(sectors)
        }
    }
}
