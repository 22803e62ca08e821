//! The main thread while the VM runs: signals, typed input, the network's peer, and the request to stop.

use super::Error;
use super::ending::Patience;
use super::machine::Machine;
use super::peer::Watch;
use crate::devices::InputSink;
use crate::say;
use crate::stop::{Outcome, Stop};
use crate::terminal::{self, Modes, RawMode};
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberId, SubscriberOps};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// Signals that end the VM.
const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Signals this soon after the first one repeat it: GNU timeout signals its child, then its process group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Which signals have come so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Never,
    /// At this time, and maybe again within [`SAME_REQUEST`].
    Once(Instant),
    /// A second time: the user no longer waits.
    Again,
}

impl Asked {
    /// The state after a signal that came at `now`.
    fn after_signal(self, now: Instant) -> Self {
        match self {
            Self::Never => Self::Once(now),
            Self::Once(first) if now.duration_since(first) < SAME_REQUEST => self,
            Self::Once(_) | Self::Again => Self::Again,
        }
    }

    fn patience(self) -> Patience {
        if self == Self::Again { Patience::Gone } else { Patience::Left }
    }
}

/// The ending signals as a file, blocked in this thread and in those that it starts.
pub(super) struct Signals(File);

impl Signals {
    /// Blocks them, and ignores those that would stop us at the terminal or end us when a file is full.
    pub(super) fn block() -> io::Result<Self> {
        terminal::ignore_stops();
        // A write that may not be is an error to be handled.
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        // SAFETY: the set is initialized by sigemptyset before it is used; sigaction only reads the disposition.
        let fd = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in ENDING {
                // Our parent may want us to ignore it: nohup, a shell's background job.
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &raw mut action);
                if action.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&raw mut set, signal);
                }
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd just gave us this descriptor.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }
}

/// The loop of the main thread.
pub(super) struct EventLoop {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    typed: Option<SubscriberId>,
    asked: Rc<Cell<Asked>>,
    _raw: Option<RawMode>,
}

impl EventLoop {
    /// The loop, with standard input in raw mode if it is a terminal of these modes.
    pub(super) fn new(
        machine: &Arc<Machine>,
        stop: &Arc<Stop>,
        signals: Signals,
        modes: Option<Modes>,
    ) -> Result<Self, Error> {
        let failed = |error: event_manager::Error| Error::System {
            what: "set up the event loop",
            source: io::Error::other(error.to_string()),
        };
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(failed)?;
        let asked = Rc::new(Cell::new(Asked::Never));
        manager.add_subscriber(Box::new(Ending { signals, asked: asked.clone(), stop: stop.clone() }));
        if let Some(watch) = machine.peer.as_ref().and_then(Watch::new) {
            manager.add_subscriber(Box::new(watch));
        }
        let raw = modes.map(RawMode::enter).transpose().map_err(Error::system("make the terminal raw"))?;
        // A terminal of another job would stop us at the first read.
        let readable = !io::stdin().is_terminal() || terminal::is_ours();
        let mut typed = None;
        if let Some(sink) = machine.input.as_ref().filter(|_| readable) {
            typed = Some(manager.add_subscriber(Box::new(TypedInput::new(sink.clone())?)));
        }
        Ok(Self { manager, typed, asked, _raw: raw })
    }

    /// Serves as long as `goes_on` says so. What changes that wakes the main loop.
    pub(super) fn serve(&mut self, goes_on: impl Fn() -> bool) {
        while goes_on() {
            // It fails only when a signal interrupts it.
            let _ = self.manager.run();
        }
    }

    /// From now on what is typed is not for the guest.
    pub(super) fn start_ending(&mut self) {
        if let Some(typed) = self.typed.take() {
            let _ = self.manager.remove_subscriber(typed);
        }
    }

    /// Serves what is there now, and says whether the user still waits for the end.
    pub(super) fn turn(&mut self) -> Patience {
        // It fails as in `serve`. What panics here must not keep the disks from their flush.
        let _ = catch_unwind(AssertUnwindSafe(|| self.manager.run_with_timeout(0)));
        self.asked.get().patience()
    }
}

/// Signals and the request to stop.
struct Ending {
    signals: Signals,
    asked: Rc<Cell<Asked>>,
    stop: Arc<Stop>,
}

impl MutEventSubscriber for Ending {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(&self.signals.0, EventSet::IN));
        let _ = ops.add(Events::new(self.stop.event(), EventSet::IN));
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if events.fd() != self.signals.0.as_raw_fd() {
            // What it woke us up for is seen by its flag.
            let _ = self.stop.event().read();
            return;
        }
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        if let Ok(n) = self.signals.0.read(&mut info)
            && n == info.len()
        {
            // The signal's number is the first field, ssi_signo.
            let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            let before = self.asked.get();
            self.asked.set(before.after_signal(Instant::now()));
            if before == Asked::Never && self.stop.requested() {
                say!("the VM is already ending; a signal after more than a second ends it without flushing its disks");
            }
            self.stop.request(Outcome::Signal(number as i32));
        }
    }
}

/// Moves standard input to a console at the speed at which the guest takes it.
struct TypedInput {
    stdin: File,
    sink: Arc<dyn InputSink>,
    /// Read but not yet taken by the guest.
    pending: Vec<u8>,
    waiting: Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// For the user.
    Input,
    /// For the guest.
    Room,
    /// There is no more input.
    Nothing,
}

impl TypedInput {
    fn new(sink: Arc<dyn InputSink>) -> Result<Self, Error> {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(Error::system("open standard input"))?;
        Ok(Self { stdin: File::from(stdin), sink, pending: Vec::new(), waiting: Waiting::Room })
    }

    /// Gives what is pending to the guest; true if all of it went.
    fn give(&mut self) -> bool {
        let taken = self.sink.input(&self.pending);
        self.pending.drain(..taken);
        self.pending.is_empty()
    }

    fn read(&mut self) -> Waiting {
        let mut buffer = [0; 256];
        match self.stdin.read(&mut buffer) {
            Ok(0) => Waiting::Nothing,
            Ok(n) => {
                self.pending.extend_from_slice(&buffer[..n]);
                if self.give() { Waiting::Input } else { Waiting::Room }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                Waiting::Input
            }
            Err(_) => Waiting::Nothing,
        }
    }

    /// Waits for what comes next. A file cannot be waited for: it is read as fast as the guest takes it.
    fn wait_for(&mut self, mut next: Waiting, ops: &mut EventOps<'_>) {
        while next != self.waiting {
            let stdin = Events::new(&self.stdin, EventSet::IN);
            if self.waiting == Waiting::Input {
                let _ = ops.remove(stdin);
            }
            self.waiting = next;
            if next == Waiting::Input && ops.add(stdin).is_err() {
                self.waiting = Waiting::Room;
                next = loop {
                    match self.read() {
                        Waiting::Input => {}
                        other => break other,
                    }
                };
            }
        }
    }
}

impl MutEventSubscriber for TypedInput {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(self.sink.room(), EventSet::IN));
        self.wait_for(Waiting::Input, ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let next = if events.fd() == self.stdin.as_raw_fd() {
            self.read()
        } else {
            let _ = self.sink.room().read();
            if self.waiting == Waiting::Room && self.give() { Waiting::Input } else { self.waiting }
        };
        self.wait_for(next, ops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// Also while nothing comes of it: the reset of a paused VM waits.
    #[test]
    fn main_loop_wakes_up_once_for_each_request() {
        let stop = Arc::new(Stop::new().unwrap());
        let (no_signals, _open) = UnixStream::pair().unwrap();
        let signals = Signals(File::from(OwnedFd::from(no_signals)));
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        manager.add_subscriber(Box::new(Ending { signals, asked: Rc::default(), stop: stop.clone() }));
        for _ in 0..2 {
            stop.wake();
            assert_eq!([0; 3].map(|timeout| manager.run_with_timeout(timeout).unwrap()), [1, 0, 0]);
        }
        stop.request(Outcome::Stopped);
        assert_eq!([0; 2].map(|timeout| manager.run_with_timeout(timeout).unwrap()), [1, 0]);
        assert!(stop.requested());
    }

    #[test]
    fn signals_within_a_second_of_the_first_are_one_request() {
        let first = Instant::now();
        let after = |millis: &[u64]| {
            let signals = millis.iter().map(|millis| first + Duration::from_millis(*millis));
            signals.fold(Asked::Never, Asked::after_signal).patience()
        };
        for one in [&[][..], &[0], &[0, 0], &[0, 1, 2], &[0, 500, 999]] {
            assert_eq!(after(one), Patience::Left, "{one:?}");
        }
        // The second is counted from the first signal, not from the last.
        for two in [&[0, 1000][..], &[0, 60_000], &[0, 900, 1800], &[0, 1000, 1001]] {
            assert_eq!(after(two), Patience::Gone, "{two:?}");
        }
    }
}
