//! The group `hostile`: each check in a virtual machine of its own, as many at a time as there are processors, and the
//! verdict where the guest cannot give one because it, or what it runs on, is gone.
//!
//! On host-kvm-in-tcg it is our host that starts anew for each check, inside of one Linux.

use crate::conform::WORD;
use crate::conform::catalogue::Entry;
use crate::conform::logs::{self, Logs};
use crate::conform::outcome::{CheckResult, Outcome};
use crate::conform::profile::{Ends, HOST_IN_TCG, Profile};
use crate::conform::start::{self, Setting};
use crate::conform::watch::{BYTES_MAX, END_MAX, LAST_LINES_MAX, LINES_MAX, Since, TICK, result_of, watch};
use crate::console::Event;
use crate::machine::run_folder;
use crate::readable::readable;
use crate::readable::shown;
use crate::running::Running;
use anyhow::Result;
use conformance::hostile::{GROUP, KEY};
use inner_init::{ENDED, PEAK, RUN, RUN_SECONDS_MAX};
use shared_abi::report::{self, Handling, Kind};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A machine with one check in it that says nothing for so long is gone.
const MACHINE_MAX: Duration = Duration::from_secs(RUN_SECONDS_MAX);
/// Console lines kept for a machine that is gone.
const TAIL: usize = 6;

/// Runs checks, each in a machine of its own; their results in the same order.
pub fn run_all(
    profile: &Profile,
    setting: &Setting,
    program: &Path,
    entries: &[&Entry],
    interrupted: &AtomicBool,
) -> Vec<CheckResult> {
    if entries.is_empty() {
        return Vec::new();
    }
    if let Some(reason) = &profile.without_hostile {
        return entries.iter().map(|entry| left_out(entry, reason)).collect();
    }
    if profile.program == HOST_IN_TCG {
        return in_one_linux(profile, setting, entries, interrupted);
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = entries.get(at) else { return };
            let result = GATE.pass(|| {
                if interrupted.load(Ordering::Relaxed) {
                    return untried_result(&entry.name, "interrupted");
                }
                one(profile, setting, program, entry, interrupted)
            });
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..processors().min(entries.len()) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn left_out(entry: &Entry, reason: &str) -> CheckResult {
    CheckResult {
        name: entry.name.clone(),
        outcome: Outcome::Skip,
        evidence: vec![("why".into(), reason.into())],
        reported: true,
        known: None,
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Lets in as many machines as there are processors, whichever testbed they are of.
struct Gate {
    inside: Mutex<usize>,
    left: Condvar,
}

static GATE: Gate = Gate { inside: Mutex::new(0), left: Condvar::new() };

impl Gate {
    fn pass<T>(&self, work: impl FnOnce() -> T) -> T {
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |inside: &mut usize| *inside >= processors();
        *self.left.wait_while(inside, full).unwrap_or_else(PoisonError::into_inner) += 1;
        let result = work();
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.left.notify_one();
        result
    }
}

/// The guest's word for a check.
fn word(name: &str) -> String {
    let name = name.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
    format!("{KEY}={name}")
}

fn one(profile: &Profile, setting: &Setting, program: &Path, entry: &Entry, interrupted: &AtomicBool) -> CheckResult {
    let mut case = Case::new(&entry.name);
    match boot(profile, setting, program, &mut case, interrupted) {
        Ok((end, peak)) => case.conclude(end, peak, profile),
        Err(error) => case.conclude(Err(format!("cannot be started: {error:#}")), None, profile),
    }
}

/// How a machine ended, and its peak memory.
type End = (std::result::Result<(), String>, Option<u64>);

fn boot(
    profile: &Profile,
    setting: &Setting,
    program: &Path,
    case: &mut Case,
    interrupted: &AtomicBool,
) -> Result<End> {
    let folder = run_folder(&setting.base)?;
    let logs = Logs::new(&setting.base, &profile.name, &case.name)?;
    let prepared = start::prepare(profile, setting, program, folder.path(), &word(&case.name), &logs)?;
    let command = logs::shell(&prepared.command);
    let mut end = (Ok(()), None);
    let stderr = watch(prepared, |running| end = follow(profile, running, case, interrupted))?;
    logs.keep(&command, &case.console, &stderr);
    case.machine = Some((command, logs.folder().display().to_string()));
    case.tail.extend(stderr.lines().rev().take(2).map(shown));
    Ok(end)
}

fn follow(profile: &Profile, running: &mut Running, case: &mut Case, interrupted: &AtomicBool) -> End {
    let patience = MACHINE_MAX.min(profile.timeout());
    let deadline = Instant::now() + patience;
    let (mut since, mut lines) = (Since::default(), Lines::default());
    loop {
        let event = running.console.next(TICK);
        match &event {
            Event::Line(line) => {
                if let Err(flood) = lines.count(line) {
                    return (Err(flood), None);
                }
                case.line(line);
            }
            Event::Closed => break,
            Event::Quiet if case.through && profile.ends == Ends::Stays => return (Ok(()), None),
            Event::Quiet => {}
        }
        if since.left(running, &event, case.through) {
            break;
        }
        // It is ended by us, whatever it goes on saying.
        if profile.ends == Ends::Stays && since.last_line(case.through) >= LAST_LINES_MAX {
            return (Ok(()), None);
        }
        if interrupted.load(Ordering::Relaxed) {
            return (Err("interrupted".into()), None);
        }
        if Instant::now() >= deadline {
            return (Err(format!("it says nothing any more: no end within {} s", patience.as_secs())), None);
        }
    }
    let end = match running.wait(END_MAX) {
        Ok(status) if profile.ends == Ends::Exits && !status.success() => {
            // After the guest's clean last line a status shows the ending, a signal a crash.
            match (case.through, status.code()) {
                (true, Some(code)) => {
                    case.status = Some(code);
                    Ok(())
                }
                _ => Err(format!("the program ended with {status}")),
            }
        }
        Err(error) if profile.ends != Ends::Stays => Err(format!("the program: {error:#}")),
        _ => Ok(()),
    };
    (end, running.peak_memory())
}

/// Bounds what a console may say.
#[derive(Default)]
struct Lines {
    lines: usize,
    bytes: usize,
}

impl Lines {
    fn count(&mut self, line: &str) -> std::result::Result<(), String> {
        self.lines += 1;
        self.bytes += line.len();
        if self.lines > LINES_MAX || self.bytes > BYTES_MAX {
            return Err(format!("it flooded the console: ended after {} lines", self.lines));
        }
        Ok(())
    }
}

/// All checks with one start of the Linux.
fn in_one_linux(
    profile: &Profile,
    setting: &Setting,
    entries: &[&Entry],
    interrupted: &AtomicBool,
) -> Vec<CheckResult> {
    let mut runs = Runs { profile, entries, results: Vec::new(), case: None, peak: None };
    let started = GATE.pass(|| -> Result<String> {
        let folder = run_folder(&setting.base)?;
        let words: Vec<String> = entries.iter().map(|entry| word(&entry.name)).collect();
        let prepared = start::prepare_many(profile, setting, folder.path(), &words)?;
        let mut how = "the Linux ended".to_owned();
        watch(prepared, |running| how = runs.follow(running, interrupted))?;
        Ok(how)
    });
    let how = started.unwrap_or_else(|error| format!("cannot be started: {error:#}"));
    runs.conclude(&how)
}

/// The console of the Linux, run by run.
struct Runs<'a> {
    profile: &'a Profile,
    entries: &'a [&'a Entry],
    results: Vec<CheckResult>,
    case: Option<Case>,
    peak: Option<u64>,
}

impl Runs<'_> {
    /// Reads until its end; how it ended.
    fn follow(&mut self, running: &mut Running, interrupted: &AtomicBool) -> String {
        let deadline = Instant::now() + self.profile.timeout();
        let mut lines = Lines::default();
        loop {
            match running.console.next(TICK) {
                Event::Line(line) => {
                    if let Err(flood) = lines.count(&line) {
                        return flood;
                    }
                    self.line(&line);
                }
                Event::Closed => return "the Linux ended".into(),
                Event::Quiet if running.ended().is_some() => return "the Linux ended".into(),
                Event::Quiet => {}
            }
            if interrupted.load(Ordering::Relaxed) {
                return "interrupted".into();
            }
            if Instant::now() >= deadline {
                return format!("no end within {} s", self.profile.timeout_seconds);
            }
        }
    }

    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(cmdline) = line.strip_prefix(RUN) {
            let entry = self.entries.iter().find(|entry| word(&entry.name) == cmdline);
            self.case = entry.map(|entry| Case::new(&entry.name));
            self.peak = None;
        } else if let Some(peak) = line.strip_prefix(PEAK) {
            self.peak = peak.parse().ok();
        } else if let Some(status) = line.strip_prefix(ENDED) {
            if let Some(mut case) = self.case.take() {
                let code = status.strip_prefix("exit status: ").and_then(|code| code.parse::<i32>().ok());
                case.status = code.filter(|code| *code != 0 && case.through);
                let fine = code == Some(0) || case.status.is_some();
                let end = if fine { Ok(()) } else { Err(format!("the program ended with {status}")) };
                self.results.push(case.conclude(end, self.peak, self.profile));
            }
        } else if let Some(case) = &mut self.case {
            case.line(line);
        }
    }

    /// The run that was cut off, and those that never came.
    fn conclude(mut self, how: &str) -> Vec<CheckResult> {
        if let Some(case) = self.case.take() {
            self.results.push(case.conclude(Err(how.into()), None, self.profile));
        }
        let untried = |entry: &&&Entry| !self.results.iter().any(|result| result.name == entry.name);
        let untried: Vec<CheckResult> =
            self.entries.iter().filter(untried).map(|entry| untried_result(&entry.name, how)).collect();
        self.results.extend(untried);
        self.results
    }
}

fn untried_result(name: &str, how: &str) -> CheckResult {
    let why = format!("it was not tried: {}", shown(how));
    let evidence = vec![("why".into(), why)];
    CheckResult { name: name.into(), outcome: Outcome::Error, evidence, reported: false, known: None }
}

/// One check while its machine runs.
struct Case {
    name: String,
    /// The guest has said that the attack comes now.
    begun: bool,
    result: Option<CheckResult>,
    /// The guest has said its last line.
    through: bool,
    tail: VecDeque<String>,
    /// All that it said, for the log.
    console: String,
    /// The status of a program that ended with another one than 0 after the guest's last line.
    status: Option<i32>,
    /// The command that started its machine, and the folder of its logs.
    machine: Option<(String, String)>,
}

impl Case {
    fn new(name: &str) -> Self {
        let (tail, console) = (VecDeque::new(), String::new());
        Self {
            name: name.into(),
            begun: false,
            result: None,
            through: false,
            tail,
            console,
            status: None,
            machine: None,
        }
    }

    fn line(&mut self, line: &str) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.console.push_str(line);
        self.console.push('\n');
        self.tail.push_back(shown(&readable(line)));
        let Ok(Some(report)) = report::parse(line) else { return };
        match report.kind {
            Kind::Check if report.name == self.name => {
                self.begun = true;
                self.result = self.result.take().or(result_of(&report));
            }
            Kind::Boot if report.name == WORD => self.through = true,
            _ => {}
        }
    }

    fn conclude(mut self, end: std::result::Result<(), String>, peak: Option<u64>, profile: &Profile) -> CheckResult {
        let end =
            end.and_then(|()| if self.through { Ok(()) } else { Err("it ended without the guest's last line".into()) });
        let mut result = match (self.result.take(), end) {
            (Some(result), Ok(())) => result,
            (None, Ok(())) => return untried_result(&self.name, "the guest said nothing about it"),
            (None, Err(how)) if !self.begun => return self.with_tail(untried_result(&self.name, &how)),
            (_, Err(how)) => {
                let evidence = [
                    (Handling::FIELD, Handling::Crashed.word()),
                    ("why", "crashed"),
                    ("expected", "handled or rejected"),
                    ("saw", &shown(&how)),
                ];
                let evidence = evidence.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
                let name = self.name.clone();
                let crashed = CheckResult { name, outcome: Outcome::Fail, evidence, reported: true, known: None };
                self.with_tail(crashed)
            }
        };
        judge_memory(&mut result, peak, profile);
        if let Some(status) = self.status {
            result.evidence.push(("ended".into(), format!("with status {status}, after the guest's last line")));
        }
        if let (Some((command, logs)), true) = (self.machine, result.outcome.is_bad()) {
            result.evidence.extend([("command".into(), command), ("logs".into(), logs)]);
        }
        result
    }

    fn with_tail(&self, mut result: CheckResult) -> CheckResult {
        result.evidence.extend(self.tail.iter().map(|line| ("console".to_owned(), line.clone())));
        result
    }
}

/// What a guest sends must not make its host grow.
fn judge_memory(result: &mut CheckResult, peak: Option<u64>, profile: &Profile) {
    let Some(peak) = peak else { return };
    let peak = peak.div_ceil(1 << 20);
    result.evidence.push(("peak_mib".into(), peak.to_string()));
    let Some(overhead) = profile.overhead_mib else { return };
    let most = profile.memory_mib + overhead;
    if peak > most && result.outcome == Outcome::Pass {
        result.outcome = Outcome::Fail;
        result.evidence.push(("why".into(), "the host's memory is not bounded".into()));
        result.evidence.push(("expected".into(), format!("at most {most} MiB, the guest's and {overhead} more")));
        result.evidence.push(("saw".into(), format!("{peak} MiB")));
    }
}

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod tests;
