//! What a device says to the outside: its interrupt with the status register, its configuration's generation, its counters,
//! and the problems to report to the user of the host.

use super::pace::{INTERRUPTS_PER_SECOND, Pace};
use crate::devices::InterruptLine;
use crate::mistake::{Mistake, made};
use crate::rate::Clock;
use crate::say;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};
use serde::Serialize;
use shared_abi::virtio::mmio::InterruptStatus;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Instant;

/// The interrupt of a device with its status register, its configuration's generation, and its counters.
pub struct Signal {
    /// A device without a name keeps its problems to itself.
    name: Option<String>,
    line: Arc<dyn InterruptLine>,
    status: AtomicU32,
    /// Held while the configuration space is read or changed, never during I/O.
    generation: RwLock<u32>,
    problems: Mutex<Vec<Problem>>,
    /// How often the line may be raised, once there is a worker that raises it later.
    pace: OnceLock<Pace>,
    /// What the device did.
    pub counters: Counters,
}

/// Something that went wrong on the host's side, however often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of thing.
    pub kind: &'static str,
    /// How often it happened.
    pub count: u64,
    /// The first one, in words.
    pub first: String,
}

impl Signal {
    /// A quiet one for the device of that name, if it has one.
    pub fn new(name: Option<String>, line: Arc<dyn InterruptLine>) -> Self {
        Self {
            name,
            line,
            status: AtomicU32::new(0),
            generation: RwLock::new(0),
            problems: Mutex::default(),
            pace: OnceLock::new(),
            counters: Counters::default(),
        }
    }

    /// The device's name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Sets the reason in the status register, then raises the line: now, or with others when it was raised too often.
    pub fn raise(&self, why: InterruptStatus) {
        if made(Mistake::LineBeforeReason) {
            self.line.raise();
        }
        self.status.fetch_or(why.bits(), Ordering::SeqCst);
        if self.pace.get().is_none_or(Pace::may) {
            self.raise_line();
        } else {
            self.counters.interrupts_delayed.add(1);
        }
    }

    fn raise_line(&self) {
        self.counters.interrupts.add(1);
        if !made(Mistake::LineBeforeReason) {
            self.line.raise();
        }
    }

    /// From now on the line is raised only so often. The caller looks at [`interrupt_due`](Self::interrupt_due) after each
    /// call of the device.
    pub fn limit_interrupts(&self, clock: Arc<dyn Clock>) {
        let _ = self.pace.set(Pace::new(INTERRUPTS_PER_SECOND, clock));
    }

    /// When a delayed interrupt is due.
    pub fn interrupt_due(&self) -> Option<Instant> {
        self.pace.get().and_then(Pace::due)
    }

    /// Raises the line if a delayed interrupt is due.
    pub fn raise_due(&self) {
        if self.pace.get().is_some_and(Pace::take_due) {
            self.raise_line();
        }
    }

    /// The device was reset: no interrupt is left.
    pub fn forget_interrupts(&self) {
        self.acknowledge(u32::MAX);
        if let Some(pace) = self.pace.get() {
            pace.forget();
        }
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The guest has handled these reasons.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Changes the configuration space and its generation in one step: a driver that reads a field in two halves, one
    /// before and one after the change, sees another generation. `change` must not wait for anything.
    pub fn change_config(&self, change: impl FnOnce()) {
        if made(Mistake::ConfigUnlocked) {
            change();
            *self.generation.write().unwrap_or_else(PoisonError::into_inner) += 1;
            return;
        }
        let mut generation = self.generation.write().unwrap_or_else(PoisonError::into_inner);
        change();
        *generation = generation.wrapping_add(1);
    }

    /// Reads the configuration space, never in the middle of a change.
    pub fn read_config(&self, read: impl FnOnce()) {
        let _unchanged = self.generation.read().unwrap_or_else(PoisonError::into_inner);
        read();
    }

    /// Changes whenever the configuration does.
    pub fn generation(&self) -> u32 {
        *self.generation.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a problem: the first of its kind on standard error, the others by their number. A guest can cause as many
    /// as it likes.
    pub fn report(&self, kind: &'static str, what: impl FnOnce() -> String) {
        let mut problems = self.lock();
        match problems.iter_mut().find(|problem| problem.kind == kind) {
            Some(problem) => problem.count += 1,
            None => {
                let first = what();
                if let Some(name) = &self.name {
                    say!("{name}: {first}");
                }
                problems.push(Problem { kind, count: 1, first });
            }
        }
    }

    /// All problems so far.
    pub fn problems(&self) -> Vec<Problem> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Problem>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counter that everybody may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

/// What a device did, for the statistics.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Notifications from the guest.
    pub notifications: Counter,
    /// Interrupts to the guest.
    pub interrupts: Counter,
    /// Interrupts that came too often, and later than they should or together with others.
    pub interrupts_delayed: Counter,
    /// Notifications that came too often, and were handled later.
    pub notifications_delayed: Counter,
    /// Times that buffers were returned and the guest wanted no interrupt for them.
    pub interrupts_suppressed: Counter,
    /// Buffers (block requests, frames …) handled.
    pub requests: Counter,
    /// Bytes taken from the guest.
    pub bytes_from_guest: Counter,
    /// Bytes given to the guest.
    pub bytes_to_guest: Counter,
    /// Requests answered with an error, frames dropped.
    pub errors: Counter,
    /// Requests larger than the device takes, or than it takes at once.
    pub oversized: Counter,
    /// Times that the device's rate limit held a request back.
    pub throttled: Counter,
    /// Milliseconds for which it did.
    pub throttled_ms: Counter,
    /// Accesses to registers that mean nothing.
    pub bad_accesses: Counter,
    /// Times the device had to ask for a reset.
    pub faults: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::harness::Edges;

    #[test]
    fn a_problem_is_reported_once_per_kind_and_counted() {
        let signal = Signal::new(None, Arc::new(Edges::default()));
        let mut told = 0;
        for _ in 0..1000 {
            signal.report("read", || {
                told += 1;
                "read error".into()
            });
        }
        signal.report("write", || "write error".into());
        let problem = |kind, count, first: &str| Problem { kind, count, first: first.into() };
        assert_eq!(signal.problems(), [problem("read", 1000, "read error"), problem("write", 1, "write error")]);
        assert_eq!(told, 1);
    }
}
