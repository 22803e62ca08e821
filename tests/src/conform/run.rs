//! Boots the suite on one hypervisor and collects what the guest reports, whatever the hypervisor does: hang, crash, talk
//! rubbish, flood. Every wait, line and byte has its bound.

use crate::conform::WORD;
use crate::conform::catalogue::{Entry, Pattern};
use crate::conform::hostile;
use crate::conform::outcome::{CheckResult, Outcome, State, TestbedResult};
use crate::conform::outside::{self, Granter};
use crate::conform::profile::{Ends, Profile};
use crate::conform::start::{self, Prepared, Setting, shown};
use crate::console::{Console, Event};
use crate::machine::run_folder;
use crate::running::Running;
use anyhow::{Result, anyhow};
use shared_abi::checks::hostile::GROUP;
use shared_abi::report::{self, Kind, Report};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A console that says more is ended.
pub const LINES_MAX: usize = 50_000;
/// Likewise, in bytes.
pub const BYTES_MAX: usize = 16 << 20;
/// From the guest's last line to the end of the process.
pub(super) const END_MAX: Duration = Duration::from_secs(20);
/// From the end of the process to the last lines that it wrote.
pub(super) const LAST_LINES_MAX: Duration = Duration::from_secs(2);
/// How often we look whether we are to stop.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Console lines kept for the report of a failure.
const TAIL: usize = 30;
/// Problems that are worth telling; more are counted.
const PROBLEMS_MAX: usize = 20;
/// A value's characters that are kept.
const VALUE_MAX: usize = 1000;

/// Runs the checks on a profile's hypervisor. Everything that goes wrong is in the result.
pub fn run(
    profile: &Profile,
    setting: &Setting,
    catalogue: &[Entry],
    only: &[Pattern],
    interrupted: &AtomicBool,
) -> TestbedResult {
    run_with(profile, setting, catalogue, only, "", interrupted)
}

/// The same with more words for the kernel.
pub fn run_with(
    profile: &Profile,
    setting: &Setting,
    catalogue: &[Entry],
    only: &[Pattern],
    more: &str,
    interrupted: &AtomicBool,
) -> TestbedResult {
    let started = Instant::now();
    let mut result = TestbedResult::absent(&profile.name, &profile.title, State::Ran);
    result.untested.clone_from(&profile.untested);
    match start::available(profile, setting) {
        Err(why) => result.state = State::Skipped(shown(&format!("{why:#}"))),
        Ok(program) => {
            let mut follower = Follower::new(profile, catalogue, result);
            let asked = |entry: &&Entry| only.is_empty() || only.iter().any(|pattern| pattern.matches(&entry.name));
            let (apart, together): (Vec<&Entry>, Vec<&Entry>) =
                catalogue.iter().filter(asked).partition(|entry| entry.group() == GROUP);
            let started = if together.is_empty() {
                follower.through = Some(0);
                Ok(())
            } else {
                boot(profile, setting, &program, &format!("{} {more}", word(only)), &mut follower, interrupted)
            };
            if let Err(error) = started {
                follower.ended_badly(format!("cannot be started: {error:#}"));
            }
            // A hypervisor on which no check ran at all would fail them one by one.
            if follower.through.is_some() || !follower.result.checks.is_empty() {
                let hostile = hostile::run_all(profile, setting, &program, &apart, interrupted);
                follower.apart = hostile.len();
                follower.result.checks.extend(hostile);
            }
            result = follower.conclude(only);
        }
    }
    result.seconds = started.elapsed().as_secs_f64();
    result
}

fn boot(
    profile: &Profile,
    setting: &Setting,
    program: &Path,
    cmdline: &str,
    follower: &mut Follower<'_>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let folder = run_folder(&setting.base)?;
    let mut words = cmdline.trim_end().to_owned();
    if let Some(outside) = &profile.outside {
        words = format!("{words} {}", outside::word(outside));
        follower.granter = Some(Granter::new(outside, folder.path(), profile.memory_mib << 20));
    }
    let prepared = start::prepare(profile, setting, program, folder.path(), &words)?;
    let stderr = watch(prepared, |running| follower.follow(running, interrupted))?;
    let lines = stderr.lines().map(shown).filter(|line| !line.trim().is_empty());
    follower.result.stderr = lines.collect::<VecDeque<_>>().into_iter().rev().take(TAIL).collect();
    follower.result.stderr.reverse();
    Ok(())
}

/// Starts a program, lets `follow` read its serial line, and ends it; what it wrote to its error output.
///
/// # Errors
/// When it cannot be started.
pub(super) fn watch(prepared: Prepared, follow: impl FnOnce(&mut Running)) -> Result<String> {
    let Prepared { command, station: _station, pipe } = prepared;
    let mut running = Running::spawn(command)?;
    if let Some(pipe) = &pipe {
        let talk = std::mem::replace(&mut running.console, Console::new(Pipe::Closed(pipe.clone())));
        thread::spawn(move || drain(talk));
    }
    follow(&mut running);
    let stderr = running.stderr();
    if let Some(pipe) = &pipe {
        // The reader may still wait for somebody to open the other end.
        drop(OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe));
    }
    Ok(stderr)
}

/// The guest's word for the checks that are asked for.
pub fn word(only: &[Pattern]) -> String {
    if only.is_empty() {
        return WORD.into();
    }
    format!("{WORD}={}", only.iter().map(Pattern::text).collect::<Vec<_>>().join(","))
}

/// What a program says beside the serial line must be read, or it would wait.
fn drain(mut talk: Console) {
    while talk.next(Duration::from_secs(60)) != Event::Closed {}
}

/// A named pipe; opening it waits for the writer, so that is done by the thread that reads.
enum Pipe {
    Closed(PathBuf),
    Open(File),
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Closed(path) = self {
            *self = Self::Open(File::open(path)?);
        }
        match self {
            Self::Open(file) => file.read(buffer),
            Self::Closed(_) => Ok(0),
        }
    }
}

/// What a line says about a check; `None` while it only says that it is about to begin.
pub(super) fn result_of(report: &Report<'_>) -> Option<CheckResult> {
    let outcome = match report.outcome {
        report::Outcome::Success => Outcome::Pass,
        report::Outcome::Skip => Outcome::Skip,
        report::Outcome::Failure => Outcome::Fail,
        report::Outcome::Error => Outcome::Error,
        report::Outcome::Waiting => return None,
    };
    let cut = |value: report::Value<'_>| value.to_string().chars().take(VALUE_MAX).collect();
    let evidence = report.fields().map(|(key, value)| (shown(key), cut(value))).collect();
    Some(CheckResult { name: report.name.to_owned(), outcome, evidence, reported: true, known: None })
}

struct Follower<'a> {
    profile: &'a Profile,
    catalogue: &'a [Entry],
    result: TestbedResult,
    tail: VecDeque<String>,
    more_problems: usize,
    /// How the run ended, if that was wrong: told before all other problems, and always.
    bad_end: Option<String>,
    /// The guest's count of checks in its last line, once it is there.
    through: Option<u64>,
    /// Who grants wishes, if anybody.
    granter: Option<Granter>,
    /// Why a wish of the check that runs could not be granted.
    ungranted: Option<String>,
    /// How many checks are from machines of their own.
    apart: usize,
}

impl<'a> Follower<'a> {
    fn new(profile: &'a Profile, catalogue: &'a [Entry], result: TestbedResult) -> Self {
        Self {
            profile,
            catalogue,
            result,
            tail: VecDeque::new(),
            more_problems: 0,
            bad_end: None,
            through: None,
            granter: None,
            ungranted: None,
            apart: 0,
        }
    }

    fn problem(&mut self, text: String) {
        if self.result.problems.len() < PROBLEMS_MAX {
            self.result.problems.push(shown(&text));
        } else {
            self.more_problems += 1;
        }
    }

    fn ended_badly(&mut self, how: String) {
        self.bad_end = Some(shown(&how));
    }

    fn follow(&mut self, running: &mut Running, interrupted: &AtomicBool) {
        let deadline = Instant::now() + self.profile.timeout();
        let (mut lines, mut bytes) = (0_usize, 0_usize);
        let (mut ended_at, mut gone_at) = (None::<Instant>, None::<Instant>);
        loop {
            match running.console.next(TICK) {
                Event::Line(line) => {
                    lines += 1;
                    bytes += line.len();
                    if lines > LINES_MAX || bytes > BYTES_MAX {
                        return self.ended_badly(format!(
                            "it flooded the console: ended after {lines} lines, {} KiB",
                            bytes >> 10
                        ));
                    }
                    self.line(&line);
                    if self.through.is_some() && ended_at.is_none() {
                        ended_at = Some(Instant::now());
                    }
                }
                Event::Closed => break,
                // Somebody else may hold the console open when the program itself is gone; but the last lines come first.
                Event::Quiet if running.ended().is_some() => {
                    if gone_at.get_or_insert_with(Instant::now).elapsed() >= LAST_LINES_MAX {
                        break;
                    }
                }
                Event::Quiet if self.through.is_some() && self.profile.ends == Ends::Stays => return,
                Event::Quiet => {}
            }
            if interrupted.load(Ordering::Relaxed) {
                return self.ended_badly("interrupted".into());
            }
            if ended_at.is_some_and(|at| at.elapsed() >= END_MAX) {
                let seconds = END_MAX.as_secs();
                return self
                    .ended_badly(format!("the guest was through, but the machine did not end within {seconds} s"));
            }
            if Instant::now() >= deadline {
                let seconds = self.profile.timeout_seconds;
                let last = self.result.checks.last().map(|check| format!(", after {}", check.name));
                let last = last.unwrap_or_else(|| ", before any check".into());
                return self.ended_badly(format!("it hung: no end within {seconds} s{last}"));
            }
        }
        self.end(running);
    }

    /// The console is closed.
    fn end(&mut self, running: &mut Running) {
        let status = running.wait(END_MAX);
        if self.through.is_none() {
            let how = match &status {
                Ok(status) => format!("{status}"),
                Err(error) => format!("console closed; {error:#}"),
            };
            let last = self.result.checks.last().map(|check| format!("after {}", check.name));
            let last = last.unwrap_or_else(|| "before any check".into());
            return self.ended_badly(format!("it ended {last}, without the guest's last line ({how})"));
        }
        match status {
            Ok(status) if self.profile.ends == Ends::Exits && !status.success() => {
                self.ended_badly(format!("the program ended with {status}"));
            }
            Err(error) if self.profile.ends != Ends::Stays => self.ended_badly(format!("the program: {error:#}")),
            _ => {}
        }
    }

    fn line(&mut self, line: &str) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(shown(line));
        if let Some(granter) = &mut self.granter {
            granter.listen();
        }
        match report::parse(line) {
            Ok(Some(report)) if report.kind == Kind::Want => {
                let granted = match &mut self.granter {
                    Some(granter) => granter.grant(&report),
                    None => Err(anyhow!("the profile has no [outside]")),
                };
                if let Err(error) = granted {
                    let why = format!("outside: {}: {error:#}", report.name);
                    self.problem(why.clone());
                    self.ungranted.get_or_insert(why);
                }
            }
            Ok(Some(report)) if report.kind == Kind::Check => self.check(&report),
            Ok(Some(report)) if report.kind == Kind::Boot && report.name == WORD => {
                self.through = Some(report.field("ran").and_then(|ran| ran.number()).unwrap_or(0));
                let ran = report.field("ran").and_then(|ran| ran.number());
                if ran.is_none() {
                    self.problem(format!("the guest's last line has no ran=: {line:?}"));
                }
            }
            Ok(_) => {}
            // Whatever starts with @ and is not ours may be the hypervisor's or its firmware's.
            Err(error) if line.starts_with(Kind::Check.word()) => self.problem(format!("{error}: {line:?}")),
            Err(_) => {}
        }
    }

    fn check(&mut self, report: &Report<'_>) {
        let ungranted = self.ungranted.take();
        let Some(mut result) = result_of(report) else { return };
        if ungranted.is_some() && result.outcome == Outcome::Fail {
            // It says nothing about the machine.
            result.outcome = Outcome::Error;
        }
        let known = self.catalogue.iter().any(|entry| entry.name == report.name);
        if !known {
            return self.problem(format!("the catalogue has no check {:?}", report.name));
        }
        if self.result.check(report.name).is_some() {
            return self.problem(format!("{} was reported twice", report.name));
        }
        result.evidence.extend(ungranted.map(|why| ("not granted".into(), shown(&why))));
        self.result.checks.push(result);
    }

    /// Adds what was not said, and the reasons of known defects.
    fn conclude(mut self, only: &[Pattern]) -> TestbedResult {
        let said = (self.result.checks.len() - self.apart) as u64;
        if let Some(ran) = self.through
            && ran != said
        {
            self.problem(format!("the guest counts {ran} checks, {said} have arrived"));
        }
        let why = if self.through.is_some() { "the guest said nothing about it" } else { "the run ended before it" };
        for entry in self.catalogue {
            let asked = only.is_empty() || only.iter().any(|pattern| pattern.matches(&entry.name));
            if asked && self.result.check(&entry.name).is_none() {
                self.result.checks.push(CheckResult {
                    name: entry.name.clone(),
                    outcome: Outcome::Error,
                    evidence: vec![("why".into(), why.into())],
                    reported: false,
                    known: None,
                });
            }
        }
        for (pattern, reason) in self.profile.defects().unwrap_or_default() {
            for check in self.result.checks.iter_mut().filter(|check| pattern.matches(&check.name)) {
                check.known.get_or_insert_with(|| reason.to_owned());
            }
        }
        if self.through.is_some() && only.is_empty() {
            self.look_for_what_is_offered();
        }
        if let Some(how) = self.bad_end.take() {
            self.result.problems.insert(0, how);
        }
        if self.more_problems > 0 {
            self.result.problems.push(format!("and {} problems more", self.more_problems));
        }
        if !self.result.succeeded() {
            self.result.tail = self.tail.into();
        } else {
            self.result.stderr.clear();
        }
        self.result
    }

    /// A device that has vanished would skip all its checks, and look fine.
    fn look_for_what_is_offered(&mut self) {
        for group in &self.profile.offers {
            let counts = self.result.counts(Some(group));
            let total: usize = counts.parts().map(|(count, _)| count).sum();
            if total == 0 {
                self.problem(format!("the profile offers {group:?}, which is no group of checks"));
            } else if counts.skip == total {
                self.problem(format!("the profile offers {group}, but all of its {total} checks skipped themselves"));
            }
        }
    }
}
