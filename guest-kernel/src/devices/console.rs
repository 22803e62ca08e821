//! The virtio console: a second place for the shell, next to the serial port.

use crate::devices::place::AnyTransport;
use crate::trap::Interrupts;
use core::cell::RefCell;
use frontends::{Console, Driver};

/// A virtio console.
pub struct VirtioConsole {
    driver: RefCell<Console<AnyTransport>>,
    interrupts: Interrupts,
}

impl VirtioConsole {
    /// Takes a driver that is up.
    pub fn new(driver: Console<AnyTransport>, interrupts: Interrupts) -> Self {
        Self { driver: RefCell::new(driver), interrupts }
    }

    /// Writes all bytes, waiting for room.
    pub async fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = self
                .interrupts
                .until(|| {
                    let mut driver = self.service();
                    if driver.broken().is_some() {
                        return Some(bytes.len());
                    }
                    let sent = driver.transmit(bytes);
                    driver.kick();
                    // Without room: an interrupt comes when there is some.
                    (sent > 0 || driver.enable_interrupts()).then_some(sent)
                })
                .await;
            bytes = &bytes[sent..];
        }
    }

    /// Waits for input.
    pub async fn read(&self, bytes: &mut [u8]) -> usize {
        self.interrupts
            .until(|| {
                let mut driver = self.service();
                let read = driver.receive(bytes);
                driver.kick();
                (read > 0 || driver.enable_interrupts()).then_some(read)
            })
            .await
    }

    fn service(&self) -> core::cell::RefMut<'_, Console<AnyTransport>> {
        let mut driver = self.driver.borrow_mut();
        self.interrupts.handle(|source| driver.interrupt(source));
        driver
    }
}
