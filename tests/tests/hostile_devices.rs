//! Our kernel with devices that lie, in real virtual machines: whatever they say, it neither panics nor hangs, powers itself
//! off, and each device works or the kernel says why not. `cargo xtask test` names the kernel and our host in the
//! environment; `--long` makes it a thousand seeds. A seed that fails is run again with
//! `ringside run --hostile-device SEED,rate=N --hostile-log FILE`. The drivers alone meet ten thousand scripts each in
//! `guest-kernel/frontends/hostile`.

use host_backend::config::lie::Lie;
use ringside_tests::console::Event;
use ringside_tests::machine::{Machine, SerialLine};
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::Testbed;
use ringside_tests::web;
use serde_json::Value;
use shared_abi::tour::SAMPLE_FILE;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Seeds, and with `RINGSIDE_LONG`.
const SEEDS: u64 = 100;
const SEEDS_LONG: u64 = 1000;
/// One lie in so many chances: some devices break at once, some work for long.
const RATES: [u32; 4] = [32, 8, 16, 64];
/// A disk that never answers costs a few of its time-outs; anything longer is a hang.
const RUN_MAX: Duration = Duration::from_secs(60);
/// Machines at a time.
const PARALLEL: usize = 2;
/// Devices, with the first addresses of their slots.
const DEVICES: [(&str, &str); 5] = [
    ("block", "0xd0000000"),
    ("net", "0xd0001000"),
    ("balloon", "0xd0002000"),
    ("console", "0xd0003000"),
    ("rng", "0xd0004000"),
];

/// What a guest with one seed said.
struct Run {
    console: Vec<String>,
    /// The statistics at its end.
    stats: Value,
}

fn rate(seed: u64) -> u32 {
    RATES[(seed % RATES.len() as u64) as usize]
}

/// Asks for the guest's page until the machine has ended, so that its card has something to do. Whether there is an answer
/// is up to the card.
fn visit(port: u16, ended: &AtomicBool) {
    const PATIENCE: Duration = Duration::from_millis(200);
    while !ended.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            && stream.set_read_timeout(Some(PATIENCE)).is_ok()
            && stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").is_ok()
        {
            let _ = stream.read(&mut [0; 4096]);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Uses every device, and ends.
fn commands() -> String {
    let file = format!("/disk0/{SAMPLE_FILE}");
    let lines = [
        "blk",
        "ls /disk0",
        &format!("sum {file}"),
        "blk zero 130000 8",
        "balloon",
        "net",
        "mem hog 20",
        "dev",
        "poweroff",
    ];
    lines.iter().map(|line| format!("{line}\r")).collect()
}

/// The sample's file is there: a kernel that misses it has taken an error of its disk for something else.
const MISSED: &str = "no such file";

/// Runs a machine to its end.
fn run(machine: &Machine, seed: u64) -> Result<Run, String> {
    let mut machine = machine.clone();
    machine.publish.host = web::free_port().map_err(|error| format!("{error:#}"))?;
    // Every other machine has its interrupts handled while another CPU runs.
    machine.cpus = 1 + (seed % 2) as u32;
    machine.more.extend(["--hostile-device".into(), format!("{seed},rate={}", rate(seed))]);
    let mut running = Running::spawn(machine.command(SerialLine::Captured)).map_err(|error| format!("{error:#}"))?;
    running.write_input(&commands()).map_err(|error| format!("{error:#}"))?;
    let (deadline, mut console) = (Instant::now() + RUN_MAX, Vec::new());
    let ended = AtomicBool::new(false);
    let status = thread::scope(|scope| {
        scope.spawn(|| visit(machine.publish.host, &ended));
        while Instant::now() < deadline {
            match running.console.next(Duration::from_millis(100)) {
                Event::Line(line) => console.push(line),
                Event::Quiet => {}
                Event::Closed => break,
            }
        }
        let status = running.wait(deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
        ended.store(true, Ordering::Relaxed);
        status
    });
    let stderr = running.stderr();
    let said = || format!("{}\n{stderr}", console.join("\n"));
    match status {
        Err(error) => return Err(format!("{error}\n{}", said())),
        Ok(status) if !status.success() => return Err(format!("{status}\n{}", said())),
        Ok(_) => {}
    }
    if !console.iter().any(|line| line.starts_with("power off")) {
        return Err(format!("it did not switch itself off\n{}", said()));
    }
    if console.iter().any(|line| line.contains(MISSED)) {
        return Err(format!("an error of the disk is reported as {MISSED}\n{}", said()));
    }
    let stats = stderr.lines().find(|line| line.starts_with('{')).and_then(|line| serde_json::from_str(line).ok());
    let stats = stats.ok_or_else(|| format!("no statistics\n{}", said()))?;
    Ok(Run { console, stats })
}

impl Run {
    /// How often a device told each kind of lie.
    fn lies(&self, device: &str) -> BTreeMap<&str, u64> {
        let name = if device == "block" { "block0" } else { device };
        let lies = self.stats["devices"][name]["lies"].as_object();
        lies.into_iter().flatten().map(|(lie, count)| (lie.as_str(), count.as_u64().unwrap_or(0))).collect()
    }

    /// Whether the kernel drives a device at its end, by its list.
    fn is_driven(&self, slot: &str) -> bool {
        self.console.iter().any(|line| line.contains(&format!("mmio {slot} line")) && !line.contains("error:"))
    }

    /// Whether the kernel has said something about a device that did not work.
    fn is_explained(&self, device: &str, slot: &str) -> bool {
        let complaints = self.console.iter().filter(|line| line.contains("error: ") || line.contains("warning: "));
        let mut about = complaints.filter(|line| line.contains(&format!("{device}: ")) || line.contains(slot));
        about.next().is_some()
    }

    /// A device that neither works nor was given up with a reason. One that says it is something else is not there.
    fn silent_device(&self) -> Option<&'static str> {
        let silent = |(device, slot): &&(&'static str, &str)| {
            !self.is_driven(slot) && !self.is_explained(device, slot) && !self.lies(device).contains_key("identity")
        };
        DEVICES.iter().find(silent).map(|(device, _)| *device)
    }
}

#[test]
fn our_kernel_survives_devices_that_lie() {
    let Some(mut ready) = Ready::new("devices that lie", Testbed::Host, 48, "disk_timeout=1").unwrap() else { return };
    let console = format!("file={}", ready.folder.path().join("console").display());
    ready.machine.more = ["--stats", "json"].map(str::to_owned).to_vec();
    let seeds = if std::env::var_os("RINGSIDE_LONG").is_some() { SEEDS_LONG } else { SEEDS };
    let (next, failures, told) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for worker in 0..PARALLEL {
            let (mut machine, console) = (ready.machine.clone(), format!("{console}{worker}"));
            let folder = ready.folder.path().join(format!("worker{worker}"));
            fs::create_dir(&folder).unwrap();
            let disk = folder.join("disk.img");
            fs::copy(&machine.disk.path, &disk).unwrap();
            (machine.disk.path, machine.folder) = (disk, folder);
            machine.more.extend(["--virtio-console".into(), console]);
            let (next, failures, told) = (&next, &failures, &told);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let failure = match run(&machine, seed) {
                        Err(why) => Some(why),
                        Ok(run) => {
                            let mut told = told.lock().unwrap();
                            for (device, _) in DEVICES {
                                run.lies(device).into_iter().for_each(|(lie, count)| {
                                    *told.entry(lie.to_owned()).or_insert(0) += count;
                                });
                            }
                            run.silent_device().map(|device| {
                                format!("nothing is said about {device}\n{}\n{}", run.console.join("\n"), run.stats)
                            })
                        }
                    };
                    failures
                        .lock()
                        .unwrap()
                        .extend(failure.map(|why| format!("seed {seed},rate={}: {why}", rate(seed))));
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {seeds} seeds failed:\n{}", failures.len(), failures.join("\n\n"));
    let told = told.into_inner().unwrap();
    let missing: BTreeSet<_> = Lie::ALL.iter().map(|lie| lie.name()).filter(|lie| !told.contains_key(*lie)).collect();
    assert!(missing.is_empty(), "kinds of lies that were never told: {missing:?} of {told:?}");
}

#[test]
fn honest_devices_work_with_the_same_commands() {
    let Some(mut ready) = Ready::new("honest devices", Testbed::Host, 48, "disk_timeout=1").unwrap() else { return };
    let console = format!("file={}", ready.folder.path().join("console").display());
    ready.machine.more = vec!["--stats".into(), "json".into(), "--virtio-console".into(), console];
    // No lie fits an entropy device among these, so that all are honest.
    let hostile = ["--hostile-device".to_owned(), "1,device=rng,lies=header".to_owned()];
    ready.machine.more.extend(hostile);
    let mut running = Running::spawn(ready.machine.command(SerialLine::Captured)).unwrap();
    running.write_input(&commands()).unwrap();
    let mut console = Vec::new();
    while let Event::Line(line) = running.console.next(RUN_MAX) {
        console.push(line);
    }
    assert!(running.wait(RUN_MAX).unwrap().success());
    let stats = running.stderr();
    let run = Run { console, stats: serde_json::from_str(stats.lines().last().unwrap_or_default()).unwrap() };
    for (device, slot) in DEVICES {
        assert!(run.is_driven(slot) && run.lies(device).is_empty(), "{device}: {:?}", run.console);
    }
    let complaints: Vec<_> = run.console.iter().filter(|line| line.contains("error: ")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
