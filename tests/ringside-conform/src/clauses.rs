//! The ledger of clauses for people and programs: how much of Virtio 1.4 the checks are about, and how much of that really
//! ran in a run.

use crate::compare::Results;
use crate::ui;
use anyhow::Result;
use clap::Args;
use ringside_tests::conform::catalogue;
use ringside_tests::conform::ledger::{self, CHAPTERS, Clause, Coverage, Side};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What to show.
#[derive(Debug, Default, Args)]
pub struct ClausesOptions {
    /// For programs: each section with its checks, its tests, or its reason
    #[arg(long)]
    json: bool,
    /// Each section with the number of its checks and tests, what of it is not tested, or its reason
    #[arg(long, conflicts_with = "json")]
    list: bool,
    /// Also how many of the sections had a check that ran and did not skip itself, by testbed: the result of run --json
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
}

/// Prints the ledger.
///
/// # Errors
/// When the results cannot be read.
pub fn show(options: &ClausesOptions) -> Result<()> {
    let ledger = ledger::ledger()?;
    let results = options.results.as_deref().map(Results::read).transpose()?;
    if options.json {
        ui::line(format_args!("{:#}", json(&ledger, results.as_ref())));
        return Ok(());
    }
    if options.list {
        ledger.iter().for_each(|clause| ui::text(line(clause)));
        ui::line("");
    }
    ui::table(&table(&ledger, results.as_ref()));
    if results.is_some_and(|results| results.catalogue() != catalogue::version()) {
        ui::line("\nthe results are of another version of the suite");
    }
    Ok(())
}

/// A row for each chapter and one for all: sections of devices, of drivers, and what ran where.
fn table(ledger: &[Clause], results: Option<&Results>) -> Vec<Vec<String>> {
    let head = ["chapter", "device: checks", "reason", "driver: tests", "broken by checks", "reason", "in part"];
    let mut head: Vec<String> = head.map(String::from).to_vec();
    head.extend(results.into_iter().flat_map(Results::testbeds).map(|name| format!("ran on {name}")));
    let row = |chapter: Option<&str>| {
        let Coverage { device_checked, device_reason, driver_tested, driver_broken, driver_reason, in_part } =
            Coverage::of(ledger, chapter);
        let counts = [device_checked, device_reason, driver_tested, driver_broken, driver_reason, in_part];
        let mut cells = vec![chapter.unwrap_or("all").to_owned()];
        cells.extend(counts.map(|count| count.to_string()));
        let tried = |testbed| ledger::tried(ledger, chapter, &results.map(|it| it.ran(testbed)).unwrap_or_default());
        let ran = results.into_iter().flat_map(Results::testbeds);
        cells.extend(ran.map(|testbed| format!("{} of {device_checked}", tried(testbed).len())));
        cells
    };
    let chapters = CHAPTERS.into_iter().map(Some).chain([None]);
    std::iter::once(head).chain(chapters.map(row)).collect()
}

/// A section in one or two lines.
fn line(clause: &Clause) -> String {
    let counted = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    let what = match (&clause.reason, clause.side) {
        (Some(reason), _) => format!("none: {reason}"),
        (None, Side::Device) => counted(clause.checks.len(), "check"),
        (None, Side::Driver) => {
            format!("{}, broken by {}", counted(clause.tests.len(), "test"), counted(clause.checks.len(), "check"))
        }
    };
    let untested = clause.untested.as_ref().map(|part| format!("      not: {part}\n")).unwrap_or_default();
    format!("{}\n      {what}\n{untested}", clause.section)
}

fn json(ledger: &[Clause], results: Option<&Results>) -> Value {
    let coverage = |chapter| json!(Coverage::of(ledger, chapter));
    let chapters: serde_json::Map<String, Value> =
        CHAPTERS.into_iter().map(|chapter| (chapter.to_owned(), coverage(Some(chapter)))).collect();
    let mut value = json!({
        "format": 1,
        "catalogue_version": catalogue::version(),
        "all": coverage(None),
        "chapters": chapters,
        "sections": ledger,
    });
    if let Some(results) = results {
        let ran = |testbed: &str| -> Value {
            let tried = ledger::tried(ledger, None, &results.ran(testbed));
            json!(tried.into_iter().map(|clause| &clause.section).collect::<Vec<_>>())
        };
        let testbeds: serde_json::Map<String, Value> =
            results.testbeds().map(|testbed| (testbed.to_owned(), ran(testbed))).collect();
        value["results"] = json!({ "catalogue_version": results.catalogue(), "ran": testbeds });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(outcome: &str) -> Results {
        let checks = json!([{"name": "rng/buffer-is-answered", "outcome": outcome, "known": null}]);
        let run = json!({"format": 1, "catalogue_version": "1", "testbeds": [{"name": "t", "checks": checks}]});
        Results::parse(&run.to_string()).unwrap()
    }

    /// The cell of a column in the row of a chapter.
    fn cell(rows: &[Vec<String>], chapter: &str, column: &str) -> String {
        let at = rows[0].iter().position(|title| title == column).unwrap();
        rows.iter().find(|row| row[0] == chapter).unwrap()[at].clone()
    }

    #[test]
    fn table_has_every_chapter_and_its_sections_add_up() {
        let rows = table(&ledger::ledger().unwrap(), None);
        assert_eq!(rows.len(), CHAPTERS.len() + 2);
        let sum = |columns: std::ops::Range<usize>| {
            let number = |cell: &String| cell.parse::<usize>().unwrap();
            rows.last().unwrap()[columns].iter().map(number).sum::<usize>()
        };
        assert_eq!((sum(1..3), sum(3..6)), (67, 72));
    }

    #[test]
    fn only_checks_that_ran_count_on_a_testbed() {
        let ledger = ledger::ledger().unwrap();
        for (outcome, expected) in [("pass", "1 of 1"), ("fail", "1 of 1"), ("skip", "0 of 1"), ("error", "0 of 1")] {
            let rows = table(&ledger, Some(&results(outcome)));
            assert_eq!(cell(&rows, "5.4", "ran on t"), expected, "{outcome}");
            let ran = json(&ledger, Some(&results(outcome)))["results"]["ran"]["t"].as_array().unwrap().len();
            assert_eq!(ran, usize::from(expected == "1 of 1"));
        }
    }

    #[test]
    fn section_is_told_with_its_reason_or_what_is_missing() {
        let ledger = ledger::ledger().unwrap();
        let told = |number: &str| line(ledger.iter().find(|clause| clause.section.starts_with(number)).unwrap());
        assert!(
            told("2.8.11 ").contains("none: our drivers do not accept VIRTIO_F_RING_PACKED"),
            "{}",
            told("2.8.11 ")
        );
        assert!(told("2.7.5.2 ").contains("not: "), "{}", told("2.7.5.2 "));
        assert!(told("5.4.6.2 ").contains(" checks\n"), "{}", told("5.4.6.2 "));
    }
}
