//! The executor: cooperative tasks on one CPU, woken by events, halting when none is ready.
//!
//! A task is a future. Interrupt handlers raise [`Event`]s; an event knows the tasks that wait for it as bits of a word,
//! so neither waking nor waiting allocates or locks. A task that never has to wait, because a device always has something
//! for it, ends its turn all the same: each wait costs a piece of its budget, and without any it waits for the next turn.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use pvops::{irq, time};

/// Waits that may be over at once in one turn of a task.
const BUDGET: u32 = 16;
/// Most tasks: one bit each.
const MAX_TASKS: usize = 64;

/// Tasks to be polled.
static READY: AtomicU64 = AtomicU64::new(0);
/// TSC ticks spent halted.
static IDLE_TICKS: AtomicU64 = AtomicU64::new(0);
static HALTS: AtomicU64 = AtomicU64::new(0);

/// Something that happens again and again, such as an interrupt.
pub struct Event {
    raised: AtomicBool,
    waiters: AtomicU64,
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}

impl Event {
    /// Not raised.
    pub const fn new() -> Self {
        Self { raised: AtomicBool::new(false), waiters: AtomicU64::new(0) }
    }

    /// Raises it and readies those who wait. May be called from interrupt handlers.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        READY.fetch_or(self.waiters.load(Ordering::Acquire), Ordering::AcqRel);
    }

    /// Takes the raised state.
    pub fn take(&self) -> bool {
        self.raised.swap(false, Ordering::AcqRel)
    }

    /// Readies the running task whenever it is raised, from now on.
    pub fn subscribe(&self) {
        self.waiters.fetch_or(1 << current(), Ordering::AcqRel);
    }

    /// Waits until it is raised, and takes that.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        core::future::poll_fn(|_| {
            self.subscribe();
            if !spend() {
                return Poll::Pending;
            }
            if self.take() { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    /// Waits until it is raised or a time has come.
    pub fn wait_until(&self, deadline: u64) -> impl Future<Output = ()> + '_ {
        core::future::poll_fn(move |_| {
            self.subscribe();
            if !spend() {
                return Poll::Pending;
            }
            if self.take() || time::now() >= deadline {
                return Poll::Ready(());
            }
            wake_at(deadline);
            Poll::Pending
        })
    }
}

/// Deadlines of sleeping tasks; `u64::MAX` is none.
struct Deadlines(RefCell<[u64; MAX_TASKS]>);

// SAFETY: only the executor's CPU touches it, never from an interrupt handler.
unsafe impl Sync for Deadlines {}
static DEADLINES: Deadlines = Deadlines(RefCell::new([u64::MAX; MAX_TASKS]));

/// The running task.
struct Current(Cell<usize>);
// SAFETY: as for `Deadlines`.
unsafe impl Sync for Current {}
static CURRENT: Current = Current(Cell::new(0));

fn current() -> usize {
    CURRENT.0.get()
}

/// What the running task has left of its budget.
struct Left(Cell<u32>);
// SAFETY: as for `Deadlines`.
unsafe impl Sync for Left {}
static LEFT: Left = Left(Cell::new(BUDGET));

/// Takes a piece of the running task's budget. False if there is none: then the future is to return pending, and is polled
/// again in the task's next turn. For futures that may be ready at once.
pub fn spend() -> bool {
    match LEFT.0.get().checked_sub(1) {
        Some(left) => {
            LEFT.0.set(left);
            true
        }
        None => {
            READY.fetch_or(1 << current(), Ordering::AcqRel);
            false
        }
    }
}

/// Polls the running task again at a time of `pvops::time::now`, if nothing does so before.
pub fn wake_at(deadline: u64) {
    let slot = &mut DEADLINES.0.borrow_mut()[current()];
    *slot = deadline.min(*slot);
}

/// Waits for some nanoseconds.
pub fn sleep(nanoseconds: u64) -> impl Future<Output = ()> + Unpin {
    let deadline = time::now().saturating_add(nanoseconds);
    core::future::poll_fn(move |_| {
        if time::now() >= deadline {
            return Poll::Ready(());
        }
        wake_at(deadline);
        Poll::Pending
    })
}

/// Lets the other tasks run.
pub fn yield_now() -> impl Future<Output = ()> + Unpin {
    let mut yielded = false;
    core::future::poll_fn(move |_| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        wake_at(time::now());
        Poll::Pending
    })
}

/// The tasks.
#[derive(Default)]
pub struct Executor {
    tasks: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>>,
}

impl Executor {
    /// No tasks.
    pub const fn new() -> Self {
        Self { tasks: Vec::new() }
    }

    /// Adds a task, ready to run.
    ///
    /// # Panics
    /// With more than 64 tasks.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        assert!(self.tasks.len() < MAX_TASKS, "too many tasks");
        READY.fetch_or(1 << self.tasks.len(), Ordering::AcqRel);
        self.tasks.push(Some(Box::pin(task)));
    }

    /// Runs the tasks for ever.
    pub fn run(&mut self) -> ! {
        loop {
            self.turn();
            idle();
        }
    }

    /// Gives each task that is ready a turn.
    pub fn turn(&mut self) {
        let mut ready = READY.swap(0, Ordering::AcqRel);
        while ready != 0 {
            let index = ready.trailing_zeros() as usize;
            ready &= ready - 1;
            CURRENT.0.set(index);
            LEFT.0.set(BUDGET);
            DEADLINES.0.borrow_mut()[index] = u64::MAX;
            let waker = waker();
            if let Some(slot) = self.tasks.get_mut(index)
                && let Some(task) = slot
                && task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                *slot = None;
            }
        }
    }
}

/// Halts until an interrupt, unless a task is ready; wakes the tasks whose deadline has come.
fn idle() {
    let next = DEADLINES.0.borrow().iter().copied().fold(u64::MAX, u64::min);
    if next != u64::MAX && next <= time::now() {
        let now = time::now();
        for (index, deadline) in DEADLINES.0.borrow_mut().iter_mut().enumerate() {
            if *deadline <= now {
                *deadline = u64::MAX;
                READY.fetch_or(1 << index, Ordering::AcqRel);
            }
        }
        return;
    }
    irq::disable();
    if READY.load(Ordering::Acquire) == 0 {
        time::set_timer(next);
        halt();
    } else {
        // SAFETY: the handlers are set up; no lock is held here.
        unsafe { irq::enable() };
    }
}

/// Halts once and accounts for it. Interrupts are off before and on after.
fn halt() {
    let before = time::tsc();
    // SAFETY: as in `idle`.
    unsafe { irq::halt() };
    IDLE_TICKS.fetch_add(time::tsc() - before, Ordering::Relaxed);
    HALTS.fetch_add(1, Ordering::Relaxed);
}

/// Waits, with everything else standing still, until `done` or `patience` nanoseconds have passed. For code that cannot be
/// a task: libraries that read a disk synchronously.
pub fn block_until(patience: u64, mut done: impl FnMut() -> bool) -> bool {
    let deadline = time::now().saturating_add(patience);
    loop {
        irq::disable();
        if done() || time::now() >= deadline {
            // SAFETY: as in `idle`.
            unsafe { irq::enable() };
            return done();
        }
        // A millisecond bounds the wait for a device whose interrupt does not reach us.
        time::set_timer(deadline.min(time::now() + 1_000_000));
        halt();
    }
}

/// How the CPU has spent its time.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// TSC ticks halted.
    pub ticks: u64,
    /// Times halted.
    pub halts: u64,
}

/// How the CPU has spent its time.
pub fn idle_time() -> Idle {
    Idle { ticks: IDLE_TICKS.load(Ordering::Relaxed), halts: HALTS.load(Ordering::Relaxed) }
}

/// A waker of the running task. It carries nothing but the task's number, so making, cloning and waking neither allocates
/// nor locks.
pub fn waker() -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &TABLE), wake, wake, |_| {});
    fn wake(task: *const ()) {
        READY.fetch_or(1 << task.addr(), Ordering::AcqRel);
    }
    // SAFETY: the table's functions take the data for a number, as which it is made here.
    unsafe { Waker::from_raw(RawWaker::new(core::ptr::without_provenance(current()), &TABLE)) }
}

#[cfg(test)]
mod tests;
