//! Rate limits of VMs on this machine's KVM. Without KVM each test says that it was skipped.

mod common;

use common::{Place, kvm_works, ringside_with_memory, start, writer};
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
