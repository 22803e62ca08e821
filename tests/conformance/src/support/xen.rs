//! Xen as the checks use it: channels from the CPU to itself, so that each check knows what was sent, and refused calls.

use super::{Context, End, Verdict, equal, error, skip};
use guest_kernel::task::Event;
use guest_kernel::trap::irq;
use pvops::detect::World;
use pvops::worlds::xen::event::{bind_ipi, close, send};
use pvops::worlds::xen::hypercall::{self, Refused};
use pvops::{smp, time};
use shared_abi::xen::hypercall as number;
use spin::Once;

pub const EFAULT: i64 = -14;
pub const EEXIST: i64 = -17;
pub const EINVAL: i64 = -22;
pub const ENOSYS: i64 = -38;

pub fn here(cx: &Context) -> Verdict {
    if cx.found.world == World::Xen { Ok(()) } else { Err(skip("the kernel is no paravirtual guest of Xen")) }
}

/// Turns events on again, as checks are started with them on.
pub fn interrupts_on() {
    // SAFETY: the checks run in a task, where interrupts are on; no lock is held here.
    unsafe { pvops::irq::enable() };
}

/// Hypercalls that something costs.
pub fn counted<R>(what: impl FnOnce() -> R) -> u64 {
    let before = hypercall::total();
    what();
    hypercall::total() - before
}

pub fn settled<T>(result: Result<T, Refused>) -> Result<T, End> {
    result.map_err(error)
}

pub fn refused(what: &str, result: Result<(), Refused>, expected: i64) -> Verdict {
    equal(what, expected, result.err().map_or(0, |refused| refused.error))
}

/// A channel from this CPU to itself, and its vector.
pub struct Line {
    pub channel: u32,
    pub event: &'static Event,
    /// Events that had arrived when it was made.
    pub before: u64,
}

impl Line {
    /// On the first of two vectors.
    pub fn new() -> Result<Self, End> {
        Self::on(0)
    }

    pub fn on(index: usize) -> Result<Self, End> {
        static VECTORS: [Once<Option<(&'static Event, u8)>>; 2] = [const { Once::new() }; 2];
        let made = VECTORS[index].call_once(|| irq::bind_vector("conform").ok());
        let (event, vector) = made.ok_or_else(|| error("no vector is left"))?;
        // SAFETY: the vector has an event.
        let channel = settled(unsafe { bind_ipi(vector) })?;
        Ok(Self { channel, event, before: irq::count_of(event) })
    }

    pub fn arrived(&self) -> u64 {
        irq::count_of(self.event) - self.before
    }
}

pub fn event_sent(line: &Line) -> Verdict {
    settled(send(line.channel))
}

/// Makes a channel for `check` and closes it.
pub fn with_channel(cx: &Context, check: impl FnOnce(&Line) -> Verdict) -> Verdict {
    here(cx)?;
    let line = Line::new()?;
    let verdict = check(&line);
    settled(close(line.channel))?;
    verdict
}

/// Waits without touching the timer; whether `done` came.
pub fn spin_until(nanoseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = time::now() + nanoseconds;
    loop {
        match (done(), time::now() < end) {
            (true, _) => return true,
            (false, false) => return false,
            (false, true) => smp::relax(),
        }
    }
}

pub fn spin(nanoseconds: u64) {
    spin_until(nanoseconds, || false);
}

pub fn version() -> u32 {
    // SAFETY: asking has no effect.
    unsafe { hypercall::call2(number::XEN_VERSION, 0, 0) as u32 }
}
