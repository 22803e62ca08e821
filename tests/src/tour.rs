//! Follows a guest through the tour of [`shared_abi::tour`], does the other side's part, and judges each step by what
//! both sides say.

mod judge;
#[cfg(test)]
mod tests;

use crate::console::Event;
use crate::control::{Balloon, Control};
use crate::machine::Machine;
use crate::readable::readable;
use crate::running::Running;
use crate::sample::ExpectedFile;
use crate::testbed::Testbed;
use crate::web::{self, Page};
use anyhow::{Context, Result, anyhow, ensure};
use inner_init::ENDED;
use judge::number;
use shared_abi::report::{self, Kind, Outcome, Report};
use shared_abi::tour::{DEFLATE, FILE, INFLATE, PATIENCE_SECONDS, SECTORS, STEPS, WEB};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A guest that says nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The whole tour takes at most this long.
const TOUR_MAX: Duration = Duration::from_secs(300);
/// From the last line to the end of the process.
const END_MAX: Duration = Duration::from_secs(20);
/// How often we look whether we are to stop.
const TICK: Duration = Duration::from_millis(100);
/// Console lines kept for the report of a failure.
const TAIL: usize = 40;

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Both sides agree.
    Passed,
    /// Does not apply.
    Skipped,
    /// Something is wrong.
    Failed,
    /// The guest said nothing about it.
    Missing,
}

/// A step of the tour and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// One of [`STEPS`].
    pub name: &'static str,
    /// How it went.
    pub state: State,
    /// Numbers, or what is wrong.
    pub detail: String,
}

/// What we know of the disk.
#[derive(Clone, Debug)]
pub enum DiskKnowledge {
    /// It is a copy of the sample disk.
    Sample {
        /// What the guest must read.
        file: ExpectedFile,
        /// The original: the copy must equal it in the end.
        original: PathBuf,
    },
    /// It is the user's: it may lack what the tour reads, and may be read-only.
    Users,
}

/// Receives the steps of the tour, to show them.
pub trait Watcher {
    /// A console line that is no step of the tour.
    fn line(&mut self, line: &str);
    /// Something that our side does now.
    fn action(&mut self, text: &str);
    /// A step has ended.
    fn step(&mut self, step: &Step);
}

/// A watcher that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Watcher for Silent {
    fn line(&mut self, _: &str) {}
    fn action(&mut self, _: &str) {}
    fn step(&mut self, _: &Step) {}
}

/// How the tour went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// All steps, in the tour's order.
    pub steps: Vec<Step>,
    /// What went wrong outside of steps.
    pub problems: Vec<String>,
    /// The last console lines.
    pub tail: Vec<String>,
    /// What the host side wrote to its error output.
    pub stderr: String,
}

impl Verdict {
    /// Whether every step passed (or does not apply) and nothing else went wrong.
    pub fn succeeded(&self) -> bool {
        let good = |step: &Step| matches!(step.state, State::Passed | State::Skipped);
        self.problems.is_empty() && self.steps.iter().all(good)
    }

    /// What went wrong, in one line.
    pub fn complaint(&self) -> String {
        let mut parts = self.problems.clone();
        let failed = self.steps.iter().filter(|step| step.state == State::Failed);
        parts.extend(failed.map(|step| format!("step {} failed: {}", step.name, step.detail)));
        let missing = self.steps.iter().filter(|step| step.state == State::Missing).map(|step| step.name);
        let missing: Vec<&str> = missing.collect();
        if !missing.is_empty() {
            parts.push(format!("no word of {}", missing.join(", ")));
        }
        parts.join("; ")
    }
}

/// Boots a machine and follows it to its end.
///
/// # Errors
/// When it cannot be started. Everything later is in the verdict.
pub fn run(
    machine: &Machine,
    disk: &DiskKnowledge,
    watcher: &mut dyn Watcher,
    interrupted: &AtomicBool,
) -> Result<Verdict> {
    Ok(follow(machine, machine.start()?, disk, watcher, interrupted))
}

/// Follows a machine that has been started, by its own command or one like it.
pub fn follow(
    machine: &Machine,
    mut running: Running,
    disk: &DiskKnowledge,
    watcher: &mut dyn Watcher,
    interrupted: &AtomicBool,
) -> Verdict {
    let mut guide = Guide::new(machine, disk, watcher);
    guide.follow(&mut running, interrupted);
    guide.conclude(&mut running);
    guide.verdict(running.stderr())
}

struct Guide<'a> {
    machine: &'a Machine,
    disk: &'a DiskKnowledge,
    watcher: &'a mut dyn Watcher,
    control: Option<Control>,
    steps: Vec<Step>,
    problems: Vec<String>,
    tail: VecDeque<String>,
    world: String,
    page: Option<Result<Page>>,
    balloon: Option<(u64, Result<Balloon>)>,
    /// How the host program inside of the testbed ended.
    inner_end: Option<String>,
}

impl<'a> Guide<'a> {
    fn new(machine: &'a Machine, disk: &'a DiskKnowledge, watcher: &'a mut dyn Watcher) -> Self {
        Self {
            machine,
            disk,
            watcher,
            control: None,
            steps: Vec::new(),
            problems: Vec::new(),
            tail: VecDeque::new(),
            world: String::new(),
            page: None,
            balloon: None,
            inner_end: None,
        }
    }

    fn follow(&mut self, running: &mut Running, interrupted: &AtomicBool) {
        let deadline = Instant::now() + TOUR_MAX;
        loop {
            match running.console.next(TICK) {
                Event::Line(line) => {
                    self.line(&line);
                    // What we did ourselves for a step is no silence of the guest's.
                    running.console.forgive();
                }
                Event::Closed => return,
                Event::Quiet => {}
            }
            let next = self.next_step();
            if interrupted.load(Ordering::Relaxed) {
                return self.problems.push(format!("interrupted before step {next}"));
            }
            if running.console.silence() >= SILENCE_MAX {
                let seconds = SILENCE_MAX.as_secs();
                return self.problems.push(format!("the guest said nothing for {seconds} s, before step {next}"));
            }
            if Instant::now() >= deadline {
                let seconds = TOUR_MAX.as_secs();
                return self.problems.push(format!("the tour did not end within {seconds} s; next was step {next}"));
            }
        }
    }

    fn next_step(&self) -> &'static str {
        STEPS.into_iter().find(|name| self.steps.iter().all(|step| step.name != *name)).unwrap_or("the end")
    }

    fn line(&mut self, line: &str) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
        if let (Testbed::HostInTcg, Some(end)) = (self.machine.testbed, line.strip_prefix(ENDED)) {
            self.inner_end = Some(end.to_owned());
        }
        match report::parse(line) {
            Ok(Some(report)) if report.kind == Kind::Tour => self.report(&report),
            Ok(Some(report)) => {
                self.watcher.line(&readable(line));
                if report.kind == Kind::Check && matches!(report.outcome, Outcome::Failure | Outcome::Error) {
                    self.problems.push(format!("check {} failed: {}", report.name, why(&report)));
                }
            }
            Ok(None) => self.watcher.line(line),
            Err(error) => {
                self.watcher.line(&readable(line));
                self.problems.push(format!("{error}: {line:?}"));
            }
        }
    }

    fn report(&mut self, report: &Report<'_>) {
        let Some(name) = STEPS.into_iter().find(|name| *name == report.name) else {
            return self.problems.push(format!("the tour has no step {:?}", report.name));
        };
        let (state, detail) = match report.outcome {
            Outcome::Waiting => return self.help(name, report),
            Outcome::Success => match self.judge(name, report) {
                Ok(detail) => (State::Passed, detail),
                Err(error) => (State::Failed, format!("{error:#}")),
            },
            // Only a user's disk may lack something.
            Outcome::Skip if matches!(self.disk, DiskKnowledge::Users) && [FILE, SECTORS].contains(&name) => {
                (State::Skipped, why(report))
            }
            Outcome::Skip => (State::Failed, format!("the guest skipped it: {}", why(report))),
            Outcome::Error | Outcome::Advice | Outcome::Failure => (State::Failed, self.blame(name, report)),
        };
        let step = Step { name, state, detail };
        self.watcher.step(&step);
        self.steps.retain(|old| old.name != name);
        self.steps.push(step);
    }

    /// What the guest says went wrong, and what our side knows of it.
    fn blame(&self, name: &str, report: &Report<'_>) -> String {
        let ours = match name {
            WEB => self.page.as_ref().and_then(|page| page.as_ref().err()),
            INFLATE | DEFLATE => self.balloon.as_ref().and_then(|(_, reached)| reached.as_ref().err()),
            _ => None,
        };
        let theirs = why(report);
        ours.map_or(theirs.clone(), |ours| format!("{theirs}; our side: {ours:#}"))
    }

    /// Does our part of a step.
    fn help(&mut self, name: &'static str, report: &Report<'_>) {
        let patience = Duration::from_secs(PATIENCE_SECONDS - 5);
        match name {
            WEB => {
                let port = self.machine.publish.host;
                self.watcher.action(&format!("fetching http://127.0.0.1:{port}/"));
                let asked = number(report, "port").and_then(|port| {
                    let published = self.machine.publish.guest;
                    ensure!(port == u64::from(published), "the guest serves port {port}, {published} is forwarded");
                    Ok(())
                });
                self.page = Some(asked.and_then(|()| web::fetch(port, patience)));
            }
            INFLATE | DEFLATE => {
                let pages = number(report, "pages");
                if let Ok(pages) = pages {
                    self.watcher.action(&format!("setting the host's balloon to {pages} pages ({} MiB)", pages >> 8));
                }
                let target = pages.as_ref().copied().unwrap_or_default();
                // The guest may switch the machine off soon after it has reached the target: read the host's side now.
                let reached = pages.and_then(|pages| {
                    let control = self.control()?;
                    control.set_balloon(pages)?;
                    control.settled_balloon(pages, patience)
                });
                self.balloon = Some((target, reached));
            }
            _ => self.problems.push(format!("step {name} was not expected")),
        }
    }

    fn control(&mut self) -> Result<&mut Control> {
        if self.control.is_none() {
            self.control = Some(self.machine.control()?);
        }
        self.control.as_mut().ok_or_else(|| anyhow!("no control socket"))
    }

    /// After the last line: the end of the process, and what is left on the disk.
    fn conclude(&mut self, running: &mut Running) {
        if self.problems.is_empty() {
            match running.wait(END_MAX) {
                Ok(status) if status.success() => {}
                Ok(status) => self.problems.push(format!("the machine ended with {status}")),
                Err(error) => self.problems.push(format!("the machine: {error:#}")),
            }
            // Its process is QEMU, which knows nothing of our host program's end.
            match (self.machine.testbed, &self.inner_end) {
                (Testbed::HostInTcg, None) => {
                    self.problems.push("the inner Linux did not run our host to its end".into())
                }
                (Testbed::HostInTcg, Some(end)) if end != "exit status: 0" => {
                    self.problems.push(format!("our host in the inner Linux ended with {end}"));
                }
                _ => {}
            }
        }
        running.stop();
        if let DiskKnowledge::Sample { original, .. } = self.disk
            && self.steps.iter().any(|step| step.name == SECTORS && step.state == State::Passed)
            && let Err(error) = same_content(&self.machine.disk.path, original)
        {
            self.problems.push(format!("{error:#}"));
        }
    }

    fn verdict(self, stderr: String) -> Verdict {
        let mut reported = self.steps;
        let steps = STEPS.map(|name| match reported.iter().position(|step| step.name == name) {
            Some(at) => reported.swap_remove(at),
            None => Step { name, state: State::Missing, detail: "the guest said nothing about it".into() },
        });
        Verdict { steps: steps.into(), problems: self.problems, tail: self.tail.into(), stderr }
    }
}

fn same_content(copy: &std::path::Path, original: &std::path::Path) -> Result<()> {
    let read = |path| std::fs::read(path).with_context(|| format!("cannot read the disk {path:?} back"));
    let (copy, original) = (read(copy)?, read(original)?);
    ensure!(copy.len() == original.len(), "the disk has {} bytes in the end, not {}", copy.len(), original.len());
    let differing = copy.chunks(512).zip(original.chunks(512)).filter(|(a, b)| a != b).count();
    ensure!(differing == 0, "{differing} sectors of the disk were not restored");
    Ok(())
}

fn why(report: &Report<'_>) -> String {
    report.field("why").map_or("the guest does not say why".into(), |value| value.to_string())
}
