//! Disks that answer late, on QEMU: a request is held in its block layer for as long as the test likes.

use ringside_tests::control::Control;
use ringside_tests::machine::SerialLine;
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::Testbed;
use ringside_tests::tour::DiskKnowledge;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a machine whose disk is reached through `filter`, a prefix of QEMU's file names.
fn start(ready: &Ready, filter: &str) -> Running {
    let usual = ready.machine.command(SerialLine::Captured);
    let mut command = Command::new(usual.get_program());
    for argument in usual.get_args() {
        command.arg(argument.to_string_lossy().replace(",file=", &format!(",file={filter}")));
    }
    Running::spawn(command).unwrap()
}

fn monitor(control: &mut Control, command: &str) {
    let said = control.monitor(command).unwrap();
    assert!(said.is_empty() || said.contains("Suspended") || said.contains("Resuming"), "{command}: {said}");
}

#[test]
fn read_that_times_out_harms_no_later_read() {
    let Some(ready) = Ready::new("a disk that answers late", Testbed::Qemu, 64, "").unwrap() else { return };
    let DiskKnowledge::Sample { file, .. } = &ready.disk else { unreachable!("the sample disk") };
    let mut running = start(&ready, "blkdebug::");
    running.expect("type help for the commands", PATIENCE).unwrap();
    let mut control = ready.machine.control().unwrap();
    monitor(&mut control, "qemu-io d0 \"break read_aio held\"");
    running.type_line("sum /disk0/NUMBERS.BIN").unwrap();
    running.expect("error: /disk0/NUMBERS.BIN: the disk does not answer", PATIENCE).unwrap();
    // The first one is answered while the next ones are read.
    monitor(&mut control, "qemu-io d0 \"remove_break held\"");
    monitor(&mut control, "qemu-io d0 \"resume held\"");
    for _ in 0..3 {
        running.type_line(&format!("sum /disk0/{}", file.path)).unwrap();
        let expected = format!("{:08x} {} /disk0/{}", file.crc32, file.bytes, file.path);
        running.expect(&expected, PATIENCE).unwrap();
    }
    running.type_line("poweroff").unwrap();
    running.wait(PATIENCE).unwrap();
}
