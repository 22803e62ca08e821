//! The guest as the first domain of Xen: failures end with a report on Xen's console and end the machine, what Xen lacks is
//! told, and the tour takes any size of memory.

use super::{Guest, PATIENCE, PROMPT, started};
use object::{Object, ObjectSymbol};
use ringside_tests::console::Event;
use ringside_tests::machine::{Boot, Machine, SerialLine};
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::sample::crc32;
use ringside_tests::testbed::Testbed;
use std::collections::HashSet;
use std::env;
use std::fs;

const MEMORY_MIB: u64 = 64;
/// What Xen says of a domain that has ended itself, before it resets the machine.
const CRASHED: &str = "(XEN) Hardware Dom0 crashed";

fn ready(test: &str, memory_mib: u64, cmdline: &str) -> Option<Ready> {
    Ready::new(test, Testbed::XenPv, memory_mib, cmdline).unwrap()
}

/// A guest at its prompt.
fn guest(test: &str) -> Option<Guest> {
    let mut guest = started(ready(test, MEMORY_MIB, "")?, Machine::start);
    guest.expect(PROMPT);
    Some(guest)
}

/// A machine with more words for Xen.
fn with_words(machine: &Machine, words: &str) -> anyhow::Result<Running> {
    let mut command = machine.command(SerialLine::Captured);
    let memory = machine.memory >> 20;
    // The last one counts.
    command.args(["-append", &format!("console=com1 com1=115200,8n1 dom0_mem={memory}M {words}")]);
    Running::spawn(command)
}

#[test]
fn a_panic_on_xen_says_where_and_how_it_came_there_and_ends_the_machine() {
    let Some(mut guest) = guest("a panic on Xen") else { return };
    guest.type_line("panic");
    guest.expect("kernel panicked at guest-kernel/src/shell/commands.rs");
    guest.expect("asked for in the shell");
    guest.expect("kernel_main");
    guest.expect(CRASHED);
    guest.end();
}

#[test]
fn a_page_fault_on_xen_is_reported_with_address_registers_and_names() {
    let Some(mut guest) = guest("a page fault on Xen") else { return };
    guest.type_line("panic fault");
    guest.expect("exception 14 (page fault)");
    guest.expect("write of 0x00000000deadbeef: not mapped");
    let registers = guest.expect("rip 0xffffffff80");
    assert!(registers.contains("rsp 0xffffffff80"), "{registers}");
    guest.expect("kernel_main");
    guest.expect(CRASHED);
    guest.end();
}

/// Xen has no other stack for a domain's faults: the report is its own.
#[test]
fn a_stack_overflow_on_xen_ends_in_the_guard_page_and_xen_reports_where() {
    let Some(mut guest) = guest("a stack overflow on Xen") else { return };
    guest.type_line("panic stack");
    guest.expect("(XEN) domain_crash_sync called from entry.S");
    let line = guest.expect("RIP:");
    let rip = line.split_once("[<").and_then(|(_, rest)| rest.split_once(">]")).unwrap().0;
    let rip = u64::from_str_radix(rip, 16).unwrap();
    let kernel = std::fs::read(env::var_os("RINGSIDE_KERNEL").unwrap()).unwrap();
    let kernel = object::File::parse(&*kernel).unwrap();
    let holds = |symbol: &object::Symbol<'_, '_>| (symbol.address()..symbol.address() + symbol.size()).contains(&rip);
    let symbol = kernel.symbols().find(holds).unwrap();
    assert!(symbol.name().unwrap().contains("overflow"), "{line}: {symbol:?}");
    guest.expect(CRASHED);
    guest.end();
}

#[test]
fn too_little_memory_is_reported_in_one_line_and_ends_the_machine() {
    let Some(ready) = ready("too little memory on Xen", 12, "") else { return };
    let mut guest = started(ready, Machine::start);
    guest.expect("ringside: cannot run on this Xen: 12 MiB of memory are too little: it takes ");
    guest.expect(CRASHED);
    guest.end();
}

#[test]
fn a_device_whose_interrupt_xen_cannot_route_is_reported_and_polled() {
    let Some(ready) = ready("no route on Xen", MEMORY_MIB, "") else { return };
    let mut guest = started(ready, |machine| with_words(machine, "msi=0"));
    guest.expect("warning: block: its interrupt cannot be routed; it is polled");
    guest.expect("warning: net: its interrupt cannot be routed; it is polled");
    guest.expect(PROMPT);
    guest.type_line("cat /disk0/README.TXT");
    guest.expect("Ringside");
    guest.type_line("poweroff");
    guest.end();
}

#[test]
fn the_tour_on_xen_takes_any_size_of_memory() {
    for memory_mib in [40, 511, 513] {
        let Some(ready) = ready("sizes of memory on Xen", memory_mib, "tour") else { return };
        let verdict = ready.follow(ready.machine.start().unwrap());
        assert!(verdict.succeeded(), "{memory_mib} MiB: {}\n{}", verdict.complaint(), verdict.tail.join("\n"));
    }
}

#[test]
fn the_second_module_is_the_initrd() {
    let test = "an initrd on Xen";
    let Some(mut ready) = ready(test, MEMORY_MIB, "") else { return };
    let files = ready.folder.path().join("programs");
    let program: Vec<u8> = (0..300_000_u32).map(|byte| (byte * 11) as u8).collect();
    fs::create_dir(&files).unwrap();
    fs::write(files.join("program"), &program).unwrap();
    let initrd = ready.folder.path().join("initrd,with-a-comma");
    fs::write(&initrd, mkimage::initrd::load(&files).unwrap()).unwrap();
    let Boot::Kernel { initrd: place, .. } = &mut ready.machine.boot else { unreachable!("a kernel boots") };
    *place = Some(initrd);
    let mut guest = started(ready, Machine::start);
    guest.expect(PROMPT);
    guest.type_line("sum program");
    guest.expect(&format!("{:08x} 300000 program", crc32(&program)));
    guest.type_line("poweroff");
    guest.end();
}

#[test]
fn long_output_on_xen_comes_once() {
    let Some(mut guest) = guest("long output on Xen") else { return };
    guest.type_line("pvops time.now");
    guest.expect("after ");
    guest.type_line("poweroff");
    let mut seen = HashSet::new();
    while let Event::Line(line) = guest.running.console.next(PATIENCE) {
        if line.starts_with("0xffff") {
            assert!(seen.insert(line.clone()), "twice: {line}");
        }
    }
    assert!(seen.len() > 100, "{seen:?}");
    guest.end();
}
