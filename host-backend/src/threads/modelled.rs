//! The interrupting signal in a model: it ends the system call in which a thread is, and is lost otherwise.

use crate::sync::thread::JoinHandle;
use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use shuttle::thread::{self, ThreadId};
use std::collections::HashMap;

/// Where a thread of the model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Outside,
    InCall,
    /// In the call that a signal has ended.
    Interrupted,
}

#[derive(Debug, Default)]
struct Calls {
    at: Mutex<At>,
    changed: Condvar,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt(&self) {
        let mut at = self.lock();
        if *at == At::InCall {
            *at = At::Interrupted;
            self.changed.notify_all();
        }
    }
}

shuttle::thread_local! {
    static CALLS: Arc<Calls> = {
        let calls = Arc::<Calls>::default();
        ALL.lock().unwrap_or_else(PoisonError::into_inner).insert(thread::current().id(), calls.clone());
        calls
    };
}

shuttle::lazy_static! {
    static ref ALL: Mutex<HashMap<ThreadId, Arc<Calls>>> = Mutex::default();
}

/// A system call of the calling thread that only a signal ends.
#[cfg_attr(not(test), expect(dead_code, reason = "only the models are vCPUs without KVM"))]
pub(crate) fn system_call() {
    let calls = CALLS.with(Arc::clone);
    let mut at = calls.lock();
    *at = At::InCall;
    let mut at = calls.changed.wait_while(at, |at| *at == At::InCall).unwrap_or_else(PoisonError::into_inner);
    *at = At::Outside;
}

/// What has an end: a thread of the model, or one of the system, which no model runs.
pub trait Handle {
    /// Whether it has ended.
    fn is_finished(&self) -> bool;

    /// Its place among the threads of the model.
    fn id(&self) -> Option<ThreadId>;
}

impl Handle for JoinHandle<()> {
    fn is_finished(&self) -> bool {
        self.is_finished()
    }

    fn id(&self) -> Option<ThreadId> {
        Some(self.thread().id())
    }
}

impl Handle for std::thread::JoinHandle<()> {
    fn is_finished(&self) -> bool {
        self.is_finished()
    }

    fn id(&self) -> Option<ThreadId> {
        None
    }
}

/// As the real one. A thread that waits in [`crate::event::serve`] needs no signal.
pub fn has_ended(thread: &impl Handle) -> bool {
    interrupt(thread);
    thread.is_finished()
}

/// As the real one.
pub fn interrupt(thread: &impl Handle) {
    let calls = thread.id().and_then(|id| ALL.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned());
    if let Some(calls) = calls {
        calls.interrupt();
    }
}

/// As the real one.
#[derive(Debug, Default)]
pub struct Seat(Mutex<Option<Arc<Calls>>>);

impl Seat {
    /// The calling thread sits here until it leaves.
    pub fn take(&self) {
        *self.lock() = Some(CALLS.with(Arc::clone));
    }

    /// Not in use any more.
    pub fn leave(&self) {
        *self.lock() = None;
    }

    /// Interrupts the system call in which the thread may be, if there is one here.
    pub fn interrupt(&self) {
        let seated = self.lock();
        if let Some(calls) = &*seated {
            calls.interrupt();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Calls>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
