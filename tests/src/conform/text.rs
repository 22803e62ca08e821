//! The matrix and what needs words, as plain text for the terminal.

use crate::conform::catalogue::{self, Entry};
use crate::conform::outcome::{CheckResult, Counts, Outcome, State, Suite, TestbedResult};

/// The rows of the matrix: groups down, the testbeds that were started across.
pub fn matrix(suite: &Suite) -> Vec<Vec<String>> {
    let ran: Vec<&TestbedResult> = suite.ran().collect();
    let row = |title: &str, group: Option<&str>| {
        let cells = ran.iter().map(|testbed| cell(testbed.counts(group)));
        std::iter::once(title.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let head = ran.iter().map(|testbed| testbed.name.clone());
    let mut rows = vec![std::iter::once("checks".to_owned()).chain(head).collect()];
    rows.extend(suite.groups().into_iter().map(|group| row(group, Some(group))));
    rows.push(row("all", None));
    rows
}

/// What was run: the catalogue, and what each testbed's program prints about its version.
pub fn versions(suite: &Suite) -> Vec<String> {
    let testbeds = suite.ran().map(|testbed| {
        let version = testbed.version.as_ref().map_or("of an unknown version", |printed| printed.line.as_str());
        format!("{}: {version}", testbed.name)
    });
    std::iter::once(format!("catalogue {}", catalogue::version())).chain(testbeds).collect()
}

/// As in `12 pass, 1 FAIL`.
pub fn cell(counts: Counts) -> String {
    let parts: Vec<String> = counts
        .parts()
        .map(|(count, word)| match word {
            "fail" | "error" => format!("{count} {}", word.to_uppercase()),
            _ => format!("{count} {word}"),
        })
        .collect();
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

/// Testbeds that were not started, and why.
pub fn absences(suite: &Suite) -> Vec<String> {
    let absent = suite.testbeds.iter().filter_map(|testbed| match &testbed.state {
        State::Ran => None,
        State::Skipped(why) => Some(format!("{}: skipped, because {why}", testbed.name)),
        State::Broken(why) => Some(format!("{}: BROKEN: {why}", testbed.name)),
    });
    absent.collect()
}

/// Everything that went wrong, testbed by testbed: problems, checks with their rules; then known defects, one line each.
pub fn failures(suite: &Suite) -> String {
    let mut out = String::new();
    for testbed in suite.ran() {
        for problem in &testbed.problems {
            out.push_str(&format!("PROBLEM on {}: {problem}\n", testbed.name));
        }
        let bad = testbed.checks.iter().filter(|check| check.is_news());
        let (told, unsaid): (Vec<_>, Vec<_>) = bad.partition(|check| check.reported);
        if !unsaid.is_empty() {
            let some: Vec<&str> = unsaid.iter().take(3).map(|check| check.name.as_str()).collect();
            let more = if unsaid.len() > some.len() { ", …" } else { "" };
            let why = unsaid[0].field("why").unwrap_or_default();
            out.push_str(&format!(
                "ERROR on {}: {} checks without a result, {why}: {}{more}\n",
                testbed.name,
                unsaid.len(),
                some.join(", ")
            ));
        }
        let any = !told.is_empty();
        for alike in by_reason(told) {
            match alike.as_slice() {
                [check] => describe(&mut out, testbed, check, suite.entry(&check.name)),
                checks => describe_all(&mut out, testbed, checks),
            }
        }
        if any || !testbed.problems.is_empty() {
            let command = testbed.command.iter().map(|command| ("the command line", command.clone()));
            let logs = testbed.logs.iter().map(|logs| ("the logs", format!("{}/", logs.display())));
            command.chain(logs).for_each(|(title, text)| out.push_str(&format!("      {title}: {text}\n")));
        }
        if !testbed.problems.is_empty() {
            block(&mut out, "the console's last lines", &testbed.tail);
        }
        if !testbed.succeeded() {
            block(&mut out, "the program's error output", &testbed.stderr);
        }
    }
    for testbed in suite.ran() {
        for check in testbed.checks.iter().filter(|check| check.outcome == Outcome::Advice && check.known.is_none()) {
            advise(&mut out, testbed, check, suite.entry(&check.name));
        }
    }
    for testbed in suite.ran() {
        let listed = |check: &&CheckResult| {
            check.known.is_some() && (check.outcome.is_bad() || check.outcome == Outcome::Advice)
        };
        for check in testbed.checks.iter().filter(listed) {
            let reason = check.known.as_deref().unwrap_or_default();
            out.push_str(&format!("known {} on {}: {reason}\n", check.name, testbed.name));
        }
    }
    for testbed in suite.ran() {
        for check in testbed.checks.iter().filter(|check| check.is_fixed()) {
            let reason = check.known.as_deref().unwrap_or_default();
            out.push_str(&format!(
                "fixed? {} on {} passes, and is listed as a known defect: {reason}\n",
                check.name, testbed.name
            ));
        }
    }
    out
}

/// Checks that could not be tried for one and the same reason, together.
fn by_reason(checks: Vec<&CheckResult>) -> Vec<Vec<&CheckResult>> {
    let mut alike: Vec<Vec<&CheckResult>> = Vec::new();
    for check in checks {
        let same = |other: &&mut Vec<&CheckResult>| {
            check.outcome == Outcome::Error
                && other[0].outcome == Outcome::Error
                && other[0].field("why") == check.field("why")
        };
        match alike.iter_mut().find(same) {
            Some(others) => others.push(check),
            None => alike.push(vec![check]),
        }
    }
    alike
}

/// One reason of many errors.
fn describe_all(out: &mut String, testbed: &TestbedResult, checks: &[&CheckResult]) {
    const NAMES: usize = 5;
    let names: Vec<&str> = checks.iter().take(NAMES).map(|check| check.name.as_str()).collect();
    let more = if checks.len() > NAMES { ", …" } else { "" };
    out.push_str(&format!(
        "ERROR on {}: {} checks could not be tried for one reason: {}{more}\n",
        testbed.name,
        checks.len(),
        names.join(", ")
    ));
    checks[0].evidence.iter().for_each(|(key, value)| out.push_str(&format!("      {key:<9} {value}\n")));
}

/// What a rule recommends, in two lines.
fn advise(out: &mut String, testbed: &TestbedResult, check: &CheckResult, entry: Option<&Entry>) {
    let field = |key| check.field(key).unwrap_or("?");
    out.push_str(&format!(
        "advice {} on {}: {}: expected {}, saw {}\n",
        check.name,
        testbed.name,
        field("why"),
        field("expected"),
        field("saw")
    ));
    if let Some(entry) = entry {
        let level = if entry.level == "must" { "a part that need not hold of" } else { "should" };
        out.push_str(&format!("      {level}: {} [{}]\n", entry.rule, entry.clause));
    }
}

fn describe(out: &mut String, testbed: &TestbedResult, check: &CheckResult, entry: Option<&Entry>) {
    let word = check.outcome.word().to_uppercase();
    out.push_str(&format!("{word} {} on {}\n", check.name, testbed.name));
    let mut line = |key: &str, value: &str| out.push_str(&format!("      {key:<9} {value}\n"));
    if let Some(entry) = entry {
        line(&entry.level, &format!("{} [{}]", entry.rule, entry.clause));
    }
    if let (None, Some(entry)) = (check.field("expected"), entry) {
        line("expected", &entry.expectation);
    }
    check.evidence.iter().for_each(|(key, value)| line(key, value));
}

fn block(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    out.push_str(&format!("      {title}:\n"));
    lines.iter().for_each(|line| out.push_str(&format!("        {line}\n")));
}
