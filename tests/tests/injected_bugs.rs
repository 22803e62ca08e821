//! A suite that cannot fail is no suite: bugs are injected into our host's device models, one at a time, and each must be
//! caught by the check that is named for it; without a bug the same checks pass. `cargo xtask test` names a host program with
//! the bugs in it in `RINGSIDE_WITH_BUGS` and the kernel in `RINGSIDE_KERNEL`.

use ringside_tests::sample;
use ringside_tests::testbed::{KvmPolicy, Testbed};
use shared_abi::report::{self, Kind, Outcome};
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A bug, and the check that catches it.
const CAUGHT: [(&str, &str); 9] = [
    ("used-length-too-long", "queue/used-length-of-a-read"),
    ("used-id-wrong", "queue/one-descriptor"),
    ("features-ok-always", "mmio/features-ok-falls-for-a-bit-not-offered"),
    ("interrupt-lost-when-suppressed", "queue/event-index-in-the-middle"),
    ("event-index-at-wrap", "queue/event-index-wraps-at-65536"),
    ("flush-ignored", "block/flushed-data-outlives-a-reset"),
    ("write-zeroes-ignored", "block/write-zeroes-zeroes"),
    ("mergeable-count-wrong", "net/mergeable-buffers-are-counted"),
    ("balloon-actual-wrong", "balloon/actual-reads-back"),
];

struct Host {
    program: PathBuf,
    image: PathBuf,
    disk: PathBuf,
}

impl Host {
    /// Outcomes of the checks that `only` names, with a bug or without.
    fn run(&self, only: &str, bug: Option<&str>) -> BTreeMap<String, Outcome> {
        let mut command = Command::new("timeout");
        command.arg("120").arg(&self.program).arg("run").arg("--kernel").arg(&self.image);
        command.arg("--disk").arg(&self.disk).args(["--net", "passt", "--balloon", "--rng", "--mem", "128M"]);
        command.args(["--cmdline", &format!("conform={only}")]);
        command.args(bug.into_iter().flat_map(|bug| ["--fault", bug]));
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let reports = text.lines().filter_map(|line| report::parse(line).ok().flatten());
        let checks = reports.filter(|report| report.kind == Kind::Check);
        let outcomes: BTreeMap<_, _> = checks.map(|report| (report.name.to_owned(), report.outcome)).collect();
        assert!(!outcomes.is_empty(), "no check reported:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        outcomes
    }
}

#[test]
fn each_injected_bug_is_caught_by_its_check_and_none_without() {
    let (Some(program), Some(kernel)) = (env::var_os("RINGSIDE_WITH_BUGS"), env::var_os("RINGSIDE_KERNEL")) else {
        eprintln!("SKIPPED injected bugs: RINGSIDE_WITH_BUGS names no host program; cargo xtask test does");
        return;
    };
    let policy = if env::var_os("RINGSIDE_NO_KVM").is_some() { KvmPolicy::Absent } else { KvmPolicy::Use };
    if let Err(why) = Testbed::Host.available(policy) {
        eprintln!("SKIPPED injected bugs: {why:#}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let host =
        Host { program: program.into(), image: folder.path().join("guest.elf"), disk: folder.path().join("disk.img") };
    mkimage::image::write(Path::new(&kernel), "", None, &host.image).unwrap();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    sample::write(&files, &host.disk).unwrap();

    let checks: Vec<&str> = CAUGHT.iter().map(|&(_, check)| check).collect();
    for (check, outcome) in host.run(&checks.join(","), None) {
        assert_eq!(outcome, Outcome::Success, "{check} without a bug");
    }
    for (bug, check) in CAUGHT {
        let outcome = host.run(check, Some(bug)).get(check).copied();
        assert_eq!(outcome, Some(Outcome::Failure), "{check} with {bug}");
    }
}
