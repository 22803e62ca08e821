//! The gate between the vCPUs' threads and the guest: each passes it before KVM_RUN, and it is open while the VM is
//! [`State::Running`].
//!
//! A vCPU first says that it is in the guest and then checks whether the gate is open; closing the gate does it the
//! other way round. So either the vCPU sees the closed gate, or its place says that it has to be interrupted. A signal
//! that comes just before KVM_RUN is lost, so it is sent again until the place says that the vCPU is out.

use super::lifecycle::{Event, Illegal, State};
use crate::mistake::{Mistake, made};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, thread};
use crate::threads::Seat;
use std::sync::PoisonError;
use std::time::Duration;

/// Longest wait for a vCPU that is in the guest: on some hosts an instruction can hang in the kernel.
const GUEST_GRACE: Duration = Duration::from_secs(2);
/// Longest wait for an exit that is being served. It may wait for the reader of a console, and runs no guest code.
const EXIT_GRACE: Duration = Duration::from_millis(100);
/// Longest wait for the end of a reset, which makes new vCPUs.
const RESET_GRACE: Duration = Duration::from_secs(2);
/// Between two looks at the vCPUs, at first and at last.
const STEP: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(5));

/// Where a vCPU is. Ordered: it is waited longest for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum At {
    /// Before the gate, or without a thread.
    Outside,
    /// It serves an exit.
    Exit,
    /// In KVM_RUN, or on the way into it.
    Guest,
}

/// What a vCPU finds at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It is in the guest now.
    Open,
    /// It is not, and has to wait.
    Closed,
}

/// Why the vCPUs were not paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// The state does not allow it.
    #[error("{0}")]
    Illegal(#[from] Illegal),
    /// This vCPU stayed in the guest, and all run on.
    #[error("cannot pause the VM: vcpu {0} did not leave the guest in time; all vCPUs run on")]
    Stuck(usize),
}

/// The state of a VM's vCPUs, and where each of them is.
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// The state is [`State::Running`].
    open: AtomicBool,
    places: Vec<Place>,
}

#[derive(Default)]
struct Place {
    at: AtomicU8,
    thread: Seat,
}

impl Place {
    fn at(&self) -> At {
        match self.at.load(Ordering::SeqCst) {
            at if at == At::Guest as u8 => At::Guest,
            at if at == At::Exit as u8 => At::Exit,
            _ => At::Outside,
        }
    }

    fn set(&self, at: At) {
        self.at.store(at as u8, Ordering::SeqCst);
    }
}

impl Gate {
    /// The gate of so many vCPUs, [`State::Created`].
    pub fn new(vcpus: u32) -> Self {
        Self {
            state: Mutex::new(State::Created),
            changed: Condvar::new(),
            open: AtomicBool::new(false),
            places: (0..vcpus).map(|_| Place::default()).collect(),
        }
    }

    /// The vCPUs' state.
    pub fn state(&self) -> State {
        *self.lock()
    }

    /// Changes the state by the table, and wakes the vCPUs that wait. They follow in their own time.
    ///
    /// # Errors
    /// [`Illegal`]: nothing has changed.
    pub fn change(&self, event: Event) -> Result<State, Illegal> {
        let mut state = self.lock();
        *state = state.after(event)?;
        self.open.store(*state == State::Running, Ordering::SeqCst);
        if !made(Mistake::GateWakesNobody) {
            self.changed.notify_all();
        }
        Ok(*state)
    }

    /// Pauses the vCPUs and returns when all of them are out of the guest. An exit that is being served is waited for, but
    /// for a moment only; so is the end of a reset.
    ///
    /// # Errors
    /// [`PauseError`]: the state is as it was.
    pub fn pause(&self) -> Result<(), PauseError> {
        let state = self.lock();
        if *state == State::Created {
            let in_reset = |state: &mut State| *state == State::Created;
            drop(self.changed.wait_timeout_while(state, RESET_GRACE, in_reset));
        } else {
            drop(state);
        }
        self.pause_within(GUEST_GRACE, EXIT_GRACE)
    }

    fn pause_within(&self, guest: Duration, exit: Duration) -> Result<(), PauseError> {
        self.change(Event::Pause)?;
        let (started, mut step) = (Instant::now(), STEP.0);
        loop {
            let (mut last, mut at) = (0, At::Outside);
            for (index, place) in self.places.iter().enumerate() {
                let here = place.at();
                if here == At::Guest && !(made(Mistake::OneSignal) && step > STEP.0) {
                    place.thread.interrupt();
                }
                if here > at {
                    (last, at) = (index, here);
                }
            }
            match at {
                At::Outside => return Ok(()),
                At::Exit if started.elapsed() >= exit => return Ok(()),
                At::Guest if started.elapsed() >= guest => {
                    self.change(Event::Resume)?;
                    return Err(PauseError::Stuck(last));
                }
                At::Exit | At::Guest => thread::sleep(step),
            }
            step = (step * 2).min(STEP.1);
        }
    }

    /// The calling thread is that of vCPU `index` until it drops the result.
    pub fn admit(&self, index: u32) -> Option<Pass<'_>> {
        let place = self.places.get(index as usize)?;
        place.thread.take();
        Some(Pass { gate: self, place })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A vCPU's thread at the gate.
pub struct Pass<'a> {
    gate: &'a Gate,
    place: &'a Place,
}

impl Pass<'_> {
    /// Goes into the guest if the gate is open.
    pub fn enter(&self) -> Entry {
        if made(Mistake::GateBeforePlace) && self.gate.open.load(Ordering::SeqCst) {
            self.place.set(At::Guest);
            return Entry::Open;
        }
        self.place.set(At::Guest);
        if self.gate.open.load(Ordering::SeqCst) {
            return Entry::Open;
        }
        self.place.set(At::Outside);
        Entry::Closed
    }

    /// Has come back from the guest, with an exit to be served.
    pub fn exit(&self) {
        self.place.set(At::Exit);
    }

    /// Waits until the gate opens, or is closed for good, or `goes_on` says that the vCPU is to end.
    pub fn wait(&self, goes_on: impl Fn() -> bool) {
        let waits = |state: &mut State| matches!(state, State::Created | State::Paused) && goes_on();
        drop(self.gate.changed.wait_while(self.gate.lock(), waits));
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.place.thread.leave();
        self.place.set(At::Outside);
    }
}

#[cfg(all(test, not(feature = "models")))]
#[path = "gate_tests.rs"]
mod tests;
