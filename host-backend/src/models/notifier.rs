//! The event of a queue: each signal of the guest is counted once, and none of the host's.

use super::{finds, holds, holds_always};
use crate::mistake::Mistake;
use crate::sync::thread;
use crate::virtio::notifier::QueueEvent;
use std::sync::Arc;

/// The worker looks while the host signals.
fn host_is_not_counted() {
    let event = Arc::new(QueueEvent::new().unwrap());
    let host = event.clone();
    let host = thread::spawn(move || host.signal_own());
    assert_eq!(event.take(), 0);
    host.join().unwrap();
    assert_eq!(event.take(), 0);
}

/// The guest's signals are counted while the host signals too.
fn guest_is_counted(guest: u64, own: u64, looks: usize) {
    let event = Arc::new(QueueEvent::new().unwrap());
    let spawn = |count: u64, signal: fn(&QueueEvent)| {
        let event = event.clone();
        thread::spawn(move || (0..count).for_each(|_| signal(&event)))
    };
    let threads = [spawn(guest, QueueEvent::signal), spawn(own, QueueEvent::signal_own)];
    let mut counted = 0;
    for _ in 0..looks {
        counted += event.take();
        assert!(counted <= guest, "a signal of the host was counted");
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(counted + event.take(), guest);
}

#[test]
fn hosts_signals_are_never_counted() {
    holds_always(host_is_not_counted);
}

#[test]
fn guests_signals_are_counted_once() {
    holds(|| guest_is_counted(3, 3, 4));
}

#[test]
fn own_count_after_its_signal_is_found() {
    finds(Mistake::OwnAfterSignal, host_is_not_counted);
    finds(Mistake::OwnAfterSignal, || guest_is_counted(3, 3, 4));
}
