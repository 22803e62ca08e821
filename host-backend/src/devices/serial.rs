//! COM1, a 16550: the register model is vm-superio's, the batching is ours.
//!
//! `rep outsb` arrives as one exit with many bytes for one register; they leave in one write. An access wider than a
//! byte is taken the same way. Output happens on the vCPU's thread, so that no byte is lost when the guest exits with
//! its next instruction, and outside the lock, so that a stuck reader holds up no other thread.

use super::output::Output;
use super::{BusDevice, InputSink, InterruptLine};
use crate::event::{EventFd, event};
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_superio::serial::{Serial, SerialEvents};

/// Offset of the modem control register, and its bit that connects the UART's output to its input.
pub const MODEM_CONTROL: u64 = 4;
/// See [`MODEM_CONTROL`].
pub const LOOPBACK: u8 = 1 << 4;

/// The UART.
pub struct SerialPort {
    uart: Mutex<Serial<Line, Arc<InputEvents>, Batch>>,
    line: Arc<dyn InterruptLine>,
    output: Arc<Output>,
    events: Arc<InputEvents>,
}

impl SerialPort {
    /// A UART that prints to `output` and interrupts on `line`.
    ///
    /// # Errors
    /// When the system has no event file descriptor left.
    pub fn new(line: Arc<dyn InterruptLine>, output: Arc<Output>) -> io::Result<Self> {
        let events = Arc::new(InputEvents { starved: AtomicBool::new(false), room: event()? });
        let uart = Serial::with_events(Line(line.clone()), events.clone(), Batch(Vec::new()));
        Ok(Self { uart: Mutex::new(uart), line, output, events })
    }

    /// Puts all registers back as they are at first.
    pub fn reset(&self) {
        let line = Line(self.line.clone());
        *self.lock() = Serial::with_events(line, self.events.clone(), Batch(Vec::new()));
        self.events.in_buffer_empty();
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Line, Arc<InputEvents>, Batch>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputSink for SerialPort {
    fn input(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        let fits = bytes.len().min(uart.fifo_capacity());
        // The FIFO takes what its capacity says, and the interrupt cannot fail. In loopback nothing comes in from outside.
        let taken = uart.enqueue_raw_bytes(&bytes[..fits]).unwrap_or(0);
        if taken < bytes.len() {
            self.events.starved.store(true, Ordering::Relaxed);
        }
        taken
    }

    fn room(&self) -> &EventFd {
        &self.events.room
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.lock();
        for byte in data {
            *byte = uart.read(offset as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = self.lock();
        for byte in data {
            // Neither the batch nor the line can fail.
            let _ = uart.write(offset as u8, *byte);
        }
        if offset == MODEM_CONTROL && uart.read(MODEM_CONTROL as u8) & LOOPBACK == 0 {
            // What was typed meanwhile can come in now.
            self.events.in_buffer_empty();
        }
        let batch = std::mem::take(&mut uart.writer_mut().0);
        drop(uart);
        if !batch.is_empty() {
            self.output.write(&batch);
        }
    }
}

struct Line(Arc<dyn InterruptLine>);

impl vm_superio::Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

/// Collects what one access prints. At most a page: KVM's I/O exits carry no more.
struct Batch(Vec<u8>);

impl io::Write for Batch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct InputEvents {
    starved: AtomicBool,
    room: EventFd,
}

impl SerialEvents for InputEvents {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if self.starved.swap(false, Ordering::Relaxed) {
            // A full counter is readable too.
            let _ = self.room.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Edges(AtomicUsize);

    impl InterruptLine for Edges {
        fn raise(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn serial() -> (SerialPort, Arc<Edges>, tempfile::NamedTempFile) {
        let edges = Arc::new(Edges::default());
        let file = tempfile::NamedTempFile::new().unwrap();
        let output = Arc::new(Output::new(file.reopen().unwrap()));
        (SerialPort::new(edges.clone(), output).unwrap(), edges, file)
    }

    #[test]
    fn a_batch_leaves_whole_and_in_order() {
        let (serial, _, file) = serial();
        serial.write(0, b"hello, ");
        serial.write(0, b"w");
        serial.write(0, b"orld\n");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"hello, world\n");
    }

    #[test]
    fn input_interrupts_and_waits_for_room() {
        let (serial, edges, _file) = serial();
        serial.write(1, &[1]);
        let typed = [b'x'; 100];
        let taken = serial.input(&typed);
        assert!(taken > 0 && taken < typed.len(), "took {taken}");
        assert_eq!(edges.0.load(Ordering::Relaxed), 1);
        assert!(serial.room().read().is_err());
        let mut data = vec![0; taken];
        serial.read(0, &mut data);
        assert_eq!(data, typed[..taken]);
        assert!(serial.room().read().is_ok());
    }

    #[test]
    fn a_key_that_comes_during_loopback_is_taken_after_it() {
        let (serial, _, _file) = serial();
        serial.write(MODEM_CONTROL, &[LOOPBACK]);
        assert_eq!(serial.input(b"k"), 0);
        assert!(serial.room().read().is_err());
        // A loopback test reads its own bytes; that makes no room for keys.
        serial.write(0, b"t");
        let mut data = [0];
        serial.read(0, &mut data);
        assert_eq!(data, *b"t");
        let _ = serial.room().read();
        assert_eq!(serial.input(b"k"), 0);
        serial.write(MODEM_CONTROL, &[0]);
        assert!(serial.room().read().is_ok());
        assert_eq!(serial.input(b"k"), 1);
        serial.read(0, &mut data);
        assert_eq!(data, *b"k");
    }

    #[test]
    fn undefined_registers_and_wide_accesses_are_harmless() {
        let (serial, _, _file) = serial();
        for offset in 0..=u8::MAX {
            serial.write(offset.into(), &[0xff; 8]);
            serial.read(offset.into(), &mut [0; 8]);
        }
    }
}
