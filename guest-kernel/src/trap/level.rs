//! A line that signals by a level: masked from its interrupt until the task that took it has had the device let go. Plain
//! logic, tested on the host.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// No number of a line.
const NO_LINE: u64 = u64::MAX;

/// A vector's line, if it signals by a level.
pub struct Level {
    line: AtomicU64,
    /// The line is masked, and its interrupt was not taken yet.
    masked: AtomicBool,
}

/// A line that its interrupt has masked: to be unmasked when the device has let go of it.
#[must_use = "the line interrupts no more"]
#[derive(Debug, PartialEq, Eq)]
pub struct Masked(u32);

impl Masked {
    /// The line, to be unmasked now.
    pub fn line(self) -> u32 {
        self.0
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::new()
    }
}

impl Level {
    /// That of a vector without such a line.
    pub const fn new() -> Self {
        Self { line: AtomicU64::new(NO_LINE), masked: AtomicBool::new(false) }
    }

    /// From now on the vector is that of a line which signals by a level.
    pub fn set(&self, line: u32) {
        self.line.store(line.into(), Relaxed);
    }

    /// The line interrupts: masks it, or it would interrupt forever before a task comes to serve it.
    pub fn interrupt(&self, mask: impl FnOnce(u32)) {
        if let Ok(line) = u32::try_from(self.line.load(Relaxed)) {
            mask(line);
            self.masked.store(true, SeqCst);
        }
    }

    /// Takes what was raised, by `take`, and with it the line. An interrupt that comes right after is not part of that: its line stays
    /// masked until it is taken itself, or it would interrupt again before the device is served.
    pub fn take(&self, take: impl FnOnce() -> bool) -> (bool, Option<Masked>) {
        let raised = take();
        (raised, if raised { self.hold() } else { None })
    }

    /// Takes the line alone, for checks, which wait for no event.
    pub fn hold(&self) -> Option<Masked> {
        let line = u32::try_from(self.line.load(Relaxed)).ok()?;
        self.masked.swap(false, SeqCst).then_some(Masked(line))
    }

    /// Whether there is a line to take.
    pub fn is_masked(&self) -> bool {
        self.masked.load(SeqCst)
    }
}

#[cfg(test)]
mod tests;
