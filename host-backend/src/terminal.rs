//! Raw mode of the terminal, and the promise that it ends: on drop, on a panic, on a fatal signal, and by a process of its
//! own when this one is killed.
//!
//! Ctrl-C keeps its meaning (it ends the VM); every other key goes to the guest.

mod guard;

pub use guard::{ARGUMENT as GUARD_ARGUMENT, run as run_guard};

use guard::Guard;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The terminal's modes as they were found, and as they were made.
static MODES: OnceLock<Modes> = OnceLock::new();
static ACTIVE: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy)]
struct Modes {
    found: libc::termios,
    raw: libc::termios,
}

/// Keeps standard input raw while it lives.
#[derive(Debug)]
pub struct RawMode(Option<Guard>);

impl RawMode {
    /// Makes standard input raw; `None` if it is no terminal, or one that another job owns.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        if !is_ours() {
            return Ok(None);
        }
        let found = modes(libc::STDIN_FILENO)?;
        let mut raw = found;
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::IEXTEN);
        raw.c_iflag &= !(libc::ICRNL | libc::INLCR | libc::IXON);
        for key in [libc::VSUSP, libc::VQUIT, libc::VLNEXT, libc::VDISCARD, libc::VREPRINT] {
            raw.c_cc[key] = 0;
        }
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        let modes = *MODES.get_or_init(|| Modes { found, raw });
        restore_on_fatal_events();
        // Before the modes change, so that no moment is without it. Without one a kill leaves the terminal raw.
        let guard = Guard::start(&modes).ok();
        ACTIVE.store(true, Ordering::SeqCst);
        if let Err(error) = set_modes(libc::STDIN_FILENO, &modes.raw) {
            restore();
            return Err(error);
        }
        Ok(Some(Self(guard)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
        if let Some(guard) = self.0.take() {
            guard.dismiss();
        }
    }
}

/// Gives the terminal back as it was found. Does nothing when it is not raw; safe in a signal handler.
pub fn restore() {
    if ACTIVE.swap(false, Ordering::SeqCst)
        && let Some(modes) = MODES.get()
    {
        // There is no place for a report.
        let _ = modes.give_back(libc::STDIN_FILENO);
    }
}

impl Modes {
    /// Restores a terminal, unless another job has it and has made its own modes.
    fn give_back(&self, fd: libc::c_int) -> io::Result<()> {
        if in_foreground(fd) || self.is_raw(fd) { set_modes(fd, &self.found) } else { Ok(()) }
    }

    /// Whether the terminal is as we made it.
    fn is_raw(&self, fd: libc::c_int) -> bool {
        modes(fd).is_ok_and(|now| {
            let flags = |modes: &libc::termios| (modes.c_iflag, modes.c_oflag, modes.c_lflag, modes.c_cc);
            flags(&now) == flags(&self.raw)
        })
    }
}

fn modes(fd: libc::c_int) -> io::Result<libc::termios> {
    let mut modes = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: tcgetattr fills the structure when it returns 0, and only then it is read.
    unsafe {
        if libc::tcgetattr(fd, modes.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(modes.assume_init())
    }
}

fn set_modes(fd: libc::c_int, modes: &libc::termios) -> io::Result<()> {
    // SAFETY: `modes` is a complete termios; tcsetattr is async-signal-safe.
    if unsafe { libc::tcsetattr(fd, libc::TCSANOW, modes) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether our job has the terminal.
fn in_foreground(fd: libc::c_int) -> bool {
    // SAFETY: both calls read no memory of ours.
    unsafe { libc::tcgetpgrp(fd) == libc::getpgrp() }
}

/// Whether reading standard input would neither fail nor stop us: a terminal of another job does.
pub fn is_ours() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && in_foreground(stdin.as_raw_fd())
}

/// Leaves us running when we change the modes of a terminal that another job has.
pub fn ignore_stops() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
}

fn restore_on_fatal_events() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            earlier(info);
        }));
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
            // SAFETY: the handler is async-signal-safe; SA_RESETHAND lets the signal kill us when it comes again.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_fatal_signal as *const () as usize;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER | libc::SA_ONSTACK;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    });
}

extern "C" fn on_fatal_signal(signal: libc::c_int) {
    restore();
    // SAFETY: raise is async-signal-safe; the default action is back in place.
    unsafe { libc::raise(signal) };
}
