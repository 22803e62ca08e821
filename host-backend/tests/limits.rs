//! Rate limits of VMs on this machine's KVM. Without KVM each test says that it was skipped.

mod common;

use common::{Place, finish, kvm_works, ringside_with_memory, start, writer};
use host_backend::sample::exit;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};

#[test]
fn a_limited_disk_is_throttled_and_the_other_one_is_not() {
    if !kvm_works("a_limited_disk_is_throttled_and_the_other_one_is_not") {
        return;
    }
    // The guest writes to both disks in turn: half of them with eight requests that are free.
    const NUMBERS: usize = 40;
    let place = Place::new();
    let mut command = ringside_with_memory(&place.kernel(&writer::code()), "16M");
    for (name, options) in [("limited", ",iops=8"), ("free", "")] {
        let disk = place.file(name, &[0; writer::SECTORS as usize * 512]);
        command.arg("--disk").arg(format!("{}{options}", disk.display()));
    }
    let mut child = start(command.args(["--stats", "json"]));
    let output = BufReader::new(child.child().stdout.take().unwrap());
    assert_eq!(output.lines().take(NUMBERS).filter(|line| line.is_ok()).count(), NUMBERS);
    common::signal(&mut child, libc::SIGTERM);
    let output = child.wait();
    let text = common::text(&output.stderr);
    let stats = text.lines().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).expect(&text);
    let counter = |disk: &str, name: &str| stats["devices"][disk][name].as_u64().unwrap();
    // Of its writes eight are free at least, and flushes are.
    let requests = counter("block0", "requests");
    assert!((1..=requests / 2 - 7).contains(&counter("block0", "throttled")), "{stats}");
    assert!(requests >= NUMBERS as u64 - 2, "{stats}");
    assert_eq!((counter("block1", "throttled"), counter("block1", "throttled_ms")), (0, 0));
}

/// The counters that the page on the host names for the bounds.
fn documented_counters() -> BTreeSet<&'static str> {
    let page = include_str!("../../docs/host.md");
    let (_, section) = page.split_once("### Bounds on what a VM can take").unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let column = |row: &'static str| row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
    // What is in quotes; what is said of other answers is not in the statistics.
    let named = |cell: &'static str| cell.split('`').skip(1).step_by(2);
    rows.skip(2).map(column).filter(|cell| !cell.contains(" in ")).flat_map(named).collect()
}

#[test]
fn every_bound_has_its_counter_in_the_statistics() {
    if !kvm_works("every_bound_has_its_counter_in_the_statistics") {
        return;
    }
    let place = Place::new();
    let mut command = ringside_with_memory(&place.kernel(&exit(0)), "16M");
    command.arg("--control").arg(place.path("control")).args(["--virtio-console", "control", "--stats", "json"]);
    let text = common::text(&finish(&mut command).stderr);
    let stats: serde_json::Value = serde_json::from_str(text.trim()).expect(&text);
    let counters = documented_counters();
    assert!(counters.len() > 10, "{counters:?}");
    for name in counters {
        let device = || stats["devices"]["console"].get(name);
        let of_vm = || name.split_once('.').and_then(|(part, counter)| stats[part].get(counter));
        // `problems` are in `status`.
        assert!(device().or_else(of_vm).is_some() || name == "problems", "{name} is not in {stats}");
    }
}
