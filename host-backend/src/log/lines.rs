//! How many lines go to standard error: a guest, a peer or a client that causes one again and again fills no disk.

use crate::rate::{BURST, Bucket};
use serde::Serialize;
use std::time::Instant;

/// Lines per second, and as many at once as those of a burst.
pub const LINES_PER_SECOND: u64 = 20;
/// Lines that one place in the program writes, at most.
pub const LINES_PER_KIND: u64 = 1000;

/// The lines so far.
#[derive(Debug)]
pub(super) struct Lines {
    bucket: Bucket,
    kinds: Vec<(&'static str, u64)>,
    limit: Limit,
    counts: LineCounts,
    /// Suppressed, and not reported yet.
    unreported: u64,
}

/// Whether the limits apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    On,
    /// The guest has ended: what is left to say is bounded by itself, and must be said.
    Lifted,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// Written.
    pub lines: u64,
    /// Not written, since there were too many.
    pub suppressed: u64,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            bucket: Bucket::new(LINES_PER_SECOND, BURST),
            kinds: Vec::new(),
            limit: Limit::On,
            counts: LineCounts::default(),
            unreported: 0,
        }
    }

    /// Whether a line of this kind may be written, and if so, how many were not since the last one.
    pub(super) fn admit(&mut self, kind: &'static str, now: Instant) -> Option<u64> {
        if !self.has_room(kind, now) {
            self.counts.suppressed += 1;
            self.unreported += 1;
            return None;
        }
        self.counts.lines += 1;
        Some(std::mem::take(&mut self.unreported))
    }

    fn has_room(&mut self, kind: &'static str, now: Instant) -> bool {
        if self.limit == Limit::Lifted {
            return true;
        }
        let at = self.kinds.iter().position(|(other, _)| *other == kind).unwrap_or_else(|| {
            self.kinds.push((kind, 0));
            self.kinds.len() - 1
        });
        let count = &mut self.kinds[at].1;
        if *count >= LINES_PER_KIND || !self.bucket.wait_for(1, now).is_zero() {
            return false;
        }
        *count += 1;
        self.bucket.take(1, now);
        true
    }

    /// From now on every line is written. Returns how many were not and are not reported yet.
    pub(super) fn lift(&mut self) -> u64 {
        self.limit = Limit::Lifted;
        std::mem::take(&mut self.unreported)
    }

    pub(super) fn counts(&self) -> LineCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Tries a line of each of these kinds in each millisecond, and returns how many were written.
    fn written_within(lines: &mut Lines, start: Instant, seconds: u64, kinds: &[&'static str]) -> u64 {
        let before = lines.counts().lines;
        for ms in 0..seconds * 1000 {
            for kind in kinds {
                lines.admit(kind, start + Duration::from_millis(ms));
            }
        }
        lines.counts().lines - before
    }

    #[test]
    fn lines_have_a_rate_and_suppressed_ones_are_reported() {
        let (mut lines, start) = (Lines::new(), Instant::now());
        let ten = written_within(&mut lines, start, 10, &["one", "other"]);
        let given = 11 * LINES_PER_SECOND;
        assert!((given * 95 / 100..=given).contains(&ten), "{ten}");
        let suppressed = lines.counts().suppressed;
        assert_eq!(ten + suppressed, 20_000);
        // Each line that is written reports those before it.
        assert!(lines.admit("one", start + Duration::from_secs(11)).is_some_and(|before| before > 0));
        assert_eq!(lines.admit("one", start + Duration::from_secs(11)), Some(0));
    }

    #[test]
    fn a_kind_of_line_has_a_bound_and_the_others_go_on() {
        let (mut lines, start) = (Lines::new(), Instant::now());
        assert_eq!(written_within(&mut lines, start, 100, &["often"]), LINES_PER_KIND);
        let later = start + Duration::from_secs(100);
        assert_eq!((lines.admit("often", later), lines.admit("other", later).is_some()), (None, true));
    }

    #[test]
    fn at_the_end_everything_is_said() {
        let (mut lines, start) = (Lines::new(), Instant::now());
        written_within(&mut lines, start, 1, &["often"]);
        let suppressed = lines.counts().suppressed;
        assert!(suppressed > 0 && lines.lift() > 0);
        for _ in 0..2 * LINES_PER_KIND {
            assert_eq!(lines.admit("often", start), Some(0));
        }
        assert_eq!(lines.counts().suppressed, suppressed);
    }
}
