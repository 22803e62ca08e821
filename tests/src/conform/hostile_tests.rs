use super::*;
use crate::conform::catalogue::all;
use crate::conform::start::Progress;
use crate::testbed::KvmPolicy;
use std::path::Path;

const NAME: &str = "hostile/chain-loops";
const WAITING: &str = "@check hostile/chain-loops waiting";
const OK: &str = "@check hostile/chain-loops ok verdict=rejected saw=no";
const LAST: &str = "@boot conform ok ran=1 failed=0 skipped=0 errors=0";

fn profile(more: &str) -> Profile {
    let text = format!(
        "name='p'\ntitle='t'\nprogram='p'\nargs=['{{image}}','{{cmdline}}']\ntimeout_seconds=9\nmemory_mib=128\n{more}"
    );
    Profile::parse(Path::new("p.toml"), &text).unwrap()
}

fn concluded(lines: &[&str], end: std::result::Result<(), String>, peak: Option<u64>, more: &str) -> CheckResult {
    let mut case = Case::new(NAME);
    lines.iter().for_each(|line| case.line(line));
    case.conclude(end, peak, &profile(more))
}

#[test]
fn the_guests_verdict_stands_when_the_machine_ends_in_good_order() {
    let result = concluded(&[WAITING, OK, LAST], Ok(()), None, "");
    assert_eq!((result.outcome, result.field("verdict")), (Outcome::Pass, Some("rejected")));
}

#[test]
fn a_machine_that_is_gone_after_the_attack_has_crashed_whatever_the_guest_said() {
    let died = || Err("the program ended with signal: 11".to_owned());
    for lines in [&[WAITING][..], &[WAITING, OK, LAST]] {
        let result = concluded(lines, died(), None, "");
        assert_eq!((result.outcome, result.field("verdict")), (Outcome::Fail, Some("crashed")));
        assert!(result.field("saw").unwrap().contains("signal: 11"));
        assert_eq!(result.field("console"), Some("check hostile/chain-loops waits"));
    }
    let cut_off = concluded(&[WAITING, OK], Ok(()), None, "");
    assert_eq!((cut_off.outcome, cut_off.field("verdict")), (Outcome::Fail, Some("crashed")));
}

#[test]
fn a_machine_that_never_came_to_the_attack_is_an_error_and_no_crash() {
    let result = concluded(&["booting"], Err("no end within 30 s".into()), None, "");
    assert_eq!((result.outcome, result.field("verdict")), (Outcome::Error, None));
    assert!(result.field("why").unwrap().contains("no end within 30 s"));
}

#[test]
fn a_host_that_grows_beyond_its_bound_fails() {
    let peak = Some(193 << 20);
    let bounded = |more| concluded(&[WAITING, OK, LAST], Ok(()), peak, more);
    assert_eq!(bounded("").outcome, Outcome::Pass);
    assert_eq!(bounded("overhead_mib = 65").outcome, Outcome::Pass);
    let result = bounded("overhead_mib = 64");
    assert_eq!((result.outcome, result.field("saw")), (Outcome::Fail, Some("no")));
    assert!(result.evidence.contains(&("saw".into(), "193 MiB".into())));
}

#[test]
fn runs_in_one_linux_are_told_apart_and_the_one_that_took_it_down_has_crashed() {
    let entry = |name: &str| Entry {
        name: name.into(),
        rule: "r".into(),
        clause: "c".into(),
        method: "m".into(),
        expectation: "e".into(),
        level: "must".into(),
    };
    let entries = [entry(NAME), entry("hostile/b"), entry("hostile/c")];
    let entries: Vec<&Entry> = entries.iter().collect();
    let profile = profile("");
    let mut runs = Runs { profile: &profile, entries: &entries, results: Vec::new(), case: None, peak: None };
    let (peak, ended) = (format!("{PEAK}1048576"), format!("{ENDED}exit status: 0"));
    let lines = ["Linux boots", "inner: run hostile=chain-loops", WAITING, OK, LAST, &peak, &ended];
    lines.iter().for_each(|line| runs.line(line));
    runs.line("inner: run hostile=b");
    runs.line("@check hostile/b waiting");
    let results = runs.conclude("the Linux ended");
    let told: Vec<_> = results.iter().map(|result| (result.name.as_str(), result.outcome)).collect();
    assert_eq!(told, [(NAME, Outcome::Pass), ("hostile/b", Outcome::Fail), ("hostile/c", Outcome::Error)]);
    assert_eq!(results[0].field("peak_mib"), Some("1"));
}

#[test]
fn a_status_after_the_clean_last_line_is_no_crash_and_one_before_it_is() {
    let profile = profile("");
    let mut entry = all().remove(0);
    entry.name = NAME.into();
    let ended = |lines: &[&str], status: &str| {
        let entries = [&entry];
        let mut runs = Runs { profile: &profile, entries: &entries, results: Vec::new(), case: None, peak: None };
        runs.line("inner: run hostile=chain-loops");
        lines.iter().for_each(|line| runs.line(line));
        runs.line(&format!("{ENDED}{status}"));
        runs.conclude("the Linux ended").remove(0)
    };
    let result = ended(&[WAITING, OK, LAST], "exit status: 3");
    assert_eq!(
        (result.outcome, result.field("ended")),
        (Outcome::Pass, Some("with status 3, after the guest's last line"))
    );
    assert_eq!(ended(&[WAITING, OK, LAST], "signal: 6 (SIGABRT)").outcome, Outcome::Fail);
    assert_eq!(ended(&[WAITING, OK], "exit status: 3").outcome, Outcome::Fail);
}

#[test]
fn a_profile_that_leaves_the_group_out_starts_no_machine_and_says_why() {
    let entry = Entry {
        name: NAME.into(),
        rule: "r".into(),
        clause: "c".into(),
        method: "m".into(),
        expectation: "e".into(),
        level: "must".into(),
    };
    let setting = Setting {
        image: "/nonexistent".into(),
        disk: "/nonexistent".into(),
        ringside: "/nonexistent".into(),
        base: "/nonexistent".into(),
        kvm: KvmPolicy::Absent,
        tap: None,
        inner: Err("there is none in this test".into()),
        xen: Err("there is none in this test".into()),
        loaders: Err("there are none in this test".into()),
        progress: Progress::default(),
    };
    let profile = profile("without_hostile = 'others have it'");
    let results = run_all(&profile, &setting, Path::new("/nonexistent"), &[&entry], &AtomicBool::new(false));
    let told: Vec<_> = results.iter().map(|result| (&*result.name, result.outcome, result.field("why"))).collect();
    assert_eq!(told, [(NAME, Outcome::Skip, Some("others have it"))]);
}
