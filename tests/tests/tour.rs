//! The tour on a machine whose host takes no part in it: no disk, no card, and a balloon whose target never changes.
//! `cargo xtask test` names the kernel in `RINGSIDE_KERNEL`.

use ringside_tests::console::Event;
use ringside_tests::ready::{self, Files};
use ringside_tests::running::Running;
use ringside_tests::testbed::{QEMU, find_program};
use shared_abi::report::{self, Kind, Outcome};
use shared_abi::tour::{DEFLATE, FILE, INFLATE, POWER_OFF, PVOPS, SECTORS, WEB, WORLD};
use std::process::Command;
use std::time::Duration;

/// The guest waits ten seconds of it.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_balloon_target_that_is_never_set_is_skipped_and_the_tour_goes_on_to_power_off() {
    let test = "a_balloon_target_that_is_never_set_is_skipped_and_the_tour_goes_on_to_power_off";
    let Some(kernel) = ready::named(ready::KERNEL, test) else { return };
    if find_program(QEMU).is_none() {
        eprintln!("SKIPPED {test}: {QEMU} is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = Files::write(&kernel, folder.path()).unwrap();
    let mut command = Command::new(QEMU);
    command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults", "-no-user-config"]);
    command.args([
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-device",
        "virtio-balloon-pci,disable-legacy=on",
    ]);
    command.arg("-kernel").arg(&files.image).args(["-append", "tour"]);
    let mut running = Running::spawn(command).unwrap();
    let (mut steps, mut console) = (Vec::new(), Vec::new());
    while let Event::Line(line) = running.console.next(PATIENCE) {
        if let Ok(Some(report)) = report::parse(&line)
            && report.kind == Kind::Tour
        {
            let why = report.field("why").map(|why| why.to_string());
            steps.push((report.name.to_owned(), report.outcome, why.unwrap_or_default()));
        }
        console.push(line);
    }
    let steps: Vec<_> = steps.iter().map(|(name, outcome, why)| (name.as_str(), *outcome, why.as_str())).collect();
    let expected = [
        (WORLD, Outcome::Success, ""),
        (PVOPS, Outcome::Success, ""),
        (FILE, Outcome::Skip, "there is no disk"),
        (SECTORS, Outcome::Skip, "there is no disk"),
        (WEB, Outcome::Skip, "there is no network card"),
        (INFLATE, Outcome::Waiting, ""),
        (INFLATE, Outcome::Skip, "the host sets no balloon target"),
        // An empty balloon is what this step asks for.
        (DEFLATE, Outcome::Waiting, ""),
        (DEFLATE, Outcome::Success, ""),
        (POWER_OFF, Outcome::Success, ""),
    ];
    assert_eq!(steps, expected, "{}", console.join("\n"));
    assert!(running.wait(PATIENCE).unwrap().success());
}
