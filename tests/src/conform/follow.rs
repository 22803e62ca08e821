//! Follows the guest of one run line by line: what it says of checks, what it requests, how it ends.

use crate::conform::WORD;
use crate::conform::catalogue::{Entry, Pattern};
use crate::conform::host_action::Handler;
use crate::conform::outcome::{CheckResult, Outcome, TestbedResult};
use crate::conform::profile::{Ends, Profile};
use crate::conform::start::{Progress, Step};
use crate::conform::watch::{BYTES_MAX, END_MAX, LAST_LINES_MAX, LINES_MAX, Since, TAIL, TICK, result_of};
use crate::console::Event;
use crate::readable::readable;
use crate::readable::shown;
use crate::running::Running;
use anyhow::anyhow;
use shared_abi::report::{self, Kind, Report};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Problems that are worth telling; more are counted.
const PROBLEMS_MAX: usize = 20;
/// What to check when not even the first check reported.
const HINT: &str = "the guest has to be started by its PVH entry, and speaks through a 16550 at port 0x3f8, whose output \
                    the profile's serial has to bring here";

pub(super) struct Follower<'a> {
    profile: &'a Profile,
    catalogue: &'a [Entry],
    pub(super) only: &'a [Pattern],
    progress: &'a Progress,
    pub(super) result: TestbedResult,
    /// All that it said, for the log.
    pub(super) console: String,
    tail: VecDeque<String>,
    more_problems: usize,
    /// How the run ended, if that was wrong: reported before all other problems, and always.
    bad_end: Option<String>,
    /// The guest's count of checks in its last line, once it is there.
    pub(super) through: Option<u64>,
    /// Carries out host actions, where the profile has any.
    pub(super) handler: Option<Handler>,
    /// Why a request of the running check failed.
    failed_request: Option<String>,
    /// How many checks are from machines of their own.
    pub(super) apart: usize,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        profile: &'a Profile,
        catalogue: &'a [Entry],
        only: &'a [Pattern],
        progress: &'a Progress,
        result: TestbedResult,
    ) -> Self {
        Self {
            profile,
            catalogue,
            only,
            progress,
            result,
            console: String::new(),
            tail: VecDeque::new(),
            more_problems: 0,
            bad_end: None,
            through: None,
            handler: None,
            failed_request: None,
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

    pub(super) fn ended_badly(&mut self, how: String) {
        self.bad_end = Some(shown(&how));
    }

    pub(super) fn follow(&mut self, running: &mut Running, interrupted: &AtomicBool) {
        let deadline = Instant::now() + self.profile.timeout();
        let (mut lines, mut bytes) = (0_usize, 0_usize);
        let mut since = Since::default();
        loop {
            let event = running.console.next(TICK);
            match &event {
                Event::Line(line) => {
                    lines += 1;
                    bytes += line.len();
                    if lines > LINES_MAX || bytes > BYTES_MAX {
                        return self.ended_badly(format!(
                            "it flooded the console: ended after {lines} lines, {} KiB",
                            bytes >> 10
                        ));
                    }
                    self.line(line);
                }
                Event::Closed => break,
                Event::Quiet if self.through.is_some() && self.profile.ends == Ends::Stays => return,
                Event::Quiet => {}
            }
            if since.left(running, &event, self.through.is_some()) {
                break;
            }
            if interrupted.load(Ordering::Relaxed) {
                return self.ended_badly("interrupted".into());
            }
            let over = since.last_line(self.through.is_some());
            if self.profile.ends == Ends::Stays && over >= LAST_LINES_MAX {
                // It is ended by us, whatever it goes on saying.
                return;
            }
            if over >= END_MAX {
                let seconds = END_MAX.as_secs();
                return self
                    .ended_badly(format!("the guest was through, but the machine did not end within {seconds} s"));
            }
            if Instant::now() >= deadline {
                let seconds = self.profile.timeout_seconds;
                let last = self.result.checks.last().map(|check| format!(", after {}", check.name));
                let last = last.unwrap_or_else(|| format!(", before any check; {}", self.hint()));
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
            let (last, hint) = match self.result.checks.last() {
                Some(check) => (format!("after {}", check.name), String::new()),
                None => ("before any check".into(), format!("; {}", self.hint())),
            };
            return self.ended_badly(format!("it ended {last}, without the guest's last line ({how}){hint}"));
        }
        match status {
            Ok(status) if self.profile.ends == Ends::Exits && !status.success() => {
                self.ended_badly(format!("the program ended with {status}"));
            }
            Err(error) if self.profile.ends != Ends::Stays => self.ended_badly(format!("the program: {error:#}")),
            _ => {}
        }
    }

    /// What an author of a profile should look at.
    fn hint(&self) -> String {
        let heard =
            if self.console.trim().is_empty() { "nothing came from the serial port" } else { "no check reported" };
        format!("{heard}: {HINT}")
    }

    fn line(&mut self, line: &str) {
        self.console.push_str(line);
        self.console.push('\n');
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(shown(&readable(line)));
        self.progress.at(&self.profile.name, Step::Line(line));
        if let Some(handler) = &mut self.handler {
            handler.listen();
        }
        match report::parse(line) {
            Ok(Some(report)) if report.kind == Kind::Request => {
                let handled = match &mut self.handler {
                    Some(handler) => handler.handle(&report),
                    None => Err(anyhow!("the profile has no [host_actions]")),
                };
                if let Err(error) = handled {
                    let why = format!("host action {}: {error:#}", report.name);
                    self.problem(why.clone());
                    self.failed_request.get_or_insert(why);
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
        let failed_request = self.failed_request.take();
        let Some(mut result) = result_of(report) else { return };
        if failed_request.is_some() && matches!(result.outcome, Outcome::Fail | Outcome::Advice) {
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
        result.evidence.extend(failed_request.map(|why| ("host action".into(), shown(&why))));
        self.result.checks.push(result);
        let step = Step::Check { done: self.result.checks.len(), last: report.name };
        self.progress.at(&self.profile.name, step);
    }

    /// Adds what was not said, and the reasons of known defects.
    pub(super) fn conclude(mut self) -> TestbedResult {
        let only = self.only;
        let said = (self.result.checks.len() - self.apart) as u64;
        if let Some(ran) = self.through
            && ran != said
        {
            self.problem(format!("the guest counts {ran} checks, {said} have arrived"));
        }
        for (pattern, defect) in self.profile.left_out(self.result.version.as_ref()).unwrap_or_default() {
            for entry in self.catalogue.iter().filter(|entry| pattern.matches(&entry.name)) {
                let asked = only.is_empty() || only.iter().any(|pattern| pattern.matches(&entry.name));
                if asked && self.result.check(&entry.name).is_none() {
                    let evidence = vec![("why".into(), format!("left out: {}", defect.reason))];
                    let name = entry.name.clone();
                    let left_out = CheckResult { name, outcome: Outcome::Skip, evidence, reported: true, known: None };
                    self.result.checks.push(left_out);
                }
            }
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
        for (pattern, defect) in self.profile.defects(self.result.version.as_ref()).unwrap_or_default() {
            // A check that the hypervisor never came to shows no defect of it.
            let tried = |check: &&mut CheckResult| {
                check.reported && pattern.matches(&check.name) && defect.explains(check.outcome)
            };
            for check in self.result.checks.iter_mut().filter(tried) {
                check.known.get_or_insert_with(|| defect.reason.clone());
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
            if counts.skip == total && total > 0 {
                self.problem(format!("the profile offers {group}, but all of its {total} checks skipped themselves"));
            }
        }
    }
}
