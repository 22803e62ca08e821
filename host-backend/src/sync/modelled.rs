//! What the model checker has in place of std, and what it lacks: time, condition variables that time out, and waiting for
//! file descriptors.

use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::sync::{Arc, Condvar as Plain, LockResult, Mutex, MutexGuard, PoisonError};
use std::ops::Add;
use std::time::Duration;

/// How long a thread that gives up its time slice is away.
const SLICE: Duration = Duration::from_millis(1);

shuttle::lazy_static! {
    /// Nanoseconds since the model's start.
    static ref CLOCK: AtomicU64 = AtomicU64::new(0);
    /// Counts the changes of file descriptors.
    static ref CHANGES: (Mutex<u64>, Plain) = (Mutex::new(0), Plain::new());
}

fn pass(time: Duration) {
    CLOCK.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2), Ordering::SeqCst);
}

/// A point in the model's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// The present.
    pub fn now() -> Self {
        Self(Duration::from_nanos(CLOCK.load(Ordering::SeqCst)))
    }

    /// How long ago it was.
    pub fn elapsed(&self) -> Duration {
        Self::now().duration_since(*self)
    }

    /// The time between two points, or nothing.
    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

/// Threads of the model.
pub mod thread {
    use super::{Arc, AtomicBool, Duration, Ordering, SLICE, pass};
    use std::io;

    /// A thread of the model.
    #[derive(Debug)]
    pub struct JoinHandle<T> {
        thread: shuttle::thread::JoinHandle<T>,
        finished: Arc<AtomicBool>,
    }

    impl<T> JoinHandle<T> {
        /// As std's.
        ///
        /// # Errors
        /// As std's.
        pub fn join(self) -> std::thread::Result<T> {
            self.thread.join()
        }

        /// As std's.
        pub fn thread(&self) -> &shuttle::thread::Thread {
            self.thread.thread()
        }

        /// As std's.
        pub fn is_finished(&self) -> bool {
            self.finished.load(Ordering::SeqCst)
        }
    }

    /// As std's.
    #[derive(Debug, Default)]
    pub struct Builder(Option<String>);

    impl Builder {
        /// As std's.
        pub fn new() -> Self {
            Self::default()
        }

        /// As std's.
        #[must_use]
        pub fn name(self, name: String) -> Self {
            Self(Some(name))
        }

        /// The model has one size for all.
        #[must_use]
        pub fn stack_size(self, _size: usize) -> Self {
            self
        }

        /// As std's.
        ///
        /// # Errors
        /// As std's.
        pub fn spawn<T: Send + 'static>(self, what: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
            let finished = Arc::new(AtomicBool::new(false));
            let end = End(finished.clone());
            let name = self.0.unwrap_or_default();
            let thread = shuttle::thread::Builder::new().name(name).spawn(move || {
                let _end = end;
                what()
            })?;
            Ok(JoinHandle { thread, finished })
        }
    }

    /// As std's.
    ///
    /// # Panics
    /// As std's.
    pub fn spawn<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        Builder::new().spawn(what).expect("the model has a thread")
    }

    struct End(Arc<AtomicBool>);

    impl Drop for End {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Lets others go first.
    pub fn yield_now() {
        pass(SLICE);
        shuttle::thread::yield_now();
    }

    /// The same for a time.
    pub fn sleep(time: Duration) {
        pass(time);
        shuttle::thread::yield_now();
    }
}

/// A condition variable whose waits with a bound end at any time.
#[derive(Debug, Default)]
pub struct Condvar(Arc<Plain>);

impl Condvar {
    /// One for which nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// As std's.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// As std's.
    ///
    /// # Errors
    /// As std's.
    pub fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        waits: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait_while(guard, waits)
    }

    /// As std's.
    ///
    /// # Errors
    /// As std's.
    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
        mut waits: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let timer = Arc::new((AtomicBool::new(false), AtomicBool::new(false)));
        let (condvar, of) = (self.0.clone(), timer.clone());
        thread::spawn(move || {
            thread::sleep(time);
            of.0.store(true, Ordering::SeqCst);
            // It holds no lock: the one that waits may not have begun to.
            while !of.1.load(Ordering::SeqCst) {
                condvar.notify_all();
                thread::yield_now();
            }
        });
        let result = self.0.wait_while(guard, |value| waits(value) && !timer.0.load(Ordering::SeqCst));
        timer.1.store(true, Ordering::SeqCst);
        let expired = timer.0.load(Ordering::SeqCst);
        result.map(|guard| (guard, expired)).map_err(|poison| PoisonError::new((poison.into_inner(), expired)))
    }
}

/// A file descriptor changed by `change`: everybody who waits for one looks again.
pub(crate) fn now_changed<T>(change: impl FnOnce() -> T) -> T {
    let mut changes = CHANGES.0.lock().unwrap_or_else(PoisonError::into_inner);
    let result = change();
    *changes += 1;
    drop(changes);
    CHANGES.1.notify_all();
    result
}

/// A read of a file descriptor, for which nobody waits.
pub(crate) fn in_turn<T>(read: impl FnOnce() -> T) -> T {
    let _turn = CHANGES.0.lock().unwrap_or_else(PoisonError::into_inner);
    read()
}

/// Looks by `look` until it finds something; between two looks, waits until a file descriptor has changed.
pub(crate) fn look_again<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        let seen = *CHANGES.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = look() {
            return found;
        }
        let changes = CHANGES.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(CHANGES.1.wait_while(changes, |changes| *changes == seen));
    }
}
