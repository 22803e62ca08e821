//! Each row of the table, for each kind of thread that has it, is one that somebody misses: without it a run of a VM goes
//! another way, or is killed. The runs are tried from the fastest to the slowest until one of them does.

use super::{Bench, RUN_MAX, for_all};
use crate::with_bugs;
use host_backend::sample::{exit, halt, print, pvh_elf, spin};
use host_backend::sandbox::{Kind, Row, TABLE};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringside_tests::conform::catalogue::{self, Pattern};
use ringside_tests::conform::outcome::State;
use shared_abi::board;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// A run, and whether it went as it should.
type Run = (&'static str, fn(&Case<'_>) -> Result<(), String>);

const RUNS: [Run; 13] = [
    ("a VM that ends", ends),
    ("what the runtime does", |case| case.hooked("work")),
    ("a panic", |case| case.hooked("panic")),
    ("a log that is full", |case| full_log(case, 1)),
    ("a log of which none is kept", |case| full_log(case, 0)),
    ("a spinning guest and a signal", signalled),
    ("a triple fault", fails),
    ("resets", resets),
    ("requests", requests),
    ("a terminal", terminal),
    ("a terminal, and a kill", terminal_killed),
    ("a stop by job control", stopped),
    ("a guest with drivers", guest),
];

/// One row that is missing.
struct Case<'a> {
    bench: &'a Bench,
    kind: Kind,
    /// None: nothing is missing.
    row: Option<&'a Row>,
}

impl<'a> Case<'a> {
    fn new(bench: &'a Bench, kind: Kind, row: Option<&'a Row>) -> Self {
        Self { bench, kind, row }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let missing = self.row.map(|row| ("RINGSIDE_MISSING_ROW", format!("{}/{}", self.kind.name(), row.call())));
        missing.into_iter().collect()
    }

    /// A VM with a thread of each kind, and this code.
    fn command(&self, code: &[u8]) -> (Command, PathBuf) {
        let super::Vm { mut command, folder } = self.bench.vm(&[]);
        fs::write(folder.join("code"), pvh_elf(code)).unwrap();
        // The last of two kernels would be an error: this one replaces the other.
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut own = Command::new(command.get_program());
        let kernel = arguments.iter().position(|argument| argument == "--kernel").unwrap();
        // As who it is: limits of another user's process can be changed by few.
        let user = arguments.iter().position(|argument| argument == "--uid").unwrap_or(arguments.len());
        own.args(&arguments[..kernel]).arg("--kernel").arg("code").args(&arguments[kernel + 2..user]);
        if user < arguments.len() {
            own.args(["--uid", "0"]);
        }
        own.current_dir(&folder);
        own.envs(self.environment()).env("RUST_BACKTRACE", "0");
        command = own;
        (command, folder)
    }

    /// A thread of the kind does something.
    fn hooked(&self, what: &str) -> Result<(), String> {
        if self.kind == Kind::KEEPER {
            return Ok(());
        }
        let (mut command, folder) = self.command(&[print(b"!"), exit(0)].concat());
        command.env("RINGSIDE_COMPROMISED", format!("{}:{what}", self.kind.name()));
        let net = with_net(&mut command, &folder);
        let (status, said) = wait(start(&mut command));
        drop(net);
        if what != "panic" {
            return ended(&folder, (status, said), 0);
        }
        let good = status.signal().is_none() && said.contains("panicked at ") && keeper_did_its_work(&folder, &said);
        if good { Ok(()) } else { Err(format!("{status}, {said}")) }
    }
}

/// A thread of the kind fills a log; for the keeper, which writes none, the main thread does.
fn full_log(case: &Case<'_>, keep: u32) -> Result<(), String> {
    // That one tells no lies.
    if case.kind == Kind::FLUSH {
        return Ok(());
    }
    let kind = if case.kind == Kind::KEEPER { Kind::MAIN } else { case.kind };
    let (mut command, folder) = case.command(&[print(b"!"), exit(0)].concat());
    command.arg("--hostile-log").arg(format!("lies,size=4K,keep={keep}"));
    command.env("RINGSIDE_COMPROMISED", format!("{}:log", kind.name()));
    let net = with_net(&mut command, &folder);
    let result = wait(start(&mut command));
    drop(net);
    let (now, before) = (fs::metadata(folder.join("lies")), fs::metadata(folder.join("lies.1")));
    if before.is_ok() != (keep > 0) || now.is_ok_and(|file| file.len() > 4096) {
        return Err(format!("the log has no bound or no past, {result:?}"));
    }
    ended(&folder, result, 0)
}

/// The keeper has removed the socket, and ended as it should.
fn keeper_did_its_work(folder: &Path, said: &str) -> bool {
    !folder.join("sockets/control").exists() && !said.contains("the keeper ended with")
}

/// A card with a peer that says nothing.
fn with_net(command: &mut Command, folder: &Path) -> std::os::unix::net::UnixListener {
    let peer = folder.join("peer");
    let listener = std::os::unix::net::UnixListener::bind(&peer).unwrap();
    command.arg("--net").arg(format!("stream={}", peer.display()));
    listener
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end; the status, and what was said.
fn wait(mut child: Child) -> (ExitStatus, String) {
    let deadline = Instant::now() + RUN_MAX;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() >= deadline {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn ended(folder: &Path, (status, said): (ExitStatus, String), code: i32) -> Result<(), String> {
    if status.code() == Some(code) && keeper_did_its_work(folder, &said) {
        Ok(())
    } else {
        Err(format!("{status}, {said}"))
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

/// Reads until the guest has printed so many bytes; a program that is gone prints no more.
fn printed(child: &mut Child, bytes: usize) {
    let _ = child.stdout.as_mut().unwrap().read_exact(&mut vec![0; bytes]);
}

fn ends(case: &Case<'_>) -> Result<(), String> {
    let (mut command, folder) = case.command(&[print(b"!"), exit(0)].concat());
    let net = with_net(&mut command, &folder);
    let result = wait(start(&mut command));
    drop(net);
    ended(&folder, result, 0)
}

fn signalled(case: &Case<'_>) -> Result<(), String> {
    let (mut command, folder) = case.command(&[print(b"!"), spin()].concat());
    let net = with_net(&mut command, &folder);
    let mut child = start(&mut command);
    printed(&mut child, 1);
    let _ = kill(pid(&child), Signal::SIGTERM);
    let result = wait(child);
    drop(net);
    ended(&folder, result, 143)
}

fn fails(case: &Case<'_>) -> Result<(), String> {
    // lidt of an empty table, then ud2
    let fault = [&[0x0f, 0x01, 0x1d][..], &0x20_0010u32.to_le_bytes(), &[0x0f, 0x0b]].concat();
    let (mut command, folder) = case.command(&[print(b"!"), fault].concat());
    let (status, said) = wait(start(&mut command));
    if !said.contains("rip=") {
        return Err(format!("{status}, {said}"));
    }
    ended(&folder, (status, said), 4)
}

fn resets(case: &Case<'_>) -> Result<(), String> {
    // mov al, 6; mov dx, PORT; out dx, al
    let reset = [&[0xb0, 6, 0x66, 0xba][..], &board::RESET_CONTROL_PORT.to_le_bytes(), &[0xee], &halt()].concat();
    let (mut command, folder) = case.command(&[print(b"!"), reset].concat());
    let mut child = start(command.args(["--on-reset", "reboot"]));
    printed(&mut child, 3);
    let _ = kill(pid(&child), Signal::SIGTERM);
    ended(&folder, wait(child), 143)
}

fn requests(case: &Case<'_>) -> Result<(), String> {
    let (mut command, folder) = case.command(&[print(b"!"), spin()].concat());
    let mut child = start(&mut command);
    printed(&mut child, 1);
    let socket = folder.join("sockets/control");
    // Nobody else is affected by the ends of that.
    let exhausted = if case.kind == Kind::CONTROL { exhaust(&child, &socket) } else { Ok(()) };
    let asked = exhausted.and_then(|()| ask(&socket));
    if asked.is_err() {
        let _ = kill(pid(&child), Signal::SIGKILL);
    }
    let result = wait(child);
    asked?;
    ended(&folder, result, 0)
}

fn ask(socket: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let connect = || {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(RUN_MAX))?;
        Ok(BufReader::new(stream))
    };
    let ask = |client: &mut BufReader<UnixStream>, request: &str| {
        writeln!(client.get_mut(), "{{\"command\":{request}}}").map_err(failed)?;
        let mut line = String::new();
        client.read_line(&mut line).map_err(failed)?;
        if line.contains("\"ok\":true") { Ok(()) } else { Err(format!("{request}: {line}")) }
    };
    let mut client = connect().map_err(failed)?;
    for request in [
        "\"status\"",
        "\"stats\"",
        "\"pause\"",
        "\"resume\"",
        "\"balloon\"",
        "\"console\",\"input\":\"x\"",
        "\"disk\",\"disk\":0,\"bytes\":8192",
    ] {
        ask(&mut client, request)?;
    }
    // More than there is room for: the last is turned away.
    let more: Vec<_> = (0..9).map(|_| connect()).collect::<Result<_, _>>().map_err(failed)?;
    ask(&mut client, "\"status\"")?;
    drop(more);
    ask(&mut client, "\"stop\"")
}

/// Takes the last descriptor that there is, so that a client is turned away.
fn exhaust(child: &Child, socket: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let open = fs::read_dir(format!("/proc/{}/fd", child.id())).map_err(failed)?;
    let open: Vec<u64> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let free = (0..).find(|number| !open.contains(number)).unwrap_or(0);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let id = child.id() as i32;
    // SAFETY: `limit` is a valid rlimit, for both calls; the child has not been waited for.
    unsafe {
        libc::prlimit(id, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit);
        let lower = libc::rlimit { rlim_cur: free + 1, ..limit };
        libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const lower, std::ptr::null_mut());
    }
    let mut turned_away = false;
    let mut clients = Vec::new();
    let deadline = Instant::now() + RUN_MAX;
    while !turned_away && Instant::now() < deadline {
        let mut client = BufReader::new(UnixStream::connect(socket).map_err(failed)?);
        client.get_mut().set_read_timeout(Some(RUN_MAX)).map_err(failed)?;
        let _ = client.get_mut().write_all(b"{\"command\":\"status\"}\n");
        let mut line = String::new();
        client.read_line(&mut line).map_err(failed)?;
        turned_away = line.contains("no descriptors left");
        // Those of before may not be gone yet.
        if !line.contains("too many clients") {
            clients.push(client);
        }
    }
    drop(clients);
    // SAFETY: as above.
    unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    if turned_away { Ok(()) } else { Err("nobody is turned away".into()) }
}

/// At a terminal of its own.
fn at_terminal(case: &Case<'_>) -> (Child, PathBuf, fs::File, fs::File) {
    let (mut command, folder) = case.command(&[print(b"!"), halt()].concat());
    let ends = nix::pty::openpty(None, None).unwrap();
    let (mut master, slave) = (fs::File::from(ends.master), fs::File::from(ends.slave));
    command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(Stdio::piped());
    // SAFETY: both calls are async-signal-safe; standard input is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    let mut byte = [0];
    let _ = master.read(&mut byte);
    (child, folder, master, slave)
}

fn is_raw(terminal: &fs::File) -> bool {
    let modes = nix::sys::termios::tcgetattr(terminal).unwrap();
    !modes.local_flags.contains(nix::sys::termios::LocalFlags::ECHO)
}

fn terminal(case: &Case<'_>) -> Result<(), String> {
    if !matches!(case.kind, Kind::MAIN | Kind::KEEPER) {
        return Ok(());
    }
    let (child, folder, mut master, slave) = at_terminal(case);
    let _ = master.write_all(b"x\x03");
    let result = wait(child);
    if is_raw(&slave) {
        return Err("the terminal is raw".into());
    }
    ended(&folder, result, 130)
}

fn terminal_killed(case: &Case<'_>) -> Result<(), String> {
    if case.kind != Kind::KEEPER {
        return Ok(());
    }
    let (child, _, _master, slave) = at_terminal(case);
    let _ = kill(pid(&child), Signal::SIGKILL);
    wait(child);
    let deadline = Instant::now() + Duration::from_secs(2);
    while is_raw(&slave) {
        if Instant::now() >= deadline {
            return Err("the terminal stays raw".into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn stopped(case: &Case<'_>) -> Result<(), String> {
    if case.kind == Kind::KEEPER {
        return Ok(());
    }
    let (mut command, folder) = case.command(&[print(b"!"), exit(0)].concat());
    command.env("RINGSIDE_COMPROMISED", format!("{}:wait", case.kind.name()));
    let net = with_net(&mut command, &folder);
    let child = start(&mut command);
    let sleeping = format!("{} ", libc::SYS_clock_nanosleep);
    let tasks = format!("/proc/{}/task", child.id());
    let sleeps = || {
        let Ok(tasks) = fs::read_dir(&tasks) else { return false };
        let mut calls = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("syscall")).ok());
        calls.any(|call| call.starts_with(&sleeping))
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !sleeps() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
    }
    let _ = kill(pid(&child), Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(20));
    let _ = kill(pid(&child), Signal::SIGCONT);
    let result = wait(child);
    drop(net);
    ended(&folder, result, 0)
}

/// The checks whose device makes every call that a driver can cause.
fn checks(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::BLOCK => &["block/*"],
        Kind::NET => &["net/*", "net-frames/*"],
        Kind::BALLOON => &["balloon/*"],
        Kind::CONSOLE => &["console/*"],
        Kind::RNG => &["rng/*"],
        Kind::VCPU => &["net/receives-a-frame"],
        _ => &[],
    }
}

fn guest(case: &Case<'_>) -> Result<(), String> {
    let checks = checks(case.kind);
    let wanted = if checks.is_empty() { None } else { with_bugs::bench("the rows of the sandbox's table") };
    let Some((mut profile, mut setting, folder)) = wanted else { return Ok(()) };
    // The harness starts a program; this one says to ours what it lacks.
    let script = folder.path().join("ringside-with-less");
    let environment: Vec<_> = case.environment().iter().map(|(name, value)| format!("'{name}={value}'")).collect();
    let text = format!("#!/bin/sh\nexec env {} '{}' \"$@\"\n", environment.join(" "), setting.ringside.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    setting.ringside = script;
    for argument in &mut profile.args {
        // So often at their limits that they wait.
        *argument = argument.replace("queues=4", "queues=4,iops=500,burst=10ms");
        *argument = argument.replace("{echo_peer}", "{echo_peer},pps=500,burst=10ms");
    }
    profile.timeout_seconds = 120;
    let only: Vec<Pattern> = checks.iter().map(|check| Pattern::new(check).unwrap()).collect();
    let interrupted = AtomicBool::new(false);
    let result = ringside_tests::conform::run::run(&profile, &setting, &catalogue::all(), &only, &interrupted);
    if result.state == State::Ran && result.problems.is_empty() {
        Ok(())
    } else {
        Err(format!("{:?}", result.problems))
    }
}

/// Rows that no run here misses for sure, and when they are needed.
const RARE: [(Kind, &str, &str); 4] = [
    (DEVICES, "epoll_ctl", "a guest that notifies more than 200,000 times a second; a link that is full"),
    (DEVICES.difference(Kind::BLOCK), "timerfd_settime", "more than 200,000 interrupts a second; a card at its limit"),
    (
        Kind::NET.union(Kind::VCPU).union(Kind::CONTROL),
        "ioctl(TUNSETOFFLOAD)",
        "a tap interface, and whoever is first at the device",
    ),
    (Kind::MAIN, "shutdown", "passt"),
];
const DEVICES: Kind = Kind::BLOCK.union(Kind::NET).union(Kind::BALLOON).union(Kind::CONSOLE).union(Kind::RNG);

#[test]
fn every_row_of_every_filter_is_missed_by_a_run() {
    let Some(bench) = Bench::new("every_row_of_every_filter_is_missed_by_a_run") else { return };
    // Otherwise those of the two kinds that every VM has.
    let long = std::env::var_os("RINGSIDE_LONG").is_some();
    let kinds = if long { Kind::all() } else { Kind::MAIN.union(Kind::VCPU) };
    for_all(&kinds.iter().collect::<Vec<_>>(), |kind| {
        let case = Case::new(&bench, *kind, None);
        let complain =
            |(name, run): &Run| run(&case).map_err(|why| format!("{} with all rows, {name}: {why}", kind.name()));
        RUNS.iter().try_for_each(complain)
    });
    let rows = TABLE.iter().filter(|row| row.shown != "F_GETFD");
    let rare = |kind: Kind, row: &Row| RARE.iter().any(|(kinds, call, _)| kinds.contains(kind) && *call == row.call());
    let cases = rows.flat_map(|row| row.threads.intersection(kinds).iter().map(move |kind| (kind, row)));
    let cases: Vec<_> = cases.filter(|(kind, row)| !rare(*kind, row)).collect();
    for_all(&cases, |(kind, row)| {
        let case = Case::new(&bench, *kind, Some(row));
        match RUNS.iter().find(|(_, run)| run(&case).is_err()) {
            Some((name, _)) => {
                eprintln!("{:<8} {:<44} is missed by {name}", kind.name(), row.call());
                Ok(())
            }
            None => Err(format!("{} {}: nobody misses it", kind.name(), row.call())),
        }
    });
}
