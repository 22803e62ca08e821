//! How often per second a guest or a peer may make a device do something that costs the host more than the guest: interrupts,
//! and wake-ups of its worker by notifications. What comes too often is put off and done once, a little later; none is lost.
//! No honest guest comes near these numbers.

use crate::rate::{Bucket, Clock};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Interrupts per second of a device.
pub const INTERRUPTS_PER_SECOND: u64 = 200_000;
/// Wake-ups of a device's worker by notifications, per second.
pub const NOTIFICATIONS_PER_SECOND: u64 = 200_000;
/// How long what is not used of them is saved.
pub const PACE_BURST: Duration = Duration::from_millis(20);

/// A pace.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    /// When what was put off may be done.
    due: Option<Instant>,
}

impl Pace {
    /// So many times per second, and those of [`PACE_BURST`] at once.
    pub fn new(per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::new(State { bucket: Bucket::new(per_second, PACE_BURST), due: None }), clock }
    }

    /// Whether it may be done now. If not, it is due later, and once however often it was asked for.
    pub fn may(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        let wait = state.bucket.wait_for(1, now);
        if wait.is_zero() {
            state.bucket.take(1, now);
            state.due = None;
        } else {
            state.due.get_or_insert(now + wait);
        }
        wait.is_zero()
    }

    /// When what was put off is due.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due
    }

    /// Whether something was put off whose time has come; it is to be done now.
    pub fn take_due(&self) -> bool {
        self.due().is_some() && self.may()
    }

    /// What was put off is not wanted any more.
    pub fn forget(&self) {
        self.lock().due = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::fake::FakeClock;

    #[test]
    fn what_comes_too_often_is_put_off_and_done_once() {
        let clock = FakeClock::shared();
        let pace = Pace::new(100, clock.clone());
        assert!(pace.may() && pace.may());
        assert_eq!((pace.due(), pace.take_due()), (None, false));
        assert!(!pace.may() && !pace.may() && !pace.take_due());
        clock.pass_until(pace.due().unwrap());
        assert!(pace.take_due());
        assert_eq!((pace.due(), pace.take_due(), pace.may()), (None, false, false));
        pace.forget();
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn what_is_done_anyway_is_not_done_again() {
        let clock = FakeClock::shared();
        let pace = Pace::new(100, clock.clone());
        assert!(pace.may() && pace.may() && !pace.may());
        clock.pass_until(pace.due().unwrap());
        assert!(pace.may());
        assert!(!pace.take_due());
    }
}
