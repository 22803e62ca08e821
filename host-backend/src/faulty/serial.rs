//! COM1 as a PC has it: in loop-back mode its interrupt is held back ([`Bug::GatedLoopback`](super::Bug::GatedLoopback)).

use crate::devices::output::Output;
use crate::devices::serial::{LOOPBACK, MODEM_CONTROL, SerialPort};
use crate::devices::{BusDevice, InterruptLine};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The line of a port, which is held back while that is in loop-back mode.
struct GatedLine {
    inner: Arc<dyn InterruptLine>,
    gated: Arc<AtomicBool>,
}

impl InterruptLine for GatedLine {
    fn raise(&self) {
        if !self.gated.load(Ordering::Relaxed) {
            self.inner.raise();
        }
    }
}

/// The registers of a port with such a line.
struct GatedPort {
    inner: Arc<SerialPort>,
    gated: Arc<AtomicBool>,
}

impl BusDevice for GatedPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.inner.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut modem_control = [0];
        self.inner.read(MODEM_CONTROL, &mut modem_control);
        self.gated.store(modem_control[0] & LOOPBACK != 0, Ordering::Relaxed);
        self.inner.write(offset, data);
    }
}

/// A port and its registers.
///
/// # Errors
/// Those of [`SerialPort::new`].
pub fn gated(line: Arc<dyn InterruptLine>, output: Arc<Output>) -> io::Result<(Arc<SerialPort>, Arc<dyn BusDevice>)> {
    let gated = Arc::<AtomicBool>::default();
    let line = Arc::new(GatedLine { inner: line, gated: gated.clone() });
    let port = Arc::new(SerialPort::new(line, output)?);
    Ok((port.clone(), Arc::new(GatedPort { inner: port, gated })))
}
