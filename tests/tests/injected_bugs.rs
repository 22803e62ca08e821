//! A suite that cannot fail is no suite: bugs are injected into our host, one at a time, and each must be caught by the
//! check that is named for it; without a bug the same checks pass. `cargo xtask test` names a host program with the bugs in
//! it in `RINGSIDE_WITH_BUGS` and the kernel in `RINGSIDE_KERNEL`; for a machine without KVM also a stock Linux in
//! `RINGSIDE_INNER_LINUX` and its first process in `RINGSIDE_INNER_INIT`.

mod with_bugs;

use ringside_tests::conform::catalogue::{self, Pattern};
use ringside_tests::conform::outcome::{Outcome, State, TestbedResult};
use ringside_tests::conform::profile::Profile;
use ringside_tests::conform::run;
use ringside_tests::conform::start::Setting;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// A bug, and the check that catches it.
const CAUGHT: [(&str, &str); 17] = [
    ("used-length-too-long", "queue/used-length-of-a-read"),
    ("used-id-wrong", "queue/one-descriptor"),
    ("features-ok-always", "mmio/features-ok-falls-for-a-bit-not-offered"),
    ("config-generation-stuck", "outside/generation-changes-with-the-configuration"),
    ("interrupt-lost-when-suppressed", "queue/event-index-in-the-middle"),
    ("event-index-at-wrap", "queue/event-index-wraps-at-65536"),
    ("flush-ignored", "block/flushed-data-outlives-a-reset"),
    ("write-zeroes-ignored", "block/write-zeroes-zeroes"),
    ("failed-read-counted", "block/used-length-of-a-failed-read"),
    ("mergeable-count-wrong", "net/mergeable-buffers-are-counted"),
    ("balloon-actual-wrong", "balloon/actual-reads-back"),
    ("clock-goes-back", "kvm/clock-page-never-goes-back"),
    ("magic-wrong", "mmio/magic-reads-virt"),
    ("interrupt-status-stray", "mmio/interrupt-status-has-known-bits"),
    ("used-flags-stray", "queue/used-flags-are-0-with-event-index"),
    ("data-valid-unasked", "net/received-header-is-plain"),
    ("padding-not-zero", "block/padding-is-0"),
];
/// Machines at a time.
const PARALLEL: usize = 2;

/// The checks that `only` names, with a bug or without.
fn run(profile: &Profile, setting: &Setting, only: &[&str], bug: Option<&str>) -> TestbedResult {
    let mut profile = profile.clone();
    profile.args.extend(bug.into_iter().flat_map(|bug| ["--fault".into(), bug.into()]));
    let only: Vec<Pattern> = only.iter().map(|check| Pattern::new(check).unwrap()).collect();
    let result = run::run(&profile, setting, &catalogue::all(), &only, &AtomicBool::new(false));
    assert_eq!(result.state, State::Ran, "{bug:?}");
    result
}

fn outcome(result: &TestbedResult, check: &str) -> Option<Outcome> {
    result.check(check).filter(|check| check.reported).map(|check| check.outcome)
}

#[test]
fn each_injected_bug_is_caught_by_its_check_and_none_without() {
    let Some((profile, setting, _folder)) = with_bugs::bench("injected bugs") else { return };
    let checks = CAUGHT.map(|(_, check)| check);
    let without = run(&profile, &setting, &checks, None);
    for check in checks {
        assert_eq!(outcome(&without, check), Some(Outcome::Pass), "{check} without a bug: {without:?}");
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some((bug, check)) = CAUGHT.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run(&profile, &setting, &[check], Some(bug));
                    assert_eq!(outcome(&result, check), Some(Outcome::Fail), "{check} with {bug}: {result:?}");
                }
            });
        }
    });
}

/// Firecracker and Cloud Hypervisor are so: a suite that breaks the driver's own rules on the way accuses them of its faults.
#[test]
fn a_device_that_insists_on_the_drivers_rules_fails_no_check() {
    let Some((profile, setting, _folder)) = with_bugs::bench("a strict device") else { return };
    let groups = ["mmio/*", "queue/*", "block/*", "rng/*", "net/*", "console/*", "balloon/*", "outside/*"];
    let result = run(&profile, &setting, &groups, Some("strict-driver"));
    let bad: Vec<_> = result.checks.iter().filter(|check| check.outcome.is_bad()).collect();
    assert!(bad.is_empty() && result.problems.is_empty(), "{:?} {bad:#?}", result.problems);
    assert!(result.counts(None).pass > 100, "{:?}", result.counts(None));
}

/// A PC's serial port is so: the check of its line has nothing to look at then, and must not take that for a lost interrupt.
#[test]
fn a_serial_port_that_is_gated_in_loop_back_mode_is_left_alone_and_a_board_of_edges_not_judged_by_levels() {
    const EDGE: &str = "irq/edge-line-interrupts-once";
    const LEVEL: &str = "irq/level-line-interrupts-until-acknowledged";
    let Some((profile, setting, _folder)) = with_bugs::bench("a gated serial port") else { return };
    for (fault, expected) in [(None, Outcome::Pass), (Some("gated-loopback"), Outcome::Skip)] {
        let result = run(&profile, &setting, &[EDGE, LEVEL], fault);
        assert_eq!(outcome(&result, EDGE), Some(expected), "{fault:?}: {result:?}");
        assert_eq!(outcome(&result, LEVEL), Some(Outcome::Skip), "{fault:?}: {result:?}");
    }
}
