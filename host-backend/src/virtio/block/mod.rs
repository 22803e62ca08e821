//! The block device (section 5.2 "Block Device"): queues of requests over an [`Engine`].
//!
//! Data moves between the engine and guest memory without a copy in between, so that nothing here grows with what the
//! guest asks for. A bad request gets an error status; a chain without room for one is a [`Fault`].

pub mod engine;
mod latch;
mod request;

use super::queue::Chain;
use super::throttle::{Admission, Throttle};
use super::{Change, Changed, ConfigSpace, Device, Fault, Flush, Handled, Io, Progress, Signal, read_config_bytes};
use crate::config::{DiskAccess, RateLimit};
use crate::rate::{Clock, SystemClock};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::vmm::GuestRam;
pub use engine::{Engine, OpenError, RawFile, Space};
use latch::Latched;
use request::Request;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::blk::{
    Config, Features, ID_LEN, RequestHeader, RequestStatus, RequestType, SECTOR_SIZE, SEGMENT_UNMAP, Segment,
};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use zerocopy::IntoBytes;

const SECTOR: u64 = SECTOR_SIZE as u64;
const HEADER: u64 = size_of::<RequestHeader>() as u64;
const SEGMENT: u64 = size_of::<Segment>() as u64;
/// A chain of the largest queue, without header and status.
const SEG_MAX: u32 = super::queue::SIZE_MAX as u32 - 2;
const DISCARD_SEGMENTS_MAX: u32 = 16;
const DISCARD_SECTORS_MAX: u32 = 1 << 22;
/// Where the file system cannot, zeroes are written one by one; this bounds how long that takes.
const ZEROES_SECTORS_MAX: u32 = 1 << 16;

/// A block device.
pub struct Block {
    engine: Box<dyn Engine>,
    access: DiskAccess,
    id: [u8; ID_LEN],
    shape: Arc<Shape>,
    durable: Arc<Latched>,
    cache: Cache,
    throttle: Throttle,
}

/// What the configuration space says.
struct Shape {
    /// Bytes.
    len: AtomicU64,
    queues: u16,
}

impl ConfigSpace for Shape {
    fn read(&self, offset: usize, data: &mut [u8]) {
        let config = Config {
            capacity: self.len.load(Ordering::Relaxed) / SECTOR,
            seg_max: SEG_MAX,
            blk_size: SECTOR_SIZE as u32,
            num_queues: self.queues,
            max_discard_sectors: DISCARD_SECTORS_MAX,
            max_discard_seg: DISCARD_SEGMENTS_MAX,
            discard_sector_alignment: 8,
            max_write_zeroes_sectors: ZEROES_SECTORS_MAX,
            max_write_zeroes_seg: DISCARD_SEGMENTS_MAX,
            write_zeroes_may_unmap: 1,
            ..Config::default()
        };
        read_config_bytes(config.as_bytes(), offset, data);
    }
}

/// Whether writes may wait for a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    WriteBack,
    /// A driver that did not accept FLUSH has no way to ask for it.
    WriteThrough,
}

impl Block {
    /// A block device over `engine`. Of `serial`, the last 20 bytes are used.
    pub fn new(engine: Box<dyn Engine>, access: DiskAccess, serial: &str) -> Self {
        let bytes = serial.as_bytes();
        let tail = &bytes[bytes.len().saturating_sub(ID_LEN)..];
        let mut id = [0; ID_LEN];
        id[..tail.len()].copy_from_slice(tail);
        let shape = Arc::new(Shape { len: AtomicU64::new(engine.len()), queues: 1 });
        let durable = Arc::new(Latched::new(engine.flusher()));
        let throttle = Throttle::new(&RateLimit::default(), SystemClock::shared());
        Self { engine, access, id, shape, durable, cache: Cache::WriteBack, throttle }
    }

    /// The same with several queues. One thread serves them all, in turn, so that a request that was answered on one is
    /// done for all.
    #[must_use]
    pub fn with_queues(self, queues: u16) -> Self {
        let len = AtomicU64::new(self.engine.len());
        Self { shape: Arc::new(Shape { len, queues }), ..self }
    }

    /// The same with a limit of bytes and requests per second.
    #[must_use]
    pub fn with_limit(self, limit: &RateLimit, clock: Arc<dyn Clock>) -> Self {
        Self { throttle: Throttle::new(limit, clock), ..self }
    }

    /// Serves the requests of a queue as far as the limit goes.
    fn serve_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let mut held = false;
        let progress = io.drain_or_hold(index, |memory, chain, signal| {
            let request = Request::read(memory, chain)?;
            if let Some(cost) = request.cost()
                && self.throttle.admit(index, cost, signal) == Admission::Later
            {
                held = true;
                return Ok(Handled::Later);
            }
            Ok(Handled::Done(self.serve(memory, chain, &request, signal)))
        })?;
        if progress == Progress::Done && !held {
            self.throttle.forget(index, io.signal);
        }
        Ok(progress)
    }

    /// Serves one request; the last writable byte gets its status.
    fn serve(&mut self, memory: &GuestRam, chain: &Chain, request: &Request, signal: &Signal) -> u32 {
        let (status, written) = match self.execute(memory, chain, request, signal) {
            Ok(written) => (RequestStatus::OK, written),
            Err(refusal) => {
                signal.counters.errors.add(1);
                refusal.report(signal);
                // What a failed read left in the buffers is not data.
                (refusal.status(), 0)
            }
        };
        chain.write(memory, request.data_room, &[status.0]);
        // The used length counts from the first writable byte (2.7.8.2), so that the status counts only where it follows
        // the data without a gap. A chain is shorter than 4 GiB.
        if written == request.data_room { (request.data_room + 1) as u32 } else { written as u32 }
    }

    /// Returns how many bytes it wrote from the first writable one on.
    fn execute(
        &mut self,
        memory: &GuestRam,
        chain: &Chain,
        request: &Request,
        signal: &Signal,
    ) -> Result<u64, Refusal> {
        let &Request { kind, sector, data_len, data_room, .. } = request;
        let counters = &signal.counters;
        if request.is_oversized(&counters.oversized) {
            return Err(Refusal::Malformed);
        }
        match kind.ok_or(Refusal::Malformed)? {
            RequestType::IN => {
                let offset = self.range(sector, data_room)?;
                let done = self.engine.read_at(&chain.writable(memory, 0, data_room), offset);
                done.map_err(Refusal::storage("read", sector))?;
                counters.bytes_to_guest.add(data_room);
                return Ok(data_room);
            }
            RequestType::OUT => {
                self.may_write()?;
                let offset = self.range(sector, data_len)?;
                let done = self.engine.write_at(&chain.readable(memory, HEADER, data_len), offset);
                done.map_err(Refusal::storage("write", sector))?;
                counters.bytes_from_guest.add(data_len);
                self.write_through()?;
            }
            RequestType::FLUSH => self.durable.flush().map_err(Refusal::Flush)?,
            RequestType::GET_ID if data_room >= ID_LEN as u64 => {
                chain.write(memory, 0, &self.id);
                return Ok(ID_LEN as u64);
            }
            RequestType::GET_ID => return Err(Refusal::Malformed),
            what @ (RequestType::DISCARD | RequestType::WRITE_ZEROES) => {
                self.may_write()?;
                self.discard_or_zero(request.segments(), what)?;
                self.write_through()?;
            }
            _ => return Err(Refusal::Unknown),
        }
        Ok(0)
    }

    /// Checks all segments before the first one is executed.
    fn discard_or_zero(&mut self, segments: &[Segment], what: RequestType) -> Result<(), Refusal> {
        let discard = what == RequestType::DISCARD;
        let most = if discard { DISCARD_SECTORS_MAX } else { ZEROES_SECTORS_MAX };
        if segments.is_empty() {
            return Err(Refusal::Malformed);
        }
        for segment in segments {
            if segment.flags & !SEGMENT_UNMAP != 0 || discard && segment.flags != 0 {
                return Err(Refusal::Unknown);
            }
            if segment.num_sectors > most {
                return Err(Refusal::Malformed);
            }
            self.range(segment.sector, u64::from(segment.num_sectors) * SECTOR)?;
        }
        for segment in segments.iter().filter(|segment| segment.num_sectors != 0) {
            let (offset, len) = (segment.sector * SECTOR, u64::from(segment.num_sectors) * SECTOR);
            let done = match segment.flags {
                _ if discard => self.engine.discard(offset, len),
                SEGMENT_UNMAP => self.engine.write_zeroes(offset, len, Space::MayFree),
                _ => self.engine.write_zeroes(offset, len, Space::Keep),
            };
            let what = if discard { "discard" } else { "write-zeroes" };
            done.map_err(Refusal::storage(what, segment.sector))?;
        }
        Ok(())
    }

    /// The byte offset of a range of whole sectors on the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Refusal> {
        let offset = sector.checked_mul(SECTOR).ok_or(Refusal::Malformed)?;
        let end = offset.checked_add(len).ok_or(Refusal::Malformed)?;
        if len.is_multiple_of(SECTOR) && end <= self.engine.len() { Ok(offset) } else { Err(Refusal::Malformed) }
    }

    fn may_write(&self) -> Result<(), Refusal> {
        match self.access {
            DiskAccess::ReadOnly => Err(Refusal::Malformed),
            DiskAccess::ReadWrite if self.durable.has_failed() => Err(Refusal::Latched),
            DiskAccess::ReadWrite => Ok(()),
        }
    }

    fn write_through(&mut self) -> Result<(), Refusal> {
        if self.cache == Cache::WriteThrough { self.durable.flush().map_err(Refusal::Flush) } else { Ok(()) }
    }
}

/// Why a request was not done.
#[derive(Debug)]
enum Refusal {
    /// It makes no sense, or goes beyond the disk's end, or writes to a read-only disk.
    Malformed,
    /// There is no such request.
    Unknown,
    /// The storage failed to do this at a sector.
    Storage { what: &'static str, sector: u64, error: io::Error },
    /// What was written may be lost.
    Flush(io::Error),
    /// It writes to a disk that lost writes.
    Latched,
}

impl Refusal {
    fn storage(what: &'static str, sector: u64) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Storage { what, sector, error }
    }

    fn status(&self) -> RequestStatus {
        match self {
            Self::Malformed | Self::Storage { .. } | Self::Flush(_) | Self::Latched => RequestStatus::IOERR,
            Self::Unknown => RequestStatus::UNSUPP,
        }
    }

    /// What is the host's trouble and not the guest's doing is for the host's user to know.
    fn report(&self, signal: &Signal) {
        match self {
            Self::Malformed | Self::Unknown => {}
            Self::Storage { what, sector, error } => {
                signal.report(what, || {
                    format!("{what} error at sector {sector}: {error}; further ones are only counted")
                });
            }
            Self::Flush(error) => {
                signal.report("flush", || format!("flush failed: {error}; the disk takes no more writes"));
            }
            Self::Latched => signal.report("write refused", || "a write was refused after the failed flush".into()),
        }
    }
}

impl Device for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn features(&self) -> u64 {
        let always = Features::SEG_MAX | Features::BLK_SIZE | Features::FLUSH;
        let by_access = match self.access {
            DiskAccess::ReadOnly => Features::RO,
            DiskAccess::ReadWrite => Features::DISCARD | Features::WRITE_ZEROES,
        };
        let by_queues = if self.shape.queues > 1 { Features::MQ } else { Features::empty() };
        (always | by_access | by_queues).bits()
    }

    fn queue_count(&self) -> usize {
        self.shape.queues.into()
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.shape.clone()
    }

    fn activate(&mut self, features: u64) {
        let accepted = Features::from_bits_truncate(features);
        self.cache = if accepted.contains(Features::FLUSH) { Cache::WriteBack } else { Cache::WriteThrough };
    }

    fn reset(&mut self) {
        self.cache = Cache::WriteBack;
        self.throttle.clear();
    }

    fn reset_queue(&mut self, _index: usize) {
        self.throttle.queue_was_reset();
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        self.serve_queue(index, io)
    }

    fn wake_at(&self) -> Option<Instant> {
        self.throttle.wake_at()
    }

    /// Lets the queues that wait go on, in turn, as far as there are tokens.
    fn process_timer(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        while let Some(first) = self.throttle.first() {
            if self.serve_queue(first, io)? == Progress::More {
                self.throttle.queue_up(first);
                break;
            }
            if self.throttle.first() == Some(first) {
                break;
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<Changed, String> {
        let Change::Size(len) = change else { return Err("a disk has no cable".into()) };
        if len == 0 || !len.is_multiple_of(SECTOR) {
            return Err(format!("a disk has whole sectors of {SECTOR} bytes, at least one, not {len} bytes"));
        }
        if len == self.engine.len() {
            return Ok(Changed::Nothing);
        }
        self.engine.resize(len, self.access).map_err(|error| format!("resize to {len} bytes: {error}"))?;
        Ok(Changed::Config)
    }

    fn show(&mut self) {
        self.shape.len.store(self.engine.len(), Ordering::Relaxed);
    }

    fn flusher(&self) -> Option<Arc<dyn Flush>> {
        (self.access == DiskAccess::ReadWrite).then(|| self.durable.clone() as Arc<dyn Flush>)
    }
}

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
