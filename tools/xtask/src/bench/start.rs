//! `cargo xtask bench start`: from the start of ringside to the guest's first byte on the console, next to a bare C program
//! that makes the same KVM calls; and what ringside has resident. Times are medians of alternating runs.

use crate::artifacts::{self, Artifacts, succeed};
use crate::bench::memory::{self, Resident};
use crate::boots::{self, Wishes};
use crate::options::Common;
use crate::{setup, ui, workspace};
use anyhow::{Context, Result, bail};
use ringside_tests::console::Event;
use ringside_tests::machine::{self, SerialLine};
use ringside_tests::running::{self, Running};
use ringside_tests::testbed::Testbed;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs of each program; they take turns.
const RUNS: usize = 20;
/// Start of ringside without devices against the C program's.
const RATIO_MAX: f64 = 2.0;
/// What the sandbox may add to the start.
const SANDBOX_MAX: Duration = Duration::from_micros(300);
/// What all devices may add.
const DEVICES_MAX: Duration = Duration::from_millis(5);
/// Resident memory of ringside, the guest's left out.
const RESIDENT_MAX_KIB: u64 = 4096;
/// How long the real guest is watched for its memory.
const WATCH: Duration = Duration::from_secs(3);

/// `cargo xtask bench start`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    Testbed::Host.available(common.kvm()).context("cannot measure ringside")?;
    let artifacts = artifacts::build(&setup)?;
    let guest = build_sample_guest()?;
    let bare = build_bare()?;
    let interrupted = boots::interruption()?;

    ui::say(&format!(
        "starting each program {RUNS} times, in turns: 128 MiB, one CPU, to the first byte on the console"
    ));
    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut layers: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for run in 0..RUNS {
        // Another order each time: the effects of one VM must not always fall on the same other.
        for turn in 0..times.len() {
            let which = (run + turn) % times.len();
            times[which].push(match which {
                0 => first_byte(Command::new(&bare).args(["whole", "128"]))?,
                1 => {
                    let (time, took) = sandboxed(&mut plain(&artifacts, &guest))?;
                    took.into_iter().for_each(|(layer, time)| layers.entry(layer).or_default().push(time));
                    time
                }
                2 => first_byte(plain(&artifacts, &guest).arg("--no-sandbox"))?,
                _ => with_devices(&artifacts, &guest)?,
            });
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
    }
    let [bare, plain, open, devices] = times.map(median);
    let resident = watch_memory(&artifacts, &interrupted)?;
    let layers = layers.into_iter().map(|(layer, times)| (layer, median(times))).collect();
    Ok(report(&Times { bare, plain, open, devices, layers }, resident))
}

/// Medians.
struct Times {
    bare: Duration,
    plain: Duration,
    /// Without a sandbox.
    open: Duration,
    devices: Duration,
    layers: Vec<(String, Duration)>,
}

fn report(times: &Times, resident: Resident) -> ExitCode {
    let Times { bare, plain, open, devices, layers } = times;
    let milliseconds = |time: &Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let ratio = plain.as_secs_f64() / bare.as_secs_f64();
    let more = devices.saturating_sub(*plain);
    let sandbox = plain.saturating_sub(*open);
    let kib = |number: u64| format!("{number} KiB");
    let measured = |name: &str, value: String| (name.to_owned(), value, None);
    let limited = |name: &str, value: String, limit: String, good: bool| (name.to_owned(), value, Some((limit, good)));
    let mut rows = vec![
        measured("bare C program", milliseconds(bare)),
        measured("ringside, no devices", milliseconds(plain)),
        limited("  times the C program's", format!("{ratio:.2}"), format!("{RATIO_MAX:.2}"), ratio <= RATIO_MAX),
        measured("  without the sandbox", milliseconds(open)),
        limited("  more with it", milliseconds(&sandbox), milliseconds(&SANDBOX_MAX), sandbox <= SANDBOX_MAX),
    ];
    rows.extend(layers.iter().map(|(layer, time)| measured(&format!("    {layer}"), milliseconds(time))));
    rows.extend([
        measured("ringside, disk, net, balloon, rng", milliseconds(devices)),
        limited("  more than without", milliseconds(&more), milliseconds(&DEVICES_MAX), more <= DEVICES_MAX),
        measured("resident, guest left out, now", kib(resident.now_kib)),
        limited("  peak", kib(resident.peak_kib), kib(RESIDENT_MAX_KIB), resident.peak_kib <= RESIDENT_MAX_KIB),
        measured("  the guest has", kib(resident.guest_kib)),
    ]);
    let mut table = vec![["", "median", "limit", ""].map(str::to_owned).to_vec()];
    let mut within = true;
    for (name, value, limit) in rows {
        let (limit, verdict) = match limit {
            None => (String::new(), ""),
            Some((limit, true)) => (limit, "ok"),
            Some((limit, false)) => {
                within = false;
                (limit, "ABOVE")
            }
        };
        table.push(vec![name, value, limit, verdict.into()]);
    }
    ui::table(&table);
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The smallest guest: it prints a byte and ends.
fn build_sample_guest() -> Result<PathBuf> {
    let guest = workspace::output()?.join("sample-guest.elf");
    let mut command = workspace::cargo();
    command.args(["run", "--quiet", "--release", "--package", "host-backend", "--example", "sample-guest", "--"]);
    succeed(command.arg(&guest), "the sample guest cannot be made")?;
    Ok(guest)
}

fn build_bare() -> Result<PathBuf> {
    let bare = workspace::output()?.join("bare");
    let mut command = Command::new("cc");
    command.args(["-O2", "-o"]).arg(&bare).arg(workspace::root().join("host-backend/bench/bare.c"));
    succeed(&mut command, "the bare C program does not build")?;
    Ok(bare)
}

fn plain(artifacts: &Artifacts, guest: &Path) -> Command {
    let mut command = Command::new(&artifacts.ringside);
    command.args(["run", "--mem", "128M", "--cpus", "1", "--kernel"]).arg(guest);
    command
}

fn with_devices(artifacts: &Artifacts, guest: &Path) -> Result<Duration> {
    let mut boot = boots::prepare(artifacts, Wishes::new(Testbed::Host, ""))?;
    boot.machine.boot = machine::Boot::kernel(guest);
    first_byte(&mut boot.machine.command(SerialLine::Captured))
}

/// The same as [`first_byte`], and what each layer of the sandbox took.
fn sandboxed(command: &mut Command) -> Result<(Duration, Vec<(String, Duration)>)> {
    command.args(["--stats", "json"]).stderr(Stdio::piped());
    let (time, stderr) = run_to_first_byte(command)?;
    let stats = stderr.lines().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let took =
        stats.as_ref().and_then(|stats| stats["sandbox_us"].as_object()).context("ringside printed no statistics")?;
    let took = took.iter().filter_map(|(layer, us)| Some((layer.clone(), Duration::from_micros(us.as_u64()?))));
    Ok((time, took.collect()))
}

/// From just before the process is made to the first byte on its standard output.
fn first_byte(command: &mut Command) -> Result<Duration> {
    run_to_first_byte(command.stderr(Stdio::null())).map(|(time, _)| time)
}

fn run_to_first_byte(command: &mut Command) -> Result<(Duration, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let mut byte = [0];
    let read = child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut byte));
    let time = start.elapsed();
    if !matches!(read, Some(Ok(()))) {
        running::stop(&mut child);
        bail!("{:?} ended without a byte on the console", command.get_program());
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok((time, said))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Boots the real guest with all devices and watches what ringside has resident.
fn watch_memory(artifacts: &Artifacts, interrupted: &AtomicBool) -> Result<Resident> {
    let boot = boots::prepare(artifacts, Wishes::new(Testbed::Host, ""))?;
    let mut running: Running = boot.machine.start()?;
    let end = Instant::now() + WATCH;
    let mut most: Option<Resident> = None;
    while Instant::now() < end {
        if running.console.next(Duration::from_millis(100)) == Event::Closed {
            bail!("the guest ended while it was watched: {}", running.stderr().trim());
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let now = match memory::resident(running.id(), boot.machine.memory) {
            Ok(now) => now,
            // It has no memory yet.
            Err(_) if most.is_none() => continue,
            Err(error) => return Err(error),
        };
        most = Some(match most {
            Some(most) => Resident {
                peak_kib: now.peak_kib.max(most.now_kib),
                now_kib: now.now_kib.max(most.now_kib),
                guest_kib: now.guest_kib,
            },
            None => now,
        });
    }
    most.context("the guest's memory was never seen")
}
