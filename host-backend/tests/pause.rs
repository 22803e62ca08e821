//! `pause` and `resume` of VMs on this machine's KVM. Without KVM each test says that it was skipped.

mod common;

use common::{Place, Running, eventually, kvm_works, ringside, started, text};
use host_backend::sample::{exit, halt, print, spin};
use serde_json::{Value, json};
use shared_abi::board;
use shared_abi::kvm::{CLOCK_GUEST_STOPPED, ClockPage, MSR_SYSTEM_TIME, SYSTEM_TIME_ENABLE};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// A port of no device.
const NO_PORT: u16 = 0x80;

/// A VM that has printed its first byte, and a client of its control socket.
struct Vm {
    place: Place,
    child: Running,
    client: BufReader<UnixStream>,
}

impl Vm {
    fn start(code: &[u8], arguments: &[&str]) -> Self {
        Self::start_with(code, arguments, Stdio::null())
    }

    fn start_with(code: &[u8], arguments: &[&str], stdin: Stdio) -> Self {
        let place = Place::new();
        let disk = place.file("disk", &[0; 4096]);
        let control = place.path("control");
        let mut command = ringside(&place.kernel(&[print(b"!"), code.to_vec()].concat()));
        command.args(arguments).arg("--disk").arg(disk).arg("--control").arg(&control).stdin(stdin);
        let mut child = started(&mut command);
        eventually("the control socket", || UnixStream::connect(&control).is_ok());
        let stream = UnixStream::connect(&control).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        assert!(child.child().try_wait().is_ok());
        Self { place, child, client: BufReader::new(stream) }
    }

    /// The answer, or nothing once the VM has ended.
    fn try_ask(&mut self, command: &str) -> Option<Value> {
        self.client.get_mut().write_all(format!("{}\n", json!({ "command": command })).as_bytes()).ok()?;
        let mut line = String::new();
        match self.client.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer to {command}: {error}"),
        }
    }

    fn ask(&mut self, command: &str) -> Value {
        self.try_ask(command).expect(command)
    }

    fn done(&mut self, command: &str) {
        assert_eq!(self.ask(command), json!({"ok": true}), "{command}");
    }

    /// The error is one line with `words`.
    fn refused(&mut self, command: &str, words: &[&str]) {
        let answer = self.ask(command);
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{command}: {answer}"));
        assert!(answer["ok"] == false && words.iter().all(|word| error.contains(word)), "{command}: {error}");
    }

    fn state(&mut self) -> String {
        self.ask("status")["state"].as_str().unwrap().to_owned()
    }

    fn exits(&mut self) -> Value {
        self.ask("stats")["exits"].clone()
    }

    fn signal(&mut self, signal: libc::c_int) {
        common::signal(&mut self.child, signal);
    }

    /// Ends with this status, and says nothing.
    fn ends(self, status: i32) {
        let output = self.child.wait();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(status), ""));
        assert!(!self.place.path("control").exists());
    }
}

/// Code that keeps exiting from the guest: mov dx, PORT; out dx, al; jmp back to the out
fn exit_on_and_on() -> Vec<u8> {
    [&[0x66, 0xba][..], &NO_PORT.to_le_bytes(), &[0xee, 0xeb, 0xfd]].concat()
}

#[test]
fn paused_guest_has_no_exits_and_goes_on_when_it_is_resumed() {
    if !kvm_works("paused_guest_has_no_exits_and_goes_on_when_it_is_resumed") {
        return;
    }
    let mut vm = Vm::start(&exit_on_and_on(), &["--cpus", "2"]);
    for round in 0..10 {
        vm.refused("resume", &["cannot resume", "is running", "paused"]);
        vm.done("pause");
        assert_eq!(vm.state(), "paused");
        let before = vm.exits();
        vm.refused("pause", &["cannot pause", "is paused", "running"]);
        assert_eq!(vm.state(), "paused");
        assert_eq!(vm.exits(), before, "round {round}");
        vm.done("resume");
        assert_eq!(vm.state(), "running");
        let count = |exits: &Value| exits["no_port"].as_u64().unwrap();
        eventually("an exit", || count(&vm.exits()) > count(&before));
    }
    vm.done("stop");
    vm.ends(0);
}

#[test]
fn spinning_or_halted_guest_is_paused_and_stopped_while_it_is() {
    if !kvm_works("spinning_or_halted_guest_is_paused_and_stopped_while_it_is") {
        return;
    }
    for rest in [spin(), halt(), exit_on_and_on()] {
        let mut vm = Vm::start(&rest, &["--cpus", "2", "--balloon", "--rng"]);
        vm.done("pause");
        // Answered when the disk is flushed.
        vm.done("stop");
        vm.ends(0);
        let mut vm = Vm::start(&rest, &["--cpus", "2"]);
        vm.done("pause");
        vm.signal(libc::SIGTERM);
        vm.ends(143);
    }
}

#[test]
fn devices_are_changed_while_the_guest_is_paused() {
    if !kvm_works("devices_are_changed_while_the_guest_is_paused") {
        return;
    }
    let mut vm = Vm::start(&halt(), &["--balloon"]);
    vm.done("pause");
    for request in [r#"{"command":"disk","disk":0,"bytes":8192}"#, r#"{"command":"balloon","target_mib":1}"#] {
        vm.client.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        vm.client.read_line(&mut line).unwrap();
        assert!(line.contains("\"ok\":true"), "{request}: {line}");
    }
    assert_eq!(std::fs::metadata(vm.place.path("disk")).unwrap().len(), 8192);
    assert_eq!(vm.state(), "paused");
    vm.done("stop");
    vm.ends(0);
}

#[test]
fn guest_sees_in_its_clock_page_that_it_was_stopped() {
    if !kvm_works("guest_sees_in_its_clock_page_that_it_was_stopped") {
        return;
    }
    let page = 0x20_0000_u32;
    let flags = page + std::mem::offset_of!(ClockPage, flags) as u32;
    let code = [
        // mov ecx, MSR; mov eax, page | 1; xor edx, edx; wrmsr
        &[0xb9][..],
        &MSR_SYSTEM_TIME.to_le_bytes(),
        &[0xb8],
        &(page | SYSTEM_TIME_ENABLE as u32).to_le_bytes(),
        &[0x31, 0xd2, 0x0f, 0x30],
        &print(b"?"),
        // test byte ptr [flags], GUEST_STOPPED; jz back
        &[0xf6, 0x05],
        &flags.to_le_bytes(),
        &[CLOCK_GUEST_STOPPED, 0x74, 0xf7],
        &exit(42),
    ];
    let mut vm = Vm::start(&code.concat(), &[]);
    vm.child.child().stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    vm.done("pause");
    assert_eq!(vm.state(), "paused");
    vm.done("resume");
    let output = vm.child.wait();
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(42), 1));
}

#[test]
fn guest_that_waits_for_the_reader_of_its_console_is_paused() {
    if !kvm_works("guest_that_waits_for_the_reader_of_its_console_is_paused") {
        return;
    }
    // More than fits into the pipe, which has no reader.
    const LEN: usize = 1 << 15;
    const ROOM: u64 = 1 << 12;
    // The guest waits for a byte of input before it prints: mov dx, LSR; in al, dx; test al, 1; jz back
    let wait = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb];
    let code = [&wait[..], &print(&[b'x'; LEN]), &exit(7)].concat();
    let mut vm = Vm::start_with(&code, &[], Stdio::piped());
    let pipe = std::os::fd::AsRawFd::as_raw_fd(vm.child.child().stdout.as_ref().unwrap());
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::fcntl(pipe, libc::F_SETPIPE_SZ, ROOM as libc::c_int) }, ROOM as libc::c_int);
    vm.child.child().stdin.as_mut().unwrap().write_all(b"!").unwrap();
    eventually("a full pipe", || vm.ask("stats")["serial"]["bytes_written"].as_u64().unwrap() >= ROOM);
    vm.done("pause");
    assert_eq!(vm.state(), "paused");
    vm.done("resume");
    // It is read again.
    let output = vm.child.wait_reading();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(7), LEN));
}

#[test]
fn pause_that_races_with_resets_is_always_answered() {
    if !kvm_works("pause_that_races_with_resets_is_always_answered") {
        return;
    }
    // mov ecx, 20000; loop to itself: between two resets there is a time in which it runs
    let work = [&[0xb9][..], &20_000u32.to_le_bytes(), &[0xe2, 0xfe]].concat();
    // mov al, 6; mov dx, PORT; out dx, al
    let reset = [&[0xb0, 6, 0x66, 0xba][..], &board::RESET_CONTROL_PORT.to_le_bytes(), &[0xee], &halt()].concat();
    let reset = [work, reset].concat();
    // The console's first byte of each start goes to a pipe without a reader that has room enough.
    let mut vm = Vm::start(&reset, &["--on-reset", "reboot", "--cpus", "2"]);
    let (mut paused, mut asked) = (0, 0);
    while paused < 20 {
        asked += 1;
        assert!(asked < 10_000, "{paused} of {asked} requests paused the VM");
        let answer = vm.ask("pause");
        if answer["ok"] != true {
            // The next reset came before the request.
            let error = answer["error"].as_str().unwrap();
            assert!(error.contains("cannot pause a VM that is created"), "{error}");
            continue;
        }
        paused += 1;
        let (before, exits) = (vm.ask("status"), vm.exits());
        assert_eq!(before["state"], "paused");
        let after = vm.ask("status");
        assert_eq!((&after["state"], &after["reboots"]), (&before["state"], &before["reboots"]));
        assert_eq!(vm.exits(), exits);
        vm.done("resume");
    }
    let reboots = |status: Value| status["reboots"].as_u64().unwrap();
    let before = reboots(vm.ask("status"));
    eventually("a reset", || reboots(vm.ask("status")) > before);
    eventually("a pause", || vm.ask("pause")["ok"] == true);
    vm.done("stop");
    vm.ends(0);
}

#[test]
fn pause_that_races_with_the_end_is_answered_or_the_socket_is_closed() {
    if !kvm_works("pause_that_races_with_the_end_is_answered_or_the_socket_is_closed") {
        return;
    }
    for turns in [1_u32, 1_000, 100_000, 1_000_000] {
        // mov ecx, TURNS; loop to itself
        let code = [&[0xb9][..], &turns.to_le_bytes(), &[0xe2, 0xfe], &exit(7)].concat();
        let mut vm = Vm::start(&code, &["--cpus", "2"]);
        // Bounded: a guest that is paused all the time never ends.
        for _ in 0..30 {
            let Some(answer) = vm.try_ask("pause") else { break };
            if answer["ok"] == true {
                assert!(vm.try_ask("resume").is_none_or(|answer| answer["ok"] == true), "{turns}");
            } else {
                let error = answer["error"].as_str().unwrap();
                assert!(error.contains("cannot pause a VM that is stopped"), "{error}");
            }
        }
        let output = vm.child.wait();
        assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    }
}
