//! What has changed between two runs, by their results as JSON.

use anyhow::{Context, Result, ensure};
use ringside_tests::readable::shown;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Outcomes by testbed and check.
type Outcomes = BTreeMap<String, BTreeMap<String, String>>;

/// A run's results.
#[derive(Debug)]
pub struct Results {
    catalogue: String,
    outcomes: Outcomes,
    /// By testbed, the checks that were made to their end: neither skipped nor impossible nor never reached.
    ran: BTreeMap<String, BTreeSet<String>>,
    /// The testbeds that did not run: whether they were skipped or broken, and why.
    absent: BTreeMap<String, (String, String)>,
}

/// A check whose outcome is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub testbed: String,
    /// Its name.
    pub check: String,
    /// The outcome before; `-` where it did not run.
    pub before: String,
    /// The outcome now.
    pub after: String,
}

/// A larger file is no report of ours.
const FILE_MAX: u64 = 64 << 20;
/// What a check can come to (`ringside_tests::conform::outcome`).
const OUTCOMES: [&str; 5] = ["pass", "skip", "advice", "fail", "error"];

fn is_bad(outcome: &str) -> bool {
    matches!(outcome, "fail" | "error")
}

impl Change {
    /// Whether it is for the worse: a check fails, or cannot be made, that did and did not fail before.
    pub fn is_worse(&self) -> bool {
        is_bad(&self.after) && !is_bad(&self.before)
    }
}

impl Results {
    /// Reads what `--json` wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let told = || format!("cannot read {}", path.display());
        ensure!(fs::metadata(path).with_context(told)?.is_file(), "{} is no file", path.display());
        let mut text = String::new();
        File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text)).with_context(told)?;
        Self::parse(&text).with_context(|| format!("{} is no result of --json", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        ensure!(value["format"] == 1, "its format is {}, not 1", value["format"]);
        let text = |value: &Value| shown(value.as_str().unwrap_or_default());
        let (mut outcomes, mut ran, mut absent) = (Outcomes::new(), BTreeMap::new(), BTreeMap::new());
        for testbed in value["testbeds"].as_array().context("it has no testbeds")? {
            if testbed["state"].as_str().is_some_and(|state| state != "ran") {
                absent.insert(text(&testbed["name"]), (text(&testbed["state"]), text(&testbed["why"])));
            }
            let checks = testbed["checks"].as_array().context("a testbed has no checks")?.iter();
            for check in checks.clone() {
                let outcome = check["outcome"].as_str().unwrap_or_default();
                ensure!(OUTCOMES.contains(&outcome), "a check's outcome is {}", check["outcome"]);
            }
            let made = |check: &&Value| matches!(check["outcome"].as_str(), Some("pass" | "advice" | "fail"));
            let names = checks.clone().filter(made).map(|check| text(&check["name"])).collect();
            ran.insert(text(&testbed["name"]), names);
            let outcome = |check: &Value| match text(&check["outcome"]) {
                outcome if is_bad(&outcome) && !check["known"].is_null() => "known".into(),
                outcome => outcome,
            };
            let count = checks.len();
            let checks: BTreeMap<_, _> = checks.map(|check| (text(&check["name"]), outcome(check))).collect();
            ensure!(checks.len() == count, "a check of {} is there twice", testbed["name"]);
            ensure!(outcomes.insert(text(&testbed["name"]), checks).is_none(), "{} is there twice", testbed["name"]);
        }
        Ok(Self { catalogue: text(&value["catalogue_version"]), outcomes, ran, absent })
    }

    /// The testbeds that ran and in `after` did not: name, whether they are skipped or broken there, and why.
    pub fn ran_before<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        let absent = after.absent.iter().filter(|(name, _)| self.testbeds().any(|testbed| testbed == *name));
        absent.map(|(name, (state, why))| (name.as_str(), state.as_str(), why.as_str()))
    }

    /// The version of the catalogue that the run had.
    pub fn catalogue(&self) -> &str {
        &self.catalogue
    }

    /// The testbeds that ran, by name.
    pub fn testbeds(&self) -> impl Iterator<Item = &str> {
        let ran = |testbed: &&String| self.outcomes.get(*testbed).is_some_and(|checks| !checks.is_empty());
        self.outcomes.keys().filter(ran).map(String::as_str)
    }

    /// The checks that were made to their end on a testbed: neither skipped, nor impossible, nor never reached.
    pub fn ran(&self, testbed: &str) -> BTreeSet<String> {
        self.ran.get(testbed).cloned().unwrap_or_default()
    }

    /// Whether both runs had the same checks to choose from.
    pub fn has_catalogue_of(&self, other: &Self) -> bool {
        self.catalogue == other.catalogue
    }

    /// What is different in `after`, on the testbeds that ran in both.
    pub fn changes(&self, after: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (testbed, before) in &self.outcomes {
            if self.absent.contains_key(testbed) || after.absent.contains_key(testbed) {
                continue;
            }
            let Some(after) = after.outcomes.get(testbed) else { continue };
            let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
            names.sort();
            names.dedup();
            for check in names {
                let of =
                    |outcomes: &BTreeMap<String, String>| outcomes.get(check).cloned().unwrap_or_else(|| "-".into());
                let (before, after) = (of(before), of(after));
                if before != after {
                    changes.push(Change { testbed: testbed.clone(), check: check.clone(), before, after });
                }
            }
        }
        changes
    }

    /// The testbeds that only one of both has.
    pub fn alone<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let only = |a: &'a Self, b: &'a Self| a.outcomes.keys().filter(|name| !b.outcomes.contains_key(*name));
        only(self, other).chain(only(other, self)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(testbed: &str, checks: &[(&str, &str, bool)]) -> Results {
        let check = |(name, outcome, known): &(&str, &str, bool)| serde_json::json!({"name": name, "outcome": outcome, "known": known.then_some("a reason")});
        let checks: Vec<Value> = checks.iter().map(check).collect();
        let value = serde_json::json!({
            "format": 1, "catalogue_version": "1", "testbeds": [{"name": testbed, "checks": checks}]
        });
        Results::parse(&value.to_string()).unwrap()
    }

    #[test]
    fn changes_are_told_with_both_outcomes_and_only_news_are_worse() {
        let before =
            results("t", &[("a", "pass", false), ("b", "fail", false), ("c", "pass", false), ("d", "fail", true)]);
        let after =
            results("t", &[("a", "fail", false), ("b", "pass", false), ("d", "fail", false), ("e", "error", false)]);
        let changes = before.changes(&after);
        let told: Vec<_> = changes
            .iter()
            .map(|it| (it.check.as_str(), it.before.as_str(), it.after.as_str(), it.is_worse()))
            .collect();
        assert_eq!(
            told,
            [
                ("a", "pass", "fail", true),
                ("b", "fail", "pass", false),
                ("c", "pass", "-", false),
                ("d", "known", "fail", true),
                ("e", "-", "error", true)
            ]
        );
        assert!(before.changes(&before).is_empty());
    }

    #[test]
    fn testbeds_of_one_run_alone_are_named_and_compared_with_nothing() {
        let (one, other) = (results("a", &[("x", "pass", false)]), results("b", &[("x", "fail", false)]));
        assert!(one.changes(&other).is_empty());
        assert_eq!(one.alone(&other).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn other_files_are_refused() {
        let checks = |text: &str| format!(r#"{{"format": 1, "testbeds": [{{"name": "t", "checks": [{text}]}}]}}"#);
        assert!(Results::parse(&checks(r#"{"name": "a", "outcome": "pass"}"#)).is_ok());
        let crash = checks(r#"{"name": "a", "outcome": "crash"}"#);
        let twice = checks(r#"{"name": "a", "outcome": "fail"}, {"name": "a", "outcome": "pass"}"#);
        for text in [
            "",
            "{}",
            "[]",
            r#"{"format": 2, "testbeds": []}"#,
            r#"{"format": 1}"#,
            r#"{"format": 1, "testbeds": [7]}"#,
            r#"{"format": 1, "testbeds": [{"name": "t", "checks": "none"}]}"#,
            &crash,
            &twice,
        ] {
            assert!(Results::parse(text).is_err(), "{text}");
        }
    }
}
