//! Devices whose lines signal by levels, as ACPI declares them on QEMU's microvm: each line interrupts once for what the
//! device has to say, and again for the next.

use ringside_tests::machine::SerialLine;
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::Testbed;
use ringside_tests::tour::DiskKnowledge;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const READS: u64 = 20;

/// The number at the end of a line that contains a text.
fn number(running: &mut Running, text: &str) -> u64 {
    let line = running.expect(text, PATIENCE).unwrap();
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no number in {line:?}"))
}

#[test]
fn line_that_signals_by_a_level_interrupts_once_for_each_answer() {
    let Some(ready) = Ready::new("lines that signal by levels", Testbed::QemuMicrovm, 64, "").unwrap() else { return };
    let usual = ready.machine.command(SerialLine::Captured);
    let mut command = Command::new(usual.get_program());
    command.args(usual.get_args()).args(["-M", "microvm,acpi=on"]);
    let mut running = Running::spawn(command).unwrap();
    running.expect("type help for the commands", PATIENCE).unwrap();
    running.type_line("dev").unwrap();
    running.expect("by level", PATIENCE).unwrap();
    let interrupts = |running: &mut Running| {
        running.type_line("irq").unwrap();
        number(running, " block line ")
    };
    let before = interrupts(&mut running);
    for sector in 0..READS {
        running.type_line(&format!("blk read {sector}")).unwrap();
        running.expect("1f0 ", PATIENCE).unwrap();
    }
    let after = interrupts(&mut running);
    // A line that is not answered interrupts without end, one that is answered too early twice for each read. One more was
    // seen once, on a machine with ten times more work than processors.
    assert!((READS..=READS + 1).contains(&(after - before)), "{} interrupts for {READS} reads", after - before);
    let DiskKnowledge::Sample { file, .. } = &ready.disk else { unreachable!("the sample disk") };
    running.type_line(&format!("sum /disk0/{}", file.path)).unwrap();
    running.expect(&format!("{:08x}", file.crc32), PATIENCE).unwrap();
    running.type_line("poweroff").unwrap();
    running.wait(PATIENCE).unwrap();
}
