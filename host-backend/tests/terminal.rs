//! The terminal is raw while a VM runs, and as it was before, however the VM ends.

mod common;

use common::pty::{self, modes, open as terminal};
use common::{Place, Running, eventually, kvm_works, ringside};
use host_backend::sample::{exit, halt, print};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// Runs a guest at a terminal of its own, until it has printed something and the terminal is raw.
fn run_at(terminal: &File, master: &mut File, code: &[u8]) -> Running {
    let place = Place::new();
    let child = start_at(terminal, ringside(&place.kernel(code)).stderr(Stdio::piped()));
    let mut byte = [0];
    master.read_exact(&mut byte).unwrap();
    child
}

/// Starts a program whose terminal is also its standard output.
fn start_at(terminal: &File, command: &mut Command) -> Running {
    pty::start_at(terminal, command.stdout(terminal.try_clone().unwrap()))
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

#[test]
fn the_terminal_is_restored_after_a_kill() {
    if !kvm_works("the_terminal_is_restored_after_a_kill") {
        return;
    }
    for number in [libc::SIGKILL, libc::SIGUSR1, libc::SIGSEGV] {
        let (mut master, slave) = terminal();
        let before = modes(&slave);
        let mut child = run_at(&slave, &mut master, &[print(b"!"), halt()].concat());
        eventually("raw mode", || modes(&slave).0 & (libc::ICANON | libc::ECHO) == 0);
        // SAFETY: the child has not been waited for, so the id is its.
        unsafe { libc::kill(child.child().id() as libc::pid_t, number) };
        assert_eq!(child.wait().status.code(), None);
        eventually("the restored terminal", || modes(&slave) == before);
    }
}

#[test]
fn a_signal_ends_a_vm_in_the_background_and_restores_what_it_changed() {
    if !kvm_works("a_signal_ends_a_vm_in_the_background_and_restores_what_it_changed") {
        return;
    }
    let (mut master, slave) = terminal();
    let before = modes(&slave);
    let place = Place::new();
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    // A shell with jobs starts it in the foreground; when it is stopped, the shell has the terminal and ends it in the
    // background.
    let program = env!("CARGO_BIN_EXE_ringside");
    let script = format!(
        "set -m; {program} run --mem 16M --kernel {}; bg >&2; kill -TERM %1; wait %1; exit $?",
        kernel.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]);
    // Also its standard error is the terminal, by which it knows that it has one.
    let mut child = start_at(&slave, command.stderr(slave.try_clone().unwrap()));
    let mut byte = [0];
    master.read_exact(&mut byte).unwrap();
    eventually("raw mode", || modes(&slave).0 & (libc::ICANON | libc::ECHO) == 0);
    let shell = child.child().id();
    let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
    let ringside: libc::pid_t = children.split_whitespace().next().unwrap().parse().unwrap();
    // SAFETY: the shell has not waited for its child, so the id is the child's.
    unsafe { libc::kill(ringside, libc::SIGSTOP) };
    assert_eq!(child.wait().status.code(), Some(143));
    eventually("the restored terminal", || modes(&slave) == before);
}
