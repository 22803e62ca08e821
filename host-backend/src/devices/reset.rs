//! How a guest resets its machine: the reset control register at port 0xcf9, the keyboard controller's command 0xfe at port
//! 0x64, or a triple fault. What becomes of it is the user's choice.

use super::BusDevice;
use crate::config::OnReset;
use crate::stop::{Outcome, Stop};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use shared_abi::board::{KEYBOARD_RESET, RESET_CONTROL_CPU};
use std::sync::Arc;

/// The machine's reset line.
#[derive(Debug)]
pub struct ResetLine {
    on_reset: OnReset,
    stop: Arc<Stop>,
    pending: AtomicBool,
}

impl ResetLine {
    /// A line that does what the user wants.
    pub fn new(on_reset: OnReset, stop: Arc<Stop>) -> Self {
        Self { on_reset, stop, pending: AtomicBool::new(false) }
    }

    /// The guest resets its machine. The vCPU that says so runs no further.
    pub fn pull(&self) {
        match self.on_reset {
            OnReset::Exit => self.stop.request(Outcome::GuestReset),
            OnReset::Reboot => {
                self.pending.store(true, Ordering::Release);
                self.stop.wake();
            }
        }
    }

    /// Whether the machine is started again after a triple fault, which otherwise is a failure.
    pub fn reboots(&self) -> bool {
        self.on_reset == OnReset::Reboot
    }

    /// Whether the machine has to be started again.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Whether the guest's devices must come to an end: it is reset, or its VM ends.
    pub fn interrupts(&self) -> bool {
        self.is_pending() || self.stop.requested()
    }

    /// The machine is as it was at first.
    pub fn is_done(&self) {
        self.pending.store(false, Ordering::Release);
    }
}

/// The reset control register.
pub struct ControlRegister(Arc<ResetLine>, AtomicU8);

impl ControlRegister {
    /// One that pulls the line.
    pub fn new(line: Arc<ResetLine>) -> Self {
        Self(line, AtomicU8::new(0))
    }
}

impl BusDevice for ControlRegister {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.1.load(Ordering::Relaxed));
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let Some(value) = data.last() else { return };
        self.1.store(value & !RESET_CONTROL_CPU, Ordering::Relaxed);
        if data.iter().any(|value| value & RESET_CONTROL_CPU != 0) {
            self.0.pull();
        }
    }
}

/// The command port of a keyboard controller that is not there but for its reset line.
pub struct KeyboardController(pub Arc<ResetLine>);

impl BusDevice for KeyboardController {
    /// Reads as an absent port, so that no guest looks for a keyboard.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.contains(&KEYBOARD_RESET) {
            self.0.pull();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(on_reset: OnReset) -> (Arc<ResetLine>, Arc<Stop>) {
        let stop = Arc::new(Stop::new().unwrap());
        (Arc::new(ResetLine::new(on_reset, stop.clone())), stop)
    }

    #[test]
    fn only_the_values_that_mean_a_reset_pull_the_line() {
        let (line, _stop) = line(OnReset::Reboot);
        let (control, keyboard) = (ControlRegister::new(line.clone()), KeyboardController(line.clone()));
        for value in [0, 1, 2, 8, 0xfb] {
            control.write(0, &[value]);
        }
        for value in [0, 0xaa, 0xd1, 0xff] {
            keyboard.write(0, &[value]);
        }
        control.write(0, &[]);
        assert!(!line.is_pending());
        let mut data = [0; 2];
        control.read(0, &mut data);
        assert_eq!(data, [0xfb; 2]);
        for pull in
            [&|| control.write(0, &[6]), &|| control.write(0, &[0xe]), &|| keyboard.write(0, &[0xfe])] as [&dyn Fn(); 3]
        {
            pull();
            assert!(line.is_pending());
            line.is_done();
        }
    }

    #[test]
    fn a_reset_ends_the_vm_or_starts_it_again() {
        let (exit, stop) = line(OnReset::Exit);
        exit.pull();
        assert_eq!((stop.outcome(), exit.is_pending()), (Some(Outcome::GuestReset), false));
        let (reboot, stop) = line(OnReset::Reboot);
        reboot.pull();
        assert_eq!((stop.outcome(), reboot.is_pending(), stop.requested()), (None, true, false));
        assert_eq!(stop.event().read().unwrap(), 1, "the main loop wakes up");
    }
}
