//! Threads that a guest has taken over, and sandboxes with a part missing, to prove what the sandbox stops. The environment
//! says which, so that the keeper has it too.
//!
//! | variable | effect |
//! |---|---|
//! | `RINGSIDE_COMPROMISED=KIND:ATTEMPT` | a thread of that kind makes an attempt once its filter is on, and says on standard error what came of it |
//! | `RINGSIDE_WITHOUT_LAYER=LAYER,…` | these layers are not put on |
//! | `RINGSIDE_MISSING_ROW=KIND/CALL` | the filter of that kind lacks this row |

use super::{Kind, Layer, Row};
use crate::devices::output::Output;
use std::env;
use std::ffi::CStr;
use std::io;
use std::ptr;
use std::sync::{Arc, OnceLock};

/// Names the thread and what it tries.
const COMPROMISED: &str = "RINGSIDE_COMPROMISED";
/// Names a layer.
const WITHOUT_LAYER: &str = "RINGSIDE_WITHOUT_LAYER";
/// Names a kind and a row.
const MISSING_ROW: &str = "RINGSIDE_MISSING_ROW";

/// A file that everybody can read.
const READABLE: &CStr = c"/etc/passwd";
/// A file that is not there and could be made, and one that is there and could be removed, where the program was started.
const OUTSIDE: &CStr = c"made-by-the-guest";
const REMOVABLE: &CStr = c"removable";
const PROGRAM: &CStr = c"/bin/true";

/// What a thread tries.
type Attempt = (&'static str, fn(&Parent) -> i64);

/// The process that started this one: a process outside the sandbox.
struct Parent(libc::pid_t);

/// What is tried, each by a system call of its own rather than through a library.
const ATTEMPTS: [Attempt; 17] = [
    ("open", |_| call(libc::SYS_openat, [libc::AT_FDCWD as i64, at(READABLE), 0, 0, 0, 0])),
    ("write-outside", |_| {
        let flags = i64::from(libc::O_WRONLY | libc::O_CREAT);
        call(libc::SYS_openat, [libc::AT_FDCWD as i64, at(OUTSIDE), flags, 0o600, 0, 0])
    }),
    ("remove", |_| call(libc::SYS_unlink, [at(REMOVABLE), 0, 0, 0, 0, 0])),
    ("exec", |_| {
        let arguments = [PROGRAM.as_ptr(), ptr::null()];
        call(libc::SYS_execve, [at(PROGRAM), arguments.as_ptr() as i64, 0, 0, 0, 0])
    }),
    ("connect", |_| with_socket(libc::SYS_connect, 22)),
    ("bind", |_| with_socket(libc::SYS_bind, 0)),
    ("ptrace", |parent| call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), parent.0.into(), 0, 0, 0, 0])),
    ("map-code", |_| map(libc::PROT_READ | libc::PROT_EXEC)),
    ("make-code", |_| {
        let page = map(libc::PROT_READ | libc::PROT_WRITE);
        let protection = i64::from(libc::PROT_READ | libc::PROT_EXEC);
        if page < 0 { page } else { call(libc::SYS_mprotect, [page, 4096, protection, 0, 0, 0]) }
    }),
    ("signal", |parent| call(libc::SYS_kill, [parent.0.into(), 0, 0, 0, 0, 0])),
    ("signal-thread", |parent| {
        let number = libc::SIGRTMIN().into();
        call(libc::SYS_tgkill, [parent.0.into(), parent.0.into(), number, 0, 0, 0])
    }),
    ("filter", |_| call(libc::SYS_seccomp, [1, 0, &raw const EVERYTHING as i64, 0, 0, 0])),
    ("fork", |_| call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0])),
    ("thread", |_| {
        let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        // Without a stack: it must not come to run.
        call(libc::SYS_clone, [flags.into(), 1, 0, 0, 0, 0])
    }),
    ("terminal", |_| call(libc::SYS_ioctl, [2, libc::TIOCSTI as i64, at(PROGRAM), 0, 0, 0])),
    ("become-root", |_| call(libc::SYS_setresuid, [0, 0, 0, 0, 0, 0])),
    ("mount", |_| call(libc::SYS_mount, [at(c"none"), at(c"/mnt"), at(c"tmpfs"), 0, 0, 0])),
];

/// A filter that allows everything.
static EVERYTHING: Program = Program { len: 1, filter: &ALLOW };
static ALLOW: [u8; 8] = [6, 0, 0, 0, 0, 0, 0xff, 0x7f];

/// A `sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    filter: &'static [u8; 8],
}

fn at(text: &CStr) -> i64 {
    text.as_ptr() as i64
}

/// The result, or an error's number below 0.
fn call(number: i64, args: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: every attempt names memory that lives through the call, and is to fail.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { result }
}

fn map(protection: i32) -> i64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    call(libc::SYS_mmap, [0, 4096, protection.into(), flags.into(), -1, 0])
}

/// A TCP socket, and a call with 127.0.0.1 and this port.
fn with_socket(number: i64, port: u16) -> i64 {
    let socket = call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0]);
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    let (address, len) = (&raw const address as i64, size_of::<libc::sockaddr_in>() as i64);
    if socket < 0 { socket } else { call(number, [socket, address, len, 0, 0, 0]) }
}

struct Plan {
    kind: String,
    attempt: String,
    parent: Parent,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let read = || {
        let (kind, attempt) = env::var(COMPROMISED).ok()?.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()))?;
        // SAFETY: getppid cannot fail.
        Some(Plan { kind, attempt, parent: Parent(unsafe { libc::getppid() }) })
    };
    PLAN.get_or_init(read).as_ref()
}

/// Reads the environment, as long as that is possible.
pub(super) fn prepare() {
    plan();
    missing_row();
}

/// A thread of that kind has put on its filter.
pub(super) fn filtered(kind: Kind) {
    let Some(plan) = plan().filter(|plan| plan.kind == kind.name()) else { return };
    let attempt = plan.attempt.as_str();
    // The keeper says nothing, and may not.
    if kind != Kind::KEEPER {
        crate::say!("compromised {}: {attempt}", plan.kind);
    }
    match attempt {
        "panic" => panic!("compromised"),
        "work" => work(kind),
        "log" => fill_log(),
        "wait" => std::thread::sleep(std::time::Duration::from_secs(2)),
        "wait-long" => std::thread::sleep(std::time::Duration::from_secs(30)),
        _ => {
            let Some((_, attempt)) = ATTEMPTS.iter().find(|(name, _)| *name == attempt) else { return };
            let result = attempt(&plan.parent);
            if kind != Kind::KEEPER {
                crate::say!("compromised {}: {} returns {result}", plan.kind, plan.attempt);
            }
        }
    }
}

static LOG: OnceLock<Arc<Output>> = OnceLock::new();

/// A log of which full files are kept, for the attempt to fill one.
pub fn remember_log(log: &Arc<Output>) {
    let _ = LOG.set(log.clone());
}

/// More than three logs' worth.
fn fill_log() {
    let Some(log) = LOG.get() else { return };
    for _ in 0..200 {
        log.write(&[b'x'; 100]);
    }
}

/// What the language's runtime may do on any thread at any time.
fn work(kind: Kind) {
    // No list that would be mapped by itself.
    let small: Vec<_> = (0..4_000).map(|n| vec![n as u8; 200]).collect();
    drop(small);
    // It needs no more.
    if kind == Kind::KEEPER {
        return;
    }
    let mut large = vec![1_u8; 1 << 20];
    large.resize(64 << 20, 2);
    drop(large);
    std::thread::yield_now();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` has room for the time. The call itself, where the vDSO would answer.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time) };
    crate::say!("compromised: work is done, {result}");
}

/// Whether a layer is to be left out. A disk that forgets what was not flushed does so on the thread that resets it, which
/// may not write to disks otherwise.
pub(super) fn lacks(layer: Layer) -> bool {
    if layer == Layer::Seccomp && crate::faulty::injected() == Some(crate::faulty::Bug::FlushIgnored) {
        return true;
    }
    env::var(WITHOUT_LAYER).is_ok_and(|names| names.split(',').any(|name| name == layer.name()))
}

fn missing_row() -> Option<&'static (String, String)> {
    static MISSING: OnceLock<Option<(String, String)>> = OnceLock::new();
    let read = || env::var(MISSING_ROW).ok()?.split_once('/').map(|(kind, call)| (kind.to_owned(), call.to_owned()));
    MISSING.get_or_init(read).as_ref()
}

/// Whether the filter of that kind is to lack this row.
pub(super) fn lacks_row(kind: Kind, row: &Row) -> bool {
    missing_row().is_some_and(|(of, call)| of == kind.name() && *call == row.call())
}
