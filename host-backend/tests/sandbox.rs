//! The sandbox as the system shows it. Without KVM each test says that it was skipped.

mod common;

use common::{Place, Running, eventually, finish, kvm_works, signal, started, status_of, text};
use host_backend::sample::{exit, halt, print};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// Returns from the test when there is no KVM, having said so.
macro_rules! needs_kvm {
    ($test:literal) => {
        if !kvm_works($test) {
            return;
        }
    };
}

/// As a user starts it: without a word about the sandbox.
fn plain(place: &Place, code: &[u8]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringside"));
    command.args(["run", "--mem", "16M", "--kernel"]).arg(place.kernel(code)).stdin(Stdio::null());
    command
}

fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

fn waiting() -> Vec<u8> {
    [print(b"!"), halt()].concat()
}

/// The status of each thread, by its name.
fn threads(running: &mut Running) -> BTreeMap<String, BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.child().id())).unwrap();
    let status = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let lines: BTreeMap<_, _> = lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        (lines["Name"].clone(), lines)
    };
    // KVM has a worker of its own among them, which never leaves the kernel.
    tasks.map(|task| status(task.unwrap())).filter(|(name, _)| !name.starts_with("kvm-")).collect()
}

fn end(mut running: Running) {
    signal(&mut running, libc::SIGTERM);
    assert_eq!(running.wait().status.code(), Some(143));
}

#[test]
fn every_thread_has_a_filter_no_capabilities_and_no_new_privileges() {
    needs_kvm!("every_thread_has_a_filter_no_capabilities_and_no_new_privileges");
    let place = Place::new();
    let mut command = plain(&place, &waiting());
    command.args([
        "--cpus",
        "2",
        "--balloon",
        "--rng",
        "--virtio-console",
        "control",
        "--hostile-device",
        "1,rate=1000",
    ]);
    command.arg("--control").arg(place.path("control")).arg("--disk").arg(place.file("disk", &[0; 4096]));
    let mut running = started(&mut command);
    let threads = threads(&mut running);
    let names: Vec<_> = threads.keys().map(String::as_str).collect();
    let expected =
        ["balloon", "block0", "console", "control", "flush-block0", "hostile", "ringside", "rng", "vcpu0", "vcpu1"];
    assert_eq!(names, expected);
    for (name, status) in &threads {
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"), "{name}");
        assert_eq!(status["Seccomp_filters"], "1", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status[set], "0000000000000000", "{name} {set}");
        }
        assert!(!is_root() || status["CapBnd"] == "0000000000000000", "{name}: {}", status["CapBnd"]);
    }
    let status = status_of(&place.path("control"));
    let sandbox = &status["sandbox"];
    assert_eq!((&sandbox["no_new_privs"], &sandbox["capabilities"]), (&true.into(), &0.into()), "{sandbox}");
    assert!(
        sandbox["seccomp"].as_object().unwrap().len() == 9 && sandbox["seccomp"]["vcpu"].as_u64() > Some(10),
        "{sandbox}"
    );
    end(running);
}

#[test]
fn the_limits_leave_room_for_a_few_descriptors_and_for_no_core() {
    needs_kvm!("the_limits_leave_room_for_a_few_descriptors_and_for_no_core");
    let place = Place::new();
    let mut running = started(&mut plain(&place, &waiting()));
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.child().id())).unwrap();
    let hard = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((hard("Max core file size"), hard("Max locked memory")), (0, 0));
    assert!((10..100).contains(&hard("Max open files")), "{limits}");
    end(running);
}

#[test]
fn a_vm_with_all_devices_and_queues_has_the_descriptors_that_it_needs() {
    needs_kvm!("a_vm_with_all_devices_and_queues_has_the_descriptors_that_it_needs");
    let place = Place::new();
    let mut command = plain(&place, &waiting());
    for disk in ["a", "b", "c", "d"] {
        command.arg("--disk").arg(format!("{},queues=16", place.file(disk, &[0; 4096]).display()));
    }
    command.args(["--cpus", "8", "--balloon", "--rng", "--virtio-console", "control", "--control"]);
    let mut running = started(command.arg(place.path("control")));
    let clients: Vec<_> = (0..7).map(|_| UnixStream::connect(place.path("control")).unwrap()).collect();
    // Asked once: a client that is gone may still have its place.
    let status = status_of(&place.path("control"));
    drop(clients);
    assert_eq!(status["ok"], true, "{status}");
    let limit = status["sandbox"]["limits"]["nofile"].as_u64().unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", running.child().id())).unwrap().count() as u64;
    assert!((open + 8..open + 64).contains(&limit), "{open} of {limit}");
    end(running);
}

#[test]
fn descriptors_of_the_parent_are_closed_but_for_what_the_command_line_names() {
    needs_kvm!("descriptors_of_the_parent_are_closed_but_for_what_the_command_line_names");
    let place = Place::new();
    let secret = place.file("secret", b"secret");
    let kernel = plain(&place, &waiting());
    // The shell leaves 7 and 8 open; the kernel is named by one of them.
    let script = format!("exec 7<{} 8<{}; exec \"$0\" \"$@\"", secret.display(), place.path("kernel").display());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(kernel.get_program()).args(["run", "--mem", "16M", "--kernel", "/dev/fd/8"]);
    let mut running = started(command.stdin(Stdio::null()));
    let folder = format!("/proc/{}/fd", running.child().id());
    let targets: Vec<_> = fs::read_dir(folder).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap()).collect();
    assert!(!targets.contains(&secret), "{targets:?}");
    let kernels = targets.iter().filter(|target| **target == place.path("kernel")).count();
    assert_eq!(kernels, 1, "the kernel is open once, for the guest's reset: {targets:?}");
    end(running);
}

#[test]
fn nothing_is_opened_after_the_start_and_what_is_open_is_known() {
    needs_kvm!("nothing_is_opened_after_the_start_and_what_is_open_is_known");
    let place = Place::new();
    let mut command = plain(&place, &waiting());
    command
        .arg("--disk")
        .arg(place.file("disk", &[0; 4096]))
        .arg(format!("--console=file={}", place.path("log").display()));
    let mut running = common::start(&mut command);
    eventually("the guest's output", || fs::read(place.path("log")).is_ok_and(|text| text == b"!"));
    let folder = format!("/proc/{}/fd", running.child().id());
    let targets =
        fs::read_dir(folder).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap().display().to_string());
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for target in targets {
        // The number of a pipe or a socket says nothing.
        let kind = target.split(":[").next().unwrap().replace(&place.path("").display().to_string(), "");
        *kinds.entry(kind).or_default() += 1;
    }
    let known = ["/dev/null", "/dev/kvm", "disk", "kernel", "log", "pipe", "socket"];
    let unknown: Vec<_> =
        kinds.keys().filter(|kind| !known.contains(&kind.as_str()) && !kind.starts_with("anon_inode")).collect();
    assert!(unknown.is_empty(), "{kinds:?}");
    assert_eq!((kinds["disk"], kinds["kernel"], kinds["log"]), (2, 1, 1), "{kinds:?}");
    end(running);
}

#[test]
fn root_is_warned_in_one_line_unless_it_says_who_to_be() {
    needs_kvm!("root_is_warned_in_one_line_unless_it_says_who_to_be");
    let place = Place::new();
    let code = [print(b"!"), exit(0)].concat();
    let output = finish(&mut plain(&place, &code));
    let expected =
        if is_root() { "ringside: running as root; --uid and --gid give the sandbox a user of its own\n" } else { "" };
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), expected));
    if !is_root() {
        return eprintln!("SKIPPED root_is_warned_in_one_line_unless_it_says_who_to_be: the rest needs root");
    }
    let mut command = plain(&place, &waiting());
    let mut running = started(command.args(["--uid", "1234", "--gid", "5678"]));
    for status in threads(&mut running).values() {
        assert_eq!(
            (status["Uid"].as_str(), status["Gid"].as_str()),
            ("1234\t1234\t1234\t1234", "5678\t5678\t5678\t5678")
        );
        assert_eq!(status["Groups"], "");
    }
    end(running);
}

#[test]
fn a_supervisor_gives_it_a_root_directory_namespaces_and_a_cgroup() {
    needs_kvm!("a_supervisor_gives_it_a_root_directory_namespaces_and_a_cgroup");
    if !is_root() {
        return eprintln!("SKIPPED a_supervisor_gives_it_a_root_directory_namespaces_and_a_cgroup: only root can");
    }
    let place = Place::new();
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    let mut command = plain(&place, &waiting());
    command.args(["--uid", "1234", "--new-namespaces", "--on-reset", "reboot"]).arg("--chroot").arg(&empty);
    command.arg("--control").arg(place.path("control"));
    let mut running = started(&mut command);
    let id = running.child().id();
    let link = |process: &str, name: &str| fs::read_link(format!("/proc/{process}/{name}")).unwrap();
    assert_eq!(link(&id.to_string(), "root"), empty);
    for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let name = format!("ns/{namespace}");
        assert_ne!(link(&id.to_string(), &name), link("self", &name), "{namespace}");
    }
    let status = status_of(&place.path("control"));
    assert_eq!(status["sandbox"]["namespaces"].as_array().unwrap().len(), 5, "{status}");
    end(running);
    assert!(!place.path("control").exists(), "the keeper is outside");
    let Some(cgroup) = Cgroup::new() else {
        return eprintln!("SKIPPED the cgroup of a_supervisor_gives_it_…: no cgroup can be made");
    };
    let mut running = started(plain(&place, &waiting()).arg("--cgroup").arg(&cgroup.0));
    let members = fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
    assert!(members.lines().any(|line| line == running.child().id().to_string()), "{members}");
    end(running);
}

struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let name = format!("ringside-test-{}", std::process::id());
        let folders = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        folders
            .iter()
            .map(|folder| Path::new(folder).join(&name))
            .find(|path| {
                fs::create_dir(path).is_ok() && (path.join("cgroup.procs").exists() || fs::remove_dir(path).is_err())
            })
            .map(Self)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn what_cannot_be_put_on_is_one_line_and_no_vm() {
    needs_kvm!("what_cannot_be_put_on_is_one_line_and_no_vm");
    let place = Place::new();
    let code = [print(b"!"), exit(0)].concat();
    for arguments in [["--chroot", "/nonexistent"], ["--cgroup", "/nonexistent"]] {
        let mut command = plain(&place, &code);
        if is_root() {
            command.args(["--uid", "0"]);
        }
        let output = finish(command.args(arguments));
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(4), ""), "{said}");
        assert!(said.lines().count() == 1 && said.contains("sandbox: ") && said.contains(arguments[1]), "{said}");
    }
}

#[test]
fn a_vm_without_a_sandbox_says_so_loudly() {
    needs_kvm!("a_vm_without_a_sandbox_says_so_loudly");
    let place = Place::new();
    let mut command = plain(&place, &waiting());
    let mut running = started(command.arg("--no-sandbox").arg("--control").arg(place.path("control")));
    assert_eq!(status_of(&place.path("control"))["sandbox"], "off");
    assert!(threads(&mut running).values().all(|status| status["Seccomp"] == "0"));
    signal(&mut running, libc::SIGTERM);
    let output = running.wait();
    assert!(text(&output.stderr).starts_with("ringside: WARNING: --no-sandbox"), "{}", text(&output.stderr));
    let refused = finish(plain(&place, &waiting()).args(["--no-sandbox", "--uid", "0"]));
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn what_is_in_force_is_shown_with_each_call_and_its_reason() {
    needs_kvm!("what_is_in_force_is_shown_with_each_call_and_its_reason");
    let place = Place::new();
    let output = finish(plain(&place, &[print(b"!"), exit(0)].concat()).arg("--show-sandbox"));
    let said = text(&output.stderr);
    for part in ["no capabilities", "landlock", "limits", "main: ", "vcpu: ", "ioctl(KVM_RUN)", "runs the guest"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("preadv"), "there is no disk: {said}");
}

#[test]
fn a_socket_for_monitoring_shows_and_changes_nothing() {
    needs_kvm!("a_socket_for_monitoring_shows_and_changes_nothing");
    let place = Place::new();
    let (full, read) = (place.path("control"), place.path("monitor"));
    let mut command = plain(&place, &waiting());
    command.args(["--balloon", "--control"]).arg(&full).arg("--control-readonly").arg(&read);
    let running = started(&mut command);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&full), mode(&read)), (0o600, 0o660));
    let ask = |path: &Path, request: &str| {
        let mut client = BufReader::new(UnixStream::connect(path).unwrap());
        writeln!(client.get_mut(), "{request}").unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    for request in [r#"{"command":"status"}"#, r#"{"command":"stats"}"#, r#"{"command":"balloon"}"#] {
        assert_eq!(ask(&read, request)["ok"], true, "{request}");
    }
    for request in [
        r#"{"command":"balloon","target_mib":1}"#,
        r#"{"command":"pause"}"#,
        r#"{"command":"resume"}"#,
        r#"{"command":"console"}"#,
        r#"{"command":"link","state":"down"}"#,
        r#"{"command":"disk","disk":0,"bytes":512}"#,
        r#"{"command":"stop"}"#,
    ] {
        let answer = ask(&read, request);
        assert!(answer["error"].as_str().is_some_and(|error| error.contains("for monitoring")), "{request}: {answer}");
    }
    assert_eq!(ask(&full, r#"{"command":"status"}"#)["state"], "running");
    end(running);
    assert!(!full.exists() && !read.exists());
}
