//! Raw mode of the terminal, and the promise that it ends: on drop, on a panic, on a fatal signal.
//!
//! Ctrl-C keeps its meaning (it ends the VM); every other key goes to the guest.

use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static SAVED: OnceLock<libc::termios> = OnceLock::new();
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Keeps standard input raw while it lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes standard input raw; `None` if it is no terminal, or one that another job owns.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        if !is_ours() {
            return Ok(None);
        }
        let fd = io::stdin().as_raw_fd();
        let mut current = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills the structure when it returns 0, and only then it is read.
        let current = unsafe {
            if libc::tcgetattr(fd, current.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            current.assume_init()
        };
        let saved = SAVED.get_or_init(|| current);
        let mut raw = *saved;
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::IEXTEN);
        raw.c_iflag &= !(libc::ICRNL | libc::INLCR | libc::IXON);
        for key in [libc::VSUSP, libc::VQUIT, libc::VLNEXT, libc::VDISCARD, libc::VREPRINT] {
            raw.c_cc[key] = 0;
        }
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        restore_on_fatal_events();
        ACTIVE.store(true, Ordering::SeqCst);
        // SAFETY: `raw` is a complete termios.
        if unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) } != 0 {
            let error = io::Error::last_os_error();
            restore();
            return Err(error);
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was found. Does nothing when it is not raw; safe in a signal handler.
pub fn restore() {
    if ACTIVE.swap(false, Ordering::SeqCst)
        && let Some(saved) = SAVED.get()
    {
        // SAFETY: `saved` is what tcgetattr gave; tcsetattr is async-signal-safe.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, saved) };
    }
}

/// Whether reading standard input would neither fail nor stop us: a terminal of another job does.
pub fn is_ours() -> bool {
    let stdin = io::stdin();
    // SAFETY: both calls read no memory of ours.
    stdin.is_terminal() && unsafe { libc::tcgetpgrp(stdin.as_raw_fd()) == libc::getpgrp() }
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
