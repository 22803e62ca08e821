//! Each row of the table is needed by each kind of thread that has it: without it some run of a VM fails, mostly by a kill. The runs are tried from the fastest to the slowest until one of them does.

use super::{Bench, Ended, RUN_MAX, Vm, for_all, start, wait};
use crate::with_bugs;
use host_backend::sample::{exit, halt, print, spin};
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
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// Names a kind and a row for the host under test.
const MISSING_ROW: &str = "RINGSIDE_MISSING_ROW";

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

    /// What the host is to lack, as it reads it.
    fn missing(&self) -> String {
        self.row.map_or(String::new(), |row| format!("{}/{}", self.kind.name(), row.call()))
    }

    /// A VM of this code. Its user is ours: the limits of another user's process can be changed by few.
    fn vm(&self, code: &[u8]) -> Vm {
        let mut vm = self.bench.vm_of(code, &["--uid", "0"]);
        vm.command.env(MISSING_ROW, self.missing());
        vm
    }

    /// One with all devices that prints a byte and ends, in which a thread of that kind does something.
    fn hooked_vm(&self, kind: Kind, what: &str) -> Vm {
        let mut vm = self.vm(&[print(b"!"), exit(0)].concat());
        vm.command.env("RINGSIDE_COMPROMISED", format!("{}:{what}", kind.name()));
        vm
    }

    /// A thread of the kind does something.
    fn hooked(&self, what: &str) -> Result<(), String> {
        // The keeper's end by a panic is nobody's business.
        if self.kind == Kind::KEEPER && what == "panic" {
            return Ok(());
        }
        let mut vm = self.hooked_vm(self.kind, what);
        let _peer = vm.with_net();
        let ended = vm.run();
        if what != "panic" {
            return ended.with(0);
        }
        let good = ended.output.status.signal().is_none() && ended.said().contains("panicked at ");
        if good && ended.keeper_did_its_work() { Ok(()) } else { Err(ended.told()) }
    }
}

impl Ended {
    /// The keeper has removed the socket, and ended as it should.
    fn keeper_did_its_work(&self) -> bool {
        !self.has_socket() && !self.said().contains("the keeper ended with")
    }

    /// Whether it ended with this status.
    fn with(&self, status: i32) -> Result<(), String> {
        let good = self.output.status.code() == Some(status) && self.keeper_did_its_work();
        if good { Ok(()) } else { Err(self.told()) }
    }

    fn told(&self) -> String {
        format!("{}, {}", self.output.status, self.said())
    }
}

/// A thread of the kind fills a log; for the keeper, which writes none, the main thread does.
fn full_log(case: &Case<'_>, keep: u32) -> Result<(), String> {
    // That one tells no lies.
    if case.kind == Kind::FLUSH {
        return Ok(());
    }
    let mut vm = case.hooked_vm(if case.kind == Kind::KEEPER { Kind::MAIN } else { case.kind }, "log");
    vm.command.arg("--hostile-log").arg(format!("lies,size=4K,keep={keep}"));
    let _peer = vm.with_net();
    let ended = vm.run();
    let (now, before) = (fs::metadata(ended.folder.join("lies")), fs::metadata(ended.folder.join("lies.1")));
    if before.is_ok() != (keep > 0) || now.is_ok_and(|file| file.len() > 4096) {
        return Err(format!("the log has no bound or no past, {}", ended.told()));
    }
    ended.with(0)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

/// Reads until the guest has printed so many bytes; a program that is gone prints no more.
fn printed(child: &mut Child, bytes: usize) {
    let _ = child.stdout.as_mut().unwrap().read_exact(&mut vec![0; bytes]);
}

fn ends(case: &Case<'_>) -> Result<(), String> {
    let mut vm = case.vm(&[print(b"!"), exit(0)].concat());
    let _peer = vm.with_net();
    vm.run().with(0)
}

/// Runs until the guest has printed so many bytes and `then` is done.
fn runs(mut vm: Vm, bytes: usize, then: impl FnOnce(&Child)) -> Ended {
    let mut child = start(&mut vm.command);
    printed(&mut child, bytes);
    then(&child);
    Ended { output: wait(child), folder: vm.folder }
}

fn terminate(child: &Child) {
    let _ = kill(pid(child), Signal::SIGTERM);
}

fn signalled(case: &Case<'_>) -> Result<(), String> {
    let mut vm = case.vm(&[print(b"!"), spin()].concat());
    let _peer = vm.with_net();
    runs(vm, 1, terminate).with(143)
}

fn fails(case: &Case<'_>) -> Result<(), String> {
    // lidt of an empty table, then ud2
    let fault = [&[0x0f, 0x01, 0x1d][..], &0x20_0010u32.to_le_bytes(), &[0x0f, 0x0b]].concat();
    let ended = case.vm(&[print(b"!"), fault].concat()).run();
    if ended.said().contains("rip=") { ended.with(4) } else { Err(ended.told()) }
}

fn resets(case: &Case<'_>) -> Result<(), String> {
    // mov al, 6; mov dx, PORT; out dx, al
    let reset = [&[0xb0, 6, 0x66, 0xba][..], &board::RESET_CONTROL_PORT.to_le_bytes(), &[0xee], &halt()].concat();
    let mut vm = case.vm(&[print(b"!"), reset].concat());
    vm.command.args(["--on-reset", "reboot"]);
    runs(vm, 3, terminate).with(143)
}

fn requests(case: &Case<'_>) -> Result<(), String> {
    let vm = case.vm(&[print(b"!"), spin()].concat());
    let socket = vm.folder.join("sockets/control");
    let mut asked = Ok(());
    let ended = runs(vm, 1, |child| {
        // Nobody else is affected by the ends of that.
        let exhausted = if case.kind == Kind::CONTROL { exhaust(child, &socket) } else { Ok(()) };
        asked = exhausted.and_then(|()| ask(&socket));
        if asked.is_err() {
            let _ = kill(pid(child), Signal::SIGKILL);
        }
    });
    asked?;
    ended.with(0)
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
    let Vm { mut command, folder } = case.vm(&[print(b"!"), halt()].concat());
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
    let ended = Ended { output: wait(child), folder };
    if is_raw(&slave) { Err("the terminal is raw".into()) } else { ended.with(130) }
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
    let mut vm = case.hooked_vm(case.kind, "wait");
    let _peer = vm.with_net();
    let child = start(&mut vm.command);
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
    Ended { output: wait(child), folder: vm.folder }.with(0)
}

/// The checks whose device makes every call that a driver can cause.
fn checks(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::BLOCK => &["block/*"],
        Kind::NET => &["net/*", "net-frames/*"],
        Kind::BALLOON => &["balloon/*"],
        Kind::CONSOLE => &["console/*"],
        Kind::RNG => &["rng/*"],
        _ => &[],
    }
}

fn guest(case: &Case<'_>) -> Result<(), String> {
    let checks = checks(case.kind);
    let wanted = if checks.is_empty() { None } else { with_bugs::bench("the rows of the sandbox's table") };
    let Some((mut profile, mut setting, folder)) = wanted else { return Ok(()) };
    // The harness starts a program; this one says to ours what it lacks.
    let script = folder.path().join("ringside-with-less");
    let (missing, ringside) = (case.missing(), setting.ringside.display());
    let text = format!("#!/bin/sh\nexec env '{MISSING_ROW}={missing}' '{ringside}' \"$@\"\n");
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
