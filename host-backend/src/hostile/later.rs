//! Delayed actions: one thread for all devices.

use crate::stop::Stop;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Interval of the thread's checks for the VM's end.
const TICK: Duration = Duration::from_millis(50);

type Action = Box<dyn FnOnce() + Send>;

/// Actions that wait for their time.
pub(super) struct Later {
    sender: Sender<(Instant, Action)>,
    /// Taken by the thread.
    receiver: Mutex<Option<Receiver<(Instant, Action)>>>,
    thread: OnceLock<JoinHandle<()>>,
}

impl Default for Later {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver: Mutex::new(Some(receiver)), thread: OnceLock::new() }
    }
}

impl Later {
    /// Runs an action in so many milliseconds.
    pub(super) fn put(&self, ms: u32, action: Action) {
        // Once the thread has ended, so has the VM.
        let _ = self.sender.send((Instant::now() + Duration::from_millis(ms.into()), action));
    }

    /// Starts the thread, which calls `enter` first, and ends with the VM.
    pub(super) fn start(later: &Arc<Self>, stop: &Arc<Stop>, enter: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Some(receiver) = later.take() else { return Ok(()) };
        let stop = stop.clone();
        let work = move || {
            enter();
            serve(&receiver, &stop);
        };
        let thread = thread::Builder::new().name("hostile".into()).spawn(work)?;
        let _ = later.thread.set(thread);
        Ok(())
    }

    /// Whether the thread has ended, or never started.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.get().is_none_or(JoinHandle::is_finished)
    }

    fn take(&self) -> Option<Receiver<(Instant, Action)>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Runs all actions now.
    #[cfg(test)]
    pub(super) fn fire(&self) {
        let receiver = self.take();
        while let Some((_, action)) = receiver.as_ref().and_then(|receiver| receiver.try_recv().ok()) {
            action();
        }
        *self.receiver.lock().unwrap_or_else(PoisonError::into_inner) = receiver;
    }
}

fn serve(receiver: &Receiver<(Instant, Action)>, stop: &Stop) {
    let mut waiting: Vec<(Instant, Action)> = Vec::new();
    while !stop.requested() {
        let now = Instant::now();
        let next = waiting.iter().map(|(due, _)| due.saturating_duration_since(now)).min().unwrap_or(TICK);
        match receiver.recv_timeout(next.min(TICK)) {
            Ok(entry) => waiting.push(entry),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        for (_, action) in waiting.extract_if(.., |(due, _)| *due <= now) {
            action();
        }
    }
}
