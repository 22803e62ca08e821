//! Kills and signals at random points while a guest writes and flushes, or is paused in that: whatever was flushed is on the
//! disk, no file or process remains, and the next start works.
//!
//! A few rounds by default; `RINGSIDE_LONG=1` (`cargo xtask test --long`) makes it 200 kills and 200 signals. A seed that
//! failed is printed, and `RINGSIDE_SEED` repeats it.

mod common;

use common::writer::{self, SECTORS};
use common::{Place, Running, eventually, kvm_works, pty, ringside, text};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Kills, and signals as many again.
const ROUNDS: u32 = 6;
const ROUNDS_LONG: u32 = 200;
/// The longest time until the end, from the start of the program on.
const LONGEST_US: u64 = 120_000;
const SECTOR: usize = 512;

/// Where a VM's files are, the same for all rounds.
struct Files {
    place: Place,
    kernel: PathBuf,
    disks: [PathBuf; 2],
    control: PathBuf,
}

/// What a round showed.
#[derive(Default)]
struct Seen {
    flushed: u32,
    before_the_first: u32,
    sockets: u32,
    paused: u32,
}

impl Files {
    fn new() -> Self {
        let place = Place::new();
        let kernel = place.kernel(&writer::code());
        let disks = [place.path("disk0"), place.path("disk1")];
        let control = place.path("control");
        Self { place, kernel, disks, control }
    }

    fn command(&self, stdout: File) -> Command {
        let mut command = ringside(&self.kernel);
        command.arg("--disk").arg(&self.disks[0]).arg("--disk").arg(&self.disks[1]);
        command.args(["--balloon", "--rng", "--control"]).arg(&self.control);
        command.stdout(stdout).stderr(Stdio::piped());
        command
    }

    fn clear_disks(&self) {
        for disk in &self.disks {
            std::fs::write(disk, vec![0; SECTORS as usize * SECTOR]).unwrap();
        }
    }

    /// Every number up to `flushed` is on its disk, or one that was written over it later.
    fn check_disks(&self, flushed: u32) {
        let disks = [0, 1].map(|disk: usize| std::fs::read(&self.disks[disk]).unwrap());
        for (disk, bytes) in disks.iter().enumerate() {
            for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                let words: Vec<_> = bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
                let found = words[0];
                assert!(words.iter().all(|word| *word == found), "disk {disk}, sector {sector} is torn: {words:x?}");
                let place = (sector as u32) << 1 | disk as u32;
                let latest = (0..=flushed).rev().find(|number| number % (2 * SECTORS) == place).unwrap_or(0);
                // The one after the last that was reported may be there.
                assert!(
                    found >= latest && found <= flushed + 1,
                    "disk {disk}, sector {sector}: {latest} of {flushed} was flushed, {found} is there"
                );
            }
        }
    }
}

/// The last number that the guest said was flushed.
fn last_flushed(output: &[u8]) -> u32 {
    let output = text(output);
    assert!(!output.contains('!'), "a request failed: {output}");
    // The last line may be cut off.
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    let numbers: Vec<_> = whole.lines().map(|line| u32::from_str_radix(line, 16).unwrap()).collect();
    assert!(numbers.iter().zip(1..).all(|(number, expected)| *number == expected), "{whole}");
    numbers.last().copied().unwrap_or(0)
}

/// Processes of a session that have not ended.
fn session(id: u32) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        // After the name, which ends with the last bracket: state, parent, group, session.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, session) = (fields.next()?, fields.nth(2)?.parse::<u32>().ok()?);
        (session == id && state != "Z").then_some(stat)
    });
    processes.collect()
}

/// Numbers by chance, from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn round(files: &Files, signal: libc::c_int, chance: &mut Chance) -> Seen {
    let mut seen = Seen::default();
    files.clear_disks();
    let (_master, terminal) = pty::open();
    let before = pty::modes(&terminal);
    let output = files.place.path("output");
    let mut command = files.command(File::create(&output).unwrap());
    let mut child = pty::start_at(&terminal, &mut command);
    let id = child.child().id();
    let until = Duration::from_micros(chance.below(LONGEST_US));
    // Some have a client, and some one that asks without end and never reads.
    let client = match chance.below(4) {
        0 => {
            std::thread::sleep(until / 2);
            UnixStream::connect(&files.control).ok()
        }
        _ => None,
    };
    if let Some(mut client) = client.as_ref() {
        client.set_nonblocking(true).unwrap();
        while client.write(b"{\"command\":\"stats\"}\n{\"command\":\"balloon\"}\n").is_ok() {}
    }
    std::thread::sleep(if client.is_some() { until / 2 } else { until });
    seen.sockets = files.control.exists().into();
    if chance.below(3) == 0 {
        seen.paused = pause(files).into();
    }
    // SAFETY: the child has not been waited for, so the id is its.
    unsafe { libc::kill(id as libc::pid_t, signal) };
    let ended = child.wait();
    check_end(signal, ended.status, &text(&ended.stderr));
    let flushed = last_flushed(&std::fs::read(&output).unwrap());
    files.check_disks(flushed);
    // One that ended before its first steps has made nothing, and leaves what a killed one before it left.
    if signal == libc::SIGTERM && ended.status.code().is_some() {
        assert!(!files.control.exists(), "a stale socket");
        assert_eq!(pty::modes(&terminal), before, "the terminal");
    }
    eventually("the restored terminal", || pty::modes(&terminal) == before);
    eventually("the end of all processes", || session(id).is_empty());
    seen.flushed = flushed;
    seen.before_the_first = (flushed == 0).into();
    seen
}

/// Pauses the VM if it has got so far, in whatever its disks are at.
fn pause(files: &Files) -> bool {
    let Ok(client) = UnixStream::connect(&files.control) else { return false };
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut client = BufReader::new(client);
    client.get_mut().write_all(b"{\"command\":\"pause\"}\n").unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).unwrap();
    assert_eq!(answer, "{\"ok\":true}\n");
    true
}

fn check_end(signal: libc::c_int, status: ExitStatus, stderr: &str) {
    assert_eq!(stderr, "", "{status}");
    match status.code() {
        Some(code) => assert_eq!((signal, code), (libc::SIGTERM, 128 + libc::SIGTERM)),
        // A signal that came before the program's first steps ends it as it ends any program.
        None => assert_eq!(status.signal(), Some(signal)),
    }
}

#[test]
fn what_was_flushed_survives_kills_and_signals() {
    if !kvm_works("what_was_flushed_survives_kills_and_signals") {
        return;
    }
    let rounds = if std::env::var_os("RINGSIDE_LONG").is_some() { ROUNDS_LONG } else { ROUNDS };
    let seed = std::env::var("RINGSIDE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5eed_0000);
    println!("seed {seed}");
    let files = Files::new();
    let mut chance = Chance(seed);
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let mut all = Seen::default();
        for _ in 0..rounds {
            let seen = round(&files, signal, &mut chance);
            all.flushed += seen.flushed;
            all.before_the_first += seen.before_the_first;
            all.sockets += seen.sockets;
            all.paused += seen.paused;
        }
        println!(
            "signal {signal}: {rounds} rounds, {} of them before the first flush, {} with a control socket, {} paused; \
             {} numbers flushed, none is missing",
            all.before_the_first, all.sockets, all.paused, all.flushed
        );
        assert!(all.flushed > 0, "no round got as far as a flush");
    }
    starts_after_all(&files);
}

#[test]
fn a_number_that_is_missing_is_found() {
    const FLUSHED: u32 = 300;
    let files = Files::new();
    files.clear_disks();
    let mut disks = [0, 1].map(|_| vec![0u32; SECTORS as usize * SECTOR / 4]);
    for number in 1..=FLUSHED {
        let sector = (number / 2 % SECTORS) as usize * SECTOR / 4;
        disks[number as usize % 2][sector..sector + SECTOR / 4].fill(number);
    }
    let store = |disks: &[Vec<u32>; 2]| {
        for (path, words) in files.disks.iter().zip(disks) {
            std::fs::write(path, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        }
    };
    let passes =
        |flushed| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| files.check_disks(flushed))).is_ok();
    store(&disks);
    assert!(passes(FLUSHED) && passes(FLUSHED - 1));
    assert!(!passes(FLUSHED + 1) && !passes(FLUSHED - 2));
    // One number lost, and half of one.
    let mut lost = disks.clone();
    lost[1][..SECTOR / 4].fill(0);
    store(&lost);
    assert!(!passes(FLUSHED));
    let mut torn = disks;
    torn[0][7] = 0;
    store(&torn);
    assert!(!passes(FLUSHED));
}

/// After the last kill everything works as at first.
fn starts_after_all(files: &Files) {
    files.clear_disks();
    let mut command = files.command(File::create(files.place.path("output")).unwrap());
    let mut child = Running::start(command.stdout(Stdio::piped()));
    let mut line = String::new();
    let mut output = BufReader::new(child.child().stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "00000001\n");
    let mut client = BufReader::new(UnixStream::connect(&files.control).unwrap());
    client.get_mut().write_all(b"{\"command\":\"stop\"}\n").unwrap();
    // The guest must not wait for us meanwhile.
    let reader = std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
    let mut answer = String::new();
    client.read_line(&mut answer).unwrap();
    assert_eq!(answer, "{\"ok\":true}\n");
    assert_eq!(child.wait().status.code(), Some(0));
    reader.join().unwrap().unwrap();
}
