//! The rate limit of a device: bytes and requests per second, both at once.
//!
//! A queue whose next request has no tokens yet is left alone: the request stays in the ring, no thread and no lock waits for
//! it, and so nothing else does. The device asks for a call ([`Device::wake_at`](super::Device::wake_at)) at the time at which the
//! tokens are there. A device with several queues serves those that wait in turn, request by request.
//!
//! Its level outlives a reset: that is no way around the limit. The queues that wait do not.

use super::Signal;
use crate::config::RateLimit;
use crate::rate::{Bucket, Clock};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a request takes of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that it moves.
    pub bytes: u64,
    /// Operations or packets that it is.
    pub operations: u64,
}

/// Whether a request may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may, and is paid for.
    Now,
    /// Its queue waits.
    Later,
}

/// A limit, and the queues that it holds back.
#[derive(Debug)]
pub struct Throttle {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    clock: Arc<dyn Clock>,
    /// Queues whose next request waits, the longest first.
    waiting: VecDeque<usize>,
    /// When the first of them can go on; `None` is at once.
    due: Option<Instant>,
    /// Since when there is one.
    since: Option<Instant>,
    /// Part of a millisecond that was not counted yet.
    rest: Duration,
}

impl Throttle {
    /// This limit, by this clock.
    pub fn new(limit: &RateLimit, clock: Arc<dyn Clock>) -> Self {
        let bucket = |rate: Option<u64>| rate.map(|rate| Bucket::new(rate, limit.burst));
        Self {
            bytes: bucket(limit.bytes),
            operations: bucket(limit.operations),
            clock,
            waiting: VecDeque::new(),
            due: None,
            since: None,
            rest: Duration::ZERO,
        }
    }

    /// Lets the next request of a queue through, or makes the queue wait.
    pub fn admit(&mut self, queue: usize, cost: Cost, signal: &Signal) -> Admission {
        if self.bytes.is_none() && self.operations.is_none() {
            return Admission::Now;
        }
        let now = self.clock.now();
        // What waits longer goes first.
        if self.waiting.front().is_none_or(|first| *first == queue) {
            let wait = |bucket: &mut Option<Bucket>, tokens| {
                bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait_for(tokens, now))
            };
            let wait = wait(&mut self.bytes, cost.bytes).max(wait(&mut self.operations, cost.operations));
            if wait.is_zero() {
                self.bytes.as_mut().map(|bucket| bucket.take(cost.bytes, now));
                self.operations.as_mut().map(|bucket| bucket.take(cost.operations, now));
                self.forget(queue, signal);
                return Admission::Now;
            }
            self.due = Some(now + wait);
        }
        if !self.waiting.contains(&queue) {
            self.waiting.push_back(queue);
            signal.counters.throttled.add(1);
            self.since.get_or_insert(now);
        }
        Admission::Later
    }

    /// Nothing of the queue waits any more.
    pub fn forget(&mut self, queue: usize, signal: &Signal) {
        self.waiting.retain(|other| *other != queue);
        if self.waiting.is_empty()
            && let Some(since) = self.since.take()
        {
            let waited = self.rest + self.clock.now().saturating_duration_since(since);
            signal.counters.throttled_ms.add(waited.as_millis() as u64);
            self.rest = Duration::from_nanos(u64::from(waited.subsec_nanos()) % 1_000_000);
        }
    }

    /// A queue was taken back: those after it need not wait for what it waited for.
    pub fn queue_was_reset(&mut self) {
        self.due = None;
    }

    /// Nothing waits any more, and nothing of that is counted.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.since = None;
    }

    /// The queue that goes on next.
    pub fn first(&self) -> Option<usize> {
        self.waiting.front().copied()
    }

    /// Whether the queue waits.
    pub fn holds(&self, queue: usize) -> bool {
        self.waiting.contains(&queue)
    }

    /// When the first of the queues that wait can go on.
    pub fn wake_at(&self) -> Option<Instant> {
        self.first().map(|_| self.due.unwrap_or_else(|| self.clock.now()))
    }

    /// The queue was left before it was exhausted, and goes on at once.
    pub fn queue_up(&mut self, queue: usize) {
        if !self.holds(queue) {
            self.waiting.push_back(queue);
        }
        self.due = None;
    }
}
