//! A token bucket: a guest that prints without end gets its rate, and a burst of one second of it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const BURST: Duration = Duration::from_secs(1);

/// Bytes per second.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: u64,
    /// When the bytes so far would have gone out at exactly the rate.
    paid_until: Mutex<Option<Instant>>,
}

impl Bucket {
    pub(super) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), paid_until: Mutex::new(None) }
    }

    /// Takes tokens for bytes, and says how long to wait before they may go out.
    pub(super) fn take(&self, bytes: usize, now: Instant) -> Duration {
        let cost = self.cost(bytes);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        // Unused time is saved, but no more than a burst of it.
        let saved = now.checked_sub(BURST).unwrap_or(now);
        let paid = paid_until.map_or(saved, |at| at.max(saved)) + cost;
        *paid_until = Some(paid);
        paid.saturating_duration_since(now)
    }

    /// Takes back the cost of bytes that do not go out.
    pub(super) fn give_back(&self, bytes: usize) {
        let cost = self.cost(bytes);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_until = paid_until.and_then(|at| at.checked_sub(cost));
    }

    fn cost(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let bucket = Bucket::new(1000);
        let now = Instant::now() + Duration::from_secs(10);
        assert_eq!(bucket.take(1000, now), Duration::ZERO);
        assert_eq!(bucket.take(500, now), Duration::from_millis(500));
        assert_eq!(bucket.take(500, now + Duration::from_millis(500)), Duration::from_millis(500));
        // What was not used for long is no more than one burst.
        let later = now + Duration::from_secs(100);
        assert_eq!(bucket.take(1000, later), Duration::ZERO);
        assert_eq!(bucket.take(1, later), Duration::from_millis(1));
        bucket.take(1_000_000, later);
        bucket.give_back(1_000_000);
        assert_eq!(bucket.take(1, later), Duration::from_millis(2));
    }
}
