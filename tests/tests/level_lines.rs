//! Devices whose lines signal by levels, as ACPI declares them on QEMU's microvm: each line interrupts once for what the
//! device has to say, and again for the next.

use ringside_tests::machine::SerialLine;
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::Testbed;
use ringside_tests::tour::DiskKnowledge;
use std::fs;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const READS: u64 = 20;

/// The number at the end of a line that contains a text.
fn number(running: &mut Running, text: &str) -> u64 {
    let line = running.expect(text, PATIENCE).unwrap();
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no number in {line:?}"))
}

/// A microvm whose devices ACPI declares; `None`, said, where it cannot be started.
fn microvm(test: &str, cmdline: &str) -> Option<(Ready, Command)> {
    let ready = Ready::new(test, Testbed::QemuMicrovm, 64, cmdline).unwrap()?;
    let usual = ready.machine.command(SerialLine::Captured);
    let mut command = Command::new(usual.get_program());
    command.args(usual.get_args()).args(["-M", "microvm,acpi=on"]);
    Some((ready, command))
}

/// The I/O APIC notes that an interrupt is not yet acknowledged for lines that signal by levels, and for no others.
#[test]
fn checks_bind_a_line_as_acpi_says_that_it_signals() {
    const CHECKS: &str = "conform=irq/device-interrupts,irq/not-more-than-used-buffers,irq/mask-holds,\
                          irq/unmask-delivers-the-next,irq/quiet-when-idle,queue/event-index-wraps-at-65536";
    let Some((ready, mut command)) = microvm("checks on lines that signal by levels", CHECKS) else { return };
    let trace = ready.folder.path().join("trace");
    command.args(["-trace", "ioapic_set_remote_irr", "-D"]).arg(&trace);
    let mut running = Running::spawn(command).unwrap();
    let last = running.expect("@boot conform", PATIENCE).unwrap();
    assert!(last.contains("ok ran=6 failed=0 advice=0 skipped=0 errors=0"), "{last}\n{}", running.stderr());
    assert!(running.wait(PATIENCE).unwrap().success());
    let delivered = fs::read_to_string(&trace).unwrap().lines().count();
    assert!(delivered >= 100, "{delivered} interrupts by levels");
}

#[test]
fn line_that_signals_by_a_level_interrupts_once_for_each_answer() {
    let Some((ready, command)) = microvm("lines that signal by levels", "") else { return };
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
    // A line that is not answered interrupts without end, one that is let go too early more than once for an answer
    // (`guest_kernel::trap::level`). An answer may be seen before its interrupt comes, which then is that of the
    // next answer too, as long as nobody has read the status: at most two for one interrupt.
    let interrupts = after - before;
    assert!((READS.div_ceil(2)..=READS).contains(&interrupts), "{interrupts} interrupts for {READS} reads");
    let DiskKnowledge::Sample { file, .. } = &ready.disk else { unreachable!("the sample disk") };
    running.type_line(&format!("sum /disk0/{}", file.path)).unwrap();
    running.expect(&format!("{:08x}", file.crc32), PATIENCE).unwrap();
    running.type_line("poweroff").unwrap();
    running.wait(PATIENCE).unwrap();
}

/// On the PC the MADT says so of the PCI pins. On the microvm without ACPI everything signals by edges.
#[test]
fn a_level_is_judged_where_the_madt_says_that_it_is_one_and_skipped_on_a_machine_of_edges() {
    const CHECK: &str = "irq/level-line-interrupts-until-acknowledged";
    for (testbed, expected) in [(Testbed::Qemu, " ok"), (Testbed::QemuMicrovm, " skip why=")] {
        let cmdline = format!("conform={CHECK}");
        let Some(ready) = Ready::new("lines that are no levels", testbed, 64, &cmdline).unwrap() else { return };
        let mut running = ready.machine.start().unwrap();
        let line = running.expect(&format!("@check {CHECK}"), PATIENCE).unwrap();
        assert!(line.contains(expected), "{testbed}: {line}");
        let last = running.expect("@boot conform", PATIENCE).unwrap();
        assert!(last.contains("failed=0"), "{testbed}: {last}");
        assert!(running.wait(PATIENCE).unwrap().success());
    }
}
