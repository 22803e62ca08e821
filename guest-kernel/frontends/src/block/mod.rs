//! The block driver (section 5.2): requests with owned buffers in, completions out.
//!
//! Made by the kernel for each block device; used by its file systems and its shell. It checks every request against
//! the disk before the device sees it, and splits what is larger than a limit of the device.
//!
//! A request becomes a job, a job is sent as one or more parts, and each part is one chain of the ring: header,
//! data or range, status. The small fields of a part live in a slot of DMA memory that has the number of the chain's
//! head, so nothing is allocated per request.
//!
//! A device that fails is restarted, and what it had is given to it once more, from the start: reads, flushes and ids
//! change nothing, and a write, discard or write-zeroes that has not ended may take effect at any time until it has, so
//! doing it again is one of the orders that its user has to expect. None of it is still at work in a device that has
//! confirmed its reset. A request that meets a second failure fails, for it may be the cause.

mod chain;
mod job;
mod limits;
mod request;
mod requests;

pub use request::{
    Completion, ID_LEN, Output, Rejected, Rejection, Request, RequestError, SECTOR_SIZE, Token, Unmap, whole_blocks,
};
pub use requests::Requests;

use crate::device::{Device, Driver};
use crate::error::{InitError, Violation};
use crate::memory::DmaPages;
use crate::ring::{Ring, Segment, Used};
use crate::transport::Transport;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use chain::Slots;
use job::Job;
use limits::Limits;
use virtio_abi::DeviceType;
use virtio_abi::blk::{Features, RequestStatus, RequestType};

/// What we make use of.
const SUPPORTED: Features = Features::SIZE_MAX
    .union(Features::SEG_MAX)
    .union(Features::RO)
    .union(Features::BLK_SIZE)
    .union(Features::FLUSH)
    .union(Features::DISCARD)
    .union(Features::WRITE_ZEROES);

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Entries of the ring, at most; also the largest number of requests that are pending.
    pub queue_size: u16,
    /// Data segments of one ring request, at most; only a device with a limit on segment sizes makes more than one.
    pub segments: u16,
    /// Nanoseconds that a request may take before the device is restarted; 0 for any time. A caller that sets it calls
    /// [`Block::check_time`] from time to time.
    pub patience: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { queue_size: 64, segments: 30, patience: 0 }
    }
}

/// Times that a request is given to a restarted device again.
const REISSUES: u32 = 1;

/// A chain that the device has.
#[derive(Clone, Copy, Default)]
struct InFlight {
    /// Number of the job.
    job: u16,
    /// Bytes of data that the device is to write.
    wanted: u32,
}

/// A block device.
pub struct Block<T: Transport> {
    device: Device<T>,
    ring: Ring,
    limits: Limits,
    slots: Slots,
    /// By head.
    in_flight: Vec<InFlight>,
    jobs: Vec<Option<Job>>,
    free_jobs: Vec<u16>,
    /// The token of the next request: counted up, so that none is used twice.
    next_token: u64,
    /// Numbers of jobs with parts to send, and jobs that ended, oldest first.
    waiting: VecDeque<u16>,
    finished: VecDeque<u16>,
    patience: u64,
    /// The segments of the chain that is being made.
    scratch: Vec<Segment>,
    leaked_pages: usize,
}

impl<T: Transport> Block<T> {
    /// Brings a device up.
    pub fn new(transport: T, dma: &'static dyn DmaPages, settings: Settings) -> Result<Self, InitError> {
        let mut device = Device::begin(transport, DeviceType::BLOCK, SUPPORTED.bits())?;
        let mut limits = Limits::read(&device, settings.segments).map_err(|error| device.give_up(error))?;
        let ring = device.ring(0, settings.queue_size, limits.segments.saturating_add(2), dma)?;
        let size = usize::from(ring.size());
        if ring.chain() < 3 {
            return Err(device.give_up(InitError::BadQueue { queue: 0, size: size as u32 }));
        }
        limits.segments = ring.chain() - 2;
        if limits.transfer() == 0 {
            let value = limits.block_size.into();
            return Err(device.give_up(InitError::BadConfig { field: "blk_size", value }));
        }
        let Some(slots) = Slots::allocate(dma, size) else {
            return Err(device.give_up(InitError::NoMemory { what: "block requests" }));
        };
        device.start();
        Ok(Self {
            device,
            limits,
            slots,
            in_flight: vec![InFlight::default(); size],
            jobs: (0..size).map(|_| None).collect(),
            free_jobs: (0..ring.size()).rev().collect(),
            next_token: 0,
            waiting: VecDeque::with_capacity(size),
            finished: VecDeque::with_capacity(size),
            patience: settings.patience,
            scratch: Vec::with_capacity(ring.chain().into()),
            ring,
            leaked_pages: 0,
        })
    }

    /// Sectors of 512 bytes in whole blocks; follows the device when it changes.
    pub fn capacity(&self) -> u64 {
        self.limits.capacity
    }

    /// Whether writes, discards and write-zeroes are rejected.
    pub fn read_only(&self) -> bool {
        self.has(Features::RO)
    }

    /// The block size, in bytes: all ranges start and end with a block.
    pub fn block_size(&self) -> u32 {
        self.limits.block_size
    }

    /// Whether the device has a cache to flush; without one, flushes complete at once.
    pub fn has_flush(&self) -> bool {
        self.has(Features::FLUSH)
    }

    /// Whether the device takes discards.
    pub fn has_discard(&self) -> bool {
        self.has(Features::DISCARD)
    }

    /// Whether the device takes write-zeroes.
    pub fn has_write_zeroes(&self) -> bool {
        self.has(Features::WRITE_ZEROES)
    }

    /// Takes a request; call [`Driver::kick`] after the last one of a batch. A request that cannot be taken comes
    /// back with its buffer.
    pub fn submit(&mut self, mut request: Request) -> Result<Token, Rejected> {
        if let Err(reason) = self.check(&request) {
            return Err(Rejected { reason, request });
        }
        let Some(number) = self.free_jobs.pop() else {
            return Err(Rejected { reason: Rejection::Full, request });
        };
        if !request.lend() {
            self.free_jobs.push(number);
            return Err(Rejected { reason: Rejection::NotMapped, request });
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        if matches!(request, Request::Flush) && !self.has_flush() {
            self.jobs[usize::from(number)] = Some(Job::done(token));
            self.finished.push_back(number);
        } else {
            self.jobs[usize::from(number)] = Some(Job::new(token, request));
            self.waiting.push_back(number);
            self.send_waiting();
        }
        Ok(token)
    }

    /// The next request that ended, in the order in which the device ended them. Sends what waited for room.
    pub fn poll(&mut self) -> Option<Completion> {
        let mut sent = false;
        while self.finished.is_empty() && self.device.is_live() {
            match self.ring.pop() {
                Ok(Some(used)) => {
                    self.end_part(used);
                    sent |= self.send_waiting();
                }
                Ok(None) => break,
                Err(violation) => self.fail(violation),
            }
        }
        if sent {
            self.device.kick(&mut self.ring);
        }
        let number = self.finished.pop_front()?;
        let job = self.jobs[usize::from(number)].take()?;
        self.free_jobs.push(number);
        Some(Completion { token: job.token, result: job.result, buffer: job.buffer })
    }

    /// Restarts a device that has had a request for too long. Call it when all completions are taken, with a time that only
    /// grows, in nanoseconds; a request's time begins with the first call that finds it. Returns when to call it again, unless
    /// an interrupt comes before.
    pub fn check_time(&mut self, now: u64) -> Option<u64> {
        if self.patience == 0 {
            return None;
        }
        let mut oldest = self.oldest(now)?;
        if now >= oldest.saturating_add(self.patience) {
            self.fail(Violation::Timeout { milliseconds: self.patience / 1_000_000 });
            oldest = self.oldest(now)?;
        }
        Some(oldest.saturating_add(self.patience))
    }

    /// Since when the oldest request is pending; `now` for those that were not looked for yet.
    fn oldest(&mut self, now: u64) -> Option<u64> {
        let pending = self.jobs.iter_mut().flatten().filter(|job| !job.is_finished());
        pending.map(|job| *job.since.get_or_insert(now)).min()
    }

    /// Requests that were taken and whose completion was not.
    pub fn pending(&self) -> usize {
        self.jobs.len() - self.free_jobs.len()
    }

    fn has(&self, feature: Features) -> bool {
        self.limits.features.contains(feature)
    }

    fn check(&self, request: &Request) -> Result<(), Rejection> {
        if let Some(violation) = self.device.broken() {
            return Err(Rejection::Broken(violation));
        }
        let writes = !matches!(request, Request::Read { .. } | Request::Flush | Request::Id);
        if writes && self.read_only() {
            return Err(Rejection::ReadOnly);
        }
        let (sector, sectors) = match *request {
            Request::Read { sector, ref buffer } | Request::Write { sector, ref buffer } => {
                if buffer.is_empty() || !buffer.len().is_multiple_of(SECTOR_SIZE) {
                    return Err(Rejection::BadLength { len: buffer.len() });
                }
                (sector, (buffer.len() / SECTOR_SIZE) as u64)
            }
            Request::Discard { .. } if !self.has_discard() => return Err(Rejection::Unsupported),
            Request::WriteZeroes { .. } if !self.has_write_zeroes() => return Err(Rejection::Unsupported),
            Request::Discard { sector, sectors } | Request::WriteZeroes { sector, sectors, .. } => {
                if sectors == 0 {
                    return Err(Rejection::BadLength { len: 0 });
                }
                (sector, sectors)
            }
            Request::Flush | Request::Id => return Ok(()),
        };
        let (capacity, block_size) = (self.capacity(), self.block_size());
        if sector.checked_add(sectors).is_none_or(|end| end > capacity) {
            return Err(Rejection::OutOfRange { sector, sectors, capacity });
        }
        match whole_blocks(sector, sectors, block_size) {
            Some(whole) if whole == (sector, sectors) => Ok(()),
            _ => Err(Rejection::Misaligned { sector, sectors, block_size }),
        }
    }

    /// Sends parts of waiting jobs while there is room. True if it sent any.
    fn send_waiting(&mut self) -> bool {
        let mut sent = false;
        while let Some(&number) = self.waiting.front() {
            let Some(job) = self.jobs[usize::from(number)].as_mut().filter(|job| job.has_more()) else {
                self.waiting.pop_front();
                continue;
            };
            // Room for the longest chain, so that a part that was cut off is surely sent.
            if !self.ring.has_room(self.ring.chain().into()) {
                break;
            }
            let part = job.next_part(&self.limits);
            let head = self.ring.next_head();
            let wanted = self.slots.make_chain(&mut self.scratch, head, job, part, &self.limits);
            let pushed = self.ring.push(&self.scratch);
            debug_assert_eq!(pushed, Some(head));
            job.in_flight += 1;
            self.in_flight[usize::from(head)] = InFlight { job: number, wanted };
            sent = true;
        }
        sent
    }

    /// Notes how a part ended, and the whole job if it was the last.
    fn end_part(&mut self, used: Used) {
        let InFlight { job: number, wanted } = self.in_flight[usize::from(used.head)];
        let Some(job) = self.jobs[usize::from(number)].as_mut() else { return };
        match self.slots.status(used.head) {
            RequestStatus::OK if used.len < wanted => job.fail(RequestError::Short { wanted, written: used.len }),
            RequestStatus::OK if job.request_type == RequestType::GET_ID => {
                job.result = Ok(Output::Id(self.slots.id(used.head)));
            }
            RequestStatus::OK => {}
            RequestStatus::IOERR => job.fail(RequestError::Io),
            RequestStatus::UNSUPP => job.fail(RequestError::Unsupported),
            RequestStatus(status) => job.fail(RequestError::BadStatus { status }),
        }
        job.in_flight -= 1;
        if job.is_finished() {
            job.take_buffer_back();
            self.finished.push_back(number);
        }
    }
}

impl<T: Transport> Driver for Block<T> {
    type Transport = T;

    fn device(&self) -> &Device<T> {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device<T> {
        &mut self.device
    }

    /// Stops the device and ends all jobs. Their buffers go back to their owners only if the device confirmed its
    /// reset.
    fn stop(&mut self, reason: Violation) {
        let was_stopped = self.device.broken().is_some();
        let confirmed = self.device.stop(reason);
        if was_stopped {
            return;
        }
        for (number, job) in (0..).zip(&mut self.jobs) {
            let Some(job) = job.as_mut().filter(|job| !job.is_finished()) else { continue };
            job.fail(RequestError::Broken(reason));
            job.in_flight = 0;
            if confirmed {
                job.take_buffer_back();
            } else if let Some(mut buffer) = job.buffer.take() {
                self.leaked_pages += buffer.leak();
            }
            self.finished.push_back(number);
        }
        self.waiting.clear();
        if !confirmed {
            self.leaked_pages += self.ring.leak() + self.slots.leak();
        }
    }

    /// Gives the device again what it had, unless it had that again already.
    fn restart(&mut self, reason: Violation) -> Result<(), InitError> {
        let mut limits = Limits::read(&self.device, self.ring.chain() - 2)?;
        limits.segments = limits.segments.min(self.ring.chain() - 2);
        if limits.block_size != self.limits.block_size || limits.transfer() == 0 {
            return Err(InitError::BadConfig { field: "blk_size", value: limits.block_size.into() });
        }
        self.limits = limits;
        self.device.ring_again(&mut self.ring)?;
        self.device.start();
        self.waiting.clear();
        let mut again: Vec<(Token, u16)> = Vec::new();
        for (number, job) in (0..).zip(&mut self.jobs) {
            let Some(job) = job.as_mut().filter(|job| !job.is_finished()) else { continue };
            if job.result.is_ok() && job.was_sent() {
                job.reissued += 1;
                if job.reissued > REISSUES {
                    job.fail(RequestError::GivenUp(reason));
                }
            }
            if job.result.is_ok() {
                job.rewind();
                again.push((job.token, number));
            } else {
                job.in_flight = 0;
                job.take_buffer_back();
                self.finished.push_back(number);
            }
        }
        again.sort_unstable();
        self.waiting.extend(again.iter().map(|(_, number)| number));
        self.send_waiting();
        self.kick();
        Ok(())
    }

    fn config_changed(&mut self) {
        match self.device.config(|fields| fields.u64(0)).and_then(limits::check_capacity) {
            Ok(capacity) => self.limits.set_capacity(capacity),
            Err(InitError::BadConfig { field, value }) => self.fail(Violation::BadConfig { field, value }),
            Err(error) => log::warn!("block: capacity stays: {error}"),
        }
    }

    fn enable_interrupts(&mut self) -> bool {
        !self.finished.is_empty() || (self.device.is_live() && self.ring.enable_interrupts())
    }

    fn disable_interrupts(&mut self) {
        self.ring.disable_interrupts();
    }

    fn kick(&mut self) {
        self.device.kick(&mut self.ring);
    }

    fn leaked_pages(&self) -> usize {
        self.leaked_pages
    }
}

impl<T: Transport> Drop for Block<T> {
    fn drop(&mut self) {
        self.stop(Violation::ShutDown);
    }
}
