//! Lines of a profile that can never apply. They would be believed: a known defect that is not looked for is reported nowhere.

use super::{KnownDefect, Profile};
use crate::conform::catalogue::{self, Pattern, PatternError};
use conformance::hostile::GROUP;
use thiserror::Error;

/// Why a line can never apply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StaleLine {
    /// Not a pattern.
    #[error("known_defects: {0}")]
    Pattern(#[from] PatternError),
    /// It fits no check.
    #[error("{0}: no check is called {1:?}; cargo xtask conform --list has their names")]
    NoSuchCheck(&'static str, String),
    /// The checks that it fits are not run.
    #[error("{table}: {check:?} never runs: {why}; take the line out")]
    NeverRuns {
        /// Where the line is.
        table: &'static str,
        /// Its pattern.
        check: String,
        /// What keeps the check from running.
        why: &'static str,
    },
}

/// Looks for such a line.
///
/// # Errors
/// The first one.
pub(super) fn look(profile: &Profile) -> Result<(), StaleLine> {
    let compile = |defects: &[KnownDefect]| -> Result<Vec<Pattern>, PatternError> {
        defects.iter().map(|defect| Pattern::new(&defect.check)).collect()
    };
    let (known, left_out) = (compile(&profile.known_defects)?, compile(&profile.left_out)?);
    let all = catalogue::all();
    let lines = known.iter().map(|pattern| ("known_defects", pattern));
    for (table, pattern) in lines.chain(left_out.iter().map(|pattern| ("left_out", pattern))) {
        let names: Vec<&str> =
            all.iter().map(|entry| entry.name.as_str()).filter(|name| pattern.matches(name)).collect();
        if names.is_empty() {
            return Err(StaleLine::NoSuchCheck(table, pattern.text().into()));
        }
        let left_out: &[Pattern] = if table == "known_defects" { &left_out } else { &[] };
        // One that runs is enough: a pattern may be for more than one machine.
        let reasons: Option<Vec<&'static str>> = names.iter().map(|name| never_runs(profile, left_out, name)).collect();
        if let Some(why) = reasons.and_then(|reasons| reasons.first().copied()) {
            return Err(StaleLine::NeverRuns { table, check: pattern.text().into(), why });
        }
    }
    Ok(())
}

/// What keeps a check from running with this profile.
fn never_runs(profile: &Profile, left_out: &[Pattern], name: &str) -> Option<&'static str> {
    match catalogue::group(name) {
        GROUP if profile.without_hostile.is_some() => Some("without_hostile leaves its group out"),
        "outside" if profile.host_actions.is_none() => Some("the profile has no [host_actions]"),
        _ if left_out.iter().any(|pattern| pattern.matches(name)) => Some("left_out has it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const HOST_ACTIONS: &str = "[host_actions]\nprotocol = 'qmp'\ncan = ['balloon']\n";

    fn parse(keys: &str) -> Result<Profile, String> {
        let text = format!(
            "name = 'p'\ntitle = 'P'\nprogram = 'p'\nargs = ['{{image}}', '{{cmdline}}', '{{control}}']\ntimeout_seconds = 9\n{keys}"
        );
        Profile::parse(Path::new("p.toml"), &text).map_err(|error| error.to_string())
    }

    fn line(table: &str, check: &str) -> String {
        format!("[[{table}]]\ncheck = '{check}'\nreason = 'known'\n")
    }

    #[test]
    fn a_defect_of_a_group_that_is_left_out_is_an_error_and_without_that_a_line_like_any_other() {
        let without = "without_hostile = 'others have it'\n";
        let line = line("known_defects", "hostile/net-without-header");
        let expected = "p.toml: known_defects: \"hostile/net-without-header\" never runs: without_hostile leaves its group out; \
                        take the line out";
        assert_eq!(parse(&format!("{without}{line}")).unwrap_err(), expected);
        assert!(parse(&line).is_ok());
    }

    #[test]
    fn a_defect_that_is_left_out_or_needs_unsupported_host_actions_is_an_error() {
        let (known, left_out) = (line("known_defects", "block/flush*"), line("left_out", "block/*"));
        assert!(
            parse(&format!("{known}{left_out}")).unwrap_err().contains("\"block/flush*\" never runs: left_out has it")
        );
        let (narrow, wide) = (line("left_out", "block/flush-succeeds"), line("known_defects", "block/*"));
        assert!(parse(&format!("{narrow}{wide}")).is_ok(), "the rest of the group runs");
        let outside = line("known_defects", "outside/*");
        assert!(parse(&outside).unwrap_err().contains("never runs: the profile has no [host_actions]"));
        assert!(parse(&format!("{outside}{HOST_ACTIONS}")).is_ok());
    }

    #[test]
    fn a_pattern_that_fits_no_check_is_an_error_wherever_it_stands() {
        for table in ["known_defects", "left_out"] {
            let error = parse(&line(table, "block/flushes")).unwrap_err();
            assert!(error.starts_with(&format!("p.toml: {table}: no check is called \"block/flushes\"; ")), "{error}");
        }
    }
}
