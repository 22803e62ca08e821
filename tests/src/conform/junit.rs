//! The results as JUnit XML, which every CI system shows: a suite a testbed, a case a check.

use crate::conform::catalogue;
use crate::conform::outcome::{CheckResult, Outcome, State, Suite, TestbedResult};
use quick_junit::{NonSuccessKind, Property, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
use std::time::Duration;

/// The XML.
///
/// # Errors
/// Those of the library.
pub fn xml(suite: &Suite) -> Result<String, SerializeError> {
    let mut report = Report::new("ringside conformance");
    for testbed in &suite.testbeds {
        let mut cases = TestSuite::new(testbed.name.as_str());
        cases.set_time(Duration::from_secs_f64(testbed.seconds));
        cases.add_property(Property::new("catalogue", catalogue::version()));
        if let Some(version) = &testbed.version {
            cases.add_property(Property::new("version", version.line.as_str()));
        }
        cases.add_test_case(whole(testbed));
        cases.add_test_cases(testbed.checks.iter().map(|check| case(suite, testbed, check)));
        report.add_test_suite(cases);
    }
    report.to_string()
}

/// The run itself: skipped, broken, or with problems outside of checks.
fn whole(testbed: &TestbedResult) -> TestCase {
    let status = match &testbed.state {
        State::Skipped(why) => skipped(&format!("skipped, because {why}")),
        State::Broken(why) => bad(NonSuccessKind::Error, why, why),
        State::Ran if testbed.problems.is_empty() => TestCaseStatus::success(),
        State::Ran => {
            let mut text = testbed.problems.join("\n");
            for (title, lines) in [("console", &testbed.tail), ("error output", &testbed.stderr)] {
                text.push_str(&format!("\n{title}:\n{}", lines.join("\n")));
            }
            bad(NonSuccessKind::Failure, &testbed.problems[0], &text)
        }
    };
    let mut case = TestCase::new("the run", status);
    case.set_classname(testbed.name.as_str());
    case
}

fn case(suite: &Suite, testbed: &TestbedResult, check: &CheckResult) -> TestCase {
    let why = check.field("why").unwrap_or_default();
    let status = match (check.outcome, &check.known) {
        (Outcome::Pass, _) => TestCaseStatus::success(),
        (Outcome::Skip, _) => skipped(why),
        (_, Some(reason)) => skipped(&format!("known defect: {reason}")),
        (Outcome::Advice, None) => skipped(&format!("advice: {why}")),
        (outcome, None) => {
            let kind = if outcome == Outcome::Error { NonSuccessKind::Error } else { NonSuccessKind::Failure };
            let mut text = String::new();
            if let Some(entry) = suite.entry(&check.name) {
                text = format!("rule: {} [{}]\nexpected: {}\n", entry.rule, entry.clause, entry.expectation);
            }
            check.evidence.iter().for_each(|(key, value)| text.push_str(&format!("{key}: {value}\n")));
            bad(kind, why, &text)
        }
    };
    let mut case = TestCase::new(check.name.as_str(), status);
    case.set_classname(testbed.name.as_str());
    case
}

fn skipped(why: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(why);
    status
}

fn bad(kind: NonSuccessKind, message: &str, text: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(message).set_description(text);
    status
}
