//! The version of a hypervisor, as its program prints it, and ranges of versions.
//!
//! Few hypervisors number their releases by semver, so a version is read loosely: of the first line that has one, the first
//! number with a dot in it, after a word boundary or a `v`. Its first three parts count; a missing one is 0. What follows is
//! ignored: `1.17.0-dev`, `53.0-246-gae44c29` and `7.2.22 (Debian 1:7.2+dfsg-7)` are 1.17.0, 53.0.0 and 7.2.22.

use crate::console::Event;
use crate::readable::shown;
use crate::running::Running;
use semver::{Version, VersionReq};
use serde::Serialize;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a program may take to print its version.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(50);
/// Lines that are kept of what it prints.
const LINES_MAX: usize = 20;

/// What a program prints about its version, and the number in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Printed {
    /// The line.
    pub line: String,
    /// The number, if there is one.
    pub number: Option<Version>,
}

impl Printed {
    /// From all that a program printed: the first line with a number, else the first line.
    pub fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES_MAX).peekable();
        let first = *lines.peek()?;
        let with_number = lines.find_map(|line| Some((line, number(line)?)));
        let (line, number) = with_number.map_or((first, None), |(line, number)| (line, Some(number)));
        Some(Self { line: shown(line), number })
    }
}

/// Runs a program that prints its version. `None` where there are no arguments for that, it prints nothing, or cannot be
/// started.
pub fn ask(program: &Path, args: &[String]) -> Option<Printed> {
    if args.is_empty() {
        return None;
    }
    let mut command = Command::new(program);
    command.args(args);
    let mut running = Running::spawn(command).ok()?;
    let deadline = Instant::now() + PATIENCE;
    let mut output = Vec::new();
    // Its status says nothing: some print their version and fail.
    while output.len() < LINES_MAX && Instant::now() < deadline {
        match running.console.next(TICK) {
            Event::Line(line) => output.push(line),
            Event::Closed => break,
            Event::Quiet if running.ended().is_some() => break,
            Event::Quiet => {}
        }
    }
    Printed::read(&output.join("\n")).or_else(|| Printed::read(&running.stderr()))
}

/// The first version in a line.
fn number(line: &str) -> Option<Version> {
    let is_part = |char: char| char.is_ascii_digit() || char == '.';
    let mut rest = line;
    while let Some(at) = rest.find(|char: char| char.is_ascii_digit()) {
        let before = rest[..at].strip_suffix('v').unwrap_or(&rest[..at]);
        let end = rest[at..].find(|char| !is_part(char)).map_or(rest.len(), |len| at + len);
        let text = rest[at..end].trim_end_matches('.');
        let begins_a_word = !before.ends_with(|char: char| char.is_alphanumeric() || char == '-' || char == '_');
        if begins_a_word && text.contains('.') {
            let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
            let mut part = || parts.next().unwrap_or(Some(0));
            return Some(Version::new(part()?, part()?, part()?));
        }
        rest = &rest[end..];
    }
    None
}

/// Whether an entry for a range of versions applies to a program. Where either is unknown, it does.
pub fn applies(range: Option<&VersionReq>, printed: Option<&Printed>) -> bool {
    match (range, printed.and_then(|printed| printed.number.as_ref())) {
        (Some(range), Some(number)) => range.matches(number),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_hypervisors_print() {
        for (text, expected) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022", "7.2.22"),
            ("Firecracker v1.17.0-dev\n\nSupported snapshot data format versions: v10.0.0", "1.17.0"),
            ("cloud-hypervisor v53.0-246-gae44c29", "53.0.0"),
            ("ringside 0.1.0", "0.1.0"),
            ("    Bochs x86 Emulator 2.7\n  Built from SVN snapshot on August 1, 2021", "2.7.0"),
            ("x86-64 tool\nversion 3.18.1.2.", "3.18.1"),
        ] {
            let printed = Printed::read(text).unwrap();
            assert_eq!(printed.number.map(|number| number.to_string()).as_deref(), Some(expected), "{text}");
        }
        let none = Printed::read("\nkvm tool b48735e\n").unwrap();
        assert_eq!((none.line.as_str(), none.number), ("kvm tool b48735e", None));
        assert_eq!(Printed::read("\n\n"), None);
    }

    #[test]
    fn a_range_applies_inside_and_where_nothing_is_known() {
        let range = VersionReq::parse(">=7.2, <9").unwrap();
        let version = |text: &str| Printed::read(text).unwrap();
        assert!(applies(Some(&range), Some(&version("v 8.1"))));
        assert!(!applies(Some(&range), Some(&version("v 9.0"))));
        assert!(!applies(Some(&range), Some(&version("v 7.1.9"))));
        assert!(applies(Some(&range), Some(&version("no number"))) && applies(Some(&range), None));
        assert!(applies(None, Some(&version("v 9.0"))));
    }
}
