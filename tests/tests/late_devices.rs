//! Devices that answer late or never, on QEMU: a request is held in its block layer for as long as the test likes, and an
//! entropy source is one without input.

use ringside_tests::control::Control;
use ringside_tests::machine::SerialLine;
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::Testbed;
use ringside_tests::tour::DiskKnowledge;
use std::fs;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// The start of a file on the sample disk, and how the shell shows it.
const START: &[u8] = b"This is the samp";
const START_SHOWN: &str = "000 54 68 69 73 20 69 73 20 74 68 65 20 73 61 6d 70 This.is.the.samp";

/// Starts a machine with more arguments first, and with `from` replaced by `to` in the usual ones.
fn start(ready: &Ready, first: &[&str], from: &str, to: &str) -> Running {
    let usual = ready.machine.command(SerialLine::Captured);
    let mut command = Command::new(usual.get_program());
    command.args(first);
    for argument in usual.get_args() {
        command.arg(if from.is_empty() {
            argument.to_owned()
        } else {
            argument.to_string_lossy().replace(from, to).into()
        });
    }
    Running::spawn(command).unwrap()
}

fn monitor(control: &mut Control, command: &str) {
    let said = control.monitor(command).unwrap();
    assert!(said.is_empty() || said.contains("Suspended") || said.contains("Resuming"), "{command}: {said}");
}

/// The first sector of the disk that starts so.
fn sector_of(ready: &Ready, start: &[u8]) -> usize {
    let content = fs::read(&ready.machine.disk.path).unwrap();
    content.chunks(512).position(|sector| sector.starts_with(start)).unwrap()
}

/// Has a command's first read held until the guest gives up waiting for it.
fn hold(running: &mut Running, control: &mut Control, tag: &str) {
    monitor(control, &format!("qemu-io d0 \"break read_aio {tag}\""));
    running.type_line("sum /disk0/NUMBERS.BIN").unwrap();
    running.expect("error: /disk0/NUMBERS.BIN: the disk does not answer", PATIENCE).unwrap();
    monitor(control, &format!("qemu-io d0 \"remove_break {tag}\""));
}

#[test]
fn reads_that_time_out_harm_no_later_read() {
    let Some(ready) = Ready::new("a disk that answers late", Testbed::Qemu, 64, "").unwrap() else { return };
    let DiskKnowledge::Sample { file, .. } = &ready.disk else { unreachable!("the sample disk") };
    let sector = sector_of(&ready, START);
    let mut running = start(&ready, &[], ",file=", ",file=blkdebug::");
    running.expect("type help for the commands", PATIENCE).unwrap();
    let mut control = ready.machine.control().unwrap();
    let sum = |running: &mut Running| {
        running.type_line(&format!("sum /disk0/{}", file.path)).unwrap();
        let expected = format!("{:08x} {} /disk0/{}", file.crc32, file.bytes, file.path);
        running.expect(&expected, PATIENCE).unwrap();
    };
    // The first one is answered before the next read, the second one only after it.
    hold(&mut running, &mut control, "first");
    monitor(&mut control, "qemu-io d0 \"resume first\"");
    sum(&mut running);
    hold(&mut running, &mut control, "second");
    running.type_line(&format!("blk read {sector}")).unwrap();
    running.expect(START_SHOWN, PATIENCE).unwrap();
    monitor(&mut control, "qemu-io d0 \"resume second\"");
    sum(&mut running);
    running.type_line("poweroff").unwrap();
    running.wait(PATIENCE).unwrap();
}

#[test]
fn disk_that_takes_too_long_is_restarted_and_the_read_done_again() {
    let Some(ready) = Ready::new("a disk that takes too long", Testbed::Qemu, 64, "disk_timeout=3").unwrap() else {
        return;
    };
    let mut running = start(&ready, &[], "", "");
    running.expect("type help for the commands", PATIENCE).unwrap();
    let mut control = ready.machine.control().unwrap();
    let sector = sector_of(&ready, START);
    // A byte a second: the first read is let through, the next one waits for minutes.
    monitor(&mut control, "block_set_io_throttle d0 1 0 0 0 0 0");
    running.type_line("blk read 0").unwrap();
    running.expect("1f0 ", PATIENCE).unwrap();
    running.type_line(&format!("blk read {sector}")).unwrap();
    running.expect("block: restarted (1 of 3): no answer to a request within 3000 ms", PATIENCE).unwrap();
    monitor(&mut control, "block_set_io_throttle d0 0 0 0 0 0 0");
    running.expect(START_SHOWN, PATIENCE).unwrap();
    running.type_line("poweroff").unwrap();
    running.wait(PATIENCE).unwrap();
}

#[test]
fn silent_entropy_source_delays_the_boot_and_no_more() {
    let Some(ready) = Ready::new("a silent entropy source", Testbed::Qemu, 64, "").unwrap() else { return };
    let source = ["-chardev", "null,id=nothing", "-object", "rng-egd,id=silent,chardev=nothing"];
    let with_source = "virtio-rng-pci,rng=silent,";
    let mut running = start(&ready, &source, "virtio-rng-pci,", with_source);
    running.expect("error: rng: stopped: no answer to a request within 100 ms", PATIENCE).unwrap();
    running.expect("type help for the commands", PATIENCE).unwrap();
    running.type_line("poweroff").unwrap();
    running.wait(PATIENCE).unwrap();
}
