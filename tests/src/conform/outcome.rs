//! What came of it: checks by testbed, counted by group, and whether that is a success.

use crate::conform::catalogue::{self, Entry};
use crate::conform::version::Printed;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As expected.
    Pass,
    /// Does not apply there.
    Skip,
    /// Not as a rule recommends that need not hold.
    Advice,
    /// Could not be tried, or was never reached.
    Error,
    /// Not as expected.
    Fail,
}

impl Outcome {
    /// A word for people and for the page's filter.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Advice => "advice",
            Self::Error => "error",
            Self::Fail => "fail",
        }
    }

    /// Whether it needs a reason to be left so.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Error | Self::Fail)
    }
}

/// A check on a testbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Group and name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The fields of the guest's line, in its order: why, expected, saw …
    pub evidence: Vec<(String, String)>,
    /// Whether the guest said it; else the run ended before, or the guest left it out.
    pub reported: bool,
    /// The reason of the known defect that lists it.
    pub known: Option<String>,
}

impl CheckResult {
    /// A field of the guest's line.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.evidence.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Went wrong, and is not listed.
    pub fn is_news(&self) -> bool {
        self.outcome.is_bad() && self.known.is_none()
    }

    /// Listed as a defect, and yet it passes.
    pub fn is_fixed(&self) -> bool {
        self.outcome == Outcome::Pass && self.known.is_some()
    }
}

/// What became of a testbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "why")]
pub enum State {
    /// It was started.
    Ran,
    /// It is not here, or cannot work here.
    Skipped(String),
    /// Its profile cannot be used.
    Broken(String),
}

/// A testbed and everything that was seen on it.
#[derive(Clone, Debug, Serialize)]
pub struct TestbedResult {
    /// The profile's name.
    pub name: String,
    /// The profile's title.
    pub title: String,
    /// What the program prints about its version.
    pub version: Option<Printed>,
    /// The profile was never run before by its author.
    pub untested: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub state: State,
    /// By name.
    pub checks: Vec<CheckResult>,
    /// What went wrong outside of checks; one is enough to fail.
    pub problems: Vec<String>,
    /// The last console lines, kept where something went wrong.
    pub tail: Vec<String>,
    /// What the program wrote to its error output, kept in the same case.
    pub stderr: Vec<String>,
    /// The command that started its machine, as a shell takes it.
    pub command: Option<String>,
    /// Where everything is that the program said.
    pub logs: Option<PathBuf>,
    /// How long it took.
    pub seconds: f64,
}

impl TestbedResult {
    /// One that did not run.
    pub fn absent(name: &str, title: &str, state: State) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            version: None,
            untested: None,
            state,
            checks: Vec::new(),
            problems: Vec::new(),
            tail: Vec::new(),
            stderr: Vec::new(),
            command: None,
            logs: None,
            seconds: 0.0,
        }
    }

    /// A check by name.
    pub fn check(&self, name: &str) -> Option<&CheckResult> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The counts of a group, or of everything.
    pub fn counts(&self, group: Option<&str>) -> Counts {
        let mut counts = Counts::default();
        let chosen =
            self.checks.iter().filter(|check| group.is_none_or(|group| catalogue::group(&check.name) == group));
        chosen.for_each(|check| counts.add(check));
        counts
    }

    /// Takes advice for a failure.
    pub fn make_strict(&mut self) {
        for check in self.checks.iter_mut().filter(|check| check.outcome == Outcome::Advice) {
            check.outcome = Outcome::Fail;
        }
    }

    /// Whether nothing went wrong that is not listed.
    pub fn succeeded(&self) -> bool {
        match self.state {
            State::Ran => self.problems.is_empty() && !self.checks.iter().any(CheckResult::is_news),
            State::Skipped(_) => true,
            State::Broken(_) => false,
        }
    }
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Passed.
    pub pass: usize,
    /// Skipped themselves.
    pub skip: usize,
    /// Not as recommended, unlisted.
    pub advice: usize,
    /// Failed, unlisted.
    pub fail: usize,
    /// Could not be tried, unlisted.
    pub error: usize,
    /// Failed, not as recommended or not tried, listed as known defects.
    pub known: usize,
}

impl Counts {
    fn add(&mut self, check: &CheckResult) {
        let count = match check.outcome {
            Outcome::Pass => &mut self.pass,
            Outcome::Skip => &mut self.skip,
            _ if check.known.is_some() => &mut self.known,
            Outcome::Advice => &mut self.advice,
            Outcome::Fail => &mut self.fail,
            Outcome::Error => &mut self.error,
        };
        *count += 1;
    }

    /// All of them with their words, those that are not zero.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &'static str)> + use<> {
        let all = [
            (self.pass, "pass"),
            (self.skip, "skip"),
            (self.advice, "advice"),
            (self.fail, "fail"),
            (self.error, "error"),
            (self.known, "known"),
        ];
        all.into_iter().filter(|(count, _)| *count > 0)
    }
}

/// A whole run of the suite.
#[derive(Clone, Debug, Serialize)]
pub struct Suite {
    /// The checks that were asked for.
    pub catalogue: Vec<Entry>,
    /// The testbeds, in the order of the columns.
    pub testbeds: Vec<TestbedResult>,
}

impl Suite {
    /// The groups of all checks, in the catalogue's order, those that only a guest named last.
    pub fn groups(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let listed = self.catalogue.iter().map(Entry::group);
        let reported = self.testbeds.iter().flat_map(|testbed| &testbed.checks);
        let reported = reported.map(|check| catalogue::group(&check.name));
        listed.chain(reported).filter(|group| seen.insert(*group)).collect()
    }

    /// What the catalogue says of a check.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.catalogue.iter().find(|entry| entry.name == name)
    }

    /// The testbeds that were started.
    pub fn ran(&self) -> impl Iterator<Item = &TestbedResult> {
        self.testbeds.iter().filter(|testbed| testbed.state == State::Ran)
    }

    /// Whether something ran, and nothing went wrong that is not listed.
    pub fn succeeded(&self) -> bool {
        self.ran().next().is_some() && self.testbeds.iter().all(TestbedResult::succeeded)
    }

    /// For programs.
    ///
    /// # Errors
    /// Those of the library.
    pub fn json(&self) -> serde_json::Result<String> {
        let mut value = serde_json::to_value(self)?;
        value["format"] = 1.into();
        value["catalogue_version"] = catalogue::version().into();
        value["succeeded"] = self.succeeded().into();
        let mut text = serde_json::to_string_pretty(&value)?;
        text.push('\n');
        Ok(text)
    }
}
