//! Boots the suite on one hypervisor and collects what the guest reports, whatever the hypervisor does: hang, crash, talk
//! rubbish, flood. Every wait, line and byte has its bound.

use crate::conform::WORD;
use crate::conform::catalogue::{Entry, Pattern};
use crate::conform::follow::Follower;
use crate::conform::hostile;
use crate::conform::logs::{self, Logs};
use crate::conform::outcome::{CheckResult, Outcome, State, TestbedResult};
use crate::conform::outside::{self, Granter};
use crate::conform::profile::Profile;
use crate::conform::start::{self, Prepared, Setting, shown};
use crate::console::{Console, Event};
use crate::machine::run_folder;
use crate::running::Running;
use anyhow::Result;
use shared_abi::checks::WITHOUT;
use shared_abi::checks::hostile::GROUP;
use shared_abi::report::{self, Report};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
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
pub(super) const TAIL: usize = 30;
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
            let mut follower = Follower::new(profile, catalogue, only, &setting.progress, result);
            let asked = |entry: &&Entry| only.is_empty() || only.iter().any(|pattern| pattern.matches(&entry.name));
            let (apart, together): (Vec<&Entry>, Vec<&Entry>) =
                catalogue.iter().filter(asked).partition(|entry| entry.group() == GROUP);
            let started = if together.is_empty() {
                follower.through = Some(0);
                Ok(())
            } else {
                boot(profile, setting, &program, more, &mut follower, interrupted)
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
            result = follower.conclude();
        }
    }
    result.seconds = started.elapsed().as_secs_f64();
    result
}

fn boot(
    profile: &Profile,
    setting: &Setting,
    program: &Path,
    more: &str,
    follower: &mut Follower<'_>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let folder = run_folder(&setting.base)?;
    let mut words = format!("{} {more}", word(follower.only)).trim_end().to_owned();
    if !profile.left_out.is_empty() {
        let patterns: Vec<&str> = profile.left_out.iter().map(|defect| defect.check.as_str()).collect();
        words = format!("{words} {WITHOUT}={}", patterns.join(","));
    }
    if let Some(outside) = &profile.outside {
        words = format!("{words} {}", outside::word(outside));
        follower.granter = Some(Granter::new(outside, folder.path(), profile.memory_mib << 20));
    }
    let logs = Logs::new(&setting.base, &profile.name, if more.is_empty() { WORD } else { more })?;
    let prepared = start::prepare(profile, setting, program, folder.path(), &words, &logs)?;
    let command = logs::shell(&prepared.command);
    let stderr = watch(prepared, |running| follower.follow(running, interrupted))?;
    logs.keep(&command, &follower.console, &stderr);
    follower.result.command = Some(command);
    follower.result.logs = Some(logs.folder().into());
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
    let Prepared { command, station: _station, pipe, stdio } = prepared;
    let mut running = Running::spawn_with(command, stdio)?;
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
        report::Outcome::Advice => Outcome::Advice,
        report::Outcome::Failure => Outcome::Fail,
        report::Outcome::Error => Outcome::Error,
        report::Outcome::Waiting => return None,
    };
    let cut = |value: report::Value<'_>| value.to_string().chars().take(VALUE_MAX).collect();
    let evidence = report.fields().map(|(key, value)| (shown(key), cut(value))).collect();
    Some(CheckResult { name: report.name.to_owned(), outcome, evidence, reported: true, known: None })
}
