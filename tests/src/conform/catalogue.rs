//! The checks that there are, as the harness sees them: the catalogue that guest and harness share, and patterns over names.

use crc::{CRC_32_ISO_HDLC, Crc};
use globset::{GlobBuilder, GlobMatcher};
use serde::Serialize;
use thiserror::Error;

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// A check and its rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Group and name, as in `block/flush-order`.
    pub name: String,
    /// What must hold.
    pub rule: String,
    /// Where it says so.
    pub clause: String,
    /// How the guest tries it.
    pub method: String,
    /// What it must see.
    pub expectation: String,
    /// How binding the rule is: `must` or `should`.
    pub level: String,
}

impl Entry {
    /// The part of the name that stands before the first slash.
    pub fn group(&self) -> &str {
        group(&self.name)
    }
}

/// The check that the harness makes itself.
pub const AGREE: &str = "pvops/patched-and-unpatched-agree";

fn agree() -> Entry {
    Entry {
        name: AGREE.into(),
        rule: "A patched call site does what the call through the table does".into(),
        clause: "Ringside docs/patching.md, The patcher".into(),
        method: "Boot again with pvops=unpatched; compare each check of pvops, mm, time, clock, irq, kvm, smp \
                 and xen; make those that differ again, both ways"
            .into(),
        expectation: "The same outcomes, apart from the checks that are about patching and from known defects".into(),
        level: "must".into(),
    }
}

/// All checks, in the order in which they run: the guest's, and that of the harness with its group.
pub fn all() -> Vec<Entry> {
    let entry = |check: &conformance::Check| Entry {
        name: check.name.into(),
        rule: check.rule.into(),
        clause: check.clause.into(),
        method: check.method.into(),
        expectation: check.expectation.into(),
        level: check.level.word().into(),
    };
    let mut all: Vec<Entry> = conformance::iter().map(entry).collect();
    let own = agree();
    let behind = all.iter().rposition(|entry| entry.group() == own.group()).map_or(all.len(), |last| last + 1);
    all.insert(behind, own);
    all
}

/// The version of the catalogue: how many checks it has, and a checksum of all that it says of them. Results of the same version
/// are of the same checks.
pub fn version() -> String {
    let mut digest = CRC.digest();
    let all = all();
    for entry in &all {
        let Entry { name, rule, clause, method, expectation, level } = entry;
        [name, rule, clause, method, expectation, level].iter().for_each(|text| {
            digest.update(text.as_bytes());
            digest.update(&[0]);
        });
    }
    format!("{}-{:08x}", all.len(), digest.finalize())
}

/// The groups in which the guest has checks.
pub fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = conformance::iter().map(conformance::Check::group).collect();
    groups.dedup();
    groups
}

/// The group of a check by its name.
pub fn group(name: &str) -> &str {
    name.split_once('/').map_or("other", |(group, _)| group)
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// It goes to the guest as a part of a word.
    #[error("the pattern {0:?} is no name with * for any characters (letters, digits, / - _ ., at most 80)")]
    Characters(String),
    /// The library does not take it.
    #[error("{0:?} is no pattern: {1}")]
    Syntax(String, String),
}

/// A pattern over the names of checks: `*` is any number of characters. The guest has the same rule.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When it has characters that cannot stand on the guest's command line.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.*".contains(&byte);
        if text.is_empty() || text.len() > 80 || !text.bytes().all(plain) {
            return Err(PatternError::Characters(text.into()));
        }
        let glob = GlobBuilder::new(text).literal_separator(false).build();
        let glob = glob.map_err(|error| PatternError::Syntax(text.into(), error.kind().to_string()))?;
        Ok(Self { text: text.into(), matcher: glob.compile_matcher() })
    }

    /// Whether it fits a name.
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name)
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The checks in a text for the terminal: grouped, each with its rule and clause.
pub fn list(entries: &[&Entry]) -> String {
    let mut out = String::new();
    let mut before = None;
    for entry in entries {
        if before != Some(entry.group()) {
            let count = entries.iter().filter(|other| other.group() == entry.group()).count();
            let gap = if before.is_some() { "\n" } else { "" };
            out.push_str(&format!("{gap}{} ({count})\n", entry.group()));
            before = Some(entry.group());
        }
        out.push_str(&format!("  {}\n      {}: {} [{}]\n", entry.name, entry.level, entry.rule, entry.clause));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_across_the_slash_and_refuse_what_would_break_the_command_line() {
        let pattern = Pattern::new("block/*").unwrap();
        assert!(pattern.matches("block/flush") && pattern.matches("block/a/b") && !pattern.matches("net/mac"));
        assert!(Pattern::new("*").unwrap().matches("net/mac"));
        for text in ["", "a b", "n?t", "a,b", "a\nb", "[", "{a}"] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
    }
}
