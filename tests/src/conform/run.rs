//! Boots the suite on one hypervisor and collects what the guest reports, whatever the hypervisor does: hang, crash, talk
//! rubbish, flood. Every wait, line and byte has its bound.

use crate::conform::WORD;
use crate::conform::catalogue::{Entry, Pattern};
use crate::conform::follow::Follower;
use crate::conform::host_action::{self, Handler};
use crate::conform::hostile;
use crate::conform::logs::{self, Logs};
use crate::conform::outcome::{State, TestbedResult};
use crate::conform::profile::Profile;
use crate::conform::start::{self, Setting};
use crate::conform::version;
use crate::conform::watch::{TAIL, watch};
use crate::machine::run_folder;
use crate::readable::shown;
use anyhow::{Result, ensure};
use conformance::WITHOUT;
use conformance::hostile::GROUP;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Bytes of the guest's command line, less some for the hypervisor's own words.
const WORDS_MAX: usize = 1792;

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
            result.version = version::ask(&program, &profile.version_args);
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
    let left_out = profile.left_out(follower.result.version.as_ref())?;
    if !left_out.is_empty() {
        let patterns: Vec<&str> = left_out.iter().map(|(pattern, _)| pattern.text()).collect();
        words = format!("{words} {WITHOUT}={}", patterns.join(","));
    }
    if let Some(actions) = &profile.host_actions {
        words = format!("{words} {}", host_action::word(actions));
        follower.handler = Some(Handler::new(actions, folder.path(), profile.memory_mib << 20));
    }
    ensure!(
        words.len() < WORDS_MAX,
        "the guest's command line would have {} bytes, at most {} are taken: name fewer checks",
        words.len(),
        WORDS_MAX - 1
    );
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

/// The guest's word for the checks that are asked for.
pub fn word(only: &[Pattern]) -> String {
    if only.is_empty() {
        return WORD.into();
    }
    format!("{WORD}={}", only.iter().map(Pattern::text).collect::<Vec<_>>().join(","))
}
