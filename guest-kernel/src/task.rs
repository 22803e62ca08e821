//! The executor: cooperative tasks of one CPU, woken by events, halting when none is ready. What it keeps is kept for each CPU,
//! so that each can run one.
//!
//! A task is a future and stays on its CPU. Interrupt handlers raise [`Event`]s; an event knows the tasks that wait for it as
//! bits of a word for each CPU, so neither waking nor waiting allocates or locks. A task that never has to wait, because a
//! device always has something for it, ends its turn all the same: each wait costs a piece of its budget, and without any it
//! waits for the next turn.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use pvops::percpu::{self, CPUS, PerCpu};
use pvops::{irq, per_cpu, time};

/// Waits that may be over at once in one turn of a task.
const BUDGET: u32 = 16;
/// Most tasks: one bit each.
const MAX_TASKS: usize = 64;

/// What the executor of a CPU keeps.
struct State {
    /// Tasks to be polled. Other CPUs set bits, too.
    ready: AtomicU64,
    /// Deadlines of sleeping tasks; `u64::MAX` means none.
    deadlines: RefCell<[u64; MAX_TASKS]>,
    /// The running task.
    current: Cell<usize>,
    /// What the running task has left of its budget.
    left: Cell<u32>,
    /// TSC ticks spent halted.
    idle_ticks: AtomicU64,
    halts: AtomicU64,
}

// SAFETY: only its own CPU touches what is not atomic, never from an interrupt handler.
unsafe impl Sync for State {}

static STATE: PerCpu<State> = per_cpu!(State {
    ready: AtomicU64::new(0),
    deadlines: RefCell::new([u64::MAX; MAX_TASKS]),
    current: Cell::new(0),
    left: Cell::new(BUDGET),
    idle_ticks: AtomicU64::new(0),
    halts: AtomicU64::new(0),
});

/// Readies tasks of the CPU with a slot.
fn make_ready(slot: usize, tasks: u64) {
    if let Some(state) = STATE.of(slot) {
        state.ready.fetch_or(tasks, Ordering::AcqRel);
    }
}

/// Something that happens again and again, such as an interrupt.
pub struct Event {
    raised: AtomicBool,
    /// The tasks that wait, by the slot of their CPU.
    waiters: [AtomicU64; CPUS],
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}

impl Event {
    /// Not raised.
    pub const fn new() -> Self {
        Self { raised: AtomicBool::new(false), waiters: [const { AtomicU64::new(0) }; CPUS] }
    }

    /// Raises it and readies those who wait. May be called from interrupt handlers.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        for (slot, waiters) in self.waiters.iter().enumerate() {
            let tasks = waiters.load(Ordering::Acquire);
            if tasks != 0 {
                make_ready(slot, tasks);
            }
        }
    }

    /// Takes the raised state.
    pub fn take(&self) -> bool {
        self.raised.swap(false, Ordering::AcqRel)
    }

    /// Readies the running task whenever it is raised, from now on.
    pub fn subscribe(&self) {
        self.waiters[percpu::slot()].fetch_or(1 << current(), Ordering::AcqRel);
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

fn current() -> usize {
    STATE.get().current.get()
}

/// Takes a piece of the running task's budget. False if it is used up: then the future is to return pending, and is polled
/// again in the task's next turn. For futures that may be ready at once.
pub fn spend() -> bool {
    let state = STATE.get();
    match state.left.get().checked_sub(1) {
        Some(left) => {
            state.left.set(left);
            true
        }
        None => {
            state.ready.fetch_or(1 << state.current.get(), Ordering::AcqRel);
            false
        }
    }
}

/// Polls the running task again at a time of `pvops::time::now`, if nothing does so before.
pub fn wake_at(deadline: u64) {
    let state = STATE.get();
    let slot = &mut state.deadlines.borrow_mut()[state.current.get()];
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

/// The tasks of this CPU, which has one executor.
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
        make_ready(percpu::slot(), 1 << self.tasks.len());
        self.tasks.push(Some(Box::pin(task)));
    }

    /// Runs the tasks forever.
    pub fn run(&mut self) -> ! {
        loop {
            self.turn();
            idle();
        }
    }

    /// Gives each task that is ready a turn.
    pub fn turn(&mut self) {
        let state = STATE.get();
        let mut ready = state.ready.swap(0, Ordering::AcqRel);
        while ready != 0 {
            let index = ready.trailing_zeros() as usize;
            ready &= ready - 1;
            state.current.set(index);
            state.left.set(BUDGET);
            state.deadlines.borrow_mut()[index] = u64::MAX;
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
    let state = STATE.get();
    let next = state.deadlines.borrow().iter().copied().fold(u64::MAX, u64::min);
    if next != u64::MAX && next <= time::now() {
        let now = time::now();
        for (index, deadline) in state.deadlines.borrow_mut().iter_mut().enumerate() {
            if *deadline <= now {
                *deadline = u64::MAX;
                state.ready.fetch_or(1 << index, Ordering::AcqRel);
            }
        }
        return;
    }
    irq::disable();
    if state.ready.load(Ordering::Acquire) == 0 {
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
    let state = STATE.get();
    state.idle_ticks.fetch_add(time::tsc() - before, Ordering::Relaxed);
    state.halts.fetch_add(1, Ordering::Relaxed);
}

/// Waits until `done` or `patience` nanoseconds have passed; no task runs meanwhile. For code that cannot be a task:
/// libraries that read a disk synchronously.
pub fn block_until(patience: u64, mut done: impl FnMut() -> bool) -> bool {
    block_until_dyn(patience, &mut done)
}

/// One copy, however many things are waited for: call sites are patched one by one at boot.
#[inline(never)]
fn block_until_dyn(patience: u64, done: &mut dyn FnMut() -> bool) -> bool {
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

/// How this CPU has spent its time.
pub fn idle_time() -> Idle {
    let state = STATE.get();
    Idle { ticks: state.idle_ticks.load(Ordering::Relaxed), halts: state.halts.load(Ordering::Relaxed) }
}

/// A waker of the running task. It carries nothing but the numbers of task and CPU, so making, cloning and waking neither
/// allocates nor locks.
pub fn waker() -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &TABLE), wake, wake, |_| {});
    fn wake(task: *const ()) {
        make_ready(task.addr() / MAX_TASKS, 1 << (task.addr() % MAX_TASKS));
    }
    let number = percpu::slot() * MAX_TASKS + current();
    // SAFETY: the table's functions take the data for a number, as which it is made here.
    unsafe { Waker::from_raw(RawWaker::new(core::ptr::without_provenance(number), &TABLE)) }
}

#[cfg(test)]
mod tests;
