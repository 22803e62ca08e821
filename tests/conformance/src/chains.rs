//! Chains of every shape: what a driver may do with descriptors, one for one, out of order, divided, indirect.

use super::disk::{Disk, scratch};
use super::raw::{Buf, Dir, Link, PATIENCE, link, wait_until, write_descriptor, write_indirect};
use super::rng::Rng;
use super::{Context, End, Verdict, equal, holds};
use alloc::format;
use alloc::vec::Vec;
use shared_abi::virtio::blk::{Features, RequestStatus, RequestType, SECTOR_SIZE};
use shared_abi::virtio::ring::DescriptorFlags;
use shared_abi::virtio::{CommonFeatures, Status};

const OK: u8 = RequestStatus::OK.0;
const INDIRECT: CommonFeatures = CommonFeatures::INDIRECT_DESC;

pub fn one_descriptor(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(16)?;
    rng.fill(&buf).map(drop)
}

pub fn plain(disk: &mut Disk<'_>, data: &Buf) -> Result<Vec<Link>, End> {
    Ok(disk.links(0, RequestType::IN, 0, &[link(data, Dir::In)]))
}

/// Reads sector 0 plainly and by a chain of another shape; `build` writes it and returns its head.
pub fn shape(cx: &Context, build: impl FnOnce(&mut Disk<'_>, &Buf) -> Result<u16, End>) -> Verdict {
    shape_with(cx, CommonFeatures::empty(), 0, Parts::One, build)
}

/// How many buffers a sector is divided into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    One,
    Many,
}

/// The same with a feature, and with the data at an offset in its pages.
fn shape_with(
    cx: &Context,
    features: CommonFeatures,
    offset: usize,
    parts: Parts,
    build: impl FnOnce(&mut Disk<'_>, &Buf) -> Result<u16, End>,
) -> Verdict {
    let mut disk = Disk::start(cx, features.bits(), 64)?;
    disk.dev.needs(features)?;
    let expected = disk.sectors(1)?;
    disk.read(0, &expected)?;
    let data = disk.dev.buffer(offset + SECTOR_SIZE + 16)?.part(offset, SECTOR_SIZE);
    data.fill(0x5a);
    let head = build(&mut disk, &data)?;
    let answer = disk.run(head)?;
    let status = equal("status", OK, answer.status);
    if parts == Parts::Many {
        disk.many(status)?
    } else {
        status?
    }
    equal("data as from a plain read", true, expected.bytes() == data.bytes())?;
    disk.dev.healthy()
}

pub fn divided_header(disk: &mut Disk<'_>, data: &Buf, parts: usize) -> Result<u16, End> {
    let header = disk.header(0, RequestType::IN, 0);
    let size = 16 / parts;
    let mut links: Vec<Link> = (0..parts).map(|n| link(&header.part(n * size, size), Dir::Out)).collect();
    links.extend([link(data, Dir::In), link(&disk.status(0), Dir::In)]);
    Ok(disk.queue.chain(0, &links))
}

pub fn status_behind_data(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 64)?;
    let expected = disk.sectors(1)?;
    disk.read(0, &expected)?;
    let data = disk.dev.buffer(SECTOR_SIZE + 1)?;
    data.fill(0x5a);
    let header = link(&disk.header(0, RequestType::IN, 0), Dir::Out);
    let head = disk.queue.chain(0, &[header, link(&data, Dir::In)]);
    let used = disk.run(head)?.used;
    equal("status", OK, data.read8(SECTOR_SIZE))?;
    holds(used.len <= 513, "used length", "at most 513", used.len)?;
    equal("data as from a plain read", true, expected.bytes() == data.part(0, SECTOR_SIZE).bytes())
}

pub fn header_before_data(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 1, |disk, sector| {
        let message = disk.dev.buffer(16 + SECTOR_SIZE)?;
        message.pattern(3);
        message.write32(0, RequestType::OUT.0);
        message.write32(4, 0);
        message.write64(8, sector);
        let status = link(&disk.status(0), Dir::In);
        let head = disk.queue.chain(0, &[link(&message, Dir::Out), status]);
        equal("status", OK, disk.run(head)?.status)?;
        let back = disk.sectors(1)?;
        disk.read(sector, &back)?;
        equal("data as written", true, back.bytes() == message.part(16, SECTOR_SIZE).bytes())
    })
}

pub fn many_small_parts(cx: &Context) -> Verdict {
    shape_with(cx, CommonFeatures::empty(), 0, Parts::Many, |disk, data| {
        let mut parts = 32;
        if disk.dev.offered & Features::SEG_MAX.bits() != 0 {
            parts = parts.min(disk.dev.regs().config_read(12, 4).max(1) as usize);
        }
        while !SECTOR_SIZE.is_multiple_of(parts) || parts + 2 > usize::from(disk.queue.size) {
            parts -= 1;
        }
        let size = SECTOR_SIZE / parts;
        let links: Vec<Link> = (0..parts).map(|n| link(&data.part(n * size, size), Dir::In)).collect();
        let links = disk.links(0, RequestType::IN, 0, &links);
        Ok(disk.queue.chain(0, &links))
    })
}

pub fn odd_parts(cx: &Context) -> Verdict {
    shape_with(cx, CommonFeatures::empty(), 1, Parts::Many, |disk, data| {
        let mut at = 0;
        let links: Vec<Link> = [1, 3, 127, 381]
            .into_iter()
            .map(|len| {
                at += len;
                link(&data.part(at - len, len), Dir::In)
            })
            .collect();
        let links = disk.links(0, RequestType::IN, 0, &links);
        Ok(disk.queue.chain(0, &links))
    })
}

pub fn across_a_page(cx: &Context) -> Verdict {
    shape_with(cx, CommonFeatures::empty(), 4096 - 100, Parts::One, |disk, data| {
        plain(disk, data).map(|links| disk.queue.chain(0, &links))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Direct,
    Indirect,
}

pub fn longest(cx: &Context, shape: Shape) -> Verdict {
    let features = if shape == Shape::Indirect { INDIRECT } else { CommonFeatures::empty() };
    let mut rng = Rng::start(cx, features.bits(), 256)?;
    rng.dev.needs(features)?;
    let count = rng.queue.size;
    let data = rng.dev.buffer(count.into())?;
    let links: Vec<Link> = (0..count).map(|n| link(&data.part(n.into(), 1), Dir::In)).collect();
    let head = if shape == Shape::Indirect {
        let table = rng.dev.buffer(usize::from(count) * 16)?;
        write_indirect(&table, &links);
        rng.queue.indirect(0, &table, count)
    } else {
        rng.queue.chain(0, &links)
    };
    rng.queue.send(&rng.dev, head);
    let used = rng.queue.wait()?;
    holds((1..=u32::from(count)).contains(&used.len), "used length", format!("1 to {count}"), used.len)?;
    rng.dev.healthy()
}

pub fn indirect_shape(cx: &Context, places: &'static [u16]) -> Verdict {
    shape_with(cx, INDIRECT, 0, Parts::One, |disk, data| {
        let table = disk.dev.buffer(4 * 16)?;
        for (n, (address, len, dir)) in plain(disk, data)?.into_iter().enumerate() {
            let next = places.get(n + 1).copied();
            let mut flags = if dir == Dir::In { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
            flags.set(DescriptorFlags::NEXT, next.is_some());
            write_descriptor(&table, places[n], address, len, flags, next.unwrap_or(0));
        }
        Ok(disk.queue.indirect(5, &table, places.iter().max().map_or(1, |last| last + 1)))
    })
}

pub fn indirect_table_of_one(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, INDIRECT.bits(), 8)?;
    rng.dev.needs(INDIRECT)?;
    let (data, table) = (rng.dev.buffer(16)?, rng.dev.buffer(16)?);
    write_indirect(&table, &[link(&data, Dir::In)]);
    let head = rng.queue.indirect(2, &table, 1);
    rng.queue.send(&rng.dev, head);
    let used = rng.queue.wait()?;
    equal("id of the used element", 2, used.id)?;
    holds((1..=16).contains(&used.len), "used length", "1 to 16", used.len)
}

pub fn indirect_and_direct_mixed(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, INDIRECT.bits(), 64)?;
    disk.dev.needs(INDIRECT)?;
    let (data, tables) = (disk.sectors(8)?, disk.dev.buffer(8 * 64)?);
    for n in 0..8u16 {
        let at = usize::from(n);
        let sector = data.part(at * SECTOR_SIZE, SECTOR_SIZE);
        let links = disk.links(n, RequestType::IN, 0, &[link(&sector, Dir::In)]);
        let head = if n % 2 == 0 {
            let table = tables.part(at * 64, 48);
            write_indirect(&table, &links);
            disk.queue.indirect(3 * n, &table, 3)
        } else {
            disk.queue.chain(3 * n, &links)
        };
        disk.queue.offer(head);
    }
    disk.queue.publish();
    disk.queue.notify(&disk.dev);
    disk.queue.skip(8)?;
    for n in 0..8 {
        equal(&format!("status of request {n}"), OK, disk.status_of(n))?;
    }
    Ok(())
}

/// Header in the ring, the rest in a table behind it.
pub fn direct_then_indirect(cx: &Context) -> Verdict {
    shape_with(cx, INDIRECT, 0, Parts::One, |disk, data| {
        let links = plain(disk, data)?;
        let table = disk.dev.buffer(2 * 16)?;
        write_indirect(&table, &links[1..]);
        let (address, len, _) = links[0];
        write_descriptor(&disk.queue.table, 0, address, len, DescriptorFlags::NEXT, 4);
        disk.queue.indirect(4, &table, 2);
        Ok(0)
    })
}

pub fn write_flag_of_a_table(cx: &Context) -> Verdict {
    shape_with(cx, INDIRECT, 0, Parts::One, |disk, data| {
        let links = plain(disk, data)?;
        let table = disk.dev.buffer(3 * 16)?;
        write_indirect(&table, &links);
        let flags = DescriptorFlags::INDIRECT | DescriptorFlags::WRITE;
        write_descriptor(&disk.queue.table, 2, table.address(), 48, flags, 0);
        Ok(2)
    })
}

pub fn zero_length_part(cx: &Context) -> Verdict {
    {
        let mut disk = Disk::start(cx, 0, 8)?;
        let (expected, data) = (disk.sectors(1)?, disk.sectors(1)?);
        disk.read(0, &expected)?;
        let mut links = plain(&mut disk, &data)?;
        links.insert(1, (data.address(), 0, Dir::In));
        let head = disk.queue.chain(0, &links);
        disk.queue.send(&disk.dev, head);
        let gave_up = || disk.dev.regs().status() & Status::DEVICE_NEEDS_RESET.bits() != 0;
        let ended = wait_until(PATIENCE, || disk.queue.used_index() != disk.queue.seen() || gave_up());
        holds(ended, "a chain with an empty buffer", "an answer or DEVICE_NEEDS_RESET", "neither")?;
        if gave_up() {
            cx.did("the device asked for a reset");
        } else {
            equal("status", OK, disk.status_of(0))?;
            equal("data as from a plain read", true, expected.bytes() == data.bytes())?;
            cx.did("the buffer was passed over");
        }
    }
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(1)?;
    disk.read(0, &data)
}
