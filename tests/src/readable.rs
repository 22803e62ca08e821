//! Report lines as people read them: words instead of `@check ... key=value%20escaped`.

use shared_abi::report::{self, Kind, Outcome};

/// A console line for people; what is no report line stays as it is.
pub fn readable(line: &str) -> String {
    let Ok(Some(report)) = report::parse(line) else { return line.to_owned() };
    let what = match report.kind {
        Kind::Boot => "boot",
        Kind::Tour => "tour step",
        Kind::Check => "check",
        Kind::Bench => "measured",
        Kind::Request => "request",
    };
    let how = match (report.kind, report.outcome) {
        (Kind::Request, _) => "",
        (_, Outcome::Success) => " ok",
        (_, Outcome::Waiting) => " waits",
        (_, Outcome::Skip) => " skipped",
        (_, Outcome::Advice) => " is not as recommended",
        (_, Outcome::Error) => " could not be tried",
        (_, Outcome::Failure) => " FAILED",
    };
    let fields: Vec<String> = report.fields().map(|(key, value)| format!("{key} {value}")).collect();
    let gap = if fields.is_empty() { "" } else { ": " };
    format!("{what} {}{how}{gap}{}", report.name, fields.join(", "))
}

/// A line for people: bounded, without control characters.
pub fn shown(text: &str) -> String {
    const MAX: usize = 400;
    let mut out: String = text.chars().filter(|char| !char.is_control() || *char == '\t').take(MAX).collect();
    if text.chars().count() > MAX {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_words_and_other_lines_stay() {
        let line = "@check net/mtu fail why=too%20small expected=68 saw=9";
        assert_eq!(readable(line), "check net/mtu FAILED: why too small, expected 68, saw 9");
        assert_eq!(readable("@check net/mac ok"), "check net/mac ok");
        assert_eq!(readable("@request balloon waiting pages=3"), "request balloon: pages 3");
        for line in ["plain text", "@nonsense", "@check net/mac maybe", ""] {
            assert_eq!(readable(line), line);
        }
    }
}
