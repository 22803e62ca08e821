//! The split virtqueue: used elements, order, sizes, resets. `chains.rs` has the shapes of chains, `suppress.rs`
//! notifications in both directions.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::disk::plain,
    crate::support::disk::{Disk, scratch},
    crate::support::raw::counted,
    crate::support::raw::{Dir, Queue, link, wait_until},
    crate::support::rng::Rng,
    crate::support::{Context, Verdict, equal, error, fail, holds, skip},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    shared_abi::virtio::CommonFeatures,
    shared_abi::virtio::DeviceType,
    shared_abi::virtio::blk::{Features, RequestStatus, RequestType, SECTOR_SIZE},
    shared_abi::virtio::ring,
};

const TABLE: &str = "2.7.5 The Virtqueue Descriptor Table";
const AVAILABLE: &str = "2.7.6 The Virtqueue Available Ring";
const USED: &str = "2.7.8.2 Device Requirements: The Virtqueue Used Ring";
const NOTIFICATIONS: &str = "2.7.10.2 Device Requirements: Available Buffer Notification Suppression";
const STATUS: &str = "2.1.2 Device Requirements: Device Status Field";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "queue/used-length-of-a-read",
        rule: "The device writes at least as many bytes as the used length says; fewer may be counted",
        clause: USED,
        method: "Read a sector",
        expectation: "At most 513; less is advice",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            let answer = disk.request(RequestType::IN, 0, &[link(&data, Dir::In)])?;
            equal("status", OK, answer.status)?;
            counted(513, answer.used.len)
        },
    },
    Check {
        name: "queue/used-length-of-a-write",
        rule: "The device writes at least as many bytes as the used length says; fewer may be counted",
        clause: USED,
        method: "Write a sector",
        expectation: "At most 1; less is advice",
        run: |cx| {
            scratch(cx, Features::empty(), 1, |disk, sector| {
                let data = disk.sectors(1)?;
                let answer = disk.request(RequestType::OUT, sector, &[link(&data, Dir::Out)])?;
                equal("status", OK, answer.status)?;
                counted(1, answer.used.len)
            })
        },
    },
    Check {
        name: "queue/used-id-is-the-head",
        rule: "The used id is the index of the first descriptor",
        clause: USED,
        method: "Chains that start at 0, 5 and 9",
        expectation: "These ids",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 16)?;
            let data = disk.sectors(1)?;
            for head in [0, 5, 9] {
                let links = plain(&mut disk, &data)?;
                let head = disk.queue.chain(head, &links);
                equal("status", OK, disk.run(head)?.status)?;
            }
            Ok(())
        },
    },
    Check {
        name: "queue/used-ring-is-written-in-turn",
        rule: "Used elements are written one after the other",
        clause: USED,
        method: "Two turns of a queue of 4",
        expectation: "The used index grows by one a request, each slot in turn",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 4)?;
            let buf = rng.dev.buffer(16)?;
            let size = rng.queue.size;
            for n in 0..2 * size {
                let id = n % size;
                let head = rng.queue.chain(id, &[link(&buf, Dir::In)]);
                rng.queue.send(&rng.dev, head);
                rng.queue.wait()?;
                equal("used index", n + 1, rng.queue.used_index())?;
                let at = ring::ENTRIES_OFFSET + 8 * usize::from(id);
                equal(&format!("id in slot {id}"), u32::from(id), rng.queue.used.read32(at))?;
            }
            Ok(())
        },
    },
    Check {
        name: "queue/batch-with-one-notification",
        rule: "A notification stands for all that is new",
        clause: "2.7.13.3 Updating idx",
        method: "Eight requests, one notification",
        expectation: "Eight used elements, every status OK",
        run: |cx| heads(cx, &[0, 3, 6, 9, 12, 15, 18, 21]),
    },
    Check {
        name: "queue/heads-in-any-order",
        rule: "The available ring holds heads in any order",
        clause: AVAILABLE,
        method: "Chains at 9, 0, 6 and 3, in this order",
        expectation: "Each is used once",
        run: |cx| heads(cx, &[9, 0, 6, 3]),
    },
    Check {
        name: "queue/ids-are-reused",
        rule: "A descriptor that was used is the driver's again",
        clause: TABLE,
        method: "Twenty rounds of three chains, each in the descriptors that came back first",
        expectation: "Every status OK",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 16)?;
            let data = disk.sectors(3)?;
            let mut free = Vec::from([0u16, 3, 6]);
            for _ in 0..20 {
                let taken = core::mem::take(&mut free);
                for (n, &head) in taken.iter().enumerate() {
                    let sector = data.part(n * SECTOR_SIZE, SECTOR_SIZE);
                    let links = disk.links(head / 3, RequestType::IN, 0, &[link(&sector, Dir::In)]);
                    disk.queue.chain(head, &links);
                    disk.queue.offer(head);
                }
                disk.queue.publish();
                disk.queue.notify(&disk.dev);
                for _ in 0..3 {
                    let used = disk.queue.wait()?;
                    holds(taken.contains(&(used.id as u16)) && used.id < 9, "id of a used element", "a head", used.id)?;
                    equal("status", OK, disk.status_of(used.id as u16 / 3))?;
                    free.insert(0, used.id as u16);
                }
            }
            Ok(())
        },
    },
    Check {
        name: "queue/small-size-works",
        rule: "The driver may choose a smaller size",
        clause: "2.6 Virtqueues",
        method: "Ten requests in a queue of 4",
        expectation: "Every status OK",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 4)?;
            at_most(&disk.queue, 4)?;
            let data = disk.sectors(1)?;
            (0..10).try_for_each(|_| disk.read(0, &data))
        },
    },
    Check {
        name: "queue/size-of-one-works",
        rule: "Any power of 2 is a queue size",
        clause: "2.7 Split Virtqueues",
        method: "Four buffers through a queue of 1",
        expectation: "Each is used",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 1)?;
            at_most(&rng.queue, 1)?;
            let buf = rng.dev.buffer(16)?;
            (0..4).try_for_each(|_| rng.fill(&buf).map(drop))
        },
    },
    Check {
        name: "queue/largest-size-works",
        rule: "The driver may choose the largest size",
        clause: "2.6 Virtqueues",
        method: "A request in the last descriptors of a queue of the largest size",
        expectation: "Status OK",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, ring::MAX_SIZE)?;
            if disk.queue.size < 3 {
                return Err(error("the queue is too short"));
            }
            let data = disk.sectors(1)?;
            let links = plain(&mut disk, &data)?;
            let head = disk.queue.chain(disk.queue.size - 3, &links);
            equal("status", OK, disk.run(head)?.status)
        },
    },
    Check {
        name: "queue/nothing-is-used-before-driver-ok",
        rule: "A device consumes no buffers before DRIVER_OK",
        clause: STATUS,
        method: "Offer and notify before DRIVER_OK, wait 20 ms",
        expectation: "The used index is 0",
        run: |cx| {
            let dev = Dev::with_features(cx.device(DeviceType::RNG)?, 0)?;
            let mut queue = dev.queue(0, 8)?;
            let buf = dev.buffer(16)?;
            let head = queue.chain(0, &[link(&buf, Dir::In)]);
            queue.send(&dev, head);
            wait_until(20_000_000, || queue.used_index() != 0);
            let early = queue.used_index();
            // kvmtool takes a queue back only in a reset after DRIVER_OK: the next check begins with a new one.
            dev.start()?;
            equal("used index", 0, early)
        },
    },
    Check {
        name: "queue/offered-before-driver-ok-is-served-after",
        rule: "A device serves what it finds when it goes live",
        clause: STATUS,
        method: "Offer, set DRIVER_OK, notify",
        expectation: "It is used",
        run: |cx| {
            let dev = Dev::with_features(cx.device(DeviceType::RNG)?, 0)?;
            let mut queue = dev.queue(0, 8)?;
            let buf = dev.buffer(16)?;
            let head = queue.chain(0, &[link(&buf, Dir::In)]);
            queue.offer(head);
            queue.publish();
            dev.start()?;
            queue.notify(&dev);
            queue.wait().map(drop)
        },
    },
    Check {
        name: "queue/starts-over-after-a-reset",
        rule: "After a reset both indices start at 0",
        clause: "2.4.1 Device Requirements: Device Reset",
        method: "Three requests, a reset, a new queue, one request",
        expectation: "Used index 1, in slot 0",
        run: |cx| {
            {
                let mut disk = Disk::start(cx, 0, 8)?;
                let data = disk.sectors(1)?;
                (0..3).try_for_each(|_| disk.read(0, &data))?;
            }
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            disk.read(0, &data)?;
            equal("used index", 1, disk.queue.used_index())
        },
    },
    Check {
        name: "queue/reset-with-requests-in-flight",
        rule: "A reset may come at any time",
        clause: "2.4.1 Device Requirements: Device Reset",
        method: "Offer eight reads, reset at once, start over, read",
        expectation: "The reset succeeds; the read is as a plain one; old rings do not change any more",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 64)?;
            let expected = disk.sectors(1)?;
            disk.read(0, &expected)?;
            let data = disk.sectors(8)?;
            for n in 0..8 {
                let sector = data.part(usize::from(n) * SECTOR_SIZE, SECTOR_SIZE);
                let links = disk.links(n, RequestType::IN, 0, &[link(&sector, Dir::In)]);
                disk.queue.chain(3 * n, &links);
                disk.queue.offer(3 * n);
            }
            disk.queue.publish();
            disk.queue.notify(&disk.dev);
            holds(disk.dev.target.reset(), "status after a reset", 0, disk.dev.regs().status())?;
            let (ring, index) = (disk.queue.used.clone(), disk.queue.used_index());
            {
                let mut again = Disk::start(cx, 0, 64)?;
                let data = again.sectors(1)?;
                again.read(0, &data)?;
                equal("data as from a plain read", true, data.bytes() == expected.bytes())?;
            }
            equal("used index of the ring before the reset", index, ring.read16(ring::INDEX_OFFSET))
        },
    },
    Check {
        name: "queue/spurious-notification-is-harmless",
        rule: "A device handles notifications although there is nothing new",
        clause: NOTIFICATIONS,
        method: "Ten notifications after one request",
        expectation: "One used element",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let buf = rng.dev.buffer(16)?;
            rng.fill(&buf)?;
            (0..10).for_each(|_| rng.queue.notify(&rng.dev));
            wait_until(5_000_000, || rng.queue.used_index() != 1);
            equal("used index", 1, rng.queue.used_index())?;
            rng.dev.healthy()
        },
    },
    Check {
        name: "queue/descriptors-are-left-alone",
        rule: "The device does not write the descriptor table",
        clause: "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        method: "Compare table and available ring before and after a request",
        expectation: "Equal",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let data = disk.sectors(1)?;
            let links = plain(&mut disk, &data)?;
            let head = disk.queue.chain(0, &links);
            disk.queue.send(&disk.dev, head);
            let before = (disk.queue.table.bytes(), disk.queue.available.bytes());
            disk.queue.wait()?;
            equal("descriptor table unchanged", true, before.0 == disk.queue.table.bytes())?;
            equal("available ring unchanged", true, before.1 == disk.queue.available.bytes())
        },
    },
    Check {
        name: "queue/readable-buffers-are-left-alone",
        rule: "The device does not write buffers that it may only read",
        clause: "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        method: "Compare header and data before and after a write",
        expectation: "Equal",
        run: |cx| {
            scratch(cx, Features::empty(), 1, |disk, sector| {
                let data = disk.sectors(1)?;
                data.pattern(9);
                let header = disk.header(0, RequestType::OUT, sector);
                let before = header.bytes();
                let status = link(&disk.status(0), Dir::In);
                let head = disk.queue.chain(0, &[link(&header, Dir::Out), link(&data, Dir::Out), status]);
                equal("status", OK, disk.run(head)?.status)?;
                equal("header unchanged", true, before == header.bytes())?;
                equal("first byte of data that changed", None, data.differs(9))
            })
        },
    },
    Check {
        name: "queue/neighbours-are-left-alone",
        rule: "A device writes only what it was given",
        clause: "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        method: "Read a sector between two guards of 64 bytes",
        expectation: "The guards stay",
        run: |cx| {
            let mut disk = Disk::start(cx, 0, 8)?;
            let all = disk.dev.buffer(SECTOR_SIZE + 128)?;
            all.fill(0xa5);
            disk.read(0, &all.part(64, SECTOR_SIZE))?;
            equal("first byte changed before the buffer", None, all.part(0, 64).first_not(0xa5))?;
            equal("first byte changed after the buffer", None, all.part(64 + SECTOR_SIZE, 64).first_not(0xa5))
        },
    },
    Check {
        name: "queue/in-order-is-kept",
        rule: "With IN_ORDER buffers are used in the order in which they were made available",
        clause: "6.2 Device Requirements: Reserved Feature Bits",
        method: "Where offered: six rounds of five reads of 64, 1, 32, 1 and 8 sectors, in descriptors in ring order",
        expectation: "Ids in that order; one may stand for those before it",
        run: |cx| {
            const COUNTS: [usize; 5] = [64, 1, 32, 1, 8];
            let mut disk = Disk::start(cx, CommonFeatures::IN_ORDER.bits(), 16)?;
            disk.dev.needs(CommonFeatures::IN_ORDER)?;
            let size = disk.queue.size;
            if disk.capacity < 64 || size < 15 {
                return Err(skip("the disk or its queue is too small"));
            }
            let data = disk.sectors(COUNTS.iter().sum())?;
            let mut next = 0;
            for _ in 0..6 {
                let mut heads = Vec::new();
                let mut at = 0;
                for (slot, count) in (0..).zip(COUNTS) {
                    let part = data.part(at * SECTOR_SIZE, count * SECTOR_SIZE);
                    at += count;
                    let links = disk.links(slot, RequestType::IN, 0, &[link(&part, Dir::In)]);
                    // Descriptors in ring order, round and round.
                    let places: Vec<u16> = (next..next + 3).map(|place| place % size).collect();
                    next = (next + 3) % size;
                    let head = disk.queue.chain_at(&places, &links);
                    disk.queue.offer(head);
                    heads.push(u32::from(head));
                }
                disk.queue.publish();
                disk.queue.notify(&disk.dev);
                disk.queue.wait_for(5)?;
                // The device may write one element for a batch, in the slot of the first of it: the id is that of the last.
                let mut done = 0;
                while done < heads.len() {
                    let Some(used) = disk.queue.take() else { break };
                    let Some(behind) = heads[done..].iter().position(|&head| head == used.id) else {
                        return Err(fail("id of a used element", format_args!("one of {:?}", &heads[done..]), used.id));
                    };
                    for _ in 0..behind {
                        disk.queue.take();
                    }
                    done += behind + 1;
                }
                (0..5).try_for_each(|slot| equal(&format!("status of request {slot}"), OK, disk.status_of(slot)))?;
            }
            disk.dev.healthy()
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const OK: u8 = RequestStatus::OK.0;

    /// Reads of sector 0 at these heads, with one notification; each is used once.
    pub fn heads(cx: &Context, heads: &[u16]) -> Verdict {
        let mut disk = Disk::start(cx, 0, 64)?;
        let data = disk.sectors(heads.len())?;
        for (n, &head) in heads.iter().enumerate() {
            let sector = data.part(n * SECTOR_SIZE, SECTOR_SIZE);
            let links = disk.links(n as u16, RequestType::IN, 0, &[link(&sector, Dir::In)]);
            disk.queue.chain(head, &links);
            disk.queue.offer(head);
        }
        disk.queue.publish();
        disk.queue.notify(&disk.dev);
        let mut missing = heads.to_vec();
        for _ in heads {
            let used = disk.queue.wait()?;
            let Some(at) = missing.iter().position(|&head| u32::from(head) == used.id) else {
                return Err(fail("id of a used element", format_args!("one of {missing:?}"), used.id));
            };
            missing.swap_remove(at);
        }
        for n in 0..heads.len() as u16 {
            equal(&format!("status of request {n}"), OK, disk.status_of(n))?;
        }
        equal("used index", heads.len() as u16, disk.queue.used_index())
    }

    /// Not applicable where the device keeps a larger size: that is what `pci/queue-size-reads-back` is for.
    pub fn at_most(queue: &Queue, size: u16) -> Verdict {
        if queue.size <= size { Ok(()) } else { Err(skip(format!("the device keeps its own size of {}", queue.size))) }
    }
}
