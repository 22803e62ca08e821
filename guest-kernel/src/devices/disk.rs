//! A disk: one of two drivers with the same requests. Tasks await them; libraries wait synchronously.

use crate::cmdline::Cmdline;
use crate::devices::place::{AnyTransport, Place};
use crate::devices::reference;
use crate::mm::dma::{DMA, ReferenceHal};
use crate::task::{self, Event};
use crate::trap::Interrupts;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;
use core::task::{Poll, Waker};
use frontends::block::{
    Completion, Output, Request, RequestError, Requests, SECTOR_SIZE, Settings, Token, Unmap, whole_blocks,
};
use frontends::{Block, DmaBuffer, Driver};
use pvops::time;
use shared_abi::virtio::blk::{Config, Features};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::Transport as _;

/// How long a synchronous request may take: no other task runs meanwhile.
const PATIENCE: u64 = 10_000_000_000;
/// How long any request may take, in seconds, before the disk is restarted: as long as Linux waits for one.
const TIMEOUT: u64 = 30;

/// The driver's settings, with `disk_timeout=` seconds for a request, 0 for any time.
pub fn settings(cmdline: Cmdline) -> Settings {
    let seconds = match cmdline.value("disk_timeout").map(str::parse) {
        None => TIMEOUT,
        Some(Ok(seconds)) => seconds,
        Some(Err(_)) => {
            log::warn!("disk_timeout: not a number of seconds; taking {TIMEOUT}");
            TIMEOUT
        }
    };
    Settings { patience: seconds.saturating_mul(1_000_000_000), ..Settings::default() }
}

/// A disk.
pub struct Disk {
    driver: DiskDriver,
    /// Held by a write where blocks are larger than sectors: those around its range are read and written back.
    writing: Cell<bool>,
    written: Event,
}

enum DiskDriver {
    Own(Own),
    Reference { driver: RefCell<VirtIOBlk<ReferenceHal, reference::ReferenceTransport>>, block_size: u32 },
}

/// Our driver, for all tasks that use the disk.
struct Own {
    requests: RefCell<Requests<AnyTransport>>,
    interrupts: Interrupts,
}

/// A request that is waited for; abandoned when dropped.
struct Pending<'a> {
    own: &'a Own,
    token: Token,
}

/// Why a request did not succeed.
#[derive(Clone, Debug)]
pub struct DiskError(pub String);

impl core::fmt::Display for DiskError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for DiskError {}

impl From<RequestError> for DiskError {
    fn from(error: RequestError) -> Self {
        Self(error.to_string())
    }
}

impl Disk {
    /// With our driver.
    pub fn own(block: Block<AnyTransport>, interrupts: Interrupts) -> Self {
        Self::new(DiskDriver::Own(Own { requests: RefCell::new(Requests::new(block)), interrupts }))
    }

    /// With the reference driver.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reference(place: &Place) -> Result<Self, String> {
        let mut transport = reference::transport(place)?;
        // The crate does not report it.
        let offered = Features::from_bits_truncate(transport.read_device_features());
        let size: Option<u32> = offered
            .contains(Features::BLK_SIZE)
            .then(|| transport.read_config_space(offset_of!(Config, blk_size)).ok())
            .flatten();
        let block_size = size.filter(|size| size.is_power_of_two() && *size >= SECTOR_SIZE as u32);
        let driver = RefCell::new(VirtIOBlk::new(transport).map_err(|error| error.to_string())?);
        Ok(Self::new(DiskDriver::Reference { driver, block_size: block_size.unwrap_or(SECTOR_SIZE as u32) }))
    }

    fn new(driver: DiskDriver) -> Self {
        Self { driver, writing: Cell::new(false), written: Event::new() }
    }

    /// Bytes of a block. Whatever is read or written, the device is asked for whole blocks.
    pub fn block_size(&self) -> u32 {
        match &self.driver {
            DiskDriver::Own(own) => own.requests.borrow().block().block_size(),
            DiskDriver::Reference { block_size, .. } => *block_size,
        }
    }

    /// Sectors of 512 bytes.
    pub fn capacity(&self) -> u64 {
        match &self.driver {
            DiskDriver::Own(own) => {
                own.service();
                own.requests.borrow().block().capacity()
            }
            DiskDriver::Reference { driver, .. } => driver.borrow().capacity(),
        }
    }

    /// Whether it refuses writes.
    pub fn read_only(&self) -> bool {
        match &self.driver {
            DiskDriver::Own(own) => own.requests.borrow().block().read_only(),
            DiskDriver::Reference { driver, .. } => driver.borrow().readonly(),
        }
    }

    /// Which requests there are besides reading and writing.
    pub fn abilities(&self) -> String {
        match &self.driver {
            DiskDriver::Own(own) => {
                let requests = own.requests.borrow();
                let block = requests.block();
                [
                    (block.has_flush(), "flush "),
                    (block.has_discard(), "discard "),
                    (block.has_write_zeroes(), "write-zeroes "),
                ]
                .into_iter()
                .filter_map(|(has, name)| has.then_some(name))
                .collect::<String>()
                .trim_end()
                .to_string()
            }
            DiskDriver::Reference { .. } => "flush".to_string(),
        }
    }

    /// Notifications so far, where the driver counts them.
    pub fn notifications(&self) -> Option<u64> {
        match &self.driver {
            DiskDriver::Own(own) => Some(own.requests.borrow().block().notifications()),
            DiskDriver::Reference { .. } => None,
        }
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn read(&self, sector: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let around = self.around(sector, len)?;
        let bytes = match &self.driver {
            DiskDriver::Own(_) => {
                let (_, buffer) = self.run(Request::Read { sector: around.first, buffer: buffer(around.len)? }).await?;
                content(buffer)?
            }
            DiskDriver::Reference { .. } => self.read_blocks_now(around)?,
        };
        Ok(around.cut(bytes, sector, len))
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if self.block_size() as usize == SECTOR_SIZE {
            return self.write_blocks(sector, bytes).await;
        }
        while self.writing.replace(true) {
            self.written.wait().await;
        }
        let written = self.write_within_blocks(sector, bytes).await;
        self.writing.set(false);
        self.written.raise();
        written
    }

    /// Reads the blocks around a range, and writes them with the range changed.
    async fn write_within_blocks(&self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let around = self.around(sector, bytes.len())?;
        if (around.first, around.len) == (sector, bytes.len()) {
            return self.write_blocks(sector, bytes).await;
        }
        let mut whole = self.read(around.first, around.len).await?;
        let at = (sector - around.first) as usize * SECTOR_SIZE;
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        self.write_blocks(around.first, &whole).await
    }

    async fn write_blocks(&self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        match &self.driver {
            DiskDriver::Own(_) => {
                let mut buffer = buffer(bytes.len())?;
                buffer.copy_from(0, bytes);
                self.run(Request::Write { sector, buffer }).await.map(|_| ())
            }
            DiskDriver::Reference { driver, .. } => {
                let first = usize::try_from(sector).unwrap_or(usize::MAX);
                driver.borrow_mut().write_blocks(first, bytes).map_err(|error| DiskError(error.to_string()))
            }
        }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn flush(&self) -> Result<(), DiskError> {
        match &self.driver {
            DiskDriver::Own(_) => self.run(Request::Flush).await.map(|_| ()),
            DiskDriver::Reference { driver, .. } => {
                driver.borrow_mut().flush().map_err(|error| DiskError(error.to_string()))
            }
        }
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), DiskError> {
        self.run(Request::WriteZeroes { sector, sectors, unmap: Unmap::Allow }).await.map(|_| ())
    }

    /// Tells that a range is not needed any more.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn discard(&self, sector: u64, sectors: u64) -> Result<(), DiskError> {
        self.run(Request::Discard { sector, sectors }).await.map(|_| ())
    }

    /// The disk's id.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn id(&self) -> Result<String, DiskError> {
        let id = match &self.driver {
            DiskDriver::Own(_) => match self.run(Request::Id).await?.0 {
                Output::Id(id) => id,
                _ => [0; 20],
            },
            DiskDriver::Reference { driver, .. } => {
                let mut id = [0; 20];
                driver.borrow_mut().device_id(&mut id).map_err(|error| DiskError(error.to_string()))?;
                id
            }
        };
        let end = id.iter().position(|&byte| byte == 0).unwrap_or(id.len());
        Ok(String::from_utf8_lossy(&id[..end]).into_owned())
    }

    /// Reads whole sectors synchronously; no other task runs meanwhile.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read_now(&self, sector: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let around = self.around(sector, len)?;
        Ok(around.cut(self.read_blocks_now(around)?, sector, len))
    }

    fn read_blocks_now(&self, Around { first, len }: Around) -> Result<Vec<u8>, DiskError> {
        match &self.driver {
            DiskDriver::Own(own) => {
                let pending = own.start(Request::Read { sector: first, buffer: buffer(len)? })?;
                let mut ended = None;
                task::block_until(PATIENCE, || {
                    own.service();
                    if let Poll::Ready(completion) = pending.poll(Waker::noop()) {
                        ended = Some(completion);
                    }
                    ended.is_some()
                });
                let ended = ended.ok_or_else(|| DiskError("the disk does not answer".to_string()))?;
                ended.result?;
                content(ended.buffer)
            }
            DiskDriver::Reference { driver, .. } => {
                let mut bytes = alloc::vec![0; len];
                let first = usize::try_from(first).unwrap_or(usize::MAX);
                driver.borrow_mut().read_blocks(first, &mut bytes).map_err(|error| DiskError(error.to_string()))?;
                Ok(bytes)
            }
        }
    }

    /// The whole blocks around a range of sectors.
    fn around(&self, sector: u64, len: usize) -> Result<Around, DiskError> {
        debug_assert!(len.is_multiple_of(SECTOR_SIZE));
        let whole = whole_blocks(sector, (len / SECTOR_SIZE) as u64, self.block_size());
        let (first, sectors) = whole.ok_or_else(|| DiskError("no disk has such a sector".to_string()))?;
        Ok(Around { first, len: sectors as usize * SECTOR_SIZE })
    }

    async fn run(&self, request: Request) -> Result<(Output, Option<DmaBuffer>), DiskError> {
        let DiskDriver::Own(own) = &self.driver else {
            return Err(DiskError("the reference driver has no such request".to_string()));
        };
        let pending = own.start(request)?;
        let ended = own
            .interrupts
            .until(|| {
                if let Some(deadline) = own.service() {
                    task::wake_at(deadline);
                }
                match pending.poll(&task::waker()) {
                    Poll::Ready(completion) => Some(completion),
                    Poll::Pending => None,
                }
            })
            .await;
        Ok((ended.result?, ended.buffer))
    }
}

impl Own {
    fn start(&self, request: Request) -> Result<Pending<'_>, DiskError> {
        let started = self.requests.borrow_mut().start(request);
        let token = started.map_err(|rejected| DiskError(rejected.reason.to_string()))?;
        Ok(Pending { own: self, token })
    }

    /// Handles interrupts, and wakes those whose requests have ended. Returns when to look again, if no interrupt comes.
    fn service(&self) -> Option<u64> {
        let taken = self.interrupts.take();
        let again = self.requests.borrow_mut().service(taken.sources(), time::now());
        taken.handled();
        again
    }
}

impl Pending<'_> {
    fn poll(&self, waker: &Waker) -> Poll<Completion> {
        self.own.requests.borrow_mut().poll(self.token, waker)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.own.requests.borrow_mut().abandon(self.token);
    }
}

/// Whole blocks.
#[derive(Clone, Copy)]
struct Around {
    first: u64,
    len: usize,
}

impl Around {
    /// The range that was asked for, out of the content of the blocks.
    fn cut(self, mut bytes: Vec<u8>, sector: u64, len: usize) -> Vec<u8> {
        bytes.drain(..(sector - self.first) as usize * SECTOR_SIZE);
        bytes.truncate(len);
        bytes
    }
}

fn buffer(len: usize) -> Result<DmaBuffer, DiskError> {
    DmaBuffer::allocate(&DMA, len).ok_or_else(|| DiskError("no memory for a buffer".to_string()))
}

fn content(buffer: Option<DmaBuffer>) -> Result<Vec<u8>, DiskError> {
    let buffer = buffer.ok_or_else(|| DiskError("the buffer is lost".to_string()))?;
    Ok(buffer.to_vec())
}
