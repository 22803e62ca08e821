//! Bad input to `ringside`: each kind gets one clear line and its exit status, and harms nothing. None of these needs
//! KVM: what is wrong is found before it is opened.

mod common;

use common::{Place, finish, ringside, ringside_with_memory, text};
use host_backend::sample::{exit, pvh_elf};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

const BAD_INPUT: i32 = 2;
const NO_KVM: i32 = 3;

/// Runs and checks the status, and that standard error is one line with `words`.
fn refused(command: &mut Command, status: i32, words: &[&str]) {
    let output = finish(command);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("ringside: "), "{error}");
    for word in words {
        assert!(error.contains(word), "no \"{word}\" in: {error}");
    }
    assert_eq!(text(&output.stdout), "");
}

fn place() -> (Place, Command) {
    let place = Place::new();
    let command = ringside(&place.kernel(&exit(0)));
    (place, command)
}

#[test]
fn help_lists_the_exit_statuses_and_the_requests_of_the_control_socket() {
    for arguments in [&["--help"][..], &["run", "--help"]] {
        let output = finish(Command::new(env!("CARGO_BIN_EXE_ringside")).args(arguments));
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("Exit status:"));
    }
    let output = finish(Command::new(env!("CARGO_BIN_EXE_ringside")).args(["run", "--help"]));
    let help = text(&output.stdout);
    assert!(help.contains(r#"{"command":"disk","disk":N,"bytes":N}"#));
    assert!(help.contains("Output limit of each console in bytes per second"), "{help}");
}

#[test]
fn bugs_to_inject_are_in_no_program_but_the_one_made_for_that() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_ringside")).unwrap();
    let contains = |words: &str| program.windows(words.len()).any(|part| part == words.as_bytes());
    assert!(contains("host-backend"), "names are looked for in the right place");
    // The name of a bug, and the module in symbols and in paths of the debug information.
    for trace in ["flush-ignored", "6faulty", "src/faulty"] {
        assert_eq!(contains(trace), cfg!(feature = "test-faults"), "{trace}");
    }
}

#[test]
fn no_kvm_has_its_own_exit_status() {
    let (_place, mut command) = place();
    refused(command.args(["--kvm", "/nonexistent/kvm"]), NO_KVM, &["no KVM at /nonexistent/kvm", "does not exist"]);
}

#[test]
fn a_kvm_without_permission_is_reported() {
    let (place, mut command) = place();
    let device = place.file("kvm", b"");
    std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root opens it anyway, and finds that it is not KVM.
    let root = std::fs::File::open(&device).is_ok();
    let words = if root { "not a KVM device" } else { "permission denied" };
    refused(command.arg("--kvm").arg(&device), NO_KVM, &[words]);
}

#[test]
fn kernels_that_cannot_be_loaded_are_refused() {
    let place = Place::new();
    refused(&mut ringside(Path::new("/nonexistent/kernel")), BAD_INPUT, &["load kernel", "No such file"]);
    refused(&mut ringside(&place.file("text", b"#!/bin/sh\n")), BAD_INPUT, &["load kernel", "not an ELF file"]);
    let mut elf = pvh_elf(&exit(0));
    elf[64 + 2 * 56 + 8] = 1;
    refused(&mut ringside(&place.file("note", &elf)), BAD_INPUT, &["no PVH entry", "note 18"]);
    let mut elf = pvh_elf(&exit(0));
    elf[64 + 40..64 + 48].copy_from_slice(&(1u64 << 30).to_le_bytes());
    refused(&mut ringside(&place.file("large", &elf)), BAD_INPUT, &["does not fit", "16 MiB", "--mem"]);
    let mut elf = pvh_elf(&exit(0));
    elf[64 + 24..64 + 32].copy_from_slice(&0x6000u64.to_le_bytes());
    refused(&mut ringside(&place.file("over", &elf)), BAD_INPUT, &["overlaps the boot data"]);
}

#[test]
fn initrds_that_cannot_be_loaded_are_refused() {
    let (place, mut command) = place();
    let initrd = place.file("initrd", b"");
    std::fs::File::options().write(true).open(&initrd).unwrap().set_len(64 << 20).unwrap();
    refused(command.arg("--initrd").arg(&initrd), BAD_INPUT, &["initrd", "do not fit", "--mem"]);
}

#[test]
fn absurd_memory_and_cpu_counts_are_refused() {
    let sizes = [
        ("0", "too small"),
        ("1M", "too small"),
        ("1T", "no unit"),
        ("100000G", "too large"),
        ("16386K", "multiple of 4096"),
        ("x", "no unit"),
        ("M", "no size"),
    ];
    for (size, words) in sizes {
        let kernel = Place::new();
        refused(&mut ringside_with_memory(&kernel.kernel(&exit(0)), size), BAD_INPUT, &[words]);
    }
    for cpus in ["0", "65", "4000000000", "-1", "two"] {
        let (_place, mut command) = place();
        refused(command.arg(format!("--cpus={cpus}")), BAD_INPUT, &["--cpus"]);
    }
}

#[test]
fn unusable_disks_are_refused() {
    let (place, mut command) = place();
    refused(command.args(["--disk", "/nonexistent/disk"]), BAD_INPUT, &["open disk /nonexistent/disk", "No such file"]);
    let odd = place.file("odd", &[0; 1000]);
    refused(ringside(&place.kernel(&exit(0))).arg("--disk").arg(&odd), BAD_INPUT, &["1000 bytes", "multiple of 512"]);
    let protected = place.file("protected", &[0; 1024]);
    std::fs::set_permissions(&protected, std::fs::Permissions::from_mode(0o444)).unwrap();
    refused(ringside(&place.kernel(&exit(0))).arg("--disk").arg(&protected), BAD_INPUT, &["read-only", ",ro"]);
}

#[test]
fn a_disk_locked_by_another_process_is_refused() {
    let (place, mut command) = place();
    let image = place.file("disk", &[0; 1024]);
    let disk = host_backend::config::Disk::at(&image, host_backend::config::DiskAccess::ReadWrite);
    // The lock belongs to the open file, so this process is as good as any other.
    let held = host_backend::virtio::block::RawFile::open(&disk).unwrap();
    refused(command.arg("--disk").arg(&image), BAD_INPUT, &["in use by another process"]);
    drop(held);
    assert_eq!(std::fs::read(&image).unwrap(), [0; 1024]);
}

#[test]
fn a_control_socket_in_use_is_refused_and_left_alone() {
    let (place, mut command) = place();
    let path = place.path("control");
    let _listener = UnixListener::bind(&path).unwrap();
    refused(command.arg("--control").arg(&path), BAD_INPUT, &["control socket", "in use"]);
    assert!(path.exists());
    let file = place.file("file", b"precious");
    refused(ringside(&place.kernel(&exit(0))).arg("--control").arg(&file), BAD_INPUT, &["exists"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_control_socket_is_removed_when_the_start_fails() {
    let (place, mut command) = place();
    let path = place.path("control");
    refused(command.arg("--control").arg(&path).args(["--kvm", "/nonexistent/kvm"]), NO_KVM, &["no KVM"]);
    assert!(!path.exists());
}

#[test]
fn a_publish_port_in_use_is_refused() {
    let (_place, mut command) = place();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    command.args(["--net", "passt", "--publish", &format!("{port}:80")]);
    refused(&mut command, BAD_INPUT, &["publish port", &port.to_string(), "in use"]);
}

#[test]
fn a_missing_passt_is_reported() {
    let (_place, mut command) = place();
    refused(command.args(["--net", "passt"]).env("PATH", "/nonexistent"), BAD_INPUT, &["passt", "not installed"]);
}

#[test]
fn ports_can_be_published_only_through_passt_and_once() {
    for net in ["none", "tap=ringside-none", "stream=/nonexistent"] {
        let (_place, mut command) = place();
        refused(command.args(["--publish", "8080:80", "--net", net]), BAD_INPUT, &["--publish needs --net passt"]);
    }
    let (_place, mut command) = place();
    command.args(["--net", "passt", "--publish", "8080:80", "--publish", "8080:81"]);
    refused(&mut command, BAD_INPUT, &["port 8080 is published twice"]);
}

#[test]
fn missing_network_peers_are_reported() {
    let (_place, mut command) = place();
    refused(command.args(["--net", "stream=/nonexistent/peer"]), BAD_INPUT, &["connect to network peer"]);
    let (_place, mut command) = place();
    refused(command.args(["--net", "bridge"]), BAD_INPUT, &["--net", "tap=NAME"]);
}

#[test]
fn more_devices_than_the_board_has_slots_are_refused() {
    let (place, mut command) = place();
    for index in 0..17 {
        command.arg("--disk").arg(place.file(&format!("disk{index}"), &[0; 512]));
    }
    refused(&mut command, BAD_INPUT, &["17 devices", "16 slots"]);
}

#[test]
fn unreachable_consoles_are_refused() {
    let (_place, mut command) = place();
    refused(command.args(["--console", "control"]), BAD_INPUT, &["serial port", "virtio console"]);
    let (_place, mut command) = place();
    refused(command.args(["--virtio-console", "control"]), BAD_INPUT, &["--virtio-console control needs --control"]);
    let (_place, mut command) = place();
    refused(command.args(["--virtio-console", "contrl"]), BAD_INPUT, &["expected stdio, control or file=PATH"]);
}

#[test]
fn a_console_file_that_cannot_be_created_is_reported() {
    let (_place, mut command) = place();
    refused(command.args(["--console", "file=/nonexistent/log"]), BAD_INPUT, &["console output"]);
}

#[test]
fn a_full_or_closed_output_is_no_crash() {
    let full = || std::process::Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let mut help = Command::new(env!("CARGO_BIN_EXE_ringside"));
    let status = help.arg("--help").stdout(full()).stderr(std::process::Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(4));
    let mut bad = Command::new(env!("CARGO_BIN_EXE_ringside"));
    let status = bad.args(["run", "--cpus", "0"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(BAD_INPUT));
}

#[test]
fn bad_input_empties_and_makes_nothing() {
    let bad: [&[&str]; 6] = [
        &["--disk", "/nonexistent/disk"],
        &["--initrd", "/nonexistent/initrd"],
        &["--net", "stream=/nonexistent/peer"],
        &["--net", "tap=ringside-none"],
        &["--kvm", "/nonexistent/kvm"],
        &["--virtio-console", "file=/nonexistent/log", "--control", "unused"],
    ];
    for arguments in bad {
        let (place, mut command) = place();
        let (log, new) = (place.file("log", b"precious"), place.path("new"));
        command.arg(format!("--console=file={}", log.display())).args(arguments);
        let output = finish(command.current_dir(place.path("")));
        assert!(matches!(output.status.code(), Some(BAD_INPUT | NO_KVM)), "{arguments:?}");
        assert_eq!(std::fs::read(&log).unwrap(), b"precious", "{arguments:?}");
        let mut command = ringside(&place.kernel(&exit(0)));
        command.arg(format!("--console=file={}", new.display())).args(arguments);
        assert!(!finish(command.current_dir(place.path(""))).status.success());
        assert!(!new.exists() && !place.path("unused").exists(), "{arguments:?}");
    }
}

#[test]
fn a_console_file_in_other_use_is_refused_and_left_alone() {
    let place = Place::new();
    let kernel = place.kernel(&exit(0));
    let (disk, full) = (place.file("disk", &[7; 1024]), place.file("log.2", &[7; 1024]));
    let link = place.path("link");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let console = |path: &Path, more: &str| format!("--console=file={}{more}", path.display());
    refused(ringside(&kernel).arg(console(&link, "")).arg("--disk").arg(&disk), BAD_INPUT, &["would overwrite a disk"]);
    refused(ringside(&kernel).arg(console(&kernel, "")), BAD_INPUT, &["would overwrite the kernel"]);
    let log = place.path("log");
    refused(ringside(&kernel).arg(console(&log, ",keep=2")).arg("--disk").arg(&full), BAD_INPUT, &["a disk", "log.2"]);
    let both = format!("--virtio-console=file={},size=1M", log.display());
    refused(ringside(&kernel).arg(console(&log, "")).arg(both), BAD_INPUT, &["both consoles"]);
    assert_eq!((std::fs::read(&disk).unwrap(), std::fs::read(&full).unwrap()), (vec![7; 1024], vec![7; 1024]));
}

#[test]
fn a_bad_second_console_leaves_the_first_ones_file_alone() {
    let place = Place::new();
    let kernel = place.kernel(&exit(0));
    std::os::unix::fs::symlink(place.path("none/log"), place.path("dangling")).unwrap();
    let (keep, new) = (place.file("keep.log", b"precious"), place.path("new.log"));
    for second in ["dangling", "newfile/", "none/../log", "newfile/."] {
        for first in [&keep, &new] {
            let mut command = ringside(&kernel);
            command.arg(format!("--console=file={}", first.display()));
            command.arg(format!("--virtio-console=file={}", place.path("").join(second).display()));
            refused(&mut command, BAD_INPUT, &["console output", second]);
        }
        assert_eq!(std::fs::read(&keep).unwrap(), b"precious", "{second}");
        assert!(!new.exists() && !place.path("newfile").exists(), "{second}");
    }
}

#[test]
fn a_console_file_of_another_console_or_the_peer_is_refused_and_left_alone() {
    let place = Place::new();
    let kernel = place.kernel(&exit(0));
    let consoles = |first: &str, second: &str| {
        let mut command = ringside(&kernel);
        command.current_dir(place.path("")).args(["--console", first, "--virtio-console", second]);
        command
    };
    place.file("log.1", b"precious");
    std::os::unix::fs::symlink("absent", place.path("link")).unwrap();
    std::os::unix::fs::symlink("log.1", place.path("kept")).unwrap();
    // A name that is kept by one and written or kept by the other, and a link to what is not there yet.
    for (first, second, file) in [
        ("file=log,size=4K,keep=1", "file=log.1,size=4K", "log.1"),
        ("file=log.1,size=4K", "file=log,size=4K,keep=1", "log.1"),
        ("file=log,size=4K,keep=1", "file=kept,size=4K", "log.1"),
        ("file=log,size=4K,keep=3", "file=log.2,size=4K,keep=1", "log.2"),
        ("file=link", "file=absent", "both consoles"),
        ("file=link.1,keep=0", "file=link", "link.1"),
    ] {
        refused(&mut consoles(first, second), BAD_INPUT, &["console", file]);
    }
    for socket in ["--control", "--control-readonly"] {
        let mut command = consoles("file=log,keep=1", "stdio");
        refused(command.args([socket, "log.1"]), BAD_INPUT, &["would overwrite", "control socket", "log.1"]);
    }
    let _peer = UnixListener::bind(place.path("sock.1")).unwrap();
    let mut command = consoles("file=sock,keep=1", "control");
    command.args(["--control", "control", "--net", "stream=sock.1"]);
    refused(&mut command, BAD_INPUT, &["would overwrite", "network peer", "sock.1"]);
    assert_eq!(std::fs::read(place.path("log.1")).unwrap(), b"precious");
    assert!(!place.path("log").exists() && !place.path("absent").exists() && !place.path("control").exists());
}
