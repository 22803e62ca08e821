//! The ledger of clauses: each normative section of Virtio 1.4 in the chapters that we speak, with the checks that cite it,
//! the tests of our drivers, or the reason why there are none. The reasons stand in `clauses.toml`.

use super::catalogue;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

const SECTIONS: &str = include_str!("../../tests/virtio-1.4-sections.txt");
const CLAUSES: &str = include_str!("clauses.toml");
/// The chapters that we speak.
pub const CHAPTERS: [&str; 10] = ["2", "3", "4.1", "4.2", "5.1", "5.2", "5.3", "5.4", "5.5", "6"];

/// Whom a section binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// "Device Requirements".
    Device,
    /// "Driver Requirements".
    Driver,
}

/// A normative section and what covers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// Number and title.
    pub section: String,
    /// One of [`CHAPTERS`].
    pub chapter: &'static str,
    /// Whom it binds.
    pub side: Side,
    /// The checks that cite it; of a driver's section, those that break it.
    pub checks: Vec<String>,
    /// Tests of our drivers.
    pub tests: Vec<String>,
    /// Why there are neither.
    pub reason: Option<String>,
    /// What of it is not tested although there are some.
    pub untested: Option<String>,
}

/// An entry of the data file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    tests: Vec<String>,
    reason: Option<String>,
    untested: Option<String>,
}

/// What is wrong with the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The data file cannot be read.
    #[error("the ledger of clauses cannot be read: {0}")]
    Syntax(String),
    /// An entry is about nothing.
    #[error("{0:?} is no normative section of the chapters {chapters}", chapters = CHAPTERS.join(", "))]
    NoSection(String),
    /// Nothing is known of a section.
    #[error("{0}: no check cites it, no test is named, and there is no reason")]
    Neither(String),
    /// A reason that is none any more.
    #[error("{0}: there is a reason, although {1} is about it")]
    Both(String, String),
    /// A part of nothing.
    #[error("{0}: a part is said to be untested, and nothing tests the rest: give a reason")]
    PartOfNothing(String),
    /// Tests of drivers say nothing of other devices.
    #[error("{0}: it binds devices, and tests of our drivers do not try those")]
    TestsOfADevice(String),
}

/// The ledger of the catalogue that is built in.
///
/// # Errors
/// [`LedgerError`]: its data do not fit the catalogue or the sections.
pub fn ledger() -> Result<Vec<Clause>, LedgerError> {
    let checks: Vec<(String, String)> = catalogue::all().into_iter().map(|entry| (entry.name, entry.clause)).collect();
    build(SECTIONS, CLAUSES, &checks)
}

/// The chapter and the side of a section that is normative for us.
fn normative(section: &str) -> Option<(&'static str, Side)> {
    let (number, title) = section.split_once(' ')?;
    let side = match title.split_once(": ")?.0 {
        "Device Requirements" => Side::Device,
        "Driver Requirements" => Side::Driver,
        _ => return None,
    };
    let inside = |chapter: &&&str| number.strip_prefix(**chapter).is_some_and(|rest| rest.starts_with('.'));
    CHAPTERS.iter().find(inside).map(|chapter| (*chapter, side))
}

/// The group whose checks look at a chapter's transport. Rows that both transports have cite the sections of both.
fn transport(chapter: &str) -> Option<&'static str> {
    match chapter {
        "4.1" => Some("pci"),
        "4.2" => Some("mmio"),
        _ => None,
    }
}

fn is_transport(check: &str) -> bool {
    matches!(catalogue::group(check), "pci" | "mmio")
}

fn build(sections: &str, clauses: &str, checks: &[(String, String)]) -> Result<Vec<Clause>, LedgerError> {
    let mut entries: BTreeMap<String, Entry> =
        toml::from_str(clauses).map_err(|error| LedgerError::Syntax(error.to_string().trim_end().into()))?;
    let mut ledger = Vec::new();
    for section in sections.lines() {
        let Some((chapter, side)) = normative(section) else { continue };
        let Entry { tests, reason, untested } = entries.remove(section).unwrap_or_default();
        let cites = |(name, clause): &&(String, String)| {
            transport(chapter).is_none_or(|group| !is_transport(name) || catalogue::group(name) == group)
                && clause.split("; ").any(|cited| cited == section)
        };
        let checks: Vec<String> = checks.iter().filter(cites).map(|(name, _)| name.clone()).collect();
        let section = section.to_owned();
        match (checks.iter().chain(&tests).next(), &reason) {
            (None, None) if untested.is_some() => return Err(LedgerError::PartOfNothing(section)),
            (None, None) => return Err(LedgerError::Neither(section)),
            (Some(some), Some(_)) => return Err(LedgerError::Both(section, some.clone())),
            (None, Some(_)) if untested.is_some() => return Err(LedgerError::PartOfNothing(section)),
            _ if side == Side::Device && !tests.is_empty() => return Err(LedgerError::TestsOfADevice(section)),
            _ => ledger.push(Clause { section, chapter, side, checks, tests, reason, untested }),
        }
    }
    match entries.into_keys().next() {
        Some(entry) => Err(LedgerError::NoSection(entry)),
        None => Ok(ledger),
    }
}

/// How many sections of a chapter have what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Device sections that checks cite.
    pub device_checked: usize,
    /// Device sections with a reason.
    pub device_reason: usize,
    /// Driver sections with tests of our drivers.
    pub driver_tested: usize,
    /// Driver sections that only checks are about, by breaking them.
    pub driver_broken: usize,
    /// Driver sections with a reason.
    pub driver_reason: usize,
    /// Sections of both with statements that are not tested.
    pub in_part: usize,
}

impl Coverage {
    /// That of a chapter, or of all.
    pub fn of(ledger: &[Clause], chapter: Option<&str>) -> Self {
        let mut coverage = Self::default();
        for clause in ledger.iter().filter(|clause| chapter.is_none_or(|chapter| clause.chapter == chapter)) {
            let count = match (clause.side, &clause.reason) {
                (Side::Device, None) => &mut coverage.device_checked,
                (Side::Device, Some(_)) => &mut coverage.device_reason,
                (Side::Driver, Some(_)) => &mut coverage.driver_reason,
                (Side::Driver, None) if clause.tests.is_empty() => &mut coverage.driver_broken,
                (Side::Driver, None) => &mut coverage.driver_tested,
            };
            *count += 1;
            coverage.in_part += usize::from(clause.untested.is_some());
        }
        coverage
    }
}

/// The device sections of a chapter, or of all, whose checks really ran: at least one of them is among `ran`. Checks that
/// take any transport count for one where checks of that transport ran too.
pub fn tried<'a>(ledger: &'a [Clause], chapter: Option<&str>, ran: &BTreeSet<String>) -> Vec<&'a Clause> {
    let of = |clause: &&Clause| {
        clause.side == Side::Device
            && chapter.is_none_or(|chapter| clause.chapter == chapter)
            && clause.checks.iter().any(|check| ran.contains(check))
            && transport(clause.chapter).is_none_or(|group| ran.iter().any(|check| catalogue::group(check) == group))
    };
    ledger.iter().filter(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    const TWO: &str = "# A comment.\n2.4 Device Reset\n2.4.1 Device Requirements: Device Reset\n\
                       2.4.2 Driver Requirements: Device Reset\n4.3.1.1 Device Requirements: Basic Concepts\n";
    const DEVICE: &str = "2.4.1 Device Requirements: Device Reset";
    const DRIVER: &str = "2.4.2 Driver Requirements: Device Reset";

    fn of(clauses: &str, cited: &str) -> Result<Vec<Clause>, LedgerError> {
        build(TWO, clauses, &[("a/b".into(), cited.into())])
    }

    #[test]
    fn every_section_has_checks_tests_or_a_reason() {
        let ledger = ledger().unwrap();
        let count = |side| ledger.iter().filter(|clause| clause.side == side).count();
        assert_eq!((count(Side::Device), count(Side::Driver)), (67, 72));
        for text in ledger.iter().flat_map(|clause| clause.reason.iter().chain(&clause.untested)) {
            assert!(text.len() > 20 && text.trim() == text && !text.ends_with('.'), "{text:?}");
        }
    }

    #[test]
    fn section_with_neither_is_an_error() {
        let driver = format!("[{DRIVER:?}]\nreason = \"r\"\n");
        assert_eq!(of(&driver, "2.4 Device Reset"), Err(LedgerError::Neither(DEVICE.into())));
        let ledger = of(&driver, &format!("2.4 Device Reset; {DEVICE}")).unwrap();
        assert_eq!(ledger.len(), 2, "chapter 4.3 is not ours");
        assert_eq!((ledger[0].checks.as_slice(), ledger[0].chapter), (&["a/b".to_owned()][..], "2"));
    }

    #[test]
    fn reason_beside_a_check_or_a_test_is_an_error() {
        let both = format!("[{DEVICE:?}]\nreason = \"r\"\n[{DRIVER:?}]\nreason = \"r\"\n");
        assert!(of(&both, "").is_ok());
        assert_eq!(of(&both, DEVICE), Err(LedgerError::Both(DEVICE.into(), "a/b".into())));
        let test = format!("[{DEVICE:?}]\nreason = \"r\"\n[{DRIVER:?}]\nreason = \"r\"\ntests = [\"t\"]\n");
        assert_eq!(of(&test, ""), Err(LedgerError::Both(DRIVER.into(), "t".into())));
        let device = format!("[{DEVICE:?}]\ntests = [\"t\"]\n");
        assert_eq!(of(&device, ""), Err(LedgerError::TestsOfADevice(DEVICE.into())));
        let part = format!("[{DEVICE:?}]\nuntested = \"u\"\n");
        assert_eq!(of(&part, ""), Err(LedgerError::PartOfNothing(DEVICE.into())));
    }

    #[test]
    fn entry_that_names_no_section_is_an_error() {
        for entry in ["2.4 Device Reset", "4.3.1.1 Device Requirements: Basic Concepts", "2.4.1"] {
            let text = format!("[{DRIVER:?}]\nreason = \"r\"\n[{entry:?}]\nreason = \"r\"\n");
            assert_eq!(of(&text, DEVICE), Err(LedgerError::NoSection(entry.into())));
        }
        assert!(matches!(of(&format!("[{DEVICE:?}]\nbecause = \"r\"\n"), ""), Err(LedgerError::Syntax(_))));
    }

    #[test]
    fn coverage_counts_each_section_once() {
        let text = format!("[{DRIVER:?}]\ntests = [\"t\"]\nuntested = \"u\"\n");
        let ledger = of(&text, DEVICE).unwrap();
        let expected = Coverage { device_checked: 1, driver_tested: 1, in_part: 1, ..Coverage::default() };
        assert_eq!(Coverage::of(&ledger, Some("2")), expected);
        assert_eq!(Coverage::of(&ledger, Some("3")), Coverage::default());
        assert_eq!(tried(&ledger, None, &["a/b".to_owned()].into()).len(), 1);
        assert_eq!(tried(&ledger, None, &["a/c".to_owned()].into()).len(), 0);
    }

    #[test]
    fn a_transport_is_covered_by_its_own_checks_where_it_is_there() {
        const PCI: &str = "4.1.5.3.1 Device Requirements: Used Buffer Notifications";
        const MMIO: &str = "4.2.2.1 Device Requirements: MMIO Device Register Layout";
        let sections = format!("{PCI}\n{MMIO}\n");
        let both = format!("{PCI}; {MMIO}");
        let checks = ["mmio/a", "pci/a", "queue/a"].map(|name| (name.to_owned(), both.clone()));
        let ledger = build(&sections, "", &checks).unwrap();
        assert_eq!(
            (&ledger[0].checks, &ledger[1].checks),
            (&vec!["pci/a".to_owned(), "queue/a".into()], &vec!["mmio/a".to_owned(), "queue/a".into()],)
        );
        let of = |ran: &[&str]| {
            let ran = ran.iter().map(|name| (*name).to_owned()).collect();
            tried(&ledger, None, &ran).into_iter().map(|clause| clause.chapter).collect::<Vec<_>>()
        };
        assert_eq!(of(&["queue/a"]), [""; 0], "nobody knows over which transport");
        assert_eq!(of(&["queue/a", "mmio/b"]), ["4.2"]);
        assert_eq!(of(&["pci/a", "mmio/a"]), ["4.1", "4.2"]);
    }

    /// The names of functions that are tests, in all sources below a folder.
    fn tests_below(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                tests_below(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                for part in text.split("#[test]\n").skip(1) {
                    let name = part.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
                    names.extend(name.map(|(name, _)| name.to_owned()));
                }
            }
        }
    }

    #[test]
    fn every_named_test_is_in_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut names = BTreeSet::new();
        for folder in ["guest-kernel", "tests/tests"] {
            tests_below(&root.join(folder), &mut names);
        }
        assert!(names.len() > 200, "{} tests", names.len());
        for clause in ledger().unwrap() {
            for test in &clause.tests {
                assert!(names.contains(test), "{}: there is no test {test}", clause.section);
            }
        }
    }
}
