//! A disk: one of two drivers behind the same requests, waited for by tasks or, for libraries, on the spot.

use crate::devices::{AnyTransport, Interrupts, Place};
use crate::mm::dma::{DMA, ReferenceHal};
use crate::reference;
use crate::task;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use frontends::block::{Completion, Output, Request, RequestError, SECTOR_SIZE, Token, Unmap};
use frontends::{Block, DmaBuffer, Driver};
use virtio_drivers::device::blk::VirtIOBlk;

/// How long a request may take.
const PATIENCE: u64 = 10_000_000_000;

/// A disk.
pub struct Disk {
    driver: DiskDriver,
}

enum DiskDriver {
    Own { block: RefCell<Block<AnyTransport>>, interrupts: Interrupts, completed: RefCell<Vec<Completion>> },
    Reference(RefCell<VirtIOBlk<ReferenceHal, reference::ReferenceTransport>>),
}

/// Why a request did not succeed.
#[derive(Debug)]
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
        Self { driver: DiskDriver::Own { block: RefCell::new(block), interrupts, completed: RefCell::new(Vec::new()) } }
    }

    /// With the reference driver.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reference(place: &Place) -> Result<Self, String> {
        let transport = reference::transport(place)?;
        let driver = VirtIOBlk::new(transport).map_err(|error| error.to_string())?;
        Ok(Self { driver: DiskDriver::Reference(RefCell::new(driver)) })
    }

    /// Sectors of 512 bytes.
    pub fn capacity(&self) -> u64 {
        match &self.driver {
            DiskDriver::Own { block, .. } => {
                self.service();
                block.borrow().capacity()
            }
            DiskDriver::Reference(driver) => driver.borrow().capacity(),
        }
    }

    /// Whether it refuses writes.
    pub fn read_only(&self) -> bool {
        match &self.driver {
            DiskDriver::Own { block, .. } => block.borrow().read_only(),
            DiskDriver::Reference(driver) => driver.borrow().readonly(),
        }
    }

    /// Which requests there are beside reading and writing.
    pub fn abilities(&self) -> String {
        match &self.driver {
            DiskDriver::Own { block, .. } => {
                let block = block.borrow();
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
            DiskDriver::Reference(_) => "flush".to_string(),
        }
    }

    /// Notifications so far, where the driver counts them.
    pub fn notifications(&self) -> Option<u64> {
        match &self.driver {
            DiskDriver::Own { block, .. } => Some(block.borrow().notifications()),
            DiskDriver::Reference(_) => None,
        }
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn read(&self, sector: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        match &self.driver {
            DiskDriver::Own { .. } => {
                let (_, buffer) = self.run(Request::Read { sector, buffer: buffer(len)? }).await?;
                buffer
                    .map(|buffer| buffer.as_slice().to_vec())
                    .ok_or_else(|| DiskError("the buffer is lost".to_string()))
            }
            DiskDriver::Reference(_) => self.read_now(sector, len),
        }
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        match &self.driver {
            DiskDriver::Own { .. } => {
                let mut buffer = buffer(bytes.len())?;
                buffer.as_mut_slice().copy_from_slice(bytes);
                self.run(Request::Write { sector, buffer }).await.map(|_| ())
            }
            DiskDriver::Reference(driver) => {
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
            DiskDriver::Own { .. } => self.run(Request::Flush).await.map(|_| ()),
            DiskDriver::Reference(driver) => driver.borrow_mut().flush().map_err(|error| DiskError(error.to_string())),
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
            DiskDriver::Own { .. } => match self.run(Request::Id).await?.0 {
                Output::Id(id) => id,
                Output::Done => [0; 20],
            },
            DiskDriver::Reference(driver) => {
                let mut id = [0; 20];
                driver.borrow_mut().device_id(&mut id).map_err(|error| DiskError(error.to_string()))?;
                id
            }
        };
        let end = id.iter().position(|&byte| byte == 0).unwrap_or(id.len());
        Ok(String::from_utf8_lossy(&id[..end]).into_owned())
    }

    /// Reads whole sectors while everything else stands still.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read_now(&self, sector: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        match &self.driver {
            DiskDriver::Own { .. } => {
                let token = self.submit(Request::Read { sector, buffer: buffer(len)? })?;
                let mut ended = None;
                task::block_until(PATIENCE, || {
                    self.service();
                    ended = ended.take().or_else(|| self.take(token));
                    ended.is_some()
                });
                let ended = ended.ok_or_else(|| DiskError("the disk does not answer".to_string()))?;
                ended.result?;
                ended
                    .buffer
                    .map(|buffer| buffer.as_slice().to_vec())
                    .ok_or_else(|| DiskError("the buffer is lost".to_string()))
            }
            DiskDriver::Reference(driver) => {
                let mut bytes = alloc::vec![0; len];
                let first = usize::try_from(sector).unwrap_or(usize::MAX);
                driver.borrow_mut().read_blocks(first, &mut bytes).map_err(|error| DiskError(error.to_string()))?;
                Ok(bytes)
            }
        }
    }

    async fn run(&self, request: Request) -> Result<(Output, Option<DmaBuffer>), DiskError> {
        let DiskDriver::Own { interrupts, .. } = &self.driver else {
            return Err(DiskError("the reference driver has no such request".to_string()));
        };
        let token = self.submit(request)?;
        let ended = interrupts
            .until(|| {
                self.service();
                self.take(token)
            })
            .await;
        Ok((ended.result?, ended.buffer))
    }

    fn submit(&self, request: Request) -> Result<Token, DiskError> {
        let DiskDriver::Own { block, .. } = &self.driver else { unreachable!("only called with our driver") };
        let mut block = block.borrow_mut();
        let token = block.submit(request).map_err(|rejected| DiskError(rejected.reason.to_string()))?;
        block.kick();
        Ok(token)
    }

    /// Handles interrupts and collects what has ended.
    fn service(&self) {
        let DiskDriver::Own { block, interrupts, completed } = &self.driver else { return };
        let mut block = block.borrow_mut();
        for source in interrupts.take() {
            block.interrupt(source);
        }
        loop {
            while let Some(completion) = block.poll() {
                completed.borrow_mut().push(completion);
            }
            if !block.enable_interrupts() {
                break;
            }
        }
    }

    fn take(&self, token: Token) -> Option<Completion> {
        let DiskDriver::Own { completed, .. } = &self.driver else { return None };
        let mut completed = completed.borrow_mut();
        let index = completed.iter().position(|completion| completion.token == token)?;
        Some(completed.swap_remove(index))
    }
}

fn buffer(len: usize) -> Result<DmaBuffer, DiskError> {
    debug_assert!(len.is_multiple_of(SECTOR_SIZE));
    DmaBuffer::allocate(&DMA, len).ok_or_else(|| DiskError("no memory for a buffer".to_string()))
}
