//! VMs on this machine's KVM, with guests of a few bytes. Without KVM each test says that it was skipped.

mod common;

use common::{Place, Running, eventually, finish, kvm_works, ringside, signal, start, started, status_of, text};
use host_backend::sample::{exit, halt, print, spin, store32};
use shared_abi::board;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Returns from the test when there is no KVM, having said so.
macro_rules! needs_kvm {
    ($test:literal) => {
        if !kvm_works($test) {
            return;
        }
    };
}

#[test]
fn a_guest_prints_and_powers_off() {
    needs_kvm!("a_guest_prints_and_powers_off");
    let place = Place::new();
    let output = finish(&mut ringside(&place.kernel(&[print(b"hello\nworld"), exit(0)].concat())));
    assert_eq!(text(&output.stdout), "hello\nworld");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_exit_code_becomes_the_exit_status() {
    needs_kvm!("the_exit_code_becomes_the_exit_status");
    let place = Place::new();
    for (code, status) in [(board::EXIT_PANIC, 1), (42, 42), (2, 125), (0x1_0000, 125)] {
        let output = finish(&mut ringside(&place.kernel(&exit(code))));
        assert_eq!(output.status.code(), Some(status), "code {code}");
        assert_eq!(text(&output.stderr).lines().count(), 1);
    }
}

#[test]
fn output_goes_to_a_file() {
    needs_kvm!("output_goes_to_a_file");
    let place = Place::new();
    let log = place.path("log");
    let kernel = place.kernel(&[print(b"to the file"), exit(0)].concat());
    let output = finish(ringside(&kernel).arg(format!("--console=file={}", log.display())));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
    assert_eq!(std::fs::read(log).unwrap(), b"to the file");
}

#[test]
fn a_full_console_file_is_rotated() {
    needs_kvm!("a_full_console_file_is_rotated");
    let place = Place::new();
    let log = place.path("log");
    let lines: Vec<_> = [b'a', b'b', b'c'].iter().flat_map(|byte| print(&[*byte; 3000])).collect();
    let kernel = place.kernel(&[lines, exit(0)].concat());
    let output = finish(ringside(&kernel).arg(format!("--console=file={},size=4K,keep=1", log.display())));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (now, before) = (std::fs::read(&log).unwrap(), std::fs::read(place.path("log.1")).unwrap());
    assert!(now.len() <= 4096 && before.len() <= 4096 && now.ends_with(&[b'c'; 800]), "{} {}", now.len(), before.len());
    assert!(!place.path("log.2").exists());
}

#[test]
fn a_triple_fault_is_a_failure_with_registers() {
    needs_kvm!("a_triple_fault_is_a_failure_with_registers");
    let place = Place::new();
    // lidt of an empty table, then ud2
    let code = [&[0x0f, 0x01, 0x1d][..], &0x10_0010u32.to_le_bytes(), &[0x0f, 0x0b], &[0; 32]].concat();
    let output = finish(&mut ringside(&place.kernel(&code)));
    assert_eq!(output.status.code(), Some(4));
    let error = text(&output.stderr);
    assert!(error.contains("rip=0x10") && error.contains("cr0=") && error.lines().count() == 1, "{error}");
}

#[test]
fn signals_end_a_spinning_or_halted_guest() {
    needs_kvm!("signals_end_a_spinning_or_halted_guest");
    let place = Place::new();
    for rest in [spin(), halt()] {
        for (number, status) in [(libc::SIGTERM, 143), (libc::SIGINT, 130)] {
            let mut child = started(&mut ringside(&place.kernel(&[print(b"!"), rest.clone()].concat())));
            signal(&mut child, number);
            let output = child.wait();
            assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        }
    }
}

#[test]
fn registers_of_nothing_are_harmless() {
    needs_kvm!("registers_of_nothing_are_harmless");
    let place = Place::new();
    let slot = board::VIRTIO_MMIO_BASE as u32;
    let stores: Vec<u8> =
        [slot - 4, slot, slot + 0x1000, slot + 0xffc, 0xe000_0000].iter().flat_map(|at| store32(*at, !0)).collect();
    let output = finish(ringside(&place.kernel(&[stores, exit(0)].concat())).args(["--rng", "--stats", "json"]));
    assert_eq!(output.status.code(), Some(0));
    let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(stats["exits"]["no_mmio"], 3, "{stats}");
    assert_eq!(stats["exits"]["mmio_write"], 2, "{stats}");
    assert_eq!(stats["devices"]["rng"]["bad_accesses"], 1, "{stats}");
}

#[test]
fn the_statistics_count_every_exit() {
    needs_kvm!("the_statistics_count_every_exit");
    let place = Place::new();
    let kernel = place.kernel(&[print(b"12345"), exit(0)].concat());
    let output = finish(ringside(&kernel).args(["--stats", "table"]));
    let table = text(&output.stderr);
    let value = |name: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(value("serial.bytes_written"), 5);
    // KVM may hand over the bytes one by one or together; the exit port is one more.
    assert!((2..=6).contains(&value("exits.port_write")), "{table}");
}

#[test]
fn the_control_socket_answers_and_stops_the_vm() {
    needs_kvm!("the_control_socket_answers_and_stops_the_vm");
    let place = Place::new();
    let path = place.path("control");
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    let child = started(ringside(&kernel).args(["--balloon", "--cpus", "2", "--control"]).arg(&path));
    eventually("the control socket", || UnixStream::connect(&path).is_ok());
    let mut client = BufReader::new(UnixStream::connect(&path).unwrap());
    let mut ask = |request: &str| {
        client.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    let status = ask(r#"{"command":"status"}"#);
    assert_eq!((&status["ok"], &status["cpus"], &status["memory_mib"]), (&true.into(), &2.into(), &16.into()));
    assert_eq!(ask(r#"{"command":"balloon","target_mib":4}"#)["target_pages"], 1024);
    assert_eq!(ask(r#"{"command":"balloon","target_mib":17}"#)["ok"], false);
    // An exit is counted once it is served, which is after its byte came out.
    eventually("the count", || ask(r#"{"command":"stats"}"#)["exits"]["port_write"].as_u64().unwrap() >= 1);
    assert_eq!(ask(r#"{"command":"stop"}"#)["ok"], true);
    let output = child.wait();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!path.exists(), "the socket is gone with the VM");
}

#[test]
fn a_disk_is_free_again_when_the_vm_has_ended() {
    needs_kvm!("a_disk_is_free_again_when_the_vm_has_ended");
    let place = Place::new();
    let disk = place.file("disk", &[0; 4096]);
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    let mut child = started(ringside(&kernel).arg("--disk").arg(&disk));
    let second = finish(ringside(&kernel).arg("--disk").arg(&disk));
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second.stderr).contains("in use by another process"));
    signal(&mut child, libc::SIGTERM);
    assert_eq!(child.wait().status.code(), Some(143));
    let mut third = started(ringside(&kernel).arg("--disk").arg(&disk));
    signal(&mut third, libc::SIGTERM);
    assert_eq!(third.wait().status.code(), Some(143));
}

#[test]
fn a_reader_that_is_gone_does_not_stop_the_guest() {
    needs_kvm!("a_reader_that_is_gone_does_not_stop_the_guest");
    let place = Place::new();
    let mut child = start(&mut ringside(&place.kernel(&[print(&[b'x'; 3000]), exit(0)].concat())));
    drop(child.child().stdout.take());
    assert_eq!(child.wait().status.code(), Some(0));
}

#[test]
fn typed_input_reaches_the_guest() {
    needs_kvm!("typed_input_reaches_the_guest");
    let place = Place::new();
    // wait: mov dx, LSR; in al, dx; test al, 1; jz wait; mov dx, DATA; in al, dx; out dx, al; cmp al, 'q'; jne wait
    let mut echo =
        vec![0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c, b'q'];
    echo.extend([0x75, 0xed]);
    let mut child = start(ringside(&place.kernel(&[echo, exit(0)].concat())).stdin(Stdio::piped()));
    let typed = [vec![b'a'; 300], b"bcq".to_vec()].concat();
    child.child().stdin.take().unwrap().write_all(&typed).unwrap();
    let output = child.wait();
    assert_eq!((output.status.code(), output.stdout), (Some(0), typed));
}

#[test]
fn the_command_line_arrives_as_it_was_given() {
    needs_kvm!("the_command_line_arrives_as_it_was_given");
    let place = Place::new();
    // mov esi, [ebx + 24] (the command line); mov ecx, 9; mov edx, COM1; cld; rep outsb
    let mut code = vec![0x8b, 0x73, 24, 0xb9, 9, 0, 0, 0, 0xba];
    code.extend(u32::from(board::COM1_PORT).to_le_bytes());
    code.extend([0xfc, 0xf3, 0x6e]);
    let output = finish(ringside(&place.kernel(&[code, exit(0)].concat())).args(["--cmdline", "quiet x=1"]));
    assert_eq!(text(&output.stdout), "quiet x=1");
}

#[test]
fn passt_publishes_a_port_while_the_vm_lives() {
    needs_kvm!("passt_publishes_a_port_while_the_vm_lives");
    if Command::new("passt").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return eprintln!("SKIPPED passt_publishes_a_port_while_the_vm_lives: passt is not installed");
    }
    let place = Place::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    let publish = format!("{}:80", address.port());
    let mut child = started(ringside(&kernel).args(["--net", "passt", "--publish", &publish]));
    eventually("the published port", || TcpStream::connect(address).is_ok());
    signal(&mut child, libc::SIGTERM);
    assert_eq!(child.wait().status.code(), Some(143));
    eventually("the end of passt", || TcpStream::connect(address).is_err());
}

#[test]
fn a_signal_that_the_starter_ignores_does_not_end_the_vm() {
    needs_kvm!("a_signal_that_the_starter_ignores_does_not_end_the_vm");
    let place = Place::new();
    let mut command = ringside(&place.kernel(&[print(b"!"), halt()].concat()));
    // SAFETY: signal is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let mut child = started(&mut command);
    signal(&mut child, libc::SIGHUP);
    signal(&mut child, libc::SIGTERM);
    assert_eq!(child.wait().status.code(), Some(143));
}

#[test]
fn unwritable_statistics_do_not_change_the_exit_status() {
    needs_kvm!("unwritable_statistics_do_not_change_the_exit_status");
    let place = Place::new();
    let kernel = place.kernel(&exit(42));
    for format in ["json", "table"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = ringside(&kernel);
        command.args(["--stats", format]).stdout(Stdio::null()).stderr(full);
        assert_eq!(Running::start(&mut command).wait().status.code(), Some(42), "{format}");
    }
}

#[test]
fn a_socket_goes_after_a_kill_too_and_one_that_is_left_is_replaced() {
    needs_kvm!("a_socket_goes_after_a_kill_too_and_one_that_is_left_is_replaced");
    let place = Place::new();
    let path = place.path("control");
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    for _ in 0..2 {
        let mut child = started(ringside(&kernel).arg("--control").arg(&path));
        assert!(path.exists());
        signal(&mut child, libc::SIGKILL);
        child.wait();
        eventually("the end of its socket, by the keeper", || !path.exists());
    }
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "only the loss of both leaves one");
    let mut child = started(ringside(&kernel).arg("--control").arg(&path));
    eventually("the control socket", || UnixStream::connect(&path).is_ok());
    signal(&mut child, libc::SIGTERM);
    assert_eq!(child.wait().status.code(), Some(143));
    assert!(!path.exists());
}

#[test]
fn the_answer_to_stop_comes_when_the_disks_are_flushed() {
    needs_kvm!("the_answer_to_stop_comes_when_the_disks_are_flushed");
    let place = Place::new();
    let (path, disk) = (place.path("control"), place.file("disk", &[0; 4096]));
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    let child = started(ringside(&kernel).arg("--control").arg(&path).arg("--disk").arg(&disk));
    let mut client = BufReader::new(UnixStream::connect(&path).unwrap());
    client.get_mut().write_all(b"{\"command\":\"stop\"}\n").unwrap();
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    assert_eq!(line, "{\"ok\":true}\n");
    assert_eq!(child.wait().status.code(), Some(0));
}

#[test]
fn the_end_of_a_network_peer_is_reported_when_it_happens() {
    needs_kvm!("the_end_of_a_network_peer_is_reported_when_it_happens");
    let place = Place::new();
    let (path, switch) = (place.path("control"), place.path("switch"));
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    let listener = std::os::unix::net::UnixListener::bind(&switch).unwrap();
    let net = format!("stream={}", switch.display());
    let mut child = started(ringside(&kernel).args(["--net", &net, "--control"]).arg(&path));
    let (peer, _) = listener.accept().unwrap();
    assert_eq!(status_of(&path)["network"], serde_json::json!({"peer": "stream", "state": "up"}));
    drop(peer);
    // The guest of this test has no driver, so that only the host can notice.
    let mut line = String::new();
    BufReader::new(child.child().stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("peer (stream) is gone"), "{line}");
    assert_eq!(status_of(&path)["network"]["state"], "gone");
    signal(&mut child, libc::SIGTERM);
    assert_eq!(child.wait().status.code(), Some(143));
}

#[test]
fn the_end_of_passt_is_reported_when_it_happens() {
    needs_kvm!("the_end_of_passt_is_reported_when_it_happens");
    let place = Place::new();
    // A passt that ends at once, with a status.
    let fake = place.file("passt", b"#!/bin/sh\nexit 7\n");
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = place.path("control");
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    let folders = format!("{}:/usr/bin:/bin", place.path("").display());
    let mut command = ringside(&kernel);
    command.args(["--net", "passt", "--control"]).arg(&path).env("PATH", folders);
    let mut child = started(&mut command);
    let mut line = String::new();
    BufReader::new(child.child().stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("passt") && line.contains("exit status: 7"), "{line}");
    let network = serde_json::json!({"peer": "passt", "state": "gone", "reason": "exit status: 7"});
    assert_eq!(status_of(&path)["network"], network);
    signal(&mut child, libc::SIGTERM);
    assert_eq!(child.wait().status.code(), Some(143));
}

#[test]
fn a_passt_that_ends_with_its_vm_is_no_news() {
    needs_kvm!("a_passt_that_ends_with_its_vm_is_no_news");
    let place = Place::new();
    // A passt that runs until its socket is closed.
    let script = b"#!/bin/bash\nwhile [ \"$1\" != --fd ]; do shift; done\nexec cat <&\"$2\" >/dev/null\n";
    let fake = place.file("passt", script);
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let disk = place.file("disk", &[0; 4096]);
    let kernel = place.kernel(&[print(b"!"), halt()].concat());
    let folders = format!("{}:/usr/bin:/bin", place.path("").display());
    let mut command = ringside(&kernel);
    command.args(["--net", "passt", "--disk"]).arg(&disk).env("PATH", folders);
    let mut child = started(&mut command);
    signal(&mut child, libc::SIGTERM);
    let output = child.wait();
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_limit_on_the_size_of_files_costs_output_and_not_the_vm() {
    needs_kvm!("a_limit_on_the_size_of_files_costs_output_and_not_the_vm");
    let place = Place::new();
    let log = place.path("log");
    let kernel = place.kernel(&[print(&[b'x'; 9000]), exit(42)].concat());
    let mut command = ringside(&kernel);
    command.arg(format!("--console=file={}", log.display())).args(["--stats", "json"]);
    // SAFETY: setrlimit is async-signal-safe and reads one structure.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            Ok(())
        });
    }
    let output = finish(&mut command);
    // Without a handler SIGXFSZ ends the process.
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 4096);
    let stats = text(&output.stderr);
    let stats: serde_json::Value = serde_json::from_str(stats.lines().next().unwrap()).unwrap();
    assert_eq!((&stats["serial"]["bytes_written"], &stats["serial"]["bytes_lost"]), (&4096.into(), &4904.into()));
}
