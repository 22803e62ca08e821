//! The guide, led by host programs that only print lines.

use super::*;
use crate::machine::{Access, Boot, Disk, Publish};
use crate::testbed::Testbed;
use shared_abi::tour::{POWER_OFF, PVOPS, WORLD};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const WORLD_LINE: &str = "@tour world ok world=kvm hypervisor=KVMKVMKVM memory_kib=131072";
const PVOPS_LINE: &str = "@tour pvops ok sites=10 inline=7 direct=2 nop=1 indirect=0";
const FILE_LINE: &str = "@tour file ok path=README.TXT bytes=9 crc32=cbf43926";
const SECTORS_LINE: &str = "@tour sectors ok first=1 count=1";
const OFF_LINE: &str = "@tour power-off ok failed=0";

/// A host program that only says these lines and ends with this status.
fn verdict(lines: &[&str], status: u8, disk_after: &[u8]) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let lines: String = lines.iter().map(|line| format!("printf '%s\\n' '{line}'\n")).collect();
    fs::write(path("host"), format!("#!/bin/sh\n{lines}exit {status}\n")).unwrap();
    fs::set_permissions(path("host"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path("original"), [0; 1024]).unwrap();
    fs::write(path("disk"), disk_after).unwrap();
    let machine = Machine {
        testbed: Testbed::Host,
        boot: Boot::kernel(path("image")),
        cmdline: "tour".into(),
        memory: 128 << 20,
        cpus: 1,
        disk: Disk { path: path("disk"), access: Access::ReadWrite },
        publish: Publish { host: 1, guest: 80 },
        more: Vec::new(),
        ringside: path("host"),
        inner: None,
        xen: None,
        folder: folder.path().into(),
    };
    let file = ExpectedFile { path: "README.TXT".into(), bytes: 9, crc32: 0xcbf4_3926 };
    let disk = DiskKnowledge::Sample { file, original: path("original") };
    run(&machine, &disk, &mut Silent, &AtomicBool::new(false)).unwrap()
}

fn step(verdict: &Verdict, name: &str) -> (State, String) {
    let step = verdict.steps.iter().find(|step| step.name == name).unwrap();
    (step.state, step.detail.clone())
}

#[test]
fn steps_that_agree_pass_and_those_never_mentioned_are_missing() {
    let verdict = verdict(&["hello", WORLD_LINE, PVOPS_LINE, FILE_LINE, SECTORS_LINE, OFF_LINE], 0, &[0; 1024]);
    for name in [WORLD, PVOPS, FILE, SECTORS, POWER_OFF] {
        assert_eq!(step(&verdict, name).0, State::Passed, "{name}: {verdict:?}");
    }
    assert!(!verdict.succeeded());
    assert_eq!(verdict.complaint(), "no word of web, balloon-inflate, balloon-deflate");
}

#[test]
fn numbers_that_disagree_fail_their_step_whatever_the_guest_says() {
    for (line, name, says) in [
        ("@tour world ok world=kvm hypervisor=x memory_kib=999999", WORLD, "999999 KiB of 131072"),
        ("@tour pvops ok sites=10 inline=7 direct=2 nop=1 indirect=1", PVOPS, "do not add up"),
        ("@tour pvops ok sites=10 inline=0 direct=0 nop=0 indirect=10", PVOPS, "10 of 10 sites are indirect"),
        ("@tour file ok path=README.TXT bytes=9 crc32=00000000", FILE, "CRC-32 00000000, the file cbf43926"),
        ("@tour file ok path=README.TXT bytes=8 crc32=cbf43926", FILE, "8 bytes of 9"),
        ("@tour file ok", FILE, "does not report path"),
        ("@tour sectors ok first=0 count=0", SECTORS, "no sector"),
        ("@tour web ok port=80 bytes=5", WEB, "without a request"),
        ("@tour balloon-inflate ok pages=4096 free_kib=1", INFLATE, "was never set"),
        ("@tour sectors skip why=lazy", SECTORS, "skipped it: lazy"),
        ("@tour file fail why=no%20disk", FILE, "no disk"),
        ("@tour power-off ok failed=2", POWER_OFF, "2 failed steps"),
    ] {
        let verdict = verdict(&[line], 0, &[0; 1024]);
        let (state, detail) = step(&verdict, name);
        assert_eq!(state, State::Failed, "{line}");
        assert!(detail.contains(says), "{line}: {detail}");
    }
}

#[test]
fn what_goes_wrong_outside_of_steps_is_a_problem() {
    let spoilt = [1; 1024];
    for (lines, status, disk, says) in [
        (vec![OFF_LINE], 1, &[0; 1024], "the machine ended with exit status: 1"),
        (vec!["@tour file"], 0, &[0; 1024], "report without a known outcome"),
        (vec!["@tour dance ok"], 0, &[0; 1024], "no step \"dance\""),
        (vec!["@check mm/x fail why=y"], 0, &[0; 1024], "check mm/x failed: y"),
        (vec![SECTORS_LINE], 0, &spoilt, "2 sectors of the disk were not restored"),
    ] {
        let verdict = verdict(&lines, status, disk);
        assert!(verdict.problems.iter().any(|problem| problem.contains(says)), "{says}: {:?}", verdict.problems);
        assert!(!verdict.succeeded());
    }
}
