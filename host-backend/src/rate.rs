//! Token buckets: what has a rate (a disk, a card's direction, a console, interrupts, lines of the log) takes its tokens here.
//!
//! A bucket holds so many tokens as its rate gives within its burst, and is full at first. The arithmetic is exact: a rate
//! holds whatever the sizes of the requests, and however often it is asked. Time comes from a [`Clock`], so that tests need not wait.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the unused rate is saved, unless the user says otherwise.
pub const BURST: Duration = Duration::from_secs(1);
/// A token, in the unit in which tokens are counted: at a rate of one per second, a nanosecond gives one of these.
const TOKEN: i128 = 1_000_000_000;
/// Longest wait that is announced. A debt beyond it is waited for in parts.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What time it is.
pub trait Clock: Debug + Send + Sync {
    /// Now.
    fn now(&self) -> Instant;
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl SystemClock {
    /// The clock to be shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

/// Tokens that come at a rate.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Tokens per second.
    rate: u64,
    capacity: i128,
    level: i128,
    /// The time for which `level` is right.
    at: Option<Instant>,
}

impl Bucket {
    /// So many tokens per second, of which those of `burst` are saved. At least one token fits.
    pub fn new(rate: u64, burst: Duration) -> Self {
        let rate = rate.max(1);
        let capacity = tokens_in(rate, burst).max(TOKEN);
        Self { rate, capacity, level: capacity, at: None }
    }

    /// Takes tokens, which may leave a debt, and says how long to wait until that is paid.
    pub fn take(&mut self, tokens: u64, now: Instant) -> Duration {
        self.fill(now);
        self.level = self.level.saturating_sub(i128::from(tokens) * TOKEN);
        self.time_for(self.level.saturating_neg())
    }

    /// Puts back what [`take`](Self::take) has taken.
    pub fn give_back(&mut self, tokens: u64) {
        self.level = self.level.saturating_add(i128::from(tokens) * TOKEN).min(self.capacity);
    }

    /// How long to wait until so many tokens are there. A request for more than the bucket holds waits until it is full, and
    /// leaves a debt when it takes them.
    pub fn wait_for(&mut self, tokens: u64, now: Instant) -> Duration {
        self.fill(now);
        let needed = (i128::from(tokens) * TOKEN).min(self.capacity);
        self.time_for(needed.saturating_sub(self.level))
    }

    fn fill(&mut self, now: Instant) {
        let before = *self.at.get_or_insert(now);
        // A clock that goes back gives nothing.
        let passed = now.saturating_duration_since(before);
        self.at = Some(before.max(now));
        self.level = self.level.saturating_add(tokens_in(self.rate, passed)).min(self.capacity);
    }

    /// The time in which so many parts of tokens come, rounded up.
    fn time_for(&self, missing: i128) -> Duration {
        if missing <= 0 {
            return Duration::ZERO;
        }
        let rate = i128::from(self.rate);
        let nanos = u64::try_from(missing.saturating_add(rate - 1) / rate).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos).min(WAIT_MAX)
    }
}

/// What a rate gives in some time, in parts of tokens.
fn tokens_in(rate: u64, time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX).saturating_mul(rate.into())
}

#[cfg(test)]
pub(crate) mod fake {
    //! A clock for tests.

    use super::Clock;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    /// A clock that goes when the test says so.
    #[derive(Debug)]
    pub(crate) struct FakeClock {
        start: Instant,
        nanos: AtomicU64,
    }

    impl FakeClock {
        pub(crate) fn shared() -> Arc<Self> {
            Arc::new(Self { start: Instant::now(), nanos: AtomicU64::new(0) })
        }

        pub(crate) fn elapsed(&self) -> Duration {
            Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
        }

        /// Goes on to that time, unless it is later already.
        pub(crate) fn pass_until(&self, time: Instant) {
            let nanos = time.saturating_duration_since(self.start).as_nanos() as u64;
            self.nanos.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Instant {
            self.start + self.elapsed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes requests of these sizes, one after the other, as soon as there are tokens, and returns how many tokens went
    /// out within `time`.
    fn taken_within(mut bucket: Bucket, time: Duration, sizes: &[u64]) -> u64 {
        let start = Instant::now();
        let mut now = start;
        let mut taken = 0;
        for size in sizes.iter().cycle() {
            now += bucket.wait_for(*size, now);
            if now > start + time {
                break;
            }
            bucket.take(*size, now);
            taken += size;
        }
        taken
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(1000, BURST);
        let now = Instant::now();
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

    #[test]
    fn a_request_larger_than_the_burst_passes_when_the_bucket_is_full_and_leaves_a_debt() {
        let mut bucket = Bucket::new(1000, BURST);
        let now = Instant::now();
        assert_eq!(bucket.wait_for(5000, now), Duration::ZERO);
        bucket.take(5000, now);
        assert_eq!(bucket.wait_for(1, now), Duration::from_millis(4001));
        assert_eq!(bucket.wait_for(5000, now), Duration::from_secs(5));
    }

    #[test]
    fn the_largest_numbers_overflow_nothing() {
        let now = Instant::now();
        let mut bucket = Bucket::new(u64::MAX, Duration::MAX);
        bucket.take(u64::MAX, now);
        bucket.take(u64::MAX, now + Duration::from_secs(u32::MAX.into()));
        let mut slow = Bucket::new(1, BURST);
        assert_eq!(slow.take(u64::MAX, now), WAIT_MAX);
        // A clock that goes back.
        assert_eq!(slow.wait_for(1, now.checked_sub(Duration::from_secs(1)).unwrap_or(now)), WAIT_MAX);
    }

    proptest! {
        /// What the burst and ten seconds of the rate give, within 5 %; and never more where each request fits the burst.
        #[test]
        fn ten_seconds_give_the_burst_and_ten_seconds_of_the_rate(
            rate in 1_000u64..10_000_000_000,
            burst_ms in 10u64..5_000,
            shares in proptest::collection::vec(1u64..1000, 1..20),
        ) {
            let given = u128::from(rate) * u128::from(10_000 + burst_ms) / 1000;
            // No request is larger than a hundredth of what is given.
            let size = |share: u64| ((given * u128::from(share) / 100_000) as u64).max(given as u64 / 2000).max(1);
            let sizes: Vec<_> = shares.into_iter().map(size).collect();
            let bucket = Bucket::new(rate, Duration::from_millis(burst_ms));
            let taken = u128::from(taken_within(bucket, Duration::from_secs(10), &sizes));
            prop_assert!((given * 95..=given * 105).contains(&(taken * 100)), "{taken} of {given}");
            if sizes.iter().all(|size| *size <= rate * burst_ms / 1000) {
                prop_assert!(taken <= given, "{taken} of {given}");
            }
        }
    }
}
