//! The terminal is raw while a VM runs, and as it was before, however the VM ends.

mod common;

use common::{Place, Running, eventually, kvm_works, ringside};
use host_backend::sample::{exit, halt, print};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

/// Both ends of a new terminal.
fn terminal() -> (File, File) {
    let (mut master, mut slave) = (-1, -1);
    let null = std::ptr::null_mut::<u8>();
    // SAFETY: openpty fills two descriptors, which are then ours.
    unsafe {
        assert_eq!(libc::openpty(&raw mut master, &raw mut slave, null.cast(), null.cast(), null.cast()), 0);
        (File::from(OwnedFd::from_raw_fd(master)), File::from(OwnedFd::from_raw_fd(slave)))
    }
}

fn modes(terminal: &File) -> (u32, u32, u32, [u8; 32]) {
    // SAFETY: tcgetattr fills the structure, as its result says.
    unsafe {
        let mut modes = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes), 0);
        (modes.c_lflag, modes.c_iflag, modes.c_oflag, modes.c_cc)
    }
}

/// Runs a guest at a terminal of its own, until it has printed something and the terminal is raw.
fn run_at(terminal: &File, master: &mut File, code: &[u8]) -> Running {
    let place = Place::new();
    let mut command = ringside(&place.kernel(code));
    let end = || Stdio::from(terminal.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(Stdio::piped());
    // SAFETY: setsid and ioctl are async-signal-safe; standard input is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let child = Running::start(&mut command);
    let mut byte = [0];
    master.read_exact(&mut byte).unwrap();
    child
}

#[test]
fn ctrl_c_ends_the_vm_and_the_terminal_is_restored() {
    if !kvm_works("ctrl_c_ends_the_vm_and_the_terminal_is_restored") {
        return;
    }
    let (mut master, slave) = terminal();
    let before = modes(&slave);
    let child = run_at(&slave, &mut master, &[print(b"!"), halt()].concat());
    eventually("raw mode", || modes(&slave).0 & (libc::ICANON | libc::ECHO) == 0);
    // Ctrl-Z and others are for the guest; Ctrl-C is for us.
    master.write_all(b"\x1a\x1c\x03").unwrap();
    assert_eq!(child.wait().status.code(), Some(130));
    assert_eq!(modes(&slave), before);
}

#[test]
fn the_terminal_is_restored_when_the_guest_ends() {
    if !kvm_works("the_terminal_is_restored_when_the_guest_ends") {
        return;
    }
    let (mut master, slave) = terminal();
    let before = modes(&slave);
    let child = run_at(&slave, &mut master, &[print(b"!"), exit(0)].concat());
    assert_eq!(child.wait().status.code(), Some(0));
    assert_eq!(modes(&slave), before);
}
