//! Hostile guests on our host, in real virtual machines: every named check while another machine runs next to them and must
//! notice nothing, and scripts. `cargo xtask test` names the kernel in `RINGSIDE_KERNEL`, and in `RINGSIDE_WITH_BUGS` a host
//! program, which is given bugs only to prove that they are found. The device models alone meet ten thousand scripts in
//! `host-backend/hostile`.

use conformance::hostile::{GROUP, KEY, SEEDED, SEEDS};
use ringside_tests::conform::catalogue;
use ringside_tests::conform::hostile;
use ringside_tests::conform::logs::Logs;
use ringside_tests::conform::outcome::Outcome;
use ringside_tests::conform::profile::Profile;
use ringside_tests::conform::start::{self, Progress, Setting};
use ringside_tests::console::Event;
use ringside_tests::ready::{self, Files};
use ringside_tests::running::Running;
use shared_abi::report::{self, Handling};
use shared_abi::tour::SAMPLE_FILE;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Scripts in real machines: so many machines, and so many scripts in each.
const MACHINES: u64 = 2;
const SCRIPTS_EACH: u64 = 50;
/// An answer of the neighbour takes milliseconds; on a busy machine longer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

struct Bench {
    setting: Setting,
    profile: Profile,
    program: PathBuf,
    /// Of the file that the neighbour reads.
    crc32: u32,
    _folder: TempDir,
}

/// What the tests need; `None`, said, where it is missing.
fn bench(test: &str) -> Option<Bench> {
    let (ringside, kernel) = (ready::named(ready::WITH_BUGS, test)?, ready::named(ready::KERNEL, test)?);
    let folder = tempfile::tempdir().unwrap();
    let Files { image, sample: disk, file } = Files::write(&kernel, folder.path()).unwrap();
    let (base, kvm) = (folder.path().into(), ready::kvm());
    let inner = Err("there is none in this test".into());
    let xen = Err("the hosts are ours".into());
    let loaders = Err("nothing here is booted by firmware".into());
    let setting =
        Setting { image, disk, ringside, base, kvm, tap: None, inner, xen, loaders, progress: Progress::default() };
    let profile = Profile::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/host-kvm.toml")).unwrap();
    match start::available(&profile, &setting) {
        Ok(program) => Some(Bench { setting, profile, program, crc32: file.crc32, _folder: folder }),
        Err(why) => {
            eprintln!("SKIPPED {test}: {why:#}");
            None
        }
    }
}

impl Bench {
    /// A machine at its shell.
    fn neighbour(&self) -> Running {
        let folder = self.setting.base.join("neighbour");
        std::fs::create_dir(&folder).unwrap();
        let logs = Logs::new(&self.setting.base, &self.profile.name, "neighbour").unwrap();
        let prepared = start::prepare(&self.profile, &self.setting, &self.program, &folder, "", &logs).unwrap();
        let mut neighbour = Running::spawn(prepared.command).unwrap();
        wait_for(&mut neighbour, "type help for the commands");
        neighbour
    }
}

fn wait_for(running: &mut Running, text: &str) {
    let deadline = Instant::now() + ANSWER_MAX;
    while Instant::now() < deadline {
        match running.console.next(Duration::from_millis(100)) {
            Event::Line(line) if line.contains(text) => return,
            Event::Closed => break,
            _ => {}
        }
    }
    panic!("the neighbour does not say {text:?}: {}", running.stderr());
}

#[test]
fn a_neighbour_keeps_answering_while_every_hostile_check_runs_next_to_it() {
    let Some(bench) = bench("a neighbour of hostile guests") else { return };
    let mut neighbour = bench.neighbour();
    let crc32 = format!("{:08x}", bench.crc32);
    let catalogue = catalogue::all();
    let entries: Vec<_> = catalogue.iter().filter(|entry| entry.group() == GROUP).collect();
    let interrupted = AtomicBool::new(false);
    let results = thread::scope(|scope| {
        let run = || hostile::run_all(&bench.profile, &bench.setting, &bench.program, &entries, &interrupted);
        let hostile = scope.spawn(run);
        let mut answers = 0;
        while !hostile.is_finished() || answers == 0 {
            // It reads its disk, and with the right bytes.
            neighbour.type_line(&format!("sum /disk0/{SAMPLE_FILE}")).unwrap();
            wait_for(&mut neighbour, &crc32);
            answers += 1;
            thread::sleep(Duration::from_millis(50));
        }
        hostile.join().unwrap()
    });
    neighbour.type_line("poweroff").unwrap();
    assert!(neighbour.wait(ANSWER_MAX).unwrap().success());
    assert_eq!(results.len(), entries.len());
    for result in &results {
        assert!(!result.outcome.is_bad(), "{result:?}");
        assert!(result.outcome == Outcome::Skip || result.field(Handling::FIELD).is_some(), "{result:?}");
    }
    let peaks: Vec<u64> = results.iter().filter_map(|result| result.field("peak_mib")?.parse().ok()).collect();
    assert!(peaks.len() * 10 > results.len() * 9, "memory was measured: {peaks:?}");
}

#[test]
fn a_host_that_does_not_survive_hostile_guests_is_found_out() {
    let Some(bench) = bench("bugs that hostile guests find") else { return };
    let catalogue = catalogue::all();
    let entries: Vec<_> = catalogue.iter().filter(|entry| entry.name == "hostile/chain-loops-to-itself").collect();
    for (bug, verdict) in [("fault-outlives-reset", Handling::Wedged), ("fault-ends-host", Handling::Crashed)] {
        let mut profile = bench.profile.clone();
        profile.args.extend(["--fault".into(), bug.into()]);
        let results = hostile::run_all(&profile, &bench.setting, &bench.program, &entries, &AtomicBool::new(false));
        let judged: Vec<_> = results.iter().map(|result| (result.outcome, result.field(Handling::FIELD))).collect();
        assert_eq!(judged, [(Outcome::Fail, Some(verdict.word()))], "{bug}: {results:?}");
    }
}

#[test]
fn our_host_outlives_a_hundred_scripts_in_real_machines() {
    let Some(bench) = bench("scripts of hostile guests") else { return };
    for machine in 0..MACHINES {
        let (first, end) = (1000 + machine * SCRIPTS_EACH, 1000 + (machine + 1) * SCRIPTS_EACH);
        let mut command = Command::new("timeout");
        command.arg("120").arg(&bench.program).arg("run").arg("--kernel").arg(&bench.setting.image);
        command.arg("--disk").arg(&bench.setting.disk).args(["--net", "passt", "--balloon", "--rng", "--mem", "128M"]);
        command.args(["--cmdline", &format!("{KEY}={SEEDS}{first}..{end}")]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let said = format!("seeds {first}..{end}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        let reports = text.lines().filter_map(|line| report::parse(line).ok().flatten());
        let mut ended = reports.filter(|line| line.name == SEEDED && line.outcome != report::Outcome::Waiting);
        let outcome = ended.next().map(|line| line.outcome);
        assert_eq!(outcome, Some(report::Outcome::Success), "{said}");
    }
}
