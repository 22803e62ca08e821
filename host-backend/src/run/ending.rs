//! The end of a VM: stop all threads, then make every disk durable, whatever became of the others.
//!
//! Everything has its own bound, so that a slow device takes no time from another one, and says when it takes long. The
//! user can give up the rest by a second signal; then what was not flushed is reported. A loss is never reported as success.

use crate::say;
use crate::virtio::Flush;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What takes longer than this is reported.
const LONG: Duration = Duration::from_secs(1);
/// Shortest and longest interval of checks for the end.
const STEP: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(10));

/// Whether the user still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Left,
    /// A second signal came.
    Gone,
}

/// One thread or flush that must come to its end.
struct Waiting<'a> {
    name: String,
    what: &'static str,
    patience: Duration,
    has_ended: Box<dyn FnMut() -> bool + 'a>,
    reported: bool,
}

/// What is waited for, each with its own bound.
pub(super) struct Waits<'a> {
    waiting: Vec<Waiting<'a>>,
    started: Instant,
}

impl<'a> Waits<'a> {
    pub(super) fn new() -> Self {
        Self { waiting: Vec::new(), started: Instant::now() }
    }

    /// Waits for `has_ended` for at most `patience`; `what` is what it does meanwhile.
    pub(super) fn add(
        &mut self,
        name: &str,
        what: &'static str,
        patience: Duration,
        has_ended: impl FnMut() -> bool + 'a,
    ) {
        let has_ended = Box::new(has_ended);
        self.waiting.push(Waiting { name: name.into(), what, patience, has_ended, reported: false });
    }

    /// Waits for all, calling `tick` in between, and returns the names of those that did not end and why.
    pub(super) fn finish(mut self, tick: &mut dyn FnMut() -> Patience) -> Vec<(String, &'static str)> {
        let mut step = STEP.0;
        let mut given_up = Vec::new();
        loop {
            let waited = self.started.elapsed();
            self.waiting.retain_mut(|waiting| {
                if (waiting.has_ended)() {
                    return false;
                }
                if waited >= LONG && !std::mem::replace(&mut waiting.reported, true) {
                    let (name, what, most) = (&waiting.name, waiting.what, waiting.patience.as_secs());
                    say!("{name}: {what} takes longer than a second; it has {most} s, or until a second signal");
                }
                let late = waited >= waiting.patience;
                if late {
                    given_up.push((waiting.name.clone(), "it took too long"));
                }
                !late
            });
            if self.waiting.is_empty() {
                return given_up;
            }
            if tick() == Patience::Gone {
                given_up.extend(self.waiting.drain(..).map(|waiting| (waiting.name, "a second signal came first")));
                return given_up;
            }
            thread::sleep(step);
            step = (step * 2).min(STEP.1);
        }
    }
}

/// A thread that waits to flush one disk at the VM's end: then none can be made any more, and no bound holds for a system call
/// that waits for a disk.
pub(super) struct Flusher {
    name: String,
    start: Sender<()>,
    result: Receiver<io::Result<()>>,
    thread: JoinHandle<()>,
}

impl Flusher {
    /// Starts the thread of a disk, which calls `enter` first and then waits.
    pub(super) fn new(name: &str, disk: Arc<dyn Flush>, enter: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (start, wanted) = channel();
        let (done, result) = channel();
        let flush = move || {
            enter();
            if wanted.recv().is_ok() {
                // The main thread may have given up.
                let _ = done.send(disk.flush());
            }
        };
        let thread = thread::Builder::new().name(format!("flush-{name}")).stack_size(64 << 10).spawn(flush)?;
        Ok(Self { name: name.into(), start, result, thread })
    }
}

/// Flushes all disks at the same time and returns which may have lost something, and why.
pub(super) fn flush_all(disks: &[Flusher], patience: Duration, tick: &mut dyn FnMut() -> Patience) -> Vec<String> {
    let mut waits = Waits::new();
    let (failures, failed) = channel();
    for Flusher { name, start, result, thread } in disks {
        // A thread that is gone shows as one that panicked.
        let _ = start.send(());
        let failures = failures.clone();
        let mut flushed = false;
        waits.add(name, "the flush", patience, move || {
            if !flushed {
                match result.try_recv() {
                    Err(TryRecvError::Empty) => return false,
                    // The receiver of failures lives as long as this function.
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => drop(failures.send(format!("{name} ({error})"))),
                    Err(TryRecvError::Disconnected) => drop(failures.send(format!("{name} (its flush panicked)"))),
                }
                flushed = true;
            }
            thread.is_finished()
        });
    }
    let given_up = waits.finish(tick);
    let mut lost: Vec<_> = failed.try_iter().collect();
    lost.extend(given_up.into_iter().map(|(name, why)| format!("{name} ({why})")));
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A disk whose flush ends when the test says how.
    struct Disk(Mutex<Receiver<io::Result<()>>>, AtomicUsize);

    fn disk() -> (Arc<Disk>, Sender<io::Result<()>>) {
        let (done, result) = channel();
        (Arc::new(Disk(Mutex::new(result), AtomicUsize::new(0))), done)
    }

    impl Flush for Disk {
        fn flush(&self) -> io::Result<()> {
            let result = self.0.lock().unwrap().recv().unwrap();
            self.1.fetch_add(1, Ordering::SeqCst);
            result
        }
    }

    const LONG_ENOUGH: Duration = Duration::from_secs(60);

    fn named(disks: &[&Arc<Disk>]) -> Vec<Flusher> {
        let name = |(index, disk): (usize, &&Arc<Disk>)| {
            Flusher::new(&format!("block{index}"), (*disk).clone(), || ()).unwrap()
        };
        disks.iter().enumerate().map(name).collect()
    }

    #[test]
    fn a_slow_disk_takes_nothing_from_the_others() {
        let ((slow, slow_done), (fast, fast_done)) = (disk(), disk());
        fast_done.send(Ok(())).unwrap();
        let lost = flush_all(&named(&[&slow, &fast]), LONG_ENOUGH, &mut || {
            // The slow one goes on only when the other one is done.
            if fast.1.load(Ordering::SeqCst) == 1 {
                let _ = slow_done.send(Ok(()));
            }
            Patience::Left
        });
        assert!(lost.is_empty(), "{lost:?}");
        assert_eq!((slow.1.load(Ordering::SeqCst), fast.1.load(Ordering::SeqCst)), (1, 1));
    }

    #[test]
    fn a_failed_flush_and_one_that_panics_are_losses_and_the_others_are_done() {
        let ((bad, bad_done), (panics, panics_done), (good, good_done)) = (disk(), disk(), disk());
        bad_done.send(Err(io::Error::from_raw_os_error(libc::EIO))).unwrap();
        drop(panics_done);
        good_done.send(Ok(())).unwrap();
        let mut lost = flush_all(&named(&[&bad, &panics, &good]), LONG_ENOUGH, &mut || Patience::Left);
        lost.sort();
        assert_eq!(lost, ["block0 (Input/output error (os error 5))", "block1 (its flush panicked)"]);
        assert_eq!(good.1.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_disk_that_never_answers_is_given_up_after_its_bound() {
        let ((stuck, _done), (good, good_done)) = (disk(), disk());
        good_done.send(Ok(())).unwrap();
        let lost = flush_all(&named(&[&stuck, &good]), Duration::from_millis(200), &mut || Patience::Left);
        assert_eq!(lost, ["block0 (it took too long)"]);
    }

    #[test]
    fn a_second_signal_ends_at_once_and_names_what_was_not_flushed() {
        let ((stuck, _done), (good, good_done)) = (disk(), disk());
        good_done.send(Ok(())).unwrap();
        let seen = good.clone();
        let lost = flush_all(&named(&[&stuck, &good]), LONG_ENOUGH, &mut || {
            if seen.1.load(Ordering::SeqCst) == 1 { Patience::Gone } else { Patience::Left }
        });
        assert!(lost.contains(&"block0 (a second signal came first)".to_owned()), "{lost:?}");
    }
}
