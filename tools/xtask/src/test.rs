//! `cargo xtask test`: unit and host-run tests, then the tour on every testbed present in every variant, and a table of
//! what ran where and what was skipped and why.

use crate::artifacts::Artifacts;
use crate::boots::{self, Wishes};
use crate::options::{Common, TestOptions};
use crate::{artifacts, setup, ui, workspace};
use anyhow::{Context, Result, bail};
use ringside_tests::inner::Inner;
use ringside_tests::ready;
use ringside_tests::testbed::{KvmPolicy, Testbed};
use ringside_tests::tour::{self, Silent, Verdict};
use ringside_tests::xen::Xen;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// The same image in all its ways to work.
const VARIANTS: [(&str, &str); 3] = [
    ("tour", "tour"),
    ("tour, pvops=unpatched", "tour pvops=unpatched"),
    ("tour, drivers=reference", "tour drivers=reference"),
];
/// What does not build for the target that we run on.
const BARE: [&str; 5] = ["example-kernel", "guest-kernel-image", "loader-bios", "loader-efi", "loader-linux"];
/// Tells tests that repeat to do so for long.
const LONG: &str = "RINGSIDE_LONG";
/// The host's model checks, which are built with a feature.
const MODELS: &str = "models::";
/// Boots at a time.
const PARALLEL: usize = 2;

/// How many of what.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// What tests boot.
#[derive(Clone, Copy)]
struct Programs<'a> {
    kernel: &'a Path,
    loaders: &'a Path,
    ringside: &'a Path,
    suite: &'a Path,
    example: &'a Path,
    /// Only where our host can run, on this machine's KVM or in the inner Linux.
    with_bugs: Option<&'a Path>,
    inner: Option<&'a Inner>,
    xen: Option<&'a Xen>,
}

/// How a boot went.
enum Ended {
    Passed,
    Failed(String),
    Skipped(String),
}

/// `cargo xtask test`.
pub(crate) fn command(common: &Common, options: &TestOptions) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let mut artifacts = artifacts::build(&setup)?;
    for testbed in Testbed::ALL {
        artifacts.complete_for(testbed)?;
    }
    let interrupted = boots::interruption()?;

    let inner = artifacts.inner.as_ref().ok();
    let has_host = inner.is_some() || Testbed::Host.available(common.kvm()).is_ok();
    let with_bugs = if has_host { Some(artifacts::build_host_with_bugs()?) } else { None };
    let xen = artifacts.xen.as_ref().ok();
    let suite = artifacts::build_suite(&artifacts)?;
    let example = artifacts::build_example(setup.toolchain)?;
    let programs = Programs {
        suite: &suite,
        example: &example,
        kernel: &artifacts.kernel,
        loaders: &artifacts.loaders,
        ringside: &artifacts.ringside,
        with_bugs: with_bugs.as_deref(),
        inner,
        xen,
    };
    let (units, notes) = run_cargo_tests(programs, common.kvm(), options, &interrupted)?;
    let boots = run_boots(&artifacts, common.kvm(), &interrupted)?;
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    let total = report(units, &notes, &boots);
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Unit tests and everything else that runs without a guest, then the model checks; the tally, and why tests skipped
/// themselves.
fn run_cargo_tests(
    programs: Programs<'_>,
    kvm: KvmPolicy,
    options: &TestOptions,
    interrupted: &AtomicBool,
) -> Result<(Tally, BTreeSet<String>)> {
    let log_path = workspace::output()?.join("test.log");
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut results = Results::default();

    ui::say(&format!("running the unit and host-run tests (log: {})", log_path.display()));
    let mut command = workspace::cargo();
    command.args(["test", "--workspace"]).args(BARE.iter().flat_map(|package| ["--exclude", package]));
    command.args(["--no-fail-fast", "--", "--show-output"]);
    if let Some(with_bugs) = programs.with_bugs {
        command.env(ready::WITH_BUGS, with_bugs);
    }
    if let Some(inner) = programs.inner {
        command.env(ready::INNER_LINUX, inner.linux.folder()).env(ready::INNER_INIT, &inner.init);
    }
    if let Some(xen) = programs.xen {
        command.env(ready::XEN, xen.folder());
    }
    command.env(ready::LOADERS, programs.loaders).env(ready::HOST, programs.ringside);
    command.env(ready::SUITE, programs.suite).env(ready::EXAMPLE, programs.example);
    command.env(ready::KERNEL, programs.kernel);
    if kvm == KvmPolicy::Absent {
        command.env(ready::NO_KVM, "1");
    }
    results.take_from(command, options, &mut log, interrupted)?;

    ui::say("running the model checks");
    let mut command = workspace::cargo();
    command.args(["test", "--package", "host-backend", "--lib", "--features", "models"]);
    command.args(["--no-fail-fast", "--", "--show-output", MODELS]);
    results.take_from(command, options, &mut log, interrupted)?;

    let Results { mut tally, notes, failures } = results;
    if tally.failed > 0 {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        for name in failures {
            print_output_of(&log, &name);
        }
    }
    // A test that finds nothing to test on passes for its runner; for us it says so.
    tally.passed = tally.passed.saturating_sub(notes.len());
    tally.skipped += notes.len();
    println!("    {} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    Ok((tally, notes))
}

/// What tests have said.
#[derive(Default)]
struct Results {
    tally: Tally,
    notes: BTreeSet<String>,
    failures: Vec<String>,
}

impl Results {
    /// Runs tests by a command of Cargo and adds what they say.
    fn take_from(
        &mut self,
        mut command: Command,
        options: &TestOptions,
        log: &mut File,
        interrupted: &AtomicBool,
    ) -> Result<()> {
        if options.long {
            command.env(LONG, "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start cargo")?;
        let stdout = child.stdout.take().context("cargo has no standard output")?;
        let failed_before = self.tally.failed;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what cargo says")?;
            writeln!(log, "{line}").context("cannot write the log")?;
            if let Some(result) = line.strip_prefix("test result: ") {
                let counts = result_counts(result);
                self.tally.passed += counts.passed;
                self.tally.failed += counts.failed;
                self.tally.skipped += counts.skipped;
            } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                println!("    FAILED {name}");
                self.failures.push(name.to_owned());
            } else if let Some(note) = line.strip_prefix("SKIPPED ") {
                self.notes.insert(note.to_owned());
            }
        }
        let status = child.wait().context("cannot wait for cargo")?;
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if self.tally.failed == failed_before && !status.success() {
            bail!("cargo test ended with {status}: the tests do not build, or one of them ended its process");
        }
        Ok(())
    }
}

/// Takes `ok. 12 passed; 0 failed; 1 ignored; ...` apart.
fn result_counts(text: &str) -> Tally {
    let count = |what: &str| {
        let part = text.split([';', '.']).map(str::trim).find(|part| part.ends_with(what));
        part.and_then(|part| part.split(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Tally { passed: count(" passed"), failed: count(" failed"), skipped: count(" ignored") }
}

fn print_output_of(log: &str, test: &str) {
    const LINES: usize = 30;
    let start = format!("---- {test} stdout ----");
    println!("\n{start}");
    let output = log.lines().skip_while(|line| *line != start).skip(1);
    output
        .take_while(|line| !line.starts_with("---- ") && *line != "failures:")
        .take(LINES)
        .for_each(|line| println!("{line}"));
}

/// Every variant on every testbed, a few at a time; by variant and testbed.
fn run_boots(artifacts: &Artifacts, kvm: KvmPolicy, interrupted: &AtomicBool) -> Result<Vec<Vec<Ended>>> {
    ui::say("booting the image on every testbed");
    let absences = Testbed::ALL.map(|testbed| match testbed.available(kvm) {
        Err(error) => Some(format!("{error:#}")),
        Ok(()) => artifacts.lacks(testbed).map(str::to_owned),
    });
    let jobs: Vec<(usize, usize)> = (0..VARIANTS.len())
        .flat_map(|variant| (0..Testbed::ALL.len()).map(move |testbed| (variant, testbed)))
        .collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(&(variant, column)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let testbed = Testbed::ALL[column];
            let (title, cmdline) = VARIANTS[variant];
            let ended = match &absences[column] {
                Some(why) => Ended::Skipped(why.clone()),
                None => boot(artifacts, testbed, cmdline, interrupted),
            };
            let word = match &ended {
                Ended::Passed => "passed",
                Ended::Failed(_) => "FAILED",
                Ended::Skipped(_) => "skipped",
            };
            println!("    {title} on {testbed}: {word}");
            done.lock().unwrap_or_else(|poison| poison.into_inner()).push((variant, column, ended));
        }
    };
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poison| poison.into_inner());
    done.sort_by_key(|(variant, column, _)| (*variant, *column));
    let mut rows: Vec<Vec<Ended>> = VARIANTS.iter().map(|_| Vec::new()).collect();
    done.into_iter().for_each(|(variant, _, ended)| rows[variant].push(ended));
    Ok(rows)
}

fn boot(artifacts: &Artifacts, testbed: Testbed, cmdline: &str, interrupted: &AtomicBool) -> Ended {
    let verdict = boots::prepare(artifacts, Wishes::new(testbed, cmdline))
        .and_then(|boot| tour::run(&boot.machine, &boot.disk, &mut Silent, interrupted));
    match verdict {
        Ok(verdict) if verdict.succeeded() => Ended::Passed,
        Ok(verdict) => Ended::Failed(describe(&verdict)),
        Err(error) => Ended::Failed(format!("{error:#}")),
    }
}

fn describe(verdict: &Verdict) -> String {
    let mut text = verdict.complaint();
    for (title, lines) in [("the console's last lines", &verdict.tail), ("the host side said", &stderr_lines(verdict))]
    {
        if !lines.is_empty() {
            text.push_str(&format!("\n      {title}:\n        {}", lines.join("\n        ")));
        }
    }
    text
}

fn stderr_lines(verdict: &Verdict) -> Vec<String> {
    verdict.stderr.lines().map(str::to_owned).collect()
}

/// Prints the table and what needs words; everything counted together.
fn report(units: Tally, notes: &BTreeSet<String>, boots: &[Vec<Ended>]) -> Tally {
    let mut total = units;
    let (mut skips, mut failures) = (BTreeSet::new(), Vec::new());
    let mut header = vec!["test".to_owned(), "here".to_owned()];
    header.extend(Testbed::ALL.map(|testbed| testbed.name().to_owned()));
    let mut first = vec!["unit and host-run tests".to_owned()];
    first.push(match units {
        Tally { failed: 0, skipped: 0, passed } => format!("{passed} passed"),
        Tally { failed: 0, skipped, passed } => format!("{passed} passed, {skipped} skipped"),
        Tally { failed, .. } => format!("{failed} FAILED"),
    });
    let mut rows = vec![header, first];
    for ((title, _), row) in VARIANTS.iter().zip(boots) {
        let mut cells = vec![(*title).to_owned(), String::new()];
        for (testbed, ended) in Testbed::ALL.iter().zip(row) {
            cells.push(match ended {
                Ended::Passed => {
                    total.passed += 1;
                    "passed".into()
                }
                Ended::Failed(why) => {
                    total.failed += 1;
                    failures.push(format!("{title} on {testbed}: {why}"));
                    "FAILED".into()
                }
                Ended::Skipped(why) => {
                    total.skipped += 1;
                    skips.insert(format!("{testbed}: skipped, because {why}"));
                    "skipped".into()
                }
            });
        }
        rows.push(cells);
    }
    println!();
    ui::table(&rows);
    println!();
    skips.iter().for_each(|line| println!("  {line}"));
    print_notes(notes);
    failures.iter().for_each(|line| println!("  FAILED: {line}"));
    total
}

/// Why tests skipped themselves, grouped by the reason.
fn print_notes(notes: &BTreeSet<String>) {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for note in notes {
        let (test, why) = note.split_once(": ").unwrap_or((note, "it does not say why"));
        reasons.entry(why).or_default().push(test);
    }
    for (why, tests) in reasons {
        println!("  here: {} skipped, because {why}: {}", tests.len(), tests.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_test_programs_are_counted() {
        let counts =
            result_counts("FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.97s");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (12, 3, 1));
        let counts = result_counts("ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (7, 0, 0));
    }
}
