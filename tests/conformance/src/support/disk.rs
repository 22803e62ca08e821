//! A block device in the hands of the checks: requests whose parts can be laid out in any way.

use super::device::{Dev, Target, is_read_only};
use super::raw::{Buf, Dir, Link, Queue, Used, link};
use super::{Context, End, Verdict, advice, equal, fail, skip};
use alloc::vec::Vec;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::blk::{Features, RequestStatus, RequestType, SECTOR_SIZE};

/// Statuses of a request.
pub const OK: u8 = RequestStatus::OK.0;
pub const IOERR: u8 = RequestStatus::IOERR.0;
pub const UNSUPP: u8 = RequestStatus::UNSUPP.0;
/// What stands in a status byte before the device writes it.
pub const UNWRITTEN: u8 = 0xaa;
/// Requests that can be prepared at once.
pub const SLOTS: u16 = 64;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u8,
    pub used: Used,
}

/// A live block device.
pub struct Disk<'a> {
    pub dev: Dev<'a>,
    pub queue: Queue,
    pub capacity: u64,
    headers: Buf,
    statuses: Buf,
}

impl<'a> Disk<'a> {
    /// Starts the first one.
    ///
    /// # Errors
    /// Not applicable without one.
    pub fn start(cx: &'a Context, features: u64, size: u16) -> Result<Self, End> {
        Self::start_on(cx, features, size, 0)
    }

    /// The same through another queue.
    ///
    /// # Errors
    /// Not applicable without a disk.
    pub fn start_on(cx: &'a Context, features: u64, size: u16, queue: u16) -> Result<Self, End> {
        Self::open(cx.device(DeviceType::BLOCK)?, features, size, queue)
    }

    /// Starts the first one that is read-only.
    ///
    /// # Errors
    /// Not applicable without one.
    pub fn start_read_only(cx: &'a Context) -> Result<Self, End> {
        let Some(target) = cx.targets.iter().find(|target| is_read_only(target)) else {
            return Err(skip("no block device offers RO"));
        };
        Self::open(target, (Features::RO | Features::FLUSH).bits(), 16, 0)
    }

    fn open(target: &'a Target, features: u64, size: u16, queue: u16) -> Result<Self, End> {
        let dev = Dev::with_features(target, features)?;
        let queue = dev.queue(queue, size)?;
        dev.start()?;
        let headers = dev.buffer(usize::from(SLOTS) * 16)?;
        let statuses = dev.buffer(SLOTS.into())?;
        let capacity = dev.regs().config_read64(0);
        Ok(Self { dev, queue, capacity, headers, statuses })
    }

    /// The same with features that it must offer.
    ///
    /// # Errors
    /// Not applicable without them.
    pub fn start_with(cx: &'a Context, features: Features) -> Result<Self, End> {
        let disk = Self::start(cx, features.bits(), 64)?;
        disk.dev.needs(features)?;
        Ok(disk)
    }

    /// A verdict on a request with more than one buffer of data: advice where the device does not say how many it takes,
    /// for it may have a reasonable limit (2.7.4.1).
    pub fn many(&self, verdict: Verdict) -> Verdict {
        if self.dev.offered & Features::SEG_MAX.bits() != 0 { verdict } else { advice(verdict) }
    }

    /// Writes a header.
    pub fn header(&self, slot: u16, kind: RequestType, sector: u64) -> Buf {
        let header = self.headers.part(usize::from(slot) * 16, 16);
        header.write32(0, kind.0);
        header.write32(4, 0);
        header.write64(8, sector);
        header
    }

    /// A status byte that was not written yet.
    pub fn status(&self, slot: u16) -> Buf {
        let status = self.statuses.part(slot.into(), 1);
        status.write8(0, UNWRITTEN);
        status
    }

    /// What stands in a status byte.
    pub fn status_of(&self, slot: u16) -> u8 {
        self.statuses.read8(slot.into())
    }

    /// Header, data and status of a request.
    pub fn links(&self, slot: u16, kind: RequestType, sector: u64, data: &[Link]) -> Vec<Link> {
        let mut links = Vec::with_capacity(data.len() + 2);
        links.push(link(&self.header(slot, kind, sector), Dir::Out));
        links.extend(data);
        links.push(link(&self.status(slot), Dir::In));
        links
    }

    /// Runs a request in slot 0, described from descriptor 0 on.
    ///
    /// # Errors
    /// A failure when it is not answered.
    pub fn request(&mut self, kind: RequestType, sector: u64, data: &[Link]) -> Result<Answer, End> {
        let links = self.links(0, kind, sector, data);
        if links.len() > usize::from(self.queue.size) {
            return Err(skip(format_args!("the queue has only {} entries", self.queue.size)));
        }
        let head = self.queue.chain(0, &links);
        self.run(head)
    }

    /// Runs a chain whose status byte is that of slot 0.
    ///
    /// # Errors
    /// A failure when it is not answered.
    pub fn run(&mut self, head: u16) -> Result<Answer, End> {
        self.queue.send(&self.dev, head);
        let used = self.queue.wait()?;
        equal("id of the used element", u32::from(head), used.id)?;
        Ok(Answer { status: self.status_of(0), used })
    }

    /// Reads sectors.
    ///
    /// # Errors
    /// A failure when that fails.
    pub fn read(&mut self, sector: u64, buf: &Buf) -> Verdict {
        let answer = self.request(RequestType::IN, sector, &[link(buf, Dir::In)])?;
        equal("status of a read", RequestStatus::OK.0, answer.status)
    }

    /// Writes sectors.
    ///
    /// # Errors
    /// A failure when that fails.
    pub fn write(&mut self, sector: u64, buf: &Buf) -> Verdict {
        let answer = self.request(RequestType::OUT, sector, &[link(buf, Dir::Out)])?;
        equal("status of a write", RequestStatus::OK.0, answer.status)
    }

    /// A buffer of sectors.
    ///
    /// # Errors
    /// An error when there is no memory.
    pub fn sectors(&self, count: usize) -> Result<Buf, End> {
        self.dev.buffer(count * SECTOR_SIZE)
    }
}

/// Runs a check that writes to the last sectors of the disk, and puts back what was there.
pub fn scratch(
    cx: &Context,
    features: Features,
    count: u64,
    check: impl FnOnce(&mut Disk<'_>, u64) -> Verdict,
) -> Verdict {
    let mut disk = Disk::start_with(cx, features)?;
    if disk.dev.offered & Features::RO.bits() != 0 {
        return Err(skip("the disk is read-only"));
    }
    let Some(first) = disk.capacity.checked_sub(count) else {
        return Err(skip(format_args!("the disk has only {} sectors", disk.capacity)));
    };
    let before = disk.sectors(count as usize)?;
    disk.read(first, &before)?;
    let verdict = check(&mut disk, first);
    drop(disk);
    // The check may have left the device in any state, so this starts over.
    let restored = Disk::start(cx, 0, 64).and_then(|mut disk| {
        let copy = disk.sectors(count as usize)?;
        copy.put(&before.bytes());
        disk.write(first, &copy)
    });
    match restored {
        Err(End::Fail { saw, .. }) if verdict.is_ok() => Err(fail("writing back what was there", "ok", saw)),
        _ => verdict,
    }
}

pub fn plain(disk: &mut Disk<'_>, data: &Buf) -> Result<Vec<Link>, End> {
    Ok(disk.links(0, RequestType::IN, 0, &[link(data, Dir::In)]))
}
