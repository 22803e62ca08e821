//! The split virtqueue: used elements, order, sizes, resets. `chains.rs` has the shapes of chains, `suppress.rs`
//! notifications in both directions.

use super::chains::{self, Shape, plain, shape};
use super::device::Dev;
use super::disk::{Disk, scratch};
use super::raw::{Dir, Queue, link, wait_until};
use super::rng::Rng;
use super::{Context, Row, Verdict, advice, equal, error, fail, holds, skip, suppress};
use alloc::format;
use alloc::vec::Vec;
use shared_abi::virtio::CommonFeatures;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::blk::{Features, RequestStatus, RequestType, SECTOR_SIZE};
use shared_abi::virtio::ring;

pub const ROWS: &[Row] = &[
    ("queue/one-descriptor", chains::one_descriptor),
    ("queue/three-descriptors", |cx| {
        shape(cx, |disk, data| plain(disk, data).map(|links| disk.queue.chain(0, &links)))
    }),
    ("queue/descriptors-in-descending-order", |cx| {
        shape(cx, |disk, data| plain(disk, data).map(|links| disk.queue.chain_at(&[6, 3, 1], &links)))
    }),
    ("queue/header-in-two-parts", |cx| shape(cx, |disk, data| chains::divided_header(disk, data, 2))),
    ("queue/header-in-sixteen-parts", |cx| shape(cx, |disk, data| chains::divided_header(disk, data, 16))),
    ("queue/status-behind-data", chains::status_behind_data),
    ("queue/header-before-data", chains::header_before_data),
    ("queue/many-small-parts", chains::many_small_parts),
    ("queue/parts-of-odd-sizes-at-odd-addresses", chains::odd_parts),
    ("queue/part-across-a-page-boundary", chains::across_a_page),
    ("queue/longest-chain", |cx| chains::longest(cx, Shape::Direct)),
    ("queue/indirect-chain", |cx| chains::indirect_shape(cx, &[0, 1, 2])),
    ("queue/indirect-table-of-one", chains::indirect_table_of_one),
    ("queue/indirect-table-out-of-order", |cx| chains::indirect_shape(cx, &[0, 3, 1])),
    ("queue/longest-indirect-chain", |cx| chains::longest(cx, Shape::Indirect)),
    ("queue/indirect-and-direct-mixed", chains::indirect_and_direct_mixed),
    ("queue/used-length-of-a-read", used_length_of_a_read),
    ("queue/used-length-of-a-write", used_length_of_a_write),
    ("queue/used-id-is-the-head", used_id_is_the_head),
    ("queue/used-ring-is-written-in-turn", used_ring_is_written_in_turn),
    ("queue/batch-with-one-notification", |cx| heads(cx, &[0, 3, 6, 9, 12, 15, 18, 21])),
    ("queue/heads-in-any-order", |cx| heads(cx, &[9, 0, 6, 3])),
    ("queue/ids-are-reused", ids_are_reused),
    ("queue/small-size-works", small_size_works),
    ("queue/size-of-one-works", size_of_one_works),
    ("queue/largest-size-works", largest_size_works),
    ("queue/index-wraps-at-65536", |cx| suppress::wraps(cx, CommonFeatures::empty())),
    ("queue/event-index-wraps-at-65536", |cx| suppress::wraps(cx, CommonFeatures::EVENT_IDX)),
    ("queue/nothing-is-used-before-driver-ok", nothing_is_used_before_driver_ok),
    ("queue/offered-before-driver-ok-is-served-after", offered_before_driver_ok),
    ("queue/starts-over-after-a-reset", starts_over_after_a_reset),
    ("queue/reset-with-requests-in-flight", reset_with_requests_in_flight),
    ("queue/spurious-notification-is-harmless", spurious_notification_is_harmless),
    ("queue/descriptors-are-left-alone", descriptors_are_left_alone),
    ("queue/readable-buffers-are-left-alone", readable_buffers_are_left_alone),
    ("queue/neighbours-are-left-alone", neighbours_are_left_alone),
    ("queue/no-interrupt-is-followed", suppress::no_interrupt_is_followed),
    ("queue/interrupt-without-the-flag", suppress::interrupt_without_the_flag),
    ("queue/event-index-asks-for-interrupts", suppress::event_index_asks),
    ("queue/event-index-holds-interrupts-back", suppress::event_index_holds_back),
    ("queue/event-index-holds-the-first-interrupt-back", suppress::event_index_holds_the_first_back),
    ("queue/event-index-in-the-middle", suppress::event_index_in_the_middle),
    ("queue/event-index-overrules-the-flag", suppress::event_index_overrules_the_flag),
    ("queue/idle-device-asks-for-notifications", suppress::idle_device_asks),
    ("queue/idle-device-moves-avail-event", suppress::idle_device_moves_avail_event),
    ("queue/direct-then-indirect", chains::direct_then_indirect),
    ("queue/write-flag-of-a-table-is-ignored", chains::write_flag_of_a_table),
    ("queue/zero-length-part-is-survived", chains::zero_length_part),
    ("queue/in-order-is-kept", in_order),
];

const OK: u8 = RequestStatus::OK.0;

fn used_length_of_a_read(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(1)?;
    let answer = disk.request(RequestType::IN, 0, &[link(&data, Dir::In)])?;
    equal("status", OK, answer.status)?;
    counted(513, answer.used.len)
}

/// The used length may be an underestimate, which a driver takes for memory that was not written.
pub fn counted(written: u32, len: u32) -> Verdict {
    holds(len <= written, "used length", format_args!("at most {written}"), len)?;
    advice(equal("used length", written, len))
}

fn used_length_of_a_write(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 1, |disk, sector| {
        let data = disk.sectors(1)?;
        let answer = disk.request(RequestType::OUT, sector, &[link(&data, Dir::Out)])?;
        equal("status", OK, answer.status)?;
        counted(1, answer.used.len)
    })
}

fn used_id_is_the_head(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 16)?;
    let data = disk.sectors(1)?;
    for head in [0, 5, 9] {
        let links = plain(&mut disk, &data)?;
        let head = disk.queue.chain(head, &links);
        equal("status", OK, disk.run(head)?.status)?;
    }
    Ok(())
}

fn used_ring_is_written_in_turn(cx: &Context) -> Verdict {
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
}

/// Reads of sector 0 at these heads, with one notification; each is used once.
fn heads(cx: &Context, heads: &[u16]) -> Verdict {
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

fn ids_are_reused(cx: &Context) -> Verdict {
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
}

/// Not applicable where the device keeps a larger size: that is what `pci/queue-size-reads-back` is for.
fn at_most(queue: &Queue, size: u16) -> Verdict {
    if queue.size <= size { Ok(()) } else { Err(skip(format!("the device keeps its own size of {}", queue.size))) }
}

fn small_size_works(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 4)?;
    at_most(&disk.queue, 4)?;
    let data = disk.sectors(1)?;
    (0..10).try_for_each(|_| disk.read(0, &data))
}

fn size_of_one_works(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 1)?;
    at_most(&rng.queue, 1)?;
    let buf = rng.dev.buffer(16)?;
    (0..4).try_for_each(|_| rng.fill(&buf).map(drop))
}

fn largest_size_works(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, ring::MAX_SIZE)?;
    if disk.queue.size < 3 {
        return Err(error("the queue is too short"));
    }
    let data = disk.sectors(1)?;
    let links = plain(&mut disk, &data)?;
    let head = disk.queue.chain(disk.queue.size - 3, &links);
    equal("status", OK, disk.run(head)?.status)
}

fn nothing_is_used_before_driver_ok(cx: &Context) -> Verdict {
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
}

fn offered_before_driver_ok(cx: &Context) -> Verdict {
    let dev = Dev::with_features(cx.device(DeviceType::RNG)?, 0)?;
    let mut queue = dev.queue(0, 8)?;
    let buf = dev.buffer(16)?;
    let head = queue.chain(0, &[link(&buf, Dir::In)]);
    queue.offer(head);
    queue.publish();
    dev.start()?;
    queue.notify(&dev);
    queue.wait().map(drop)
}

fn starts_over_after_a_reset(cx: &Context) -> Verdict {
    {
        let mut disk = Disk::start(cx, 0, 8)?;
        let data = disk.sectors(1)?;
        (0..3).try_for_each(|_| disk.read(0, &data))?;
    }
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(1)?;
    disk.read(0, &data)?;
    equal("used index", 1, disk.queue.used_index())
}

fn reset_with_requests_in_flight(cx: &Context) -> Verdict {
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
}

fn spurious_notification_is_harmless(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(16)?;
    rng.fill(&buf)?;
    (0..10).for_each(|_| rng.queue.notify(&rng.dev));
    wait_until(5_000_000, || rng.queue.used_index() != 1);
    equal("used index", 1, rng.queue.used_index())?;
    rng.dev.healthy()
}

fn descriptors_are_left_alone(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(1)?;
    let links = plain(&mut disk, &data)?;
    let head = disk.queue.chain(0, &links);
    disk.queue.send(&disk.dev, head);
    let before = (disk.queue.table.bytes(), disk.queue.available.bytes());
    disk.queue.wait()?;
    equal("descriptor table unchanged", true, before.0 == disk.queue.table.bytes())?;
    equal("available ring unchanged", true, before.1 == disk.queue.available.bytes())
}

fn readable_buffers_are_left_alone(cx: &Context) -> Verdict {
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
}

fn neighbours_are_left_alone(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let all = disk.dev.buffer(SECTOR_SIZE + 128)?;
    all.fill(0xa5);
    disk.read(0, &all.part(64, SECTOR_SIZE))?;
    equal("first byte changed before the buffer", None, all.part(0, 64).first_not(0xa5))?;
    equal("first byte changed behind the buffer", None, all.part(64 + SECTOR_SIZE, 64).first_not(0xa5))
}

fn in_order(cx: &Context) -> Verdict {
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
}
