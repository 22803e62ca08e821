//! `cargo xtask fuzz`: builds `tests/fuzz/runner` with the compiler's coverage instrumentation, which the stable compiler has,
//! and runs libFuzzer on each target.
//!
//! What it finds grows in `target/fuzz/`: `corpus/`, and `crashes/` with what made a target panic, hang or take too much memory.
//! The committed corpora in `tests/fuzz/corpus` only change with `--keep`.

mod keep;
mod report;

use crate::options::{Common, FuzzOptions};
use crate::{boots, packages, ui, workspace};
use anyhow::{Context, Result, bail, ensure};
use report::{Progress, Run, Verdict};
use ringside_tests::testbed::find_program;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Where the instrumented code runs.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Counters of edges, their places, and comparisons, as libFuzzer reads them.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Tells the runner which target it is.
const CHOICE: &str = "RINGSIDE_FUZZ";
/// An input may take so many seconds and MiB, and have so many bytes.
const LIMITS: [&str; 3] = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=2048"];

/// The runner, and where things go.
struct Fuzzer {
    program: PathBuf,
    folder: PathBuf,
}

/// `cargo xtask fuzz`.
pub(crate) fn command(common: &Common, options: &FuzzOptions) -> Result<ExitCode> {
    let targets = targets(&options.targets)?;
    if find_program("c++").is_none() {
        packages::install(common.installing(), &[("g++", "building libFuzzer")])?;
    }
    let fuzzer = Fuzzer::build()?;
    if let Some(input) = &options.input {
        let [target] = &*targets else { bail!("--input needs the name of its one target") };
        return fuzzer.replay(target, input);
    }
    let interrupted = boots::interruption()?;
    let mut runs = Vec::new();
    for target in &targets {
        runs.push(fuzzer.run(target, options.minutes, &interrupted)?);
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    report::table(&runs);
    if options.keep {
        for run in runs.iter().filter(|run| run.verdict != Verdict::Crashed) {
            fuzzer.keep(&run.target)?;
        }
    }
    Ok(if report::crashes(&runs) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The committed corpus of a target.
fn committed(target: &str) -> PathBuf {
    workspace::root().join("tests/fuzz/corpus").join(target)
}

/// Those named, or all that have a corpus.
fn targets(named: &[String]) -> Result<Vec<String>> {
    let folder = workspace::root().join("tests/fuzz/corpus");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut all = Vec::new();
    for entry in entries {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown:?}; there are {}", all.join(", "));
    }
    Ok(if named.is_empty() { all } else { named.to_vec() })
}

impl Fuzzer {
    fn build() -> Result<Self> {
        let folder = workspace::target().join("fuzz");
        let mut command = workspace::cargo();
        command.args([
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--manifest-path",
            "tests/fuzz/runner/Cargo.toml",
        ]);
        command
            .arg("--target-dir")
            .arg(&folder)
            .env("RUSTFLAGS", INSTRUMENTATION)
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        ui::run_quietly("building the fuzz targets", &mut command)?;
        Ok(Self { program: folder.join(TARGET).join("release/fuzz-runner"), folder })
    }

    /// The runner for a target, with limits.
    fn runner(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(workspace::root()).env(CHOICE, target).env("RUST_BACKTRACE", "1").args(LIMITS);
        command.stdin(Stdio::null());
        command
    }

    fn folder(&self, kind: &str, target: &str) -> Result<PathBuf> {
        let folder = self.folder.join(kind).join(target);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// One input; what the target says goes to the terminal.
    fn replay(&self, target: &str, input: &Path) -> Result<ExitCode> {
        let input = input.canonicalize().with_context(|| format!("cannot read {}", input.display()))?;
        let mut command = self.runner(target);
        let status = command.arg(&input).status().context("cannot start the fuzz runner")?;
        ui::say(&format!("{} {}", input.display(), if status.success() { "passes" } else { "fails" }));
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Fuzzes a target for some time, or until it crashes.
    fn run(&self, target: &str, minutes: u64, interrupted: &AtomicBool) -> Result<Run> {
        let (corpus, crashes) = (self.folder("corpus", target)?, self.folder("crashes", target)?);
        let log_path = self.folder("log", "")?.join(format!("{target}.log"));
        let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut command = self.runner(target);
        // For libFuzzer no time is all the time.
        command.arg(if minutes == 0 { "-runs=0".into() } else { format!("-max_total_time={}", minutes * 60) });
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        // What failed once is tried again first.
        command.args([corpus, committed(target), crashes]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let stderr = child.stderr.take().context("the fuzz runner has no standard error")?;
        let (send, lines) = channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let bar = ui::progress(&format!("{target}, {minutes} min"));
        let mut progress = Progress::default();
        loop {
            match lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => {
                    writeln!(log, "{line}").with_context(|| format!("cannot write {}", log_path.display()))?;
                    progress.read(&line);
                    bar.set_message(progress.to_string());
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => end(&mut child)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let status = child.wait().context("cannot wait for the fuzz runner")?;
        // It has ended with the lines.
        let _ = reader.join();
        bar.finish_and_clear();
        let verdict = match progress.artifact {
            Some(_) => Verdict::Crashed,
            None if interrupted.load(Ordering::Relaxed) => Verdict::Interrupted,
            None => Verdict::Passed,
        };
        let stopped = verdict == Verdict::Passed && !status.success();
        ensure!(!stopped, "the fuzz runner ended with {status}; see {}", log_path.display());
        let run = Run { target: target.to_owned(), progress, verdict };
        println!("    {target}: {}", run.progress);
        Ok(run)
    }
}

/// Ends the runner after a signal that only we got.
fn end(child: &mut Child) -> Result<()> {
    child.kill().context("cannot end the fuzz runner")
}
