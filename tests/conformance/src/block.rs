//! The block device: its configuration, reads and writes, errors. `ranges.rs` has discard and write zeroes.

use super::disk::{Answer, Disk, IOERR, OK, UNSUPP, UNWRITTEN, scratch};
use super::raw::{Buf, Dir, Link, link};
use super::{Context, Row, Verdict, advice, equal, holds, queues, ranges, skip};
use alloc::format;
use alloc::vec::Vec;
use core::mem::offset_of;
use shared_abi::virtio::blk::{Config, Features, ID_LEN, RequestType, SECTOR_SIZE};

pub const ROWS: &[Row] = &[
    ("block/capacity-is-not-0", |cx| {
        let disk = Disk::start(cx, 0, 8)?;
        holds(disk.capacity > 0, "capacity", "1 or more", disk.capacity)
    }),
    ("block/seg-max-is-valid", seg_max_is_valid),
    ("block/blk-size-is-valid", blk_size_is_valid),
    ("block/topology-is-valid", topology_is_valid),
    ("block/read-succeeds", |cx| {
        let mut disk = Disk::start(cx, 0, 8)?;
        let data = disk.sectors(1)?;
        disk.read(0, &data)
    }),
    ("block/reads-agree", reads_agree),
    ("block/large-read-agrees-with-small-ones", large_read_agrees),
    ("block/last-sector-reads", |cx| {
        let mut disk = Disk::start(cx, 0, 8)?;
        let data = disk.sectors(1)?;
        disk.read(disk.capacity - 1, &data)
    }),
    ("block/status-byte-is-written", status_byte_is_written),
    ("block/write-reads-back", |cx| write_reads_back(cx, 1)),
    ("block/large-write-reads-back", |cx| write_reads_back(cx, 32)),
    ("block/write-in-parts-reads-back", write_in_parts_reads_back),
    ("block/write-touches-its-sectors-only", write_touches_its_sectors_only),
    ("block/overwrite-wins", overwrite_wins),
    ("block/writes-in-flight-all-arrive", writes_in_flight_all_arrive),
    ("block/reads-in-flight-do-not-mix", reads_in_flight_do_not_mix),
    ("block/flush-succeeds", flush_succeeds),
    ("block/flush-behind-writes-succeeds", flush_behind_writes_succeeds),
    ("block/flushed-data-outlives-a-reset", flushed_data_outlives_a_reset),
    ("block/id-succeeds", id_succeeds),
    ("block/unknown-type-is-unsupported", |cx| {
        let mut disk = Disk::start(cx, 0, 8)?;
        for kind in [0x7fff, u32::MAX] {
            let answer = disk.request(RequestType(kind), 0, &[])?;
            equal(&format!("status of type {kind:#x}"), UNSUPP, answer.status)?;
        }
        Ok(())
    }),
    ("block/unknown-type-with-data-is-unsupported", |cx| {
        let mut disk = Disk::start(cx, 0, 8)?;
        let data = disk.sectors(1)?;
        equal("status", UNSUPP, disk.request(RequestType(0x7fff), 0, &[link(&data, Dir::In)])?.status)
    }),
    ("block/read-beyond-the-end-fails", |cx| fails(cx, 1, |disk| disk.capacity)),
    ("block/read-across-the-end-fails", |cx| fails(cx, 2, |disk| disk.capacity - 1)),
    ("block/read-of-sector-2-to-64-fails", |cx| {
        fails(cx, 1, |_| u64::MAX)?;
        fails(cx, 1, |_| 1 << 55)
    }),
    ("block/write-beyond-the-end-fails", write_beyond_the_end_fails),
    ("block/write-across-the-end-changes-nothing-inside", write_across_the_end),
    ("block/length-that-is-no-sector-fails", |cx| {
        let mut disk = Disk::start(cx, 0, 8)?;
        let data = disk.dev.buffer(100)?;
        let status = disk.request(RequestType::IN, 0, &[link(&data, Dir::In)])?.status;
        holds(status != OK && status != UNWRITTEN, "status", "an error", status)
    }),
    ("block/used-length-of-a-failed-read", used_length_of_a_failed_read),
    ("block/goes-on-after-errors", goes_on_after_errors),
    ("block/discard-succeeds", ranges::discard_succeeds),
    ("block/discard-leaves-neighbours", ranges::discard_leaves_neighbours),
    ("block/discard-beyond-the-end-fails", ranges::discard_beyond_the_end_fails),
    ("block/discard-with-unmap-is-unsupported", ranges::discard_with_unmap_is_unsupported),
    ("block/discard-limits-are-valid", |cx| {
        let fields = [offset_of!(Config, max_discard_sectors), offset_of!(Config, max_discard_seg)];
        ranges::limits(cx, Features::DISCARD, fields)
    }),
    ("block/write-zeroes-zeroes", |cx| ranges::zeroes(cx, 0)),
    ("block/write-zeroes-with-unmap-zeroes", |cx| ranges::zeroes(cx, 1)),
    ("block/write-zeroes-leaves-neighbours", ranges::write_zeroes_leaves_neighbours),
    ("block/write-zeroes-of-two-ranges", ranges::write_zeroes_of_two_ranges),
    ("block/write-zeroes-beyond-the-end-fails", ranges::write_zeroes_beyond_the_end_fails),
    ("block/write-zeroes-with-unknown-flags-is-unsupported", ranges::write_zeroes_with_unknown_flags),
    ("block/write-zeroes-limits-are-valid", |cx| {
        let fields = [offset_of!(Config, max_write_zeroes_sectors), offset_of!(Config, max_write_zeroes_seg)];
        ranges::limits(cx, Features::WRITE_ZEROES, fields)
    }),
    ("block/zeroes-then-write-keeps-the-write", ranges::zeroes_then_write),
    ("block/read-only-disk-refuses-writes", read_only_disk_refuses_writes),
    ("block/read-only-disk-refuses-ranges", read_only_disk_refuses_ranges),
    ("block/read-only-disk-serves-the-rest", read_only_disk_serves_the_rest),
    ("block/writeback-reads-as-written", writeback_reads_as_written),
    ("block/each-queue-answers", each_queue_answers),
    ("block/seg-max-segments-are-taken", seg_max_segments_are_taken),
    ("block/queues-serve-at-once", queues::serve_at_once),
    ("block/queues-answer-where-asked", queues::answer_where_asked),
    ("block/long-queue-holds-no-other-up", queues::long_queue_holds_no_other_up),
    ("block/flush-among-requests-in-flight", flush_among_requests),
    ("block/requests-not-offered-are-unsupported", not_offered_is_unsupported),
    ("block/discard-of-most-ranges", |cx| ranges::most(cx, ranges::Most::Discard)),
    ("block/write-zeroes-of-most-ranges", |cx| ranges::most(cx, ranges::Most::Zeroes)),
];

fn field(disk: &Disk<'_>, offset: usize, width: usize) -> u32 {
    disk.dev.regs().config_read(offset, width)
}

fn seg_max_is_valid(cx: &Context) -> Verdict {
    let disk = Disk::start_with(cx, Features::SEG_MAX)?;
    let seg_max = field(&disk, offset_of!(Config, seg_max), 4);
    holds((1..=32768).contains(&seg_max), "seg_max", "1 to 32768", seg_max)
}

fn blk_size_is_valid(cx: &Context) -> Verdict {
    let disk = Disk::start_with(cx, Features::BLK_SIZE)?;
    let size = field(&disk, offset_of!(Config, blk_size), 4);
    holds(size >= 512 && size.is_power_of_two(), "blk_size", "a power of 2 from 512 on", size)
}

fn topology_is_valid(cx: &Context) -> Verdict {
    let disk = Disk::start_with(cx, Features::TOPOLOGY)?;
    let exponent = field(&disk, offset_of!(Config, physical_block_exp), 1);
    let offset = field(&disk, offset_of!(Config, alignment_offset), 1);
    holds(exponent < 16, "physical_block_exp", "below 16", exponent)?;
    holds(offset < 1 << exponent, "alignment_offset", "inside of the block", offset)
}

fn reads_agree(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(2)?;
    let (first, second) = (data.part(0, SECTOR_SIZE), data.part(SECTOR_SIZE, SECTOR_SIZE));
    disk.read(0, &first)?;
    disk.read(0, &second)?;
    equal("both reads the same", true, first.bytes() == second.bytes())
}

fn large_read_agrees(cx: &Context) -> Verdict {
    const COUNT: usize = 128;
    let mut disk = Disk::start(cx, 0, 8)?;
    if disk.capacity < COUNT as u64 {
        return Err(skip("the disk is smaller than that"));
    }
    let (all, one) = (disk.sectors(COUNT)?, disk.sectors(1)?);
    disk.read(0, &all)?;
    // Each is a request and a comparison, which takes its time where instructions are emulated.
    for n in (0..COUNT).step_by(5) {
        disk.read(n as u64, &one)?;
        let same = one.bytes() == all.part(n * SECTOR_SIZE, SECTOR_SIZE).bytes();
        equal(&format!("sector {n} the same"), true, same)?;
    }
    Ok(())
}

fn status_byte_is_written(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(1)?;
    let answer = disk.request(RequestType::IN, 0, &[link(&data, Dir::In)])?;
    equal("status, which was 0xaa before", OK, answer.status)
}

fn write_reads_back(cx: &Context, count: usize) -> Verdict {
    scratch(cx, Features::empty(), count as u64, |disk, first| {
        let data = disk.sectors(count)?;
        data.pattern(0x11);
        disk.write(first, &data)?;
        data.fill(0);
        for n in 0..count {
            disk.read(first + n as u64, &data.part(n * SECTOR_SIZE, SECTOR_SIZE))?;
        }
        equal("first byte that is not as written", None, data.differs(0x11))
    })
}

fn write_in_parts_reads_back(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 8, |disk, first| {
        let data = disk.sectors(8)?;
        let sector = |n: usize| data.part((7 - n) * SECTOR_SIZE, SECTOR_SIZE);
        let links: Vec<Link> = (0..8).map(|n| link(&sector(n), Dir::Out)).collect();
        (0..8).for_each(|n| sector(n).pattern(n as u8));
        let answer = disk.request(RequestType::OUT, first, &links)?;
        disk.many(equal("status", OK, answer.status))?;
        let back = disk.sectors(1)?;
        for n in 0..8 {
            disk.read(first + u64::from(n), &back)?;
            equal(&format!("first byte of sector {n} that is not as written"), None, back.differs(n))?;
        }
        Ok(())
    })
}

fn write_touches_its_sectors_only(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 3, |disk, first| {
        let data = disk.sectors(3)?;
        data.pattern(0x22);
        disk.write(first, &data)?;
        let middle = disk.sectors(1)?;
        middle.fill(0xee);
        disk.write(first + 1, &middle)?;
        let expected = [data.part(0, SECTOR_SIZE).bytes(), data.part(2 * SECTOR_SIZE, SECTOR_SIZE).bytes()];
        disk.read(first, &data)?;
        equal("sector before as it was", true, expected[0] == data.part(0, SECTOR_SIZE).bytes())?;
        equal("sector behind as it was", true, expected[1] == data.part(2 * SECTOR_SIZE, SECTOR_SIZE).bytes())?;
        equal("first other byte in the middle", None, data.part(SECTOR_SIZE, SECTOR_SIZE).first_not(0xee))
    })
}

fn overwrite_wins(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 1, |disk, first| {
        let data = disk.sectors(1)?;
        for seed in [1, 2] {
            data.pattern(seed);
            disk.write(first, &data)?;
        }
        data.fill(0);
        disk.read(first, &data)?;
        equal("first byte that is not as written last", None, data.differs(2))
    })
}

/// Runs single-sector requests at once; sector n of `data` belongs to request n.
fn at_once(disk: &mut Disk<'_>, kind: RequestType, data: &Buf, sectors: &[u64]) -> Verdict {
    let dir = if kind == RequestType::IN { Dir::In } else { Dir::Out };
    for (n, &sector) in sectors.iter().enumerate() {
        let part = data.part(n * SECTOR_SIZE, SECTOR_SIZE);
        let links = disk.links(n as u16, kind, sector, &[link(&part, dir)]);
        let head = disk.queue.chain(3 * n as u16, &links);
        disk.queue.offer(head);
    }
    disk.queue.publish();
    disk.queue.notify(&disk.dev);
    disk.queue.skip(sectors.len() as u16)?;
    (0..sectors.len() as u16).try_for_each(|n| equal(&format!("status of request {n}"), OK, disk.status_of(n)))
}

fn writes_in_flight_all_arrive(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 8, |disk, first| {
        let data = disk.sectors(8)?;
        data.pattern(0x33);
        let sectors: Vec<u64> = (first..first + 8).collect();
        at_once(disk, RequestType::OUT, &data, &sectors)?;
        data.fill(0);
        disk.read(first, &data)?;
        equal("first byte that is not as written", None, data.differs(0x33))
    })
}

fn reads_in_flight_do_not_mix(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 16, |disk, first| {
        let data = disk.sectors(16)?;
        data.pattern(0x44);
        disk.write(first, &data)?;
        let sectors: Vec<u64> = (0..16).map(|n| first + (n * 7) % 16).collect();
        let back = disk.sectors(16)?;
        at_once(disk, RequestType::IN, &back, &sectors)?;
        for n in 0..16 {
            let expected = data.part(n * 7 % 16 * SECTOR_SIZE, SECTOR_SIZE).bytes();
            let same = back.part(n * SECTOR_SIZE, SECTOR_SIZE).bytes() == expected;
            equal(&format!("data of request {n} its own"), true, same)?;
        }
        Ok(())
    })
}

fn flush_succeeds(cx: &Context) -> Verdict {
    let mut disk = Disk::start_with(cx, Features::FLUSH)?;
    let answer = disk.request(RequestType::FLUSH, 0, &[])?;
    equal("status", OK, answer.status)?;
    super::queue::counted(1, answer.used.len)
}

fn flush_behind_writes_succeeds(cx: &Context) -> Verdict {
    scratch(cx, Features::FLUSH, 4, |disk, first| {
        let data = disk.sectors(4)?;
        data.pattern(0x55);
        disk.write(first, &data)?;
        equal("status of a flush", OK, disk.request(RequestType::FLUSH, 0, &[])?.status)?;
        data.fill(0);
        disk.read(first, &data)?;
        equal("first byte that is not as written", None, data.differs(0x55))
    })
}

fn flushed_data_outlives_a_reset(cx: &Context) -> Verdict {
    scratch(cx, Features::FLUSH, 4, |disk, first| {
        let data = disk.sectors(4)?;
        data.pattern(0x77);
        disk.write(first, &data)?;
        equal("status of a flush", OK, disk.request(RequestType::FLUSH, 0, &[])?.status)?;
        // Starting over resets the device.
        let mut again = Disk::start(cx, 0, 8)?;
        let data = again.sectors(4)?;
        again.read(first, &data)?;
        equal("first byte that is not as written", None, data.differs(0x77))
    })
}

fn id_succeeds(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.dev.buffer(ID_LEN)?;
    let mut ids = Vec::new();
    for _ in 0..2 {
        data.fill(0xff);
        equal("status", OK, disk.request(RequestType::GET_ID, 0, &[link(&data, Dir::In)])?.status)?;
        ids.push(data.bytes());
    }
    equal("the same id twice", true, ids[0] == ids[1])?;
    let strange = ids[0].iter().take_while(|&&byte| byte != 0).find(|byte| !(0x20..0x7f).contains(*byte));
    equal("byte of the id that is not printable", None, strange)
}

/// A read there ends in IOERR.
fn fails(cx: &Context, count: usize, sector: impl FnOnce(&Disk<'_>) -> u64) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let (data, sector) = (disk.sectors(count)?, sector(&disk));
    let status = disk.request(RequestType::IN, sector, &[link(&data, Dir::In)])?.status;
    equal(&format!("status of {count} sectors from {sector:#x}"), IOERR, status)
}

fn write_beyond_the_end_fails(cx: &Context) -> Verdict {
    scratch(cx, Features::empty(), 1, |disk, _| {
        let data = disk.sectors(1)?;
        let end = disk.capacity;
        equal("status", IOERR, disk.request(RequestType::OUT, end, &[link(&data, Dir::Out)])?.status)?;
        equal("capacity", end, disk.dev.regs().config_read64(0))
    })
}

fn write_across_the_end(cx: &Context) -> Verdict {
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
}

fn used_length_of_a_failed_read(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(1)?;
    let mut read = |preset| {
        data.fill(preset);
        disk.request(RequestType::IN, disk.capacity, &[link(&data, Dir::In)]).map(|answer| (answer, data.bytes()))
    };
    let ((first, before), (Answer { status, used }, after)) = (read(0x5a)?, read(0xa5)?);
    // What was written twice differs from a preset. The status counts only where it follows data without a gap.
    let written = before.iter().zip(&after).take_while(|bytes| *bytes != (&0x5a, &0xa5)).count();
    let most = written + usize::from(written == data.len());
    let (what, saw) = (format!("used length, {written} bytes written before a gap"), first.used.len.max(used.len));
    holds(saw as usize <= most, &what, format!("up to {most}"), saw)?;
    // No driver reads there: what the device says about it is its own.
    advice(holds(status != OK && status != UNWRITTEN, "status", "an error", status))
}

fn goes_on_after_errors(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, 0, 8)?;
    let data = disk.sectors(1)?;
    for _ in 0..5 {
        disk.request(RequestType(0x7fff), 0, &[])?;
        disk.request(RequestType(0xffff), 0, &[link(&data, Dir::In)])?;
    }
    disk.read(0, &data)?;
    disk.dev.healthy()
}

fn read_only_disk_refuses_writes(cx: &Context) -> Verdict {
    let mut disk = Disk::start_read_only(cx)?;
    let (before, data) = (disk.sectors(1)?, disk.sectors(1)?);
    disk.read(0, &before)?;
    data.pattern(0x31);
    equal("status", IOERR, disk.request(RequestType::OUT, 0, &[link(&data, Dir::Out)])?.status)?;
    disk.read(0, &data)?;
    equal("sector as it was", true, before.bytes() == data.bytes())
}

fn read_only_disk_refuses_ranges(cx: &Context) -> Verdict {
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
}

fn read_only_disk_serves_the_rest(cx: &Context) -> Verdict {
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
}

fn writeback_reads_as_written(cx: &Context) -> Verdict {
    let disk = Disk::start_with(cx, Features::CONFIG_WCE)?;
    let at = offset_of!(Config, writeback);
    let before = field(&disk, at, 1);
    holds(before <= 1, "writeback", "0 or 1", before)?;
    for value in [1 - before, before] {
        disk.dev.regs().config_write(at, 1, value);
        equal("writeback", value, field(&disk, at, 1))?;
    }
    Ok(())
}

fn each_queue_answers(cx: &Context) -> Verdict {
    let mut disk = Disk::start_with(cx, Features::MQ)?;
    let count = field(&disk, offset_of!(Config, num_queues), 2) as u16;
    holds(count >= 1, "num_queues", "1 or more", count)?;
    let data = disk.sectors(1)?;
    disk.read(0, &data)?;
    drop(disk);
    for index in 1..count {
        let mut disk = Disk::start_on(cx, Features::MQ.bits(), 8, index)?;
        let data = disk.sectors(1)?;
        disk.read(0, &data).map_err(|end| end.of(format_args!("queue {index}")))?;
    }
    Ok(())
}

fn seg_max_segments_are_taken(cx: &Context) -> Verdict {
    let mut disk = Disk::start(cx, Features::SEG_MAX.bits(), 256)?;
    disk.dev.needs(Features::SEG_MAX)?;
    let most = field(&disk, offset_of!(Config, seg_max), 4) as usize;
    let count = most.min(usize::from(disk.queue.size) - 2).min(disk.capacity as usize);
    let data = disk.sectors(count)?;
    let links: Vec<Link> = (0..count).map(|n| link(&data.part(n * SECTOR_SIZE, SECTOR_SIZE), Dir::In)).collect();
    equal(&format!("status with {count} buffers"), OK, disk.request(RequestType::IN, 0, &links)?.status)
}

fn flush_among_requests(cx: &Context) -> Verdict {
    scratch(cx, Features::FLUSH, 8, |disk, first| {
        let data = disk.sectors(8)?;
        data.pattern(0x2b);
        for n in 0..9u16 {
            // Four writes, a flush, four writes.
            let sector = usize::from(n - u16::from(n > 4)) % 8;
            let part = data.part(sector * SECTOR_SIZE, SECTOR_SIZE);
            let links = match n {
                4 => disk.links(n, RequestType::FLUSH, 0, &[]),
                _ => disk.links(n, RequestType::OUT, first + sector as u64, &[link(&part, Dir::Out)]),
            };
            let head = disk.queue.chain(3 * n, &links);
            disk.queue.offer(head);
        }
        disk.queue.publish();
        disk.queue.notify(&disk.dev);
        disk.queue.skip(9)?;
        (0..9).try_for_each(|n| equal(&format!("status of request {n}"), OK, disk.status_of(n)))?;
        data.fill(0);
        disk.read(first, &data)?;
        equal("first byte that is not as written", None, data.differs(0x2b))
    })
}

fn not_offered_is_unsupported(cx: &Context) -> Verdict {
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
}
