//! The card's rate limits: the same for each direction, and independent of each other, as a cable has them.

use super::HEADER_LEN;
use crate::config::RateLimit;
use crate::rate::Clock;
use crate::virtio::Signal;
use crate::virtio::throttle::{Admission, Cost, Throttle};
use std::sync::Arc;
use std::time::Instant;

/// Each limit has one queue.
const ONLY: usize = 0;

/// One direction.
#[derive(Debug)]
pub(super) struct Direction(Throttle);

/// Both.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) incoming: Direction,
    pub(super) outgoing: Direction,
}

impl Limits {
    pub(super) fn new(limit: &RateLimit, clock: &Arc<dyn Clock>) -> Self {
        let direction = || Direction(Throttle::new(limit, clock.clone()));
        Self { incoming: direction(), outgoing: direction() }
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.incoming.0.clear();
        self.outgoing.0.clear();
    }

    /// When one of them can go on.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        [&self.incoming, &self.outgoing].into_iter().filter_map(|direction| direction.0.wake_at()).min()
    }
}

impl Direction {
    /// Lets a packet of this length through that is so many frames on the wire, or makes the direction wait.
    pub(super) fn admit(&mut self, len: usize, frames: usize, signal: &Signal) -> Admission {
        let cost = Cost { bytes: (len - HEADER_LEN) as u64, operations: frames as u64 };
        self.0.admit(ONLY, cost, signal)
    }

    /// Whether it waits.
    pub(super) fn holds(&self) -> bool {
        self.0.holds(ONLY)
    }

    /// It has nothing to wait for.
    pub(super) fn forget(&mut self, signal: &Signal) {
        self.0.forget(ONLY, signal);
    }

    /// It is to be served again at once.
    pub(super) fn queue_up(&mut self) {
        self.0.queue_up(ONLY);
    }
}
