//! The process that restores the terminal when `ringside` cannot: after SIGKILL, or an unhandled signal.
//!
//! It is this program again, with the terminal as its standard output and a pipe as its standard input. The pipe first gives
//! it the modes; a byte after them says that all is well, its end without one that we are gone.

use super::{Modes, ignore_stops};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// The argument with which this program becomes a guard.
pub const ARGUMENT: &str = "terminal-guard";

const MODES: usize = size_of::<libc::termios>();

/// A running guard.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    /// Starts a guard for the terminal at standard input.
    pub(super) fn start(modes: &Modes) -> io::Result<Self> {
        let terminal = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut command = Command::new("/proc/self/exe");
        // A group of its own: what ends ours does not end it.
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(terminal).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let sent = child.stdin.as_mut().map_or(Ok(()), |pipe| {
            pipe.write_all(bytes(&modes.found))?;
            pipe.write_all(bytes(&modes.raw))
        });
        match sent {
            Ok(()) => Ok(Self(child)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The terminal is as it should be.
    pub(super) fn dismiss(mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(b".");
        }
        let _ = self.0.wait();
    }
}

/// A guard's life.
pub fn run() {
    ignore_stops();
    let mut stdin = io::stdin().lock();
    let mut read = || {
        let mut bytes = [0; MODES];
        // SAFETY: a termios is plain numbers, and these are the bytes of one.
        stdin.read_exact(&mut bytes).ok().map(|()| unsafe { std::mem::transmute::<[u8; MODES], libc::termios>(bytes) })
    };
    let (Some(found), Some(raw)) = (read(), read()) else { return };
    let all_is_well = stdin.read(&mut [0]).is_ok_and(|n| n > 0);
    let modes = Modes { found, raw };
    if !all_is_well && modes.is_raw(libc::STDOUT_FILENO) {
        let _ = modes.give_back(libc::STDOUT_FILENO);
    }
}

fn bytes(modes: &libc::termios) -> &[u8] {
    // SAFETY: a termios is plain numbers without padding on this system, all initialized by tcgetattr.
    unsafe { std::slice::from_raw_parts((&raw const *modes).cast(), MODES) }
}
