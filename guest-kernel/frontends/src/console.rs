//! The console driver (section 5.3), one port: bytes in, bytes out.
//!
//! Made by the kernel for each console; its log and its shell write to it. Bytes are copied into and out of a few pages
//! that belong to the driver.

use crate::device::{ConfigFields, Device, Driver};
use crate::error::{InitError, Violation};
use crate::memory::{DmaBuffer, DmaPages, PAGE_SIZE};
use crate::ring::{Ring, Segment};
use crate::transport::Transport;
use alloc::vec::Vec;
use core::mem::offset_of;
use virtio_abi::DeviceType;
use virtio_abi::console::{Config, Features, RECEIVE_QUEUE, TRANSMIT_QUEUE};

/// What we make use of.
const SUPPORTED: Features = Features::SIZE.union(Features::EMERG_WRITE);
/// Receive buffers that are posted; input is typed or pasted.
const RECEIVE_BUFFERS: u16 = 4;
/// Transmit buffers; each takes a page of output.
const TRANSMIT_BUFFERS: u16 = 8;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// A console.
pub struct Console<T: Transport> {
    device: Device<T>,
    features: Features,
    size: Option<Size>,
    receive: Ring,
    transmit: Ring,
    /// By head.
    posted: Vec<Option<DmaBuffer>>,
    sending: Vec<Option<DmaBuffer>>,
    free: Vec<DmaBuffer>,
    /// Received bytes that were not taken yet: a buffer and how many of its bytes were.
    input: Option<(DmaBuffer, usize)>,
    leaked_pages: usize,
}

impl<T: Transport> Console<T> {
    /// Brings a device up.
    pub fn new(transport: T, dma: &'static dyn DmaPages) -> Result<Self, InitError> {
        let mut device = Device::begin(transport, DeviceType::CONSOLE, SUPPORTED.bits())?;
        let features = Features::from_bits_truncate(device.features());
        let size = device.config(|fields| read_size(features, &fields)).map_err(|error| device.give_up(error))?;
        let receive = device.ring(RECEIVE_QUEUE, RECEIVE_BUFFERS, 1, dma)?;
        let mut transmit = device.ring(TRANSMIT_QUEUE, TRANSMIT_BUFFERS, 1, dma)?;
        transmit.disable_interrupts();
        let mut allocate = |count| -> Result<Vec<DmaBuffer>, InitError> {
            let buffers = (0..count).map(|_| DmaBuffer::allocate_shared(dma, PAGE_SIZE)).collect::<Option<_>>();
            buffers.ok_or_else(|| device.give_up(InitError::NoMemory { what: "console buffers" }))
        };
        let input = allocate(receive.size().min(RECEIVE_BUFFERS))?;
        let free = allocate(transmit.size().min(TRANSMIT_BUFFERS))?;
        device.start();
        let mut this = Self {
            device,
            features,
            size,
            posted: (0..receive.size()).map(|_| None).collect(),
            sending: (0..transmit.size()).map(|_| None).collect(),
            receive,
            transmit,
            free,
            input: None,
            leaked_pages: 0,
        };
        for buffer in input {
            this.post(buffer);
        }
        this.kick();
        Ok(this)
    }

    /// The terminal's size, if the device reports it; follows the device.
    pub fn size(&self) -> Option<Size> {
        self.size
    }

    /// Takes received bytes; returns how many. Notifies the device itself.
    pub fn receive(&mut self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        // Bounded, for the device that returns empty buffers as fast as they are posted.
        for _ in 0..=self.receive.size() {
            if done == bytes.len() || !self.device.is_live() {
                break;
            }
            let Some((buffer, taken)) = self.input.take().or_else(|| self.next_input()) else { break };
            let rest = buffer.len() - taken;
            let now = rest.min(bytes.len() - done);
            buffer.copy_to(taken, &mut bytes[done..done + now]);
            done += now;
            if now < rest {
                self.input = Some((buffer, taken + now));
            } else {
                self.post(buffer);
            }
        }
        self.device.kick(&mut self.receive);
        done
    }

    /// Queues bytes, as many as there is room for; returns how many. Call [`Driver::kick`] after the last ones.
    pub fn transmit(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.device.is_live() {
            if self.free.is_empty() {
                self.take_back();
            }
            let Some(mut buffer) = self.free.pop() else { break };
            let now = (bytes.len() - done).min(buffer.capacity());
            buffer.set_len(now);
            buffer.copy_from(0, &bytes[done..done + now]);
            match self.transmit.push(&[Segment::readable(buffer.device_address(), now as u32)]) {
                Some(head) => self.sending[usize::from(head)] = Some(buffer),
                None => {
                    self.free.push(buffer);
                    break;
                }
            }
            done += now;
        }
        done
    }

    /// Outputs a byte at once, past the queue, even while the rest does not work. False if the device cannot.
    pub fn emergency_write(&mut self, byte: u8) -> bool {
        let can = self.features.contains(Features::EMERG_WRITE);
        if can {
            self.device.write_config(offset_of!(Config, emerg_wr), byte.into());
        }
        can
    }

    fn next_input(&mut self) -> Option<(DmaBuffer, usize)> {
        match self.receive.pop() {
            Ok(used) => {
                let used = used?;
                let mut buffer = self.posted[usize::from(used.head)].take()?;
                buffer.set_len(used.len as usize);
                Some((buffer, 0))
            }
            Err(violation) => {
                self.fail(violation);
                None
            }
        }
    }

    fn take_back(&mut self) {
        loop {
            match self.transmit.pop() {
                Ok(Some(used)) => self.free.extend(self.sending[usize::from(used.head)].take()),
                Ok(None) => return,
                Err(violation) => return self.fail(violation),
            }
        }
    }

    fn post(&mut self, mut buffer: DmaBuffer) {
        buffer.set_len(buffer.capacity());
        if let Some(head) = self.receive.push(&[Segment::writable(buffer.device_address(), buffer.len() as u32)]) {
            self.posted[usize::from(head)] = Some(buffer);
        }
    }
}

fn read_size<T: Transport>(features: Features, fields: &ConfigFields<'_, T>) -> Option<Size> {
    features
        .contains(Features::SIZE)
        .then(|| Size { columns: fields.u16(offset_of!(Config, cols)), rows: fields.u16(offset_of!(Config, rows)) })
}

impl<T: Transport> Driver for Console<T> {
    type Transport = T;

    fn device(&self) -> &Device<T> {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device<T> {
        &mut self.device
    }

    fn stop(&mut self, reason: Violation) {
        let was_stopped = self.device.broken().is_some();
        if self.device.stop(reason) || was_stopped {
            return;
        }
        let buffers = self.posted.iter_mut().chain(&mut self.sending).flatten();
        self.leaked_pages = buffers.map(DmaBuffer::leak).sum::<usize>() + self.receive.leak() + self.transmit.leak();
    }

    /// Output that was on its way is lost: it may have been shown already.
    fn restart(&mut self, _: Violation) -> Result<(), InitError> {
        self.size = self.device.config(|fields| read_size(self.features, &fields))?;
        self.device.ring_again(&mut self.receive)?;
        self.device.ring_again(&mut self.transmit)?;
        self.transmit.disable_interrupts();
        self.device.start();
        self.free.extend(self.sending.iter_mut().filter_map(Option::take));
        let posted: Vec<_> = self.posted.iter_mut().filter_map(Option::take).collect();
        posted.into_iter().for_each(|buffer| self.post(buffer));
        self.kick();
        Ok(())
    }

    fn config_changed(&mut self) {
        match self.device.config(|fields| read_size(self.features, &fields)) {
            Ok(size) => self.size = size,
            Err(error) => log::warn!("console: size stays: {error}"),
        }
    }

    /// Sent buffers interrupt only while [`Console::transmit`] has none left.
    fn enable_interrupts(&mut self) -> bool {
        if !self.device.is_live() {
            return false;
        }
        let sent = self.free.is_empty() && self.transmit.enable_interrupts();
        self.receive.enable_interrupts() || self.input.is_some() || sent
    }

    fn disable_interrupts(&mut self) {
        self.receive.disable_interrupts();
        self.transmit.disable_interrupts();
    }

    fn kick(&mut self) {
        self.device.kick(&mut self.receive);
        self.device.kick(&mut self.transmit);
    }

    fn leaked_pages(&self) -> usize {
        self.leaked_pages
    }
}

impl<T: Transport> Drop for Console<T> {
    fn drop(&mut self) {
        self.stop(Violation::ShutDown);
    }
}
