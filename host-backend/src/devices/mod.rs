//! What hangs on the board's buses: the [`Bus`] itself, the 16550, the exit port and the reset registers. The vCPU threads call in here with
//! whatever address and data the guest chose.

pub mod exit_port;
pub mod output;
pub mod reset;
pub mod serial;

use crate::event::EventFd;
use std::sync::Arc;

/// An interrupt line of the board, edge triggered. The VMM has one on irqfd; tests have fakes.
pub trait InterruptLine: Send + Sync {
    /// One edge.
    fn raise(&self);
}

/// Where typed input goes: the serial port or the virtio console.
pub trait InputSink: Send + Sync {
    /// Feeds input to the guest and returns how many bytes fit. When not all did, [`room`](Self::room) becomes
    /// readable once the guest has taken what is there.
    fn input(&self, bytes: &[u8]) -> usize;

    /// See [`input`](Self::input).
    fn room(&self) -> &EventFd;
}

/// Something at a range of ports or addresses. An access may have any length and any alignment.
pub trait BusDevice: Send + Sync {
    /// Fills `data` from `offset` on.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes `data` written at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Ranges of addresses (or ports), each with its device.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Slot>,
}

struct Slot {
    start: u64,
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// Whether an access met a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Handled,
    /// Nothing is there.
    Nothing,
}

impl Bus {
    /// Puts a device at `start..start + len`.
    pub fn insert(&mut self, start: u64, len: u64, device: Arc<dyn BusDevice>) {
        self.slots.push(Slot { start, len, device });
    }

    /// A read by the guest. Where nothing is, all bits are ones.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Access {
        match self.at(address) {
            Some((device, offset)) => {
                device.read(offset, data);
                Access::Handled
            }
            None => {
                data.fill(0xff);
                Access::Nothing
            }
        }
    }

    /// A write by the guest.
    pub fn write(&self, address: u64, data: &[u8]) -> Access {
        match self.at(address) {
            Some((device, offset)) => {
                device.write(offset, data);
                Access::Handled
            }
            None => Access::Nothing,
        }
    }

    fn at(&self, address: u64) -> Option<(&dyn BusDevice, u64)> {
        self.slots.iter().find_map(|slot| {
            let offset = address.checked_sub(slot.start)?;
            (offset < slot.len).then(|| (slot.device.as_ref(), offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_of_their_range() {
        let recorder = Arc::new(Recorder::default());
        let mut bus = Bus::default();
        bus.insert(0x100, 8, recorder.clone());
        assert_eq!(bus.write(0x107, &[1, 2]), Access::Handled);
        assert_eq!(bus.write(0x108, &[3]), Access::Nothing);
        assert_eq!(bus.write(0xff, &[3]), Access::Nothing);
        let mut data = [0; 2];
        assert_eq!(bus.read(0x103, &mut data), Access::Handled);
        assert_eq!(data, [3, 3]);
        assert_eq!(*recorder.0.lock().unwrap(), [(7, vec![1, 2])]);
    }

    #[test]
    fn reads_of_nothing_give_all_ones() {
        let mut data = [0; 8];
        assert_eq!(Bus::default().read(u64::MAX, &mut data), Access::Nothing);
        assert_eq!(data, [0xff; 8]);
    }
}
