//! Known defects: what they excuse, of which versions, and the versions in reports.

use super::*;

#[test]
fn a_known_defect_does_not_fail_the_run_and_one_that_passes_is_reported() {
    let bench = Bench::new();
    let defects = "[[known_defects]]\ncheck = 'block/*'\nreason = 'told to its author'\n
                   [[known_defects]]\ncheck = 'net/mac*'\nreason = 'long ago'";
    let suite = bench.suite(vec![bench.run(BAD, defects)]);
    assert!(suite.succeeded(), "{}", text::failures(&suite));
    assert_eq!(suite.testbeds[0].counts(None), Counts { pass: 2, known: 2, ..Counts::default() });
    let told = text::failures(&suite);
    assert!(told.contains("known block/flush on fake") && told.contains("told to its author"), "{told}");
    assert!(told.contains("fixed? net/mac on fake passes, and is listed as a known defect: long ago"), "{told}");
}

#[test]
fn defect_that_shows_sometimes_excuses_a_failure_and_a_pass_is_a_pass() {
    let bench = Bench::new();
    let defects = "[[known_defects]]\ncheck = 'block/*'\nreason = 'a race'\nsometimes = true";
    let shown = bench.run(BAD, defects);
    assert_eq!((shown.counts(None).known, shown.succeeded()), (2, true));
    assert!(text::failures(&bench.suite(vec![shown])).contains("known block/flush on fake: a race"));
    let hidden = bench.run(GOOD, defects);
    assert_eq!(hidden.counts(None), Counts { pass: 3, skip: 1, ..Counts::default() });
    assert!(!text::failures(&bench.suite(vec![hidden])).contains("fixed?"));
}

#[test]
fn check_that_was_never_tried_is_an_error_though_it_is_a_known_defect() {
    let bench = Bench::new();
    let defects = "[[known_defects]]\ncheck = 'block/*'\nreason = 'told to its author'";
    let died_at_once = bench.run("exit 1", defects);
    assert_eq!(died_at_once.counts(None), Counts { error: 4, ..Counts::default() });
    let died_later = bench.run("echo '@check block/flush fail why=lost'; exit 1", defects);
    assert_eq!(died_later.counts(None), Counts { known: 1, error: 3, ..Counts::default() });
}

#[test]
fn known_defect_of_other_versions_is_a_failure_and_a_pass_there_is_no_fix() {
    let bench = Bench::new();
    let run = |version: &str, body: &str, more: &str| {
        let script = format!("if [ \"$1\" = version ]; then echo 'fake VMM {version}-dev'; exit; fi\n{body}");
        let path = bench.script().display().to_string();
        let args = format!("version_args = ['{path}', 'version']\n{more}");
        bench.run(&script, &args)
    };
    let defects = "versions = '>=7.2, <9'\n[[known_defects]]\ncheck = 'block/*'\nreason = 'told'\n
                   [[known_defects]]\ncheck = 'net/mac*'\nreason = 'for good'\nversions = '>=1'";
    let known = |result: &TestbedResult| result.counts(None).known;
    let old = run("7.2", BAD, defects);
    assert_eq!(old.version.as_ref().unwrap().line, "fake VMM 7.2-dev");
    assert_eq!((known(&old), old.succeeded()), (2, true));
    assert!(text::failures(&bench.suite(vec![old])).contains("fixed? net/mac"));
    let new = run("9.0.1", BAD, defects);
    assert_eq!((new.counts(None).fail, new.counts(None).error, known(&new)), (1, 1, 0));
    let fixed = run("9.0.1", GOOD, defects);
    assert!(!text::failures(&bench.suite(vec![fixed])).contains("fixed? block"), "another version is no fix");
    assert_eq!(known(&run("unknown", BAD, defects)), 2, "whatever is listed applies to an unknown version");

    // A check that ends one version is tried on another.
    let left_out = "[[left_out]]\ncheck = 'net/mtu*'\nreason = 'crashes'\nversions = '<8'";
    let script = format!(
        "test \"$2\" = 'conform without=net/mtu*' || exit 3\n{}",
        GOOD.replace("echo '@check net/mtu ok'", "").replace("ran=4", "ran=3")
    );
    assert!(run("7.2", &script, left_out).succeeded());
    assert!(run("8.0", &format!("test \"$2\" = conform || exit 3\n{GOOD}"), left_out).succeeded());
}

#[test]
fn every_report_has_the_versions_of_catalogue_and_hypervisor() {
    let bench = Bench::new();
    let script = format!("if [ \"$1\" = version ]; then echo 'fake VMM 7.2'; exit; fi\n{GOOD}");
    let args = format!("version_args = ['{}', 'version']", bench.script().display());
    let suite = bench.suite(vec![bench.run(&script, &args)]);
    let catalogue = catalogue::version();
    for report in
        [text::versions(&suite).join("\n"), suite.json().unwrap(), junit::xml(&suite).unwrap(), html::page(&suite)]
    {
        assert!(report.contains(&catalogue) && report.contains("fake VMM 7.2"), "{report}");
    }
}
