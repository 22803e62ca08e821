//! The guest, typed at and talked to: failures that are reported as they should be, memory that comes back from the balloon,
//! answers on the wire. On QEMU's microvm, which needs no KVM, and on Xen in QEMU. `cargo xtask test` names the kernel in
//! `RINGSIDE_KERNEL`, and the folder of a Xen in `RINGSIDE_XEN`.

mod documents;
mod ping;
mod session;
mod xen;

use ringside_tests::machine::Machine;
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::Testbed;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// What the shell says first.
const PROMPT: &str = "type help for the commands";

struct Guest {
    machine: Machine,
    running: Running,
    _folder: TempDir,
}

/// A guest at its prompt; `None` as for [`Ready::new`].
fn guest(test: &str, memory_mib: u64) -> Option<Guest> {
    guest_with(test, memory_mib, "", |machine| machine.start())
}

/// The same with words on the command line and another way to start.
fn guest_with(
    test: &str,
    memory_mib: u64,
    cmdline: &str,
    start: impl FnOnce(&Machine) -> anyhow::Result<Running>,
) -> Option<Guest> {
    let mut guest = started(Ready::new(test, Testbed::QemuMicrovm, memory_mib, cmdline).unwrap()?, start);
    guest.expect(PROMPT);
    Some(guest)
}

fn started(ready: Ready, start: impl FnOnce(&Machine) -> anyhow::Result<Running>) -> Guest {
    let Ready { machine, folder, .. } = ready;
    let running = start(&machine).unwrap();
    Guest { machine, running, _folder: folder }
}

impl Guest {
    fn expect(&mut self, text: &str) -> String {
        self.running.expect(text, PATIENCE).unwrap()
    }

    fn type_line(&mut self, line: &str) {
        self.running.type_line(line).unwrap();
    }

    fn end(mut self) {
        self.running.wait(PATIENCE).unwrap();
    }
}

#[test]
fn a_panic_says_where_and_how_it_came_there_and_ends_the_machine() {
    let Some(mut guest) = guest("a panic", 64) else { return };
    guest.type_line("panic");
    guest.expect("kernel panicked at guest-kernel/src/shell/commands.rs");
    guest.expect("asked for in the shell");
    guest.expect("guest_kernel::shell::");
    guest.expect("kernel_main");
    guest.end();
}

#[test]
fn a_page_fault_is_reported_with_address_registers_and_names() {
    let Some(mut guest) = guest("a page fault", 64) else { return };
    guest.type_line("panic fault");
    guest.expect("exception 14 (page fault)");
    guest.expect("write of 0x00000000deadbeef: not mapped");
    let registers = guest.expect("rip 0xffffffff80");
    assert!(registers.contains("rsp 0xffffffff80"), "{registers}");
    guest.expect("#0");
    guest.expect("kernel_main");
    guest.end();
}

#[test]
fn a_stack_overflow_ends_in_the_guard_page_and_is_reported_from_another_stack() {
    let Some(mut guest) = guest("a stack overflow", 64) else { return };
    guest.type_line("panic stack");
    guest.expect("exception 8 (double fault)");
    let first = guest.expect("#0");
    assert!(first.contains("guest_kernel::shell::commands::overflow"), "{first}");
    guest.end();
}

#[test]
fn a_panic_under_each_lock_is_reported_and_ends_the_machine() {
    for lock in ["console", "frames", "heap", "tables", "vectors"] {
        let Some(mut guest) = guest("a panic under a lock", 64) else { return };
        guest.type_line(&format!("panic lock {lock}"));
        guest.expect("asked for in the shell");
        guest.expect("kernel_main");
        guest.end();
    }
}

#[test]
fn a_panic_while_the_machine_is_ended_is_the_last() {
    let Some(mut guest) = guest("a panic at the end", 64) else { return };
    guest.type_line("panic twice");
    guest.expect("asked for in the shell, while the machine is ended");
    // What comes after the report is the machine's end and not the next report.
    guest.expect("kernel_main");
    assert!(guest.running.expect("panicked", PATIENCE).is_err());
    guest.end();
}

#[test]
fn a_command_says_what_it_does_not_know_and_does_nothing() {
    let Some(mut guest) = guest("unknown words", 64) else { return };
    for (line, answer) in [
        ("panic nonsense", "error: panic: nonsense: no such failure; type help panic"),
        ("panic lock door", "error: panic lock: console, frames, heap, tables or vectors?"),
        ("uptime now", "error: uptime: now: no such thing; type help uptime"),
        ("help nonsense", "error: nonsense: no such command; type help"),
        ("help sum", "sum PATH"),
        ("pvops irq.disable", "fa 0f 1f 80 00 00 00 00    cli; nop"),
        ("balloon", "steady"),
    ] {
        guest.type_line(line);
        guest.expect(answer);
    }
    guest.type_line("poweroff");
    guest.end();
}

#[test]
fn tab_completes_commands_operations_and_names() {
    let Some(mut guest) = guest("completion", 64) else { return };
    let mut type_keys = |keys: &str, answer: &str| {
        guest.running.write_input(keys).unwrap();
        guest.expect(answer);
    };
    type_keys("upt\t\r", "up 0.");
    type_keys("pvops irq.di\t\r", "before");
    type_keys("sum /disk0/READ\t\r", "README.TXT");
    // Several: all are shown, and what was typed stays.
    type_keys("pvops smp.s\t", "smp.start_cpu  smp.send_ipi");
    type_keys("ta\t\r", "call smp.start_cpu");
    type_keys("poweroff\r", "power off");
    guest.end();
}

#[test]
fn a_message_leaves_what_is_being_typed_as_it_was() {
    let Some(mut guest) = guest("a message while typing", 64) else { return };
    guest.running.write_input("upt").unwrap();
    guest.machine.control().unwrap().set_balloon(15_000).unwrap();
    guest.expect("balloon: the host wants 15000 pages");
    guest.running.write_input("ime\r").unwrap();
    let line = guest.expect("uptime");
    assert_eq!(line.trim_start(), "ringside> uptime", "the prompt and what was typed are drawn anew");
    guest.expect("up ");
    guest.type_line("poweroff");
    guest.end();
}

#[test]
fn memory_that_the_heap_had_goes_to_the_balloon() {
    const WANTED: u64 = 10_000;
    let Some(mut guest) = guest("the balloon after a hog", 64) else { return };
    guest.type_line("mem hog 100000");
    guest.expect("took");
    let mut control = guest.machine.control().unwrap();
    control.set_balloon(WANTED).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let actual = control.balloon().unwrap().actual_pages;
        if actual == WANTED {
            break;
        }
        assert!(Instant::now() < deadline, "{actual} of {WANTED} pages: the rest is still the heap's");
        std::thread::sleep(Duration::from_millis(50));
    }
    guest.type_line("poweroff");
    guest.end();
}

#[test]
fn a_kernel_short_of_memory_takes_it_back_from_the_balloon_and_informs_the_host() {
    const WANTED: u64 = 15_000;
    let Some(mut guest) = guest("deflate on OOM", 64) else { return };
    let mut control = guest.machine.control().unwrap();
    control.set_balloon(WANTED).unwrap();
    // The kernel keeps a reserve, so the target cannot be met, and it says so.
    guest.expect("balloon: the host wants 15000 pages");
    let inflated = control.balloon().unwrap().actual_pages;
    assert!((10_000..WANTED).contains(&inflated), "{inflated} pages");
    guest.type_line("mem hog 40");
    assert!(guest.expect("took").contains("took 40 MiB of 40"));
    let left = control.balloon().unwrap().actual_pages;
    assert!(left + 40 * 256 <= inflated + 4096, "{inflated} pages before, {left} after 40 MiB were taken");
    guest.type_line("balloon");
    guest.expect("released on OOM");
    guest.type_line("poweroff");
    guest.end();
}

/// Each site is patched at each boot. A wait loop that is inlined into every check of the suite once made them 200 more.
#[test]
fn the_image_has_no_more_call_sites_than_the_boot_can_afford() {
    const SITES_MAX: u64 = 920;
    let Some(ready) = Ready::new("call sites", Testbed::QemuMicrovm, 64, "").unwrap() else { return };
    let mut guest = started(ready, |machine| machine.start());
    let line = guest.expect("@boot ready");
    let sites = line.split("sites=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(sites.is_some_and(|sites| (500..=SITES_MAX).contains(&sites)), "{line}");
}
