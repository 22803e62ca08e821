//! The console (section 5.3 "Console Device") with one port: output goes to an [`Output`], input comes through a
//! [`ConsoleInput`].

use super::{BATCH, ConfigSpace, Device, Fault, Io, Progress, read_config_bytes};
use crate::devices::InputSink;
use crate::devices::output::Output;
use crate::event::{EventFd, event};
use crate::mistake::{Mistake, made};
use crate::sync::{Mutex, MutexGuard};
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::console::{Config, Features, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use std::collections::VecDeque;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, PoisonError};
use vmm_sys_util::epoll::EventSet;
use zerocopy::IntoBytes;

const RX: usize = RECEIVE_QUEUE as usize;
const TX: usize = TRANSMIT_QUEUE as usize;
/// Input that waits for the guest, at most.
const INPUT_MAX: usize = 4096;
/// Bytes printed per buffer, at most: no driver sends more at once.
const OUTPUT_MAX: u64 = 1 << 20;

/// A console.
pub struct Console {
    output: Arc<Output>,
    input: Arc<ConsoleInput>,
}

/// Typed input on its way to the guest.
pub struct ConsoleInput {
    pending: Mutex<Pending>,
    typed: EventFd,
    room: EventFd,
}

#[derive(Default)]
struct Pending {
    bytes: VecDeque<u8>,
    starved: bool,
}

impl Console {
    /// A console that prints to `output`.
    ///
    /// # Errors
    /// When the system has no event file descriptor left.
    pub fn new(output: Arc<Output>) -> std::io::Result<Self> {
        let input = ConsoleInput { pending: Mutex::default(), typed: event()?, room: event()? };
        Ok(Self { output, input: Arc::new(input) })
    }

    /// Where input goes in. The device sees it on its next event.
    pub fn input(&self) -> Arc<ConsoleInput> {
        self.input.clone()
    }

    /// Moves pending input to the guest's buffers.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<Progress, Fault> {
        if !io.queues[RX].ready() {
            return Ok(Progress::Done);
        }
        let mut pending = self.input.lock();
        let mut progress = Progress::More;
        for _ in 0..BATCH {
            if pending.bytes.is_empty() {
                progress = Progress::Done;
                break;
            }
            if io.interrupted() {
                break;
            }
            let Some(chain) = io.queues[RX].pop_or_arm(io.memory)? else {
                progress = Progress::Done;
                break;
            };
            let written = chain.write(io.memory, 0, pending.bytes.make_contiguous());
            pending.bytes.drain(..written);
            io.queues[RX].push_used(io.memory, chain.head(), written as u32)?;
            io.signal.counters.requests.add(1);
            io.signal.counters.bytes_to_guest.add(written as u64);
            io.interrupt_soon(RX)?;
        }
        if pending.bytes.is_empty() && std::mem::take(&mut pending.starved) {
            // A full counter is readable too.
            let _ = self.input.room.write(1);
        }
        drop(pending);
        io.interrupt(RX)?;
        Ok(progress)
    }
}

/// The configuration space: a character written to `emerg_wr` is printed at once.
struct Emergency(Arc<Output>);

impl ConfigSpace for Emergency {
    fn read(&self, offset: usize, data: &mut [u8]) {
        read_config_bytes(Config::default().as_bytes(), offset, data);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        if offset == offset_of!(Config, emerg_wr)
            && let [character, ..] = data
        {
            self.0.write(&[*character]);
        }
    }
}

impl ConsoleInput {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputSink for ConsoleInput {
    fn input(&self, bytes: &[u8]) -> usize {
        let mut pending = self.lock();
        let fits = bytes.len().min(INPUT_MAX - pending.bytes.len());
        pending.bytes.extend(&bytes[..fits]);
        pending.starved |= fits < bytes.len() && !made(Mistake::NoStarvation);
        // A full counter is readable too.
        let _ = self.typed.write(1);
        fits
    }

    fn room(&self) -> &EventFd {
        &self.room
    }
}

impl Device for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::CONSOLE
    }

    fn features(&self) -> u64 {
        Features::EMERG_WRITE.bits()
    }

    fn queue_count(&self) -> usize {
        2
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Emergency(self.output.clone()))
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        if index == RX {
            return self.receive(io);
        }
        io.drain(TX, |memory, chain, signal| {
            let len = chain.readable_len().min(OUTPUT_MAX);
            let mut buffer = [0; 4096];
            let mut at = 0;
            while at < len {
                let part = (len - at).min(buffer.len() as u64) as usize;
                let got = chain.read(memory, at, &mut buffer[..part]);
                self.output.write(&buffer[..got]);
                at += part as u64;
            }
            signal.counters.bytes_from_guest.add(len);
            signal.counters.errors.add((chain.readable_len() > OUTPUT_MAX).into());
            signal.counters.oversized.add((chain.readable_len() > OUTPUT_MAX).into());
            Ok(0)
        })
    }

    fn event_source(&self) -> Option<(RawFd, EventSet)> {
        Some((self.input.typed.as_raw_fd(), EventSet::IN))
    }

    fn process_event(&mut self, _events: EventSet, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let _ = self.input.typed.read();
        self.receive(io)
    }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
