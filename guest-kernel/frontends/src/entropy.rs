//! The entropy driver (section 5.4): random bytes on request, one request at a time.
//!
//! Made by the kernel for a seed. A host may take its time to gather entropy, or never answer: who waits brings a limit,
//! and a device that exceeds it is stopped.

use crate::cells::Cells;
use crate::device::{Device, Driver};
use crate::error::{InitError, Violation};
use crate::memory::DmaPages;
use crate::ring::{Ring, Segment};
use crate::transport::Transport;
use virtio_abi::DeviceType;

/// The most bytes of one request.
pub const REQUEST_MAX: usize = 256;
const QUEUE: u16 = 0;

/// A source of random bytes.
pub struct Entropy<T: Transport> {
    device: Device<T>,
    ring: Ring,
    bytes: Cells,
    /// The device has a request.
    is_asked: bool,
    leaked_pages: usize,
}

impl<T: Transport> Entropy<T> {
    /// Brings a device up.
    pub fn new(transport: T, dma: &'static dyn DmaPages) -> Result<Self, InitError> {
        let mut device = Device::begin(transport, DeviceType::RNG, 0)?;
        let ring = device.ring(QUEUE, 1, 1, dma)?;
        let Some(bytes) = Cells::allocate(dma, REQUEST_MAX) else {
            return Err(device.give_up(InitError::NoMemory { what: "random bytes" }));
        };
        device.start();
        Ok(Self { device, ring, bytes, is_asked: false, leaked_pages: 0 })
    }

    /// Asks for up to `len` bytes, at most [`REQUEST_MAX`]. False if the device has a request already, or has stopped.
    /// Notifies the device itself.
    pub fn request(&mut self, len: usize) -> bool {
        if self.is_asked || !self.device.is_live() {
            return false;
        }
        let len = len.clamp(1, REQUEST_MAX) as u32;
        self.is_asked = self.ring.push(&[Segment::writable(self.bytes.device_address(), len)]).is_some();
        self.kick();
        self.is_asked
    }

    /// Takes the answer to a request; returns how many bytes it has. Those that do not fit are lost.
    pub fn take(&mut self, into: &mut [u8]) -> Option<usize> {
        if !self.device.is_live() {
            return None;
        }
        match self.ring.pop() {
            Ok(used) => {
                let count = (used?.len as usize).min(into.len());
                self.is_asked = false;
                for (index, byte) in into[..count].iter_mut().enumerate() {
                    *byte = self.bytes.load8(index);
                }
                Some(count)
            }
            Err(violation) => {
                self.fail(violation);
                None
            }
        }
    }

    /// Fills `into` while everything else stands still, asking as often as it takes. Looks at the device again and again
    /// as long as `go_on` says so; stops it with `late` then.
    ///
    /// # Errors
    /// Why the device stopped.
    pub fn fill(
        &mut self,
        mut into: &mut [u8],
        late: Violation,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<(), Violation> {
        while !into.is_empty() {
            self.request(into.len());
            let count = self.take(into).unwrap_or(0);
            into = &mut into[count..];
            if let Some(reason) = self.device.broken() {
                return Err(reason);
            }
            if count == 0 && !go_on() {
                self.stop(late);
            }
        }
        Ok(())
    }
}

impl<T: Transport> Driver for Entropy<T> {
    type Transport = T;

    fn device(&self) -> &Device<T> {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device<T> {
        &mut self.device
    }

    fn stop(&mut self, reason: Violation) {
        let was_stopped = self.device.broken().is_some();
        if !self.device.stop(reason) && !was_stopped {
            self.leaked_pages = self.ring.leak() + if self.is_asked { self.bytes.leak() } else { 0 };
        }
        self.is_asked = false;
    }

    /// Asks again. The bytes that came before are as random as ever.
    fn restart(&mut self, _: Violation) -> Result<(), InitError> {
        self.device.ring_again(&mut self.ring)?;
        self.device.start();
        if core::mem::take(&mut self.is_asked) {
            self.request(REQUEST_MAX);
        }
        Ok(())
    }

    /// There is no configuration.
    fn config_changed(&mut self) {}

    fn enable_interrupts(&mut self) -> bool {
        self.device.is_live() && self.ring.enable_interrupts()
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

impl<T: Transport> Drop for Entropy<T> {
    fn drop(&mut self) {
        self.stop(Violation::ShutDown);
    }
}
