//! The example kernel of `examples/kernel` boots where the README says it does. `cargo xtask test` names it in
//! `RINGSIDE_EXAMPLE`.

use ringside_tests::ready::{EXAMPLE, HOST, kvm, named};
use ringside_tests::running::Running;
use ringside_tests::testbed::{QEMU, Testbed};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Boots it to its end, and returns the exit status.
fn run(command: Command, world: &str) -> Option<i32> {
    let mut running = Running::spawn(command).unwrap();
    let first = running.expect("example: world ", PATIENCE).unwrap();
    assert!(first.contains(world), "{first}");
    running.expect("irq.save", PATIENCE).unwrap();
    let bytes = running.expect("random bytes: ", PATIENCE).unwrap();
    assert_eq!(bytes.split(", ").count(), 16, "{bytes}");
    running.wait(PATIENCE).unwrap().code()
}

#[test]
fn the_example_kernel_reads_random_bytes_on_qemus_microvm() {
    let Some(kernel) = named(EXAMPLE, "the example kernel on QEMU") else { return };
    if let Err(why) = Testbed::QemuMicrovm.available(kvm()) {
        return eprintln!("SKIPPED the example kernel on QEMU: {why:#}");
    }
    let mut command = Command::new(QEMU);
    command.args(["-M", "microvm,acpi=off", "-global", "virtio-mmio.force-legacy=false", "-m", "64"]);
    command
        .args(["-display", "none", "-serial", "stdio", "-no-reboot", "-device", "virtio-rng-device", "-kernel"])
        .arg(kernel);
    assert_eq!(run(command, "world native"), Some(0));
}

#[test]
fn the_example_kernel_reads_random_bytes_on_our_host() {
    const NAME: &str = "the example kernel on our host";
    let (Some(kernel), Some(host)) = (named(EXAMPLE, NAME), named(HOST, NAME)) else { return };
    if let Err(why) = Testbed::Host.available(kvm()) {
        return eprintln!("SKIPPED {NAME}: {why:#}");
    }
    let mut command = Command::new(host);
    command.args(["run", "--mem", "64M", "--rng", "--kernel"]).arg(kernel);
    assert_eq!(run(command, "world kvm"), Some(0));
}
