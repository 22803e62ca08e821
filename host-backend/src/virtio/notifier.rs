//! How a device's worker learns of work: an event per queue, and one to look around.

use crate::event::{EventFd, event};
use crate::mistake::{Mistake, made};
use crate::sync::atomic::{AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Wakes the worker of a device.
#[derive(Debug)]
pub struct Notifier {
    /// One event per queue.
    pub queues: Vec<QueueEvent>,
    /// The device changed its mind about what it waits for.
    pub wake: EventFd,
}

/// The event of a queue. The guest signals it, mostly through KVM alone, and so does the host; only the guest's signals
/// are notifications.
#[derive(Debug)]
pub struct QueueEvent {
    event: EventFd,
    /// Signals of the host that were not read yet.
    own: AtomicU64,
}

impl QueueEvent {
    /// An event that was not signalled.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: event()?, own: AtomicU64::new(0) })
    }

    /// For KVM, which signals it when the guest writes QueueNotify.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Signals it for the guest.
    pub fn signal(&self) {
        // A full counter is readable too.
        let _ = self.event.write(1);
    }

    /// Signals it for the host.
    pub fn signal_own(&self) {
        if made(Mistake::OwnAfterSignal) {
            self.signal();
            self.own.fetch_add(1, Ordering::SeqCst);
            return;
        }
        // Before the signal, which the worker may read at once.
        self.own.fetch_add(1, Ordering::SeqCst);
        self.signal();
    }

    /// Reads it, and returns how often the guest signalled it.
    pub fn take(&self) -> u64 {
        let all = self.event.read().unwrap_or(0);
        let rest = |own: u64| Some(own.saturating_sub(all));
        let own = self.own.fetch_update(Ordering::SeqCst, Ordering::SeqCst, rest).unwrap_or(0);
        all.saturating_sub(own)
    }
}

impl AsRawFd for QueueEvent {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_signals_are_counted() {
        let event = QueueEvent::new().unwrap();
        assert_eq!(event.take(), 0);
        event.signal_own();
        event.signal_own();
        assert_eq!(event.take(), 0);
        event.signal();
        event.signal_own();
        event.signal();
        assert_eq!(event.take(), 2);
        assert_eq!(event.take(), 0);
    }

    #[test]
    fn a_signal_read_before_the_hosts_own_one_is_written_is_counted_later() {
        let event = QueueEvent::new().unwrap();
        // As if the worker ran between the two steps of `signal_own`.
        event.own.fetch_add(1, Ordering::SeqCst);
        event.signal();
        assert_eq!(event.take(), 0);
        event.signal();
        assert_eq!(event.take(), 1);
    }
}
