//! Raw mode of the terminal. It ends when it is dropped; when this process ends without that, its keeper sees to it.
//!
//! Ctrl-C keeps its meaning (it ends the VM); every other key goes to the guest.

use serde::{Deserialize, Serialize};
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The terminal's modes as they were found, and as they are made.
static MODES: OnceLock<Modes> = OnceLock::new();
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// A terminal's modes as they were found, and as they are to be while a VM runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Modes {
    found: Termios,
    raw: Termios,
}

/// As text it is the words of its bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(into = "Vec<u8>", try_from = "Vec<u8>")]
struct Termios(libc::termios);

impl std::fmt::Debug for Termios {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Termios({:#x}, {:#x}, {:#x})", self.0.c_iflag, self.0.c_oflag, self.0.c_lflag)
    }
}

impl From<Termios> for Vec<u8> {
    fn from(modes: Termios) -> Self {
        // SAFETY: a termios is plain numbers without padding on this system, all initialized by tcgetattr.
        unsafe { std::slice::from_raw_parts((&raw const modes.0).cast::<u8>(), size_of::<libc::termios>()) }.into()
    }
}

impl TryFrom<Vec<u8>> for Termios {
    type Error = &'static str;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        let bytes: [u8; size_of::<libc::termios>()] = bytes.try_into().map_err(|_| "not a termios")?;
        // SAFETY: a termios is plain numbers, and these are the bytes of one.
        Ok(Self(unsafe { std::mem::transmute::<[u8; size_of::<libc::termios>()], libc::termios>(bytes) }))
    }
}

impl Modes {
    /// Those of standard input; `None` if it is no terminal, or one that another job has.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn of_stdin() -> io::Result<Option<Self>> {
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
        Ok(Some(Self { found: Termios(found), raw: Termios(raw) }))
    }

    /// Restores the terminal at standard output if it still is as we made it.
    pub fn give_back_output(&self) {
        if self.is_raw(libc::STDOUT_FILENO) {
            // There is no place for a report.
            let _ = self.give_back(libc::STDOUT_FILENO);
        }
    }

    /// Restores a terminal, unless another job has it and has made its own modes.
    fn give_back(&self, fd: libc::c_int) -> io::Result<()> {
        if in_foreground(fd) || self.is_raw(fd) { set_modes(fd, &self.found.0) } else { Ok(()) }
    }

    /// Whether the terminal is as we made it.
    fn is_raw(&self, fd: libc::c_int) -> bool {
        modes(fd).is_ok_and(|now| {
            let flags = |modes: &libc::termios| (modes.c_iflag, modes.c_oflag, modes.c_lflag, modes.c_cc);
            flags(&now) == flags(&self.raw.0)
        })
    }
}

/// Keeps standard input raw while it lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes standard input raw.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter(modes: Modes) -> io::Result<Self> {
        let modes = MODES.get_or_init(|| modes);
        ACTIVE.store(true, Ordering::SeqCst);
        if let Err(error) = set_modes(libc::STDIN_FILENO, &modes.raw.0) {
            restore();
            return Err(error);
        }
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was found. Does nothing when it is not raw.
pub fn restore() {
    if ACTIVE.swap(false, Ordering::SeqCst)
        && let Some(modes) = MODES.get()
    {
        // There is no place for a report.
        let _ = modes.give_back(libc::STDIN_FILENO);
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
    // SAFETY: `modes` is a complete termios.
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
