//! For the tests of the program: files for it, and running it.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod pty;
pub(crate) mod writer;

use host_backend::sample::pvh_elf;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with what a VM needs.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A guest of this code.
    pub(crate) fn kernel(&self, code: &[u8]) -> PathBuf {
        self.file("kernel", &pvh_elf(code))
    }
}

/// `ringside run` with a kernel and 16 MiB.
pub(crate) fn ringside(kernel: &Path) -> Command {
    ringside_with_memory(kernel, "16M")
}

pub(crate) fn ringside_with_memory(kernel: &Path, size: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringside"));
    command.args(["run", "--mem", size, "--kernel"]).arg(kernel);
    command.args(stay_root());
    command.stdin(Stdio::null());
    command
}

/// So that root is not warned.
pub(crate) fn stay_root() -> &'static [&'static str] {
    // SAFETY: geteuid cannot fail and touches no memory.
    if unsafe { libc::geteuid() } == 0 { &["--uid", "0"] } else { &[] }
}

/// A program that does not outlive its test.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Waits for its end; a program that does not end is a failure.
    pub(crate) fn wait(mut self) -> Output {
        eventually("the end of ringside", || self.child().try_wait().unwrap().is_some());
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// The same for a program that prints more than a pipe holds.
    pub(crate) fn wait_reading(mut self) -> Output {
        let mut stdout = self.child().stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).map(|_| all).unwrap()
        });
        let output = self.wait();
        Output { stdout: reader.join().unwrap(), ..output }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs to the end.
pub(crate) fn finish(command: &mut Command) -> Output {
    Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped())).wait()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether VMs can run here; says so if not, since the test then shows nothing.
pub(crate) fn kvm_works(test: &str) -> bool {
    // `cargo xtask test --no-kvm` wants to see what happens without.
    let absent = std::env::var_os("RINGSIDE_NO_KVM").is_some();
    let works = host_backend::vmm::kvm::open(Path::new(if absent { "/nonexistent" } else { "/dev/kvm" }));
    if let Err(error) = &works {
        eprintln!("SKIPPED {test}: {error}");
    }
    works.is_ok()
}

/// Waits until `what` is true.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a program whose output is read.
pub(crate) fn start(command: &mut Command) -> Running {
    Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// Starts a guest that has printed its first byte.
pub(crate) fn started(command: &mut Command) -> Running {
    let mut child = start(command);
    let mut byte = [0];
    child.child().stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    child
}

pub(crate) fn signal(running: &mut Running, signal: libc::c_int) {
    // SAFETY: the child has not been waited for, so the id is its own.
    unsafe { libc::kill(running.child().id() as libc::pid_t, signal) };
}

/// The answer to `status`.
pub(crate) fn status_of(path: &Path) -> serde_json::Value {
    let mut client = BufReader::new(UnixStream::connect(path).unwrap());
    client.get_mut().write_all(b"{\"command\":\"status\"}\n").unwrap();
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}
