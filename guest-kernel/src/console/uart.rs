//! The 16550 UART (data sheet PC16550D), as far as a console needs it.

use core::fmt;
use pvops::port;

/// Bytes of the transmit FIFO.
const FIFO: usize = 16;
/// Reads of the line status that a full FIFO is given to drain: a port that is not there does not stop the kernel.
const PATIENCE: u32 = 100_000;

mod register {
    pub(super) const DATA: u16 = 0;
    pub(super) const INTERRUPT_ENABLE: u16 = 1;
    pub(super) const FIFO_CONTROL: u16 = 2;
    pub(super) const LINE_CONTROL: u16 = 3;
    pub(super) const MODEM_CONTROL: u16 = 4;
    pub(super) const LINE_STATUS: u16 = 5;
}

const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Nothing is left in the FIFO, nor on the way out.
const TRANSMITTER_IDLE: u8 = 1 << 6;

/// A serial port.
pub(super) struct Uart {
    base: u16,
}

impl Uart {
    pub(super) const fn new(base: u16) -> Self {
        Self { base }
    }

    fn set(&mut self, register: u16, value: u8) {
        // SAFETY: the port belongs to the UART, which touches no memory.
        unsafe { port::write_u8(self.base + register, value) };
    }

    fn get(&self, register: u16) -> u8 {
        // SAFETY: as in `set`.
        unsafe { port::read_u8(self.base + register) }
    }

    /// 115200 8N1, FIFOs on, interrupts off.
    pub(super) fn init(&mut self) {
        self.set(register::INTERRUPT_ENABLE, 0);
        self.set(register::LINE_CONTROL, 0x80);
        self.set(register::DATA, 1);
        self.set(register::INTERRUPT_ENABLE, 0);
        self.set(register::LINE_CONTROL, 0x03);
        self.set(register::FIFO_CONTROL, 0x07);
        // DTR, RTS, and OUT2, which lets the interrupt through.
        self.set(register::MODEM_CONTROL, 0x0b);
    }

    pub(super) fn enable_input(&mut self) {
        self.set(register::INTERRUPT_ENABLE, 1);
    }

    pub(super) fn read(&mut self) -> Option<u8> {
        (self.get(register::LINE_STATUS) & DATA_READY != 0).then(|| self.get(register::DATA))
    }

    /// Sends bytes, `\n` as CR LF.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let mut fifo = heapless::Vec::<u8, FIFO>::new();
        for &byte in bytes {
            if fifo.len() + 2 > FIFO {
                self.send(&fifo);
                fifo.clear();
            }
            // Cannot fail: there is room for two.
            if byte == b'\n' {
                let _ = fifo.push(b'\r');
            }
            let _ = fifo.push(byte);
        }
        self.send(&fifo);
    }

    /// Waits until everything that was written has gone out.
    pub(super) fn drain(&self) {
        self.wait_for(TRANSMITTER_IDLE);
    }

    /// Waits for a bit of the line status, for a bounded time.
    fn wait_for(&self, bit: u8) {
        let mut patience = PATIENCE;
        while self.get(register::LINE_STATUS) & bit == 0 && patience > 0 {
            patience -= 1;
            pvops::smp::relax();
        }
    }

    /// Sends at most a FIFO full: one look at the status and one string instruction.
    fn send(&mut self, bytes: &[u8]) {
        self.wait_for(TRANSMITTER_EMPTY);
        // SAFETY: as in `set`.
        unsafe { port::write_bytes(self.base + register::DATA, bytes) };
    }
}

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
