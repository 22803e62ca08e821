//! The conformance harness against hypervisors that are shell scripts: good ones, and all kinds of bad ones.

mod known_defects;
mod profiles;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use ringside_tests::conform::catalogue::{Entry, Pattern};
use ringside_tests::conform::outcome::{Counts, Outcome, State, Suite, TestbedResult};
use ringside_tests::conform::profile::{ControlProtocol, HostActions, Profile};
use ringside_tests::conform::start::{Progress, Setting};
use ringside_tests::conform::{catalogue, html, junit, run, text};
use ringside_tests::testbed::{KvmPolicy, find_program};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with everything that a run takes.
struct Bench {
    folder: TempDir,
    catalogue: Vec<Entry>,
    interrupted: AtomicBool,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("disk"), "a disk").unwrap();
        let names = ["block/flush", "block/read", "net/mac", "net/mtu"];
        let entry = |name: &str| Entry {
            name: name.into(),
            rule: format!("the rule of {name} <b>"),
            clause: "9.9 Clauses".into(),
            method: "look".into(),
            expectation: "what is right".into(),
            level: "must".into(),
        };
        Self { folder, catalogue: names.map(entry).into(), interrupted: AtomicBool::new(false) }
    }

    fn script(&self) -> PathBuf {
        self.folder.path().join("hypervisor")
    }

    fn setting(&self) -> Setting {
        Setting {
            image: "/guest.elf".into(),
            disk: self.folder.path().join("disk"),
            ringside: "/nonexistent/ringside".into(),
            base: self.folder.path().into(),
            kvm: KvmPolicy::Absent,
            tap: None,
            inner: Err("there is none in this test".into()),
            xen: Err("there is none in this test".into()),
            loaders: Err("there are none in this test".into()),
            progress: Progress::default(),
        }
    }

    /// A profile that runs the script. By way of the shell: a file that was just written may still be open for writing in
    /// a process that another test is about to start, and then cannot be executed.
    fn profile(&self, script: &str, more: &str) -> Profile {
        let path = self.script().display().to_string();
        fs::write(&path, script).unwrap();
        let text = format!(
            "name = 'fake'\ntitle = 'a script'\nprogram = 'sh'\n\
             args = ['{path}', '{{image}}', '{{cmdline}}', '{{disk}}']\n{more}"
        );
        let text = if text.contains("timeout_seconds") { text } else { format!("timeout_seconds = 60\n{text}") };
        Profile::parse(Path::new("fake.toml"), &text).unwrap()
    }

    fn run(&self, script: &str, more: &str) -> TestbedResult {
        run::run(&self.profile(script, more), &self.setting(), &self.catalogue, &[], &self.interrupted)
    }

    fn suite(&self, testbeds: Vec<TestbedResult>) -> Suite {
        Suite { catalogue: self.catalogue.clone(), testbeds }
    }
}

const GOOD: &str = "echo booting
echo '@check block/flush ok'
echo '@check block/read ok took=3'
echo '@check net/mac skip why=there%20is%20no%20card'
echo '@check net/mtu ok'
echo '@boot conform ok ran=4 failed=0 skipped=1 errors=0'";

const BAD: &str =
    "echo '@check block/flush fail why=lost%20data expected=written saw=%3Cscript%3Ealert(1)%3C/script%3E'
echo '@check block/read error why=no%20disk'
echo '@check net/mac ok'
echo '@check net/mtu ok'
echo '@boot conform fail ran=4 failed=1 skipped=0 errors=1'";

fn one_problem(result: &TestbedResult) -> &str {
    assert_eq!(result.problems.len(), 1, "{:?}", result.problems);
    assert!(!result.succeeded());
    &result.problems[0]
}

#[test]
fn a_good_hypervisor_gets_its_arguments_and_its_checks_are_counted() {
    let bench = Bench::new();
    let script = format!("test \"$1\" = /guest.elf && test \"$2\" = conform && test -s \"$3\" || exit 3\n{GOOD}");
    let result = bench.run(&script, "");
    assert_eq!((&result.state, &result.problems), (&State::Ran, &vec![]));
    assert_eq!(result.counts(None), Counts { pass: 3, skip: 1, ..Counts::default() });
    assert_eq!(result.counts(Some("net")), Counts { pass: 1, skip: 1, ..Counts::default() });
    let suite = bench.suite(vec![result]);
    assert!(suite.succeeded());
    assert_eq!(text::matrix(&suite)[2], ["net", "1 pass, 1 skip"]);
}

#[test]
fn failures_are_told_with_their_rule_and_what_was_expected_and_seen() {
    let bench = Bench::new();
    let suite = bench.suite(vec![bench.run(BAD, "")]);
    assert!(!suite.succeeded());
    let told = text::failures(&suite);
    for part in
        ["FAIL block/flush on fake", "the rule of block/flush <b> [9.9 Clauses]", "expected  written", "lost data"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(told.contains("ERROR block/read on fake"), "{told}");
    let value: serde_json::Value = serde_json::from_str(&suite.json().unwrap()).unwrap();
    assert_eq!(value["succeeded"], false);
    assert_eq!(value["testbeds"][0]["checks"][0]["outcome"], "fail");
    let xml = junit::xml(&suite).unwrap();
    assert!(xml.contains("failures=\"1\" errors=\"1\""), "{xml}");
    assert!(xml.contains("&lt;script&gt;alert(1)"), "{xml}");
}

#[test]
fn a_part_of_the_checks_is_asked_for_by_a_word_and_only_those_are_expected() {
    let bench = Bench::new();
    let script = "test \"$2\" = 'conform=block/*,net/mac' || exit 3
        for name in block/flush block/read net/mac; do echo \"@check $name ok\"; done
        echo '@boot conform ok ran=3 failed=0 skipped=0 errors=0'";
    let only = ["block/*", "net/mac"].map(|text| Pattern::new(text).unwrap());
    let profile = bench.profile(script, "");
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &only, &bench.interrupted);
    assert_eq!((result.problems.len(), result.counts(None).pass), (0, 3));
}

#[test]
fn a_missing_program_and_a_missing_kvm_are_skipped_with_the_reason() {
    let bench = Bench::new();
    let mut profile = bench.profile(GOOD, "needs = ['kvm']");
    let run = |profile: &Profile| run::run(profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    let State::Skipped(why) = run(&profile).state else { panic!() };
    assert!(why.contains("--no-kvm"), "{why}");
    profile.program = "no-such-hypervisor".into();
    let State::Skipped(why) = run(&profile).state else { panic!() };
    assert_eq!(why, "no-such-hypervisor is not installed");
    assert!(!bench.suite(vec![run(&profile)]).succeeded(), "nothing ran");
}

#[test]
fn a_need_of_vmx_or_svm_is_one_of_the_cpu_and_no_programs_name() {
    let bench = Bench::new();
    match bench.run(GOOD, "needs = ['vmx-or-svm']").state {
        State::Skipped(why) => assert!(why.starts_with("this CPU reports neither VMX nor SVM"), "{why}"),
        state => assert!(matches!(state, State::Ran), "{state:?}"),
    }
}

#[test]
fn a_probe_that_fails_skips_the_testbed_with_the_programs_own_words() {
    let bench = Bench::new();
    let args = format!("['{}', 'probe']", bench.script().display());
    let probe = format!("[probe]\nargs = {args}\ninput = \"quit\\n\"\notherwise = 'it cannot use this machine'");
    let script = "if [ \"$1\" = probe ]; then read word; echo \"no register, $word\" >&2; exit 1; fi";
    let State::Skipped(why) = bench.run(script, &probe).state else { panic!() };
    assert!(why.starts_with("it cannot use this machine: no register, quit"), "{why}");
    let script = format!("if [ \"$1\" = probe ]; then exit 0; fi\n{GOOD}");
    assert!(bench.run(&script, &probe).succeeded());
}

#[test]
fn a_hang_is_bounded_by_the_timeout_and_leaves_no_process_behind() {
    let bench = Bench::new();
    let pid = bench.folder.path().join("pid");
    let script =
        format!("trap '' TERM\necho '@check block/flush ok'\nsleep 600 & echo $! > {}\nwait\nsleep 600", pid.display());
    let started = Instant::now();
    let result = bench.run(&script, "timeout_seconds = 1");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(one_problem(&result), "it hung: no end within 1 s, after block/flush");
    assert_eq!(result.counts(None), Counts { pass: 1, error: 3, ..Counts::default() });
    let told = text::failures(&bench.suite(vec![result]));
    assert!(told.contains("3 checks without a result, the run ended before it"), "{told}");
    let child = Pid::from_raw(fs::read_to_string(pid).unwrap().trim().parse().unwrap());
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        // A process that nobody has waited for yet is dead all the same.
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        kill(child, None).is_err() || stat.contains(") Z ")
    });
    assert!(gone, "the script's child still runs");
}

#[test]
fn a_crash_is_told_with_its_status_and_last_words() {
    let bench = Bench::new();
    let result = bench.run("echo '@check block/flush ok'; echo the end is near; echo sorry >&2; kill -ABRT $$", "");
    let problem = one_problem(&result);
    assert!(problem.contains("ended after block/flush") && problem.contains("signal: 6"), "{problem}");
    let told = text::failures(&bench.suite(vec![result]));
    assert!(told.contains("the end is near") && told.contains("sorry"), "{told}");
    let result = bench.run(&format!("{GOOD}\nexit 7"), "");
    assert!(one_problem(&result).contains("the program ended with exit status: 7"));
    assert!(bench.run(&format!("{GOOD}\nexit 7"), "ends = 'exits_anyhow'").succeeded());
}

#[test]
fn a_program_that_stays_is_ended_where_the_profile_says_so() {
    let bench = Bench::new();
    assert!(bench.run(&format!("{GOOD}\nexec sleep 600"), "ends = 'stays'").succeeded());
}

#[test]
fn a_program_that_stays_may_go_on_printing() {
    let bench = Bench::new();
    let result = bench.run(&format!("{GOOD}\nwhile echo more; do sleep 0.02; done"), "ends = 'stays'");
    assert!(result.succeeded(), "{:?}", result.problems);
}

#[test]
fn a_daemon_that_goes_on_printing_is_not_waited_for() {
    let bench = Bench::new();
    let daemon = "setsid sh -c 'for n in $(seq 1000); do echo more || exit; sleep 0.02; done' &";
    let result = bench.run(&format!("{daemon}\n{GOOD}\nexit 0"), "timeout_seconds = 15");
    assert!(result.succeeded(), "{:?}", result.problems);
}

#[test]
fn lines_of_a_program_that_is_gone_are_read_to_the_last_however_long_one_takes() {
    let bench = Bench::new();
    // Each request is answered after three seconds, when the program has long ended.
    let script = format!("echo '@request echo waiting text=never'; echo '@request echo waiting text=never'\n{GOOD}");
    let mut profile = bench.profile(&script, "");
    profile.host_actions = Some(HostActions { protocol: ControlProtocol::Qmp, can: vec!["echo".into()] });
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    assert!(result.succeeded(), "{:?}", result.problems);
}

#[test]
fn a_probe_that_is_not_read_and_a_request_without_a_text_are_bounded() {
    let bench = Bench::new();
    let probe =
        format!("[probe]\nargs = ['-c', 'exec sleep 600']\ninput = '{}'\notherwise = 'too slow'", "x".repeat(100_000));
    let started = Instant::now();
    assert!(matches!(bench.run(GOOD, &probe).state, State::Skipped(why) if why.contains("too slow")));
    let request = format!("echo '@request echo waiting text='\n{GOOD}");
    let mut profile = bench.profile(&request, "");
    profile.host_actions = Some(HostActions { protocol: ControlProtocol::Qmp, can: vec!["echo".into()] });
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    assert_eq!(result.counts(None).pass, 3, "{:?}", result.problems);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn a_console_that_is_held_open_by_somebody_else_is_not_waited_for() {
    let bench = Bench::new();
    let started = Instant::now();
    assert!(bench.run(&format!("sleep 600 &\n{GOOD}"), "").succeeded());
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn rubbish_is_reported_and_shown_without_control_characters() {
    let bench = Bench::new();
    let script = format!(
        "printf '\\033[2J\\033]0;title\\007\\001\\377\\n'
        echo '@check block/flush perhaps'; echo '@check'; echo '@check nobody/knows ok'; echo '@check net/mtu ok x'
        echo '@elsewhere is fine'; printf '@check \\033[31mnet/x ok\\n'\n{GOOD}\necho '@check net/mac ok'"
    );
    let result = bench.run(&script, "");
    assert_eq!(result.counts(None), Counts { pass: 3, skip: 1, ..Counts::default() }, "what is good counts");
    assert_eq!(result.problems.len(), 6, "{:?}", result.problems);
    assert!(result.problems.iter().any(|problem| problem.contains("net/mac was reported twice")));
    assert!(result.problems.iter().any(|problem| problem.contains("the catalogue has no check \"nobody/knows\"")));
    let suite = bench.suite(vec![result]);
    for text in [text::failures(&suite), html::page(&suite), junit::xml(&suite).unwrap()] {
        assert!(!text.contains(|char: char| char.is_control() && char != '\n'), "{text:?}");
    }
}

#[test]
fn a_flood_is_ended_at_its_bound() {
    let bench = Bench::new();
    for script in ["exec yes '@check block/flush maybe'", "exec tr '\\0' x < /dev/zero"] {
        let result = bench.run(script, "");
        let flood = result.problems.iter().find(|problem| problem.contains("flooded the console"));
        assert!(flood.is_some(), "{:?}", result.problems);
        assert!(result.problems.len() < 25 && result.tail.len() < 50);
    }
}

#[test]
fn before_the_first_check_the_hint_names_the_entry_and_the_serial_port() {
    let bench = Bench::new();
    let silent = bench.run("exit 3", "");
    let told = one_problem(&silent);
    assert!(told.contains("nothing came from the serial port") && told.contains("port 0x3f8"), "{told}");
    let talking = bench.run("echo booting; sleep 600", "timeout_seconds = 1");
    let told = one_problem(&talking);
    assert!(told.contains("no check reported") && told.contains("PVH entry"), "{told}");
}

#[test]
fn advice_is_counted_apart_told_with_its_level_and_fails_a_strict_run_alone() {
    let bench = Bench::new();
    let script = GOOD.replace("block/read ok took=3", "block/read advice why=early expected=0 saw=1");
    let mut suite = bench.suite(vec![bench.run(&script, "")]);
    suite.catalogue[1].level = "should".into();
    assert!(suite.succeeded());
    assert_eq!(suite.testbeds[0].counts(None), Counts { pass: 2, skip: 1, advice: 1, ..Counts::default() });
    assert_eq!(text::matrix(&suite)[1], ["block", "1 pass, 1 advice"]);
    let told = text::failures(&suite);
    assert!(told.contains("advice block/read on fake: early: expected 0, saw 1\n      should: the rule of"), "{told}");
    assert!(junit::xml(&suite).unwrap().contains("advice: early"));
    suite.testbeds[0].make_strict();
    assert!(!suite.succeeded() && text::failures(&suite).contains("FAIL block/read on fake"));
}

#[test]
fn one_reason_of_many_errors_is_told_once() {
    let bench = Bench::new();
    let script =
        GOOD.replace("read ok took=3", "read error why=no%20queue").replace("mtu ok", "mtu error why=no%20queue");
    let told = text::failures(&bench.suite(vec![bench.run(&script, "")]));
    assert!(told.contains("2 checks could not be tried for one reason: block/read, net/mtu"), "{told}");
    assert_eq!(told.matches("no queue").count(), 1, "{told}");
}

#[test]
fn a_failure_comes_with_the_command_line_and_the_logs_of_its_machine() {
    let bench = Bench::new();
    let script = format!("echo 'its own log' > \"$4\"; echo trouble >&2\n{BAD}");
    let mut profile = bench.profile(&script, "");
    profile.args.push("{log}".into());
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    let logs = result.logs.clone().unwrap();
    let told = text::failures(&bench.suite(vec![result]));
    assert!(told.contains(&format!("the logs: {}/", logs.display())), "{told}");
    let read = |name: &str| fs::read_to_string(logs.join(name)).unwrap();
    let command = read("conform.command");
    assert!(command.contains("/guest.elf conform ") && told.contains(&command), "{command}: {told}");
    assert_eq!((read("conform.log"), read("conform.stderr")), ("its own log\n".into(), "trouble\n".into()));
    assert!(read("conform.console").contains("@check block/flush fail"), "raw, for programs");
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    assert!(result.tail.iter().all(|line| !line.starts_with('@')), "{:?}", result.tail);
}

#[test]
fn what_would_end_the_machine_is_left_out_with_its_reason_and_the_rest_goes_on() {
    let bench = Bench::new();
    let script = format!("test \"$2\" = 'conform without=block/read*' || exit 3\n{}", GOOD.replace("ran=4", "ran=3"));
    let script = script.replace("echo '@check block/read ok took=3'\n", "");
    let result = bench.run(&script, "[[left_out]]\ncheck = 'block/read*'\nreason = 'it crashes'");
    assert_eq!(result.problems, Vec::<String>::new());
    let read = result.check("block/read").unwrap();
    assert_eq!((read.outcome, read.field("why")), (Outcome::Skip, Some("left out: it crashes")));
    assert_eq!(result.counts(None), Counts { pass: 2, skip: 2, ..Counts::default() });
}

#[test]
fn what_is_missing_from_the_reports_is_an_error() {
    let bench = Bench::new();
    let script = "echo '@check block/flush ok'; echo '@boot conform ok ran=2 failed=0 skipped=0 errors=0'";
    let result = bench.run(script, "");
    assert_eq!(one_problem(&result), "the guest counts 2 checks, 1 have arrived");
    assert_eq!(result.counts(None).error, 3);
    let all_skip = GOOD.replace("net/mtu ok", "net/mtu skip why=no");
    let result = bench.run(&all_skip, "offers = ['net', 'block']");
    assert!(one_problem(&result).contains("offers net, but all of its 2 checks skipped themselves"));
}

#[test]
fn a_serial_line_may_come_out_of_a_pipe_and_files_are_made_for_the_program() {
    let bench = Bench::new();
    let script = format!("{{ {GOOD}\n}} > \"$4\"; echo much talk; grep -q '^{{\"p\": \"/guest.elf\"}}$' \"$5\"");
    let mut profile = bench.profile(&script, "[[files]]\nname = 'vm.json'\ntext = '{\"p\": \"{image}\"}'");
    profile.args.extend(["{serial}".into(), "{folder}/vm.json".into()]);
    profile.serial = ringside_tests::conform::profile::Serial::Pipe;
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    assert_eq!(result.problems, Vec::<String>::new());
    assert_eq!(result.counts(None).pass, 3);
    // One that never opens the pipe is no reason to wait.
    profile.program = "/bin/true".into();
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    assert!(one_problem(&result).contains("before any check"));
}

#[test]
fn failed_request_is_a_problem_of_the_testbed_and_the_run_continues() {
    let bench = Bench::new();
    let script =
        format!("test \"$2\" = 'conform host_actions=disk' || exit 3\necho '@request balloon waiting pages=1'\n{GOOD}");
    let profile = bench.profile(
        &script,
        "[host_actions]\nprotocol = 'ringside'\ncan = ['disk']\n[[files]]\nname = 'x'\ntext = '{control}'",
    );
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    assert_eq!(one_problem(&result), "host action balloon: the profile cannot do that");
    assert_eq!(result.counts(None).pass, 3);
    // A check that fails without its host action could not be tried.
    let check = "echo '@check block/flush fail why=it%20did%20not%20come'";
    let failing = script.replace("echo '@check block/flush ok'", check);
    let profile = Profile { args: bench.profile(&failing, "").args, ..profile };
    let result = run::run(&profile, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    let flush = result.check("block/flush").unwrap();
    assert_eq!(flush.outcome, Outcome::Error);
    assert!(
        flush.evidence.iter().any(|(key, why)| key == "host action" && why.contains("cannot do that")),
        "{flush:?}"
    );
    let alone = bench.profile(&script.replace(" host_actions=disk", ""), "");
    let result = run::run(&alone, &bench.setting(), &bench.catalogue, &[], &bench.interrupted);
    assert_eq!(one_problem(&result), "host action balloon: the profile has no [host_actions]");
}

#[test]
fn the_page_stands_alone_and_shows_and_filters_in_a_browser() {
    let bench = Bench::new();
    let suite = bench.suite(vec![bench.run(BAD, "")]);
    let page = html::page(&suite);
    for outside in ["http:", "https:", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    assert!(!page.contains("<script>alert"), "the guest's text is text");
    if find_program("chromium").is_none() {
        println!("SKIPPED the page in a browser: chromium is not installed");
        return;
    }
    let path = bench.folder.path().join("page.html");
    fs::write(&path, page).unwrap();
    let all = in_browser(&path, "");
    assert!(all.contains("4 of 4 checks") && all.contains("<td>"), "{all}");
    assert!(all.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    let failed = in_browser(&path, "outcome=fail&testbed=fake");
    assert!(failed.contains("1 of 4 checks"), "{failed}");
    assert!(failed.matches("hidden=\"\"").count() >= 3, "the other checks are hidden");
    let text = in_browser(&path, "text=rule%20of%20net/");
    assert!(text.contains("2 of 4 checks"), "{text}");
    assert_eq!(suite.testbeds[0].check("block/flush").unwrap().outcome, Outcome::Fail);
}

/// What a browser makes of the page, after its script has run.
fn in_browser(page: &Path, hash: &str) -> String {
    let program = find_program("chromium").unwrap();
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}#{hash}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
