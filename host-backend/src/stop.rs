//! The one way in which a VM ends: each cause (the guest, a signal, the control socket, a failure) requests
//! it here, the first reason wins, and [`crate::run`] waits for it.

use crate::event::{EventFd, event};
use crate::mistake::{Mistake, made};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Why the VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest wrote this code to its exit port.
    GuestExit(u32),
    /// The guest reset its machine, and that is to end the VM.
    GuestReset,
    /// The control socket asked for it.
    Stopped,
    /// This signal asked for it.
    Signal(i32),
    /// The VM cannot go on, because of this.
    Failure(String),
}

/// A request to end the VM, shared by all who may make one.
#[derive(Debug)]
pub struct Stop {
    requested: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    event: EventFd,
}

impl Stop {
    /// Nothing requested yet.
    ///
    /// # Errors
    /// When the system has no event file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { requested: AtomicBool::new(false), outcome: Mutex::new(None), event: event()? })
    }

    /// Ends the VM; the first outcome is the one that counts.
    pub fn request(&self, outcome: Outcome) {
        if made(Mistake::StopBeforeReason) {
            self.requested.store(true, Ordering::Release);
        }
        if let Ok(mut slot) = self.outcome.lock() {
            if made(Mistake::LastReasonWins) {
                *slot = None;
            }
            slot.get_or_insert(outcome);
        }
        self.requested.store(true, Ordering::Release);
        if !made(Mistake::StopWakesNobody) {
            self.wake();
        }
    }

    /// Makes the main loop look for what is to be done.
    pub fn wake(&self) {
        // A full counter is readable too, so a failed write loses nothing.
        let _ = self.event.write(1);
    }

    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// The first outcome requested.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome.lock().ok().and_then(|slot| slot.clone())
    }

    /// Becomes readable on a request and stays so, unless it is read.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// Ends the VM when the thread that holds it panics: others would wait for that thread forever.
pub struct PanicWatch {
    stop: Arc<Stop>,
    thread: String,
}

impl PanicWatch {
    /// A watch over the calling thread, which goes by this name in the reason for the end.
    pub fn new(stop: Arc<Stop>, thread: impl Into<String>) -> Self {
        Self { stop, thread: thread.into() }
    }
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop.request(Outcome::Failure(format!("{} panicked", self.thread)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins() {
        let stop = Stop::new().unwrap();
        assert!(!stop.requested());
        stop.request(Outcome::GuestExit(7));
        stop.request(Outcome::Stopped);
        assert!(stop.requested());
        assert_eq!(stop.outcome(), Some(Outcome::GuestExit(7)));
        assert_eq!(stop.event().read().unwrap(), 2);
    }
}
