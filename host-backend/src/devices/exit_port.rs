//! The exit port of the board: a 32-bit write ends the VM with that code.

use super::BusDevice;
use crate::stop::{Outcome, Stop};
use std::sync::Arc;

/// The exit port.
#[derive(Debug)]
pub struct ExitPort(Arc<Stop>);

impl ExitPort {
    /// Ends the VM through `stop`.
    pub fn new(stop: Arc<Stop>) -> Self {
        Self(stop)
    }
}

impl BusDevice for ExitPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// Writes of other widths mean nothing and are ignored.
    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Ok(code)) = (offset, data.try_into()) {
            self.0.request(Outcome::GuestExit(u32::from_le_bytes(code)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_32_bit_write_ends_the_vm() {
        let stop = Arc::new(Stop::new().unwrap());
        let port = ExitPort::new(stop.clone());
        port.write(0, &[1]);
        port.write(0, &[1, 0]);
        port.write(1, &[1, 0, 0, 0]);
        port.write(0, &[0; 8]);
        assert!(!stop.requested());
        port.write(0, &[5, 1, 0, 0]);
        assert_eq!(stop.outcome(), Some(Outcome::GuestExit(0x105)));
    }
}
