//! Terminals for tests.

use super::Running;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Both ends of a new terminal: the user's, and the program's. No program that is started inherits them by itself.
pub(crate) fn open() -> (File, File) {
    let (mut master, mut slave) = (-1, -1);
    let null = std::ptr::null_mut::<u8>();
    // SAFETY: openpty fills two descriptors, which are then ours.
    unsafe {
        assert_eq!(libc::openpty(&raw mut master, &raw mut slave, null.cast(), null.cast(), null.cast()), 0);
        for fd in [master, slave] {
            assert_eq!(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC), 0);
        }
        (File::from(OwnedFd::from_raw_fd(master)), File::from(OwnedFd::from_raw_fd(slave)))
    }
}

/// A terminal's modes.
pub(crate) fn modes(terminal: &File) -> (u32, u32, u32, [u8; 32]) {
    // SAFETY: tcgetattr fills the structure, as its result says.
    unsafe {
        let mut modes = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes), 0);
        (modes.c_lflag, modes.c_iflag, modes.c_oflag, modes.c_cc)
    }
}

/// Starts a program in a session of its own, whose terminal is its standard input.
pub(crate) fn start_at(terminal: &File, command: &mut Command) -> Running {
    command.stdin(Stdio::from(terminal.try_clone().unwrap()));
    // SAFETY: setsid and ioctl are async-signal-safe; standard input is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    Running::start(command)
}
