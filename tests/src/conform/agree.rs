//! The check that the harness makes itself: a kernel whose call sites are patched and one whose are not must see the same.
//! So each testbed is started a second time with `pvops=unpatched`, for the groups that depend on call sites.

use crate::conform::catalogue::{AGREE as NAME, Entry, Pattern, PatternError};
use crate::conform::outcome::{CheckResult, Outcome, State, TestbedResult};
use crate::conform::profile::Profile;
use crate::conform::run;
use crate::conform::start::Setting;
use std::sync::atomic::{AtomicBool, Ordering};

/// The kernel's word for call sites that stay as the compiler made them, and its reason for skipping what is about patching.
const UNPATCHED: &str = "pvops=unpatched";
/// What is compared: groups without devices, and interrupts.
const GROUPS: [&str; 8] = ["pvops", "mm", "time", "clock", "irq", "kvm", "smp", "xen"];
/// How often what differs is looked at again, both ways: a busy machine makes clocks differ once, a wrong site always.
const AGAIN: usize = 2;

/// Runs the checks on a profile's hypervisor, and this one if it is asked for.
///
/// # Errors
/// Never in practice: the patterns are constants.
pub fn run(
    profile: &Profile,
    setting: &Setting,
    catalogue: &[Entry],
    only: &[Pattern],
    interrupted: &AtomicBool,
) -> Result<TestbedResult, PatternError> {
    let asked = only.is_empty() || only.iter().any(|pattern| pattern.matches(NAME));
    let guest: Vec<Entry> = catalogue.iter().filter(|entry| entry.name != NAME).cloned().collect();
    let boot = |only: &[Pattern], more: &str| run::run_with(profile, setting, &guest, only, more, interrupted);
    let mut result = boot(only, "");
    if !asked || guest.len() == catalogue.len() || result.state != State::Ran || interrupted.load(Ordering::Relaxed) {
        return Ok(result);
    }
    let groups = GROUPS.iter().map(|group| Pattern::new(&format!("{group}/*"))).collect::<Result<Vec<_>, _>>()?;
    let both = |only: &[Pattern], seconds: &mut f64| {
        let (patched, unpatched) = (boot(only, ""), boot(only, UNPATCHED));
        *seconds += patched.seconds + unpatched.seconds;
        (compare(&patched, &unpatched), differing(&patched, &unpatched))
    };
    let (mut verdict, mut different) = if result.checks.iter().any(is_compared) {
        let unpatched = boot(if only.is_empty() { &groups } else { only }, UNPATCHED);
        result.seconds += unpatched.seconds;
        (compare(&result, &unpatched), differing(&result, &unpatched))
    } else {
        // Nothing but this check was asked for.
        both(&groups, &mut result.seconds)
    };
    for _ in 0..AGAIN {
        if verdict.outcome != Outcome::Fail || interrupted.load(Ordering::Relaxed) {
            break;
        }
        let names = different.iter().map(|name| Pattern::new(name)).collect::<Result<Vec<_>, _>>()?;
        (verdict, different) = both(&names, &mut result.seconds);
    }
    let defect = profile
        .defects(result.version.as_ref())
        .unwrap_or_default()
        .into_iter()
        .find(|(pattern, defect)| pattern.matches(NAME) && defect.explains(verdict.outcome));
    verdict.known = defect.map(|(_, defect)| defect.reason.clone());
    result.checks.push(verdict);
    Ok(result)
}

fn is_compared(check: &CheckResult) -> bool {
    GROUPS.contains(&check.name.split('/').next().unwrap_or_default())
}

/// The check of the same name in the unpatched run, unless it is about patching.
fn counterpart<'a>(check: &CheckResult, unpatched: &'a TestbedResult) -> Option<&'a CheckResult> {
    let about_patching = |other: &CheckResult| other.outcome == Outcome::Skip && other.field("why") == Some(UNPATCHED);
    unpatched.check(&check.name).filter(|other| is_compared(check) && !about_patching(other))
}

/// The names of the checks that ended differently.
fn differing(patched: &TestbedResult, unpatched: &TestbedResult) -> Vec<String> {
    let differs =
        |check: &&CheckResult| counterpart(check, unpatched).is_some_and(|other| other.outcome != check.outcome);
    patched.checks.iter().filter(differs).map(|check| check.name.clone()).collect()
}

/// What the harness reports for the two runs.
pub fn compare(patched: &TestbedResult, unpatched: &TestbedResult) -> CheckResult {
    let verdict = |outcome, evidence: &[(&str, String)]| CheckResult {
        name: NAME.into(),
        outcome,
        evidence: evidence.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        reported: true,
        known: None,
    };
    if let Some(problem) = patched.problems.first() {
        return verdict(Outcome::Error, &[("why", format!("the patched run: {problem}"))]);
    }
    if let Some(problem) = unpatched.problems.first() {
        return verdict(Outcome::Error, &[("why", format!("the unpatched run: {problem}"))]);
    }
    let (mut same, mut about_patching, mut known, mut different) = (0, 0, 0, Vec::new());
    for check in patched.checks.iter().filter(|check| is_compared(check)) {
        let Some(other) = counterpart(check, unpatched) else {
            about_patching += usize::from(unpatched.check(&check.name).is_some());
            continue;
        };
        if other.outcome == check.outcome {
            same += 1;
        } else if check.known.is_some() || other.known.is_some() {
            // Some defects show themselves in one run and not in the next.
            known += 1;
        } else {
            different.push(format!("{}: {}, then {}", check.name, told(check), told(other)));
        }
    }
    if !different.is_empty() {
        let (expected, saw) = ("the same outcomes patched and unpatched".to_owned(), different.join("; "));
        return verdict(Outcome::Fail, &[("why", "outcomes".into()), ("expected", expected), ("saw", saw)]);
    }
    if same == 0 {
        return verdict(Outcome::Error, &[("why", "there was nothing to compare".into())]);
    }
    let mut did = format!("{same} checks agree, {about_patching} are about patching");
    if known > 0 {
        did += &format!(", {known} differ as listed known defects");
    }
    verdict(Outcome::Pass, &[("did", did)])
}

/// As in `fail (interrupts: 2)`.
fn told(check: &CheckResult) -> String {
    match (check.field("why"), check.field("saw")) {
        (Some(why), Some(saw)) => format!("{} ({why}: {saw})", check.outcome.word()),
        (Some(why), None) => format!("{} ({why})", check.outcome.word()),
        _ => check.outcome.word().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(checks: &[(&str, Outcome, &str)]) -> TestbedResult {
        let mut result = TestbedResult::absent("fake", "", State::Ran);
        result.checks = checks
            .iter()
            .map(|&(name, outcome, why)| CheckResult {
                name: name.into(),
                outcome,
                evidence: if why.is_empty() { vec![] } else { vec![("why".into(), why.into())] },
                reported: true,
                known: None,
            })
            .collect();
        result
    }

    #[test]
    fn equal_outcomes_agree_and_checks_about_patching_may_skip() {
        let patched = result(&[
            ("pvops/a", Outcome::Pass, ""),
            ("pvops/b", Outcome::Pass, ""),
            ("irq/c", Outcome::Fail, "x"),
            ("block/d", Outcome::Pass, ""),
        ]);
        let unpatched = result(&[
            ("pvops/a", Outcome::Skip, UNPATCHED),
            ("pvops/b", Outcome::Pass, ""),
            ("irq/c", Outcome::Fail, "y"),
        ]);
        let verdict = compare(&patched, &unpatched);
        assert_eq!(verdict.outcome, Outcome::Pass);
        assert_eq!(verdict.field("did"), Some("2 checks agree, 1 are about patching"));
    }

    #[test]
    fn a_known_defect_that_shows_itself_in_one_run_only_is_no_difference() {
        let checks = [("irq/a", Outcome::Pass, ""), ("irq/b", Outcome::Pass, "")];
        let (mut patched, mut unpatched) = (result(&checks), result(&checks));
        unpatched.checks[1].outcome = Outcome::Fail;
        assert_eq!(compare(&patched, &unpatched).outcome, Outcome::Fail);
        unpatched.checks[1].known = Some("it comes and goes".into());
        assert_eq!(compare(&patched, &unpatched).outcome, Outcome::Pass, "it did not come in the first");
        patched.checks[1].known = unpatched.checks[1].known.take();
        let verdict = compare(&patched, &unpatched);
        assert_eq!(verdict.outcome, Outcome::Pass);
        assert_eq!(
            verdict.field("did"),
            Some("1 checks agree, 0 are about patching, 1 differ as listed known defects")
        );
    }

    #[test]
    fn another_outcome_is_told_with_both_and_an_ended_run_is_an_error() {
        let patched = result(&[("pvops/a", Outcome::Pass, "")]);
        let mut unpatched = result(&[("pvops/a", Outcome::Skip, "some other reason")]);
        let verdict = compare(&patched, &unpatched);
        assert_eq!(verdict.outcome, Outcome::Fail);
        assert_eq!(verdict.field("saw"), Some("pvops/a: pass, then skip (some other reason)"));
        unpatched.problems.push("it hung".into());
        assert_eq!(compare(&patched, &unpatched).field("why"), Some("the unpatched run: it hung"));
        assert_eq!(compare(&result(&[]), &result(&[])).outcome, Outcome::Error);
    }
}
