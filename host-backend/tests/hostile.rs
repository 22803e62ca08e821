//! `--hostile-device` as a user sees it: what is refused, what is said at the start, counted and written down, and that
//! nothing of it is there without the option.

mod common;

use common::{Place, Running, eventually, finish, kvm_works, ringside, text};
use host_backend::sample::{exit, halt, pvh_elf, store32};
use shared_abi::board;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

const BAD_INPUT: i32 = 2;
/// Accesses of the guest to its only device.
const ACCESSES: usize = 5;

/// A guest that writes to the first slot, and ends.
fn guest(place: &Place) -> Command {
    guest_then(place, &exit(0))
}

fn guest_then(place: &Place, end: &[u8]) -> Command {
    let slot = board::VIRTIO_MMIO_BASE as u32;
    let stores: Vec<u8> = (0..ACCESSES).flat_map(|_| store32(slot + 0x14, 0)).collect();
    let mut command = ringside(&place.file("kernel", &pvh_elf(&[&stores, end].concat())));
    command.args(["--rng", "--stats", "json"]);
    command
}

fn refused(command: &mut Command, words: &str) {
    let output = finish(command);
    let error = text(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(BAD_INPUT), 1), "{error}");
    assert!(error.contains(words), "{error}");
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let place = Place::new();
    refused(guest(&place).args(["--hostile-device", "seven"]), "64 bits");
    refused(guest(&place).args(["--hostile-device", "7,device=disk"]), "no device: there are block, net");
    refused(guest(&place).args(["--hostile-device", "7,lies=white"]), "no lie: there are identity");
    refused(guest(&place).args(["--hostile-device", "7,device=net"]), "the VM has no such device");
    refused(guest(&place).args(["--hostile-log", "lies"]), "--hostile-device");
    let log = place.path("disk");
    std::fs::write(&log, [0; 512]).unwrap();
    let mut command = guest(&place);
    command.args(["--hostile-device", "7", "--disk"]).arg(&log).arg("--hostile-log").arg(&log);
    refused(&mut command, "would overwrite a disk");
    assert_eq!(std::fs::read(&log).unwrap(), [0; 512]);
}

#[test]
fn lies_that_could_not_be_logged_are_counted_and_the_log_is_nobody_elses() {
    let place = Place::new();
    let both = ["--hostile-device", "7", "--hostile-log", "same", "--console", "file=same"];
    refused(guest(&place).args(both), "console output same and the log of lies same would both write or keep same");
    if !kvm_works("lies_that_could_not_be_logged_are_counted_and_the_log_is_nobody_elses") {
        return;
    }
    let lies = ["--hostile-device", "0x2a,lies=interrupt-spurious,rate=1", "--hostile-log", "/dev/full"];
    let output = finish(guest(&place).args(lies));
    let error = text(&output.stderr);
    let stats = error.lines().last().unwrap();
    let stats: serde_json::Value = serde_json::from_str(stats).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!(stats["hostile_log"]["bytes_written"], 0);
    assert!(stats["hostile_log"]["bytes_lost"].as_u64().unwrap() > 0, "{stats}");
}

#[test]
fn lies_are_announced_counted_and_written_down() {
    if !kvm_works("lies_are_announced_counted_and_written_down") {
        return;
    }
    let place = Place::new();
    let lost = finish(guest(&place).args(["--hostile-device", "7", "--hostile-log", "gone/lies"]));
    let told = "ringside: open the log of lies gone/lies: No such file or directory (os error 2)\n";
    assert_eq!((lost.status.success(), text(&lost.stderr)), (false, told.into()));
    let log = place.path("lies");
    let mut command = guest(&place);
    command.args(["--hostile-device", "0x2a,lies=interrupt-spurious,rate=1", "--hostile-log"]).arg(&log);
    let output = finish(&mut command);
    assert_eq!(output.status.code(), Some(0));
    let error = text(&output.stderr);
    let (notice, stats) = error.split_once('\n').unwrap();
    assert_eq!(notice, "ringside: hostile devices, seed 0x2a: rng");
    let stats: serde_json::Value = serde_json::from_str(stats).unwrap();
    assert_eq!(stats["devices"]["rng"]["lies"], serde_json::json!({ "interrupt-spurious": ACCESSES }));
    let lies = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lies.lines().count(), ACCESSES);
    assert_eq!(lies.lines().last(), Some("rng: interrupt-spurious 5: an interrupt without a cause"));
}

#[test]
fn honest_machine_has_nothing_of_it() {
    if !kvm_works("honest_machine_has_nothing_of_it") {
        return;
    }
    let place = Place::new();
    let output = finish(&mut guest(&place));
    let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    let rng = stats["devices"]["rng"].as_object().unwrap();
    assert!(!rng.contains_key("lies") && rng["interrupts"] == 0, "{stats}");
    assert_eq!(stats["exits"]["mmio_write"], ACCESSES, "{stats}");
}

#[test]
fn control_socket_reports_lies_while_the_machine_runs() {
    if !kvm_works("control_socket_reports_lies_while_the_machine_runs") {
        return;
    }
    let place = Place::new();
    let path = place.path("control");
    let mut command = guest_then(&place, &halt());
    command.args(["--hostile-device", "1,lies=interrupt-spurious,rate=1", "--control"]).arg(&path);
    let running = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    eventually("the control socket", || UnixStream::connect(&path).is_ok());
    let mut client = BufReader::new(UnixStream::connect(&path).unwrap());
    let mut ask = |command: &str| {
        writeln!(client.get_mut(), "{{\"command\":\"{command}\"}}").unwrap();
        let mut answer = String::new();
        client.read_line(&mut answer).unwrap();
        answer
    };
    eventually("the lies", || ask("status").contains(&format!("\"lies\":{{\"interrupt-spurious\":{ACCESSES}}}")));
    ask("stop");
    assert_eq!(running.wait().status.code(), Some(0));
}
