//! A guest that has taken over a thread of our host gets nothing: from inside each kind of thread, each attempt to get out
//! fails; and leaving out any layer of the sandbox is noticed. `cargo xtask test` names a host program in whose threads that can
//! be tried in `RINGSIDE_WITH_BUGS`.

mod rows;
#[path = "../with_bugs/mod.rs"]
mod with_bugs;

use host_backend::sample::{exit, print, pvh_elf};
use host_backend::sandbox::{Kind, Layer};
use ringside_tests::ready::{self, named};
use ringside_tests::testbed::Testbed;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What is tried from inside, and what comes of it where the filter is left out: an error's number below 0; `None` where that
/// would hurt the host under test itself. 0 is what no other layer stops.
const ATTEMPTS: [(&str, Option<i64>); 17] = [
    ("open", Some(-EACCES)),
    ("write-outside", Some(-EACCES)),
    ("remove", Some(-EACCES)),
    ("exec", Some(-EACCES)),
    ("connect", Some(-EACCES)),
    ("bind", Some(-EACCES)),
    ("ptrace", Some(-EPERM)),
    // Nothing but the filter knows of code: memory that is made here harms nobody who has no way out.
    ("map-code", None),
    ("make-code", None),
    ("signal", Some(-EPERM)),
    ("signal-thread", Some(-EPERM)),
    // A further filter can only take away.
    ("filter", Some(0)),
    ("fork", None),
    ("thread", None),
    ("terminal", Some(-ENOTTY)),
    ("become-root", Some(-EPERM)),
    ("mount", Some(-EPERM)),
];
const EPERM: i64 = 1;
const EACCES: i64 = 13;
const ENOTTY: i64 = 25;
const SIGSYS: i32 = 31;
/// A run that takes longer hangs.
const RUN_MAX: Duration = Duration::from_secs(60);

/// The host whose threads can be taken over, and a folder for each run.
struct Bench {
    program: PathBuf,
    folder: tempfile::TempDir,
    runs: AtomicUsize,
}

impl Bench {
    fn new(test: &str) -> Option<Self> {
        let program = named(ready::WITH_BUGS, test)?;
        if let Err(error) = Testbed::Host.available(ready::kvm()) {
            eprintln!("SKIPPED {test}: {error:#}");
            return None;
        }
        Some(Self { program, folder: tempfile::tempdir().unwrap(), runs: AtomicUsize::new(0) })
    }

    /// A VM that prints a byte and ends, with these layers left out. It runs as nobody, if that can be had: what becomes of root
    /// is worth a test of its own.
    fn vm(&self, without: &[Layer]) -> Vm {
        let mut vm = self.vm_of(&[print(b"!"), exit(0)].concat(), &["--uid", "65534", "--gid", "65534"]);
        let without: Vec<_> = without.iter().map(|layer| layer.name()).collect();
        vm.command.env("RINGSIDE_WITHOUT_LAYER", without.join(",")).env("RUST_BACKTRACE", "1");
        vm
    }

    /// A VM with a thread of each kind but the network card's, this code, and a folder of its own. Root becomes `user`.
    fn vm_of(&self, code: &[u8], user: &[&str]) -> Vm {
        let folder = self.folder.path().join(self.runs.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&folder).unwrap();
        fs::create_dir(folder.join("sockets")).unwrap();
        fs::write(folder.join("disk"), [0; 4096]).unwrap();
        fs::write(folder.join("removable"), b"x").unwrap();
        let mut command = Command::new(&self.program);
        command.args(["run", "--mem", "16M", "--balloon", "--rng", "--disk", "disk", "--control", "sockets/control"]);
        command.args(["--virtio-console", "control", "--hostile-device", "1,device=rng,rate=1000"]);
        fs::write(folder.join("kernel"), pvh_elf(code)).unwrap();
        command.args(["--kernel", "kernel"]).args(if is_root() { user } else { &[] }).current_dir(&folder);
        Vm { command, folder }
    }
}

struct Vm {
    command: Command,
    folder: PathBuf,
}

impl Vm {
    fn compromise(mut self, kind: &str, attempt: &str) -> Ended {
        self.command.env("RINGSIDE_COMPROMISED", format!("{kind}:{attempt}"));
        let ended = self.run();
        assert_ne!(ended.output.status.signal(), Some(nix::libc::SIGKILL), "{kind} {attempt} hangs: {}", ended.said());
        ended
    }

    fn run(mut self) -> Ended {
        Ended { output: wait(start(&mut self.command)), folder: self.folder }
    }

    /// Gives it a card whose peer says nothing.
    fn with_net(&mut self) -> UnixListener {
        let peer = self.folder.join("peer");
        self.command.arg("--net").arg(format!("stream={}", peer.display()));
        UnixListener::bind(peer).unwrap()
    }
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end, which is a kill for one that hangs.
fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + RUN_MAX;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() >= deadline {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

struct Ended {
    output: Output,
    folder: PathBuf,
}

impl Ended {
    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// What the attempt returned, if the thread lived to tell.
    fn returned(&self) -> Option<i64> {
        self.said().lines().find_map(|line| line.split_once(" returns ")?.1.parse().ok())
    }

    fn has_socket(&self) -> bool {
        self.folder.join("sockets/control").exists()
    }

    /// Whether nothing outside has changed.
    fn is_clean(&self) -> bool {
        !self.folder.join("made-by-the-guest").exists() && self.folder.join("removable").exists()
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs the cases on all processors; what each has to complain about.
fn for_all<T: Sync>(cases: &[T], check: impl Fn(&T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let complaints = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(complaint) = check(case) {
                        complaints.lock().unwrap().push(complaint);
                    }
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), cases.len(), complaints.join("\n"));
}

/// All kinds but the network card's, for which there is a peer in the test below, and the keeper, which is another process.
const KINDS: [Kind; 9] = [
    Kind::MAIN,
    Kind::VCPU,
    Kind::BLOCK,
    Kind::BALLOON,
    Kind::CONSOLE,
    Kind::RNG,
    Kind::CONTROL,
    Kind::FLUSH,
    Kind::HOSTILE,
];

#[test]
fn every_way_out_is_closed_to_every_kind_of_thread() {
    let Some(bench) = Bench::new("every_way_out_is_closed_to_every_kind_of_thread") else { return };
    let cases: Vec<_> = KINDS.iter().flat_map(|kind| ATTEMPTS.map(|(attempt, _)| (*kind, attempt))).collect();
    for_all(&cases, |(kind, attempt)| {
        let ended = bench.vm(&[]).compromise(kind.name(), attempt);
        let begun = ended.said().contains(&format!("compromised {}: {attempt}\n", kind.name()));
        let killed = ended.output.status.signal() == Some(SIGSYS);
        if begun && killed && ended.returned().is_none() && ended.is_clean() {
            return Ok(());
        }
        Err(format!("{} {attempt}: {}, {}", kind.name(), ended.output.status, ended.said()))
    });
}

#[test]
fn every_way_out_is_closed_to_the_network_cards_thread_and_to_the_keeper() {
    let Some(bench) = Bench::new("every_way_out_is_closed_to_the_network_cards_thread_and_to_the_keeper") else {
        return;
    };
    for_all(&ATTEMPTS, |(attempt, _)| {
        let mut vm = bench.vm(&[]);
        let peer = vm.with_net();
        let ended = vm.compromise("net", attempt);
        drop(peer);
        if ended.output.status.signal() != Some(SIGSYS) || ended.returned().is_some() || !ended.is_clean() {
            return Err(format!("net {attempt}: {}, {}", ended.output.status, ended.said()));
        }
        // A keeper that is killed leaves the socket that it was to remove; the VM does without it.
        let ended = bench.vm(&[]).compromise("keeper", attempt);
        // Removing is its work, which Landlock keeps to the socket's folder.
        let killed = ended.has_socket() || *attempt == "remove";
        if ended.output.status.code() != Some(0) || !killed || !ended.is_clean() {
            return Err(format!("keeper {attempt}: {}, {}", ended.output.status, ended.said()));
        }
        Ok(())
    });
    let ended = bench.vm(&[]).compromise("keeper", "nothing");
    assert!(!ended.has_socket(), "a keeper that is alive removes the socket");
}

#[test]
fn without_its_filter_a_thread_is_stopped_by_the_other_layers() {
    let Some(bench) = Bench::new("without_its_filter_a_thread_is_stopped_by_the_other_layers") else { return };
    let status = bench.vm(&[Layer::Seccomp]).compromise("vcpu", "nothing");
    assert_eq!(status.output.status.code(), Some(0), "{}", status.said());
    let cases: Vec<_> = ATTEMPTS.iter().filter_map(|(attempt, expected)| Some((*attempt, (*expected)?))).collect();
    for_all(&cases, |(attempt, expected)| {
        let ended = bench.vm(&[Layer::Seccomp]).compromise("vcpu", attempt);
        if ended.returned() == Some(*expected) && ended.is_clean() {
            return Ok(());
        }
        Err(format!("{attempt}: expected {expected}, {}", ended.said()))
    });
}

/// What the system says of a VM that waits, with these layers left out: what is not as it should be.
fn complaints(bench: &Bench, without: &[Layer]) -> Vec<&'static str> {
    let mut vm = bench.vm(without);
    // A descriptor of ours that it inherits.
    let open = fs::File::open(vm.folder.join("kernel")).unwrap();
    let inherited = std::os::fd::AsRawFd::as_raw_fd(&open);
    // SAFETY: between fork and exec there is one call that is async-signal-safe.
    unsafe { vm.command.pre_exec(move || nix::libc::dup2(inherited, 99).checked()) };
    vm.command.env("RINGSIDE_COMPROMISED", "main:wait-long").stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = vm.command.stdout(Stdio::null()).spawn().unwrap();
    let folder = PathBuf::from(format!("/proc/{}", child.id()));
    // The main thread sleeps, and the vCPU's waits for work: both are ready.
    let is_in = |task: &Path, call: i64| {
        fs::read_to_string(task.join("syscall")).is_ok_and(|text| text.starts_with(&format!("{call} ")))
    };
    let find = || {
        let tasks = fs::read_dir(folder.join("task")).ok()?;
        let vcpu = tasks.filter_map(|task| Some(task.ok()?.path())).find(|task| name(task) == "vcpu0")?;
        let ready = is_in(&folder, nix::libc::SYS_clock_nanosleep) && is_in(&vcpu, nix::libc::SYS_futex);
        ready.then_some(vcpu)
    };
    let vcpu = (0..2000).find_map(|_| {
        thread::sleep(Duration::from_millis(1));
        find()
    });
    let vcpu = vcpu.expect("a thread of the vCPU that is ready");
    let status = fs::read_to_string(vcpu.join("status")).unwrap();
    let limits = fs::read_to_string(folder.join("limits")).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    let nofile = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
    let mut wrong = Vec::new();
    let mut check = |what, good: bool| {
        if !good {
            wrong.push(what);
        }
    };
    check("descriptors", !folder.join("fd/99").exists());
    check(
        "limits",
        nofile.split_whitespace().nth(4).and_then(|hard| hard.parse::<u32>().ok()).is_some_and(|hard| hard < 1000),
    );
    check("identity", !is_root() || field("Uid:") == "65534\t65534\t65534\t65534");
    check("capabilities", ["CapPrm:", "CapEff:"].iter().all(|set| field(set) == "0000000000000000"));
    check("no_new_privs", field("NoNewPrivs:") == "1");
    check("seccomp", field("Seccomp:") == "2");
    child.kill().unwrap();
    child.wait().unwrap();
    wrong
}

/// Turns the result of a system call into one of Rust's.
trait Checked {
    fn checked(self) -> std::io::Result<()>;
}

impl Checked for i32 {
    fn checked(self) -> std::io::Result<()> {
        if self < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn name(task: &Path) -> String {
    fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned()
}

#[test]
fn a_layer_that_is_left_out_is_noticed() {
    let Some(bench) = Bench::new("a_layer_that_is_left_out_is_noticed") else { return };
    assert!(complaints(&bench, &[]).is_empty(), "{:?}", complaints(&bench, &[]));
    // Without this one the user stays root, who can have privileges to lose.
    use Layer::{Capabilities, Descriptors, Identity, Landlock, Limits, NoNewPrivs, Seccomp};
    let root = is_root();
    for (without, noticed) in [
        (&[Descriptors][..], &["descriptors"][..]),
        (&[Limits], &["limits"]),
        (&[Identity], if root { &["identity"] } else { &[] }),
        (&[Identity, Capabilities], if root { &["identity", "capabilities"] } else { &[] }),
        (&[Seccomp], &["seccomp"]),
        // The two others set it too, so that they cannot be put on without.
        (&[NoNewPrivs, Landlock, Seccomp], &["no_new_privs", "seccomp"]),
    ] {
        assert_eq!(complaints(&bench, without), noticed, "{without:?}");
    }
    // Landlock shows in what it stops.
    let open = |without: &[Layer]| bench.vm(without).compromise("vcpu", "open").returned();
    assert_eq!(open(&[Seccomp]), Some(-EACCES));
    assert!(open(&[Seccomp, Landlock]).is_some_and(|descriptor| descriptor > 2));
}

#[test]
fn a_panic_on_any_thread_ends_the_vm_in_good_order_whatever_the_backtrace_would_want() {
    let test = "a_panic_on_any_thread_ends_the_vm_in_good_order_whatever_the_backtrace_would_want";
    let Some(bench) = Bench::new(test) else { return };
    // The thread of delayed lies is missed by nobody, and one on the main thread ends the program before the guest runs.
    let kinds = KINDS.map(|kind| (kind, kind != Kind::HOSTILE && kind != Kind::MAIN));
    for_all(&kinds, |(kind, ends)| {
        let ended = bench.vm(&[]).compromise(kind.name(), "panic");
        let told = ended.said().contains("panicked at ") && !ended.said().contains("stack backtrace");
        let status = ended.output.status;
        if told && status.signal().is_none() && (!ends || status.code() == Some(4)) {
            return Ok(());
        }
        Err(format!("{}: {status}, {}", kind.name(), ended.said()))
    });
}
