//! Machines unlike the testbeds': devices below bridges, registers and memory above 4 GiB,
//! little memory, an initrd, legacy devices, ways to configuration space. On QEMU with a software CPU.

use cpio::newc;
use ringside_tests::machine::SerialLine;
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::sample;
use ringside_tests::testbed::Testbed;
use ringside_tests::tour::{DiskKnowledge, State};
use std::fs;
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn ready(test: &str, cmdline: &str, memory_mib: u64) -> Option<Ready> {
    Ready::new(test, Testbed::Qemu, memory_mib, cmdline).unwrap()
}

/// Starts it with more arguments, and with options added to devices by the names that these begin with.
fn start(ready: &Ready, first: &[&str], options: &[(&str, &str)]) -> Running {
    let usual = ready.machine.command(SerialLine::Captured);
    let mut command = Command::new(usual.get_program());
    // A bus comes before what is on it.
    let mut arguments = usual.get_args();
    command.args(arguments.by_ref().take(2)).args(first);
    for argument in arguments {
        let text = argument.to_string_lossy();
        match options.iter().find(|(device, _)| text.starts_with(device)) {
            Some((_, more)) => command.arg(format!("{text}{more}")),
            None => command.arg(argument),
        };
    }
    Running::spawn(command).unwrap()
}

fn take_tour(ready: &Ready, first: &[&str], options: &[(&str, &str)]) {
    let verdict = ready.follow(start(ready, first, options));
    assert!(verdict.succeeded(), "{}\n{}\n{}", verdict.complaint(), verdict.tail.join("\n"), verdict.stderr);
    let skipped = verdict.steps.iter().filter(|step| step.state == State::Skipped);
    assert_eq!(skipped.count(), 0, "all devices were found: {:?}", verdict.steps);
}

#[test]
fn the_tour_succeeds_with_every_device_below_a_bridge() {
    for cmdline in ["tour", "tour drivers=reference"] {
        let Some(ready) = ready("devices below bridges", cmdline, 128) else { return };
        let bridges = [
            // A root port; a switch with a port; conventional PCI below a bridge below a bridge.
            ["-device", "pcie-root-port,id=root,chassis=1"],
            ["-device", "pcie-root-port,id=uplink,chassis=2"],
            ["-device", "x3130-upstream,id=switch,bus=uplink"],
            ["-device", "xio3130-downstream,id=down,bus=switch,chassis=3"],
            ["-device", "pcie-pci-bridge,id=outer"],
            ["-device", "pci-bridge,id=inner,bus=outer,addr=2,chassis_nr=4"],
        ];
        let places = [
            ("virtio-blk-pci", ",bus=root"),
            ("virtio-net-pci", ",bus=inner,addr=3"),
            ("virtio-balloon-pci", ",bus=down"),
            ("virtio-rng-pci", ",bus=outer,addr=1"),
        ];
        take_tour(&ready, bridges.as_flattened(), &places);
    }
}

#[test]
fn the_tour_succeeds_with_registers_above_4_gib() {
    let Some(ready) = ready("registers above 4 GiB", "tour", 128) else { return };
    // It leaves no room below: the firmware puts all registers that may be there above.
    let memory =
        ["-object", "memory-backend-ram,id=large,size=4G,reserve=off", "-device", "ivshmem-plain,memdev=large"];
    take_tour(&ready, &memory, &[]);
}

#[test]
fn the_tour_succeeds_with_little_memory_and_with_memory_above_4_gib() {
    for memory_mib in [64, 3 << 10, 6 << 10] {
        let Some(ready) = ready("64 MiB, 3 GiB and 6 GiB", "tour", memory_mib) else { return };
        take_tour(&ready, &["-device", "pcie-root-port,id=root,chassis=1"], &[("virtio-blk-pci", ",bus=root")]);
    }
}

fn expect(running: &mut Running, text: &str) -> String {
    running.expect(text, PATIENCE).unwrap()
}

fn end(mut running: Running) {
    // What was asked for before is to be seen first.
    thread::sleep(Duration::from_millis(100));
    running.type_line("poweroff").unwrap();
    running.wait(PATIENCE).unwrap();
}

fn initrd(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files {
        let mut entry = newc::Builder::new(name).mode(0o100_644).nlink(1).write(&mut bytes, content.len() as u32);
        entry.write_all(content).unwrap();
        entry.finish().unwrap();
    }
    newc::trailer(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_initrds_files_are_in_the_root_and_the_disks_next_to_them() {
    let Some(ready) = ready("an initrd", "", 64) else { return };
    let path = ready.folder.path().join("programs.cpio");
    let program: Vec<u8> = (0..300_000_u32).map(|byte| (byte * 7) as u8).collect();
    fs::write(&path, initrd(&[("greeting.txt", b"hello from the initrd\n"), ("bin/program", &program)])).unwrap();
    let mut running = start(&ready, &["-initrd", path.to_str().unwrap()], &[]);
    expect(&mut running, "type help for the commands");
    running.type_line("ls").unwrap();
    for name in ["dir disk0", "dir bin", "22 greeting.txt"] {
        expect(&mut running, name);
    }
    running.type_line("cat greeting.txt").unwrap();
    expect(&mut running, "hello from the initrd");
    running.type_line("sum /bin/program").unwrap();
    expect(&mut running, &format!("{:08x} 300000 /bin/program", sample::crc32(&program)));
    let DiskKnowledge::Sample { file, .. } = &ready.disk else { unreachable!("the sample disk") };
    running.type_line(&format!("sum /disk0/{}", file.path)).unwrap();
    expect(&mut running, &format!("{:08x} {} /disk0/{}", file.crc32, file.bytes, file.path));
    running.type_line("cat bin/nothing").unwrap();
    expect(&mut running, "error: bin/nothing: no such file or directory");
    end(running);
}

#[test]
fn a_damaged_initrd_is_reported_in_one_line_and_the_kernel_goes_on() {
    let Some(ready) = ready("a damaged initrd", "", 64) else { return };
    let path = ready.folder.path().join("damaged.cpio");
    let whole = initrd(&[("a", b"hello"), ("b", &[7; 5000])]);
    fs::write(&path, &whole[..4000]).unwrap();
    let mut running = start(&ready, &["-initrd", path.to_str().unwrap()], &[]);
    expect(&mut running, "error: initrd: truncated: the file at byte 120 extends past the end");
    expect(&mut running, "type help for the commands");
    running.type_line("ls").unwrap();
    expect(&mut running, "error: initrd: truncated");
    running.type_line("ls /disk0").unwrap();
    expect(&mut running, "README.TXT");
    end(running);
}

#[test]
fn legacy_devices_are_refused_in_one_line_each() {
    let Some(ready) = ready("legacy devices", "", 64) else { return };
    let legacy = [
        ["-blockdev", "driver=null-co,node-name=old,size=1048576"],
        ["-device", "virtio-blk-pci,drive=old,addr=10,disable-legacy=off,disable-modern=on"],
        // A transitional one, as QEMU has them on q35 if nothing is said.
        ["-device", "virtio-rng-pci,addr=11"],
        ["-device", "pcie-pci-bridge,id=outer"],
        ["-device", "virtio-serial-pci,bus=outer,addr=4,disable-legacy=off,disable-modern=on"],
    ];
    let mut running = start(&ready, legacy.as_flattened(), &[]);
    for place in ["00:10.0", "00:11.0", "01:04.0"] {
        let line = expect(&mut running, &format!("warning: pci {place}:"));
        assert!(line.ends_with("legacy device, not driven: it needs disable-legacy=on"), "{line}");
    }
    expect(&mut running, "type help for the commands");
    end(running);
}

/// Accesses to configuration space by memory and by ports, and exits, from entry to ready.
fn accesses(cmdline: &str, first: &[&str]) -> Option<[u64; 3]> {
    let ready = ready("ways to configuration space", cmdline, 64)?;
    let mut running = start(&ready, first, &[]);
    let line = expect(&mut running, "pci: ");
    expect(&mut running, "type help for the commands");
    running.type_line("ls /disk0").unwrap();
    expect(&mut running, "README.TXT");
    end(running);
    let words: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let counts = <[u64; 3]>::try_from(words).unwrap_or_else(|_| panic!("three counts in {line:?}"));
    assert_eq!(line, format!("pci: {} accesses by memory, {} by ports; {} exits", counts[0], counts[1], counts[2]));
    Some(counts)
}

#[test]
fn configuration_space_is_memory_where_the_firmware_says_so_and_takes_half_the_exits() {
    let Some([memory, confirmed, exits]) = accesses("", &[]) else { return };
    assert_eq!((confirmed, exits), (1, memory + 2), "one look by the ports whether the firmware is right");
    let Some([none, ports, exits_by_ports]) = accesses("ringside.pci=ports", &[]) else { return };
    assert_eq!((none, ports, exits_by_ports), (0, memory - 1, 2 * ports), "the same accesses");
    let Some(by_memory_alone) = accesses("ringside.pci=memory", &[]) else { return };
    assert_eq!(by_memory_alone, [memory - 1, 0, memory - 1]);
    // The old PC has no such memory, whatever is asked for.
    let Some([none, ports, exits]) = accesses("", &["-M", "pc"]) else { return };
    assert!(none == 0 && ports > 0 && exits == 2 * ports, "{none} {ports} {exits}");
}

#[test]
fn the_command_register_is_written_alone() {
    // In the same 32 bits is the status, whose bits are cleared by writing them as they were read.
    for cmdline in ["tour ringside.pci=memory", "tour ringside.pci=ports", "tour ringside.pci=ports drivers=reference"]
    {
        let Some(ready) = ready("writes to the command register", cmdline, 128) else { return };
        let log = ready.folder.path().join("trace");
        let path = log.display().to_string();
        let traced = ["-device", "pcie-root-port,id=root,chassis=1", "-trace", "pci_cfg_write", "-D", &path];
        take_tour(&ready, &traced, &[("virtio-blk-pci", ",bus=root")]);
        let text = fs::read_to_string(&log).unwrap();
        // "pci_cfg_write virtio-blk-pci 01:0.0 @0x4 <- 0x406"; the firmware's come before the kernel's and are right, too.
        let written: Vec<u32> = text
            .lines()
            .filter_map(|line| line.split_once("@0x4 <- 0x"))
            .filter_map(|(_, value)| u32::from_str_radix(value.trim(), 16).ok())
            .collect();
        assert!(written.len() >= 8, "{} writes of the command register:\n{text}", written.len());
        let wide: Vec<&u32> = written.iter().filter(|&&value| value > 0xffff).collect();
        assert!(wide.is_empty(), "the status was written, too: {wide:x?}");
    }
}

#[test]
fn the_tour_succeeds_by_either_way_to_configuration_space() {
    for cmdline in ["tour ringside.pci=memory", "tour ringside.pci=ports", "tour ringside.pci=memory drivers=reference"]
    {
        let Some(ready) = ready("ways to configuration space", cmdline, 128) else { return };
        let bridges = ["-device", "pcie-root-port,id=root,chassis=1"];
        take_tour(&ready, &bridges, &[("virtio-blk-pci", ",bus=root")]);
    }
}

/// What the boot log says of the time on a machine with these arguments, and how many of three naps of the executor ended.
fn time_line(testbed: Testbed, first: &[&str]) -> Option<String> {
    let ready = Ready::new("machines without some timers", testbed, 64, "").unwrap()?;
    let mut running = start(&ready, first, &[]);
    let line = expect(&mut running, "time: ");
    let line = if line.contains("warning") { format!("{line}; {}", expect(&mut running, "time: ")) } else { line };
    expect(&mut running, "type help for the commands");
    // The kernel's tasks sleep: without timer interrupts none of them wakes.
    let deadline = Instant::now() + PATIENCE;
    loop {
        running.type_line("irq").unwrap();
        let count = expect(&mut running, "vector 0x20 timer: ");
        if !count.ends_with(" 0") {
            break;
        }
        assert!(Instant::now() < deadline, "no timer interrupt: {line}");
        thread::sleep(Duration::from_millis(50));
    }
    end(running);
    Some(line)
}

#[test]
fn frequencies_come_from_whatever_timer_there_is_and_the_timer_always_works() {
    for (testbed, machine, source) in [
        (Testbed::Qemu, "q35", "(the HPET)"),
        (Testbed::Qemu, "q35,pit=off", "(the HPET)"),
        (Testbed::Qemu, "q35,hpet=off", "(ACPI's timer)"),
        (Testbed::Qemu, "q35,hpet=off,pit=off", "(ACPI's timer)"),
        (Testbed::QemuMicrovm, "microvm,acpi=off", "(the PIT)"),
        (Testbed::QemuMicrovm, "microvm,acpi=off,pit=off", "(a guess: nothing to measure against)"),
    ] {
        let Some(line) = time_line(testbed, &["-M", machine]) else { return };
        assert!(line.contains(source), "{machine}: {line}");
        let warned = line.contains("warning: time: neither CPUID, HPET, ACPI nor a PIT gives the TSC's frequency");
        assert_eq!(warned, machine.ends_with("acpi=off,pit=off"), "{machine}: {line}");
    }
}

#[test]
fn protections_are_on_where_the_cpu_offers_them_and_the_boot_log_says_so() {
    for (without, line) in [
        ("", "cpu: SMEP, SMAP, UMIP, machine checks"),
        (",-smap,-umip", "cpu: SMEP, machine checks"),
        (",-smap,-umip,-smep,-mce", "cpu: no protections"),
    ] {
        let Some(ready) = ready("protections of the CPU", "", 64) else { return };
        let mut running = start(&ready, &[], &[("max", without)]);
        assert_eq!(expect(&mut running, "cpu: "), line, "max{without}");
        expect(&mut running, "type help for the commands");
        running.type_line("checks").unwrap();
        expect(&mut running, "0 failed");
        end(running);
    }
}

#[test]
fn the_timer_works_by_tsc_deadline_where_cpuid_offers_it() {
    let Some(ready) = Ready::new("TSC deadline", Testbed::Host, 64, "").unwrap() else { return };
    let mut running = ready.machine.start().unwrap();
    let line = expect(&mut running, "time: ");
    assert!(line.ends_with("timer by TSC deadline"), "{line}");
    expect(&mut running, "type help for the commands");
    running.type_line("checks").unwrap();
    expect(&mut running, "0 failed");
    end(running);
}

#[test]
fn a_machine_without_acpi_is_reset_by_its_keyboard_controller() {
    let Some(ready) = ready("a reset by port 0x64", "", 64) else { return };
    let log = ready.folder.path().join("trace");
    let path = log.display().to_string();
    let traced = ["-M", "q35,acpi=off", "-trace", "pckbd_kbd_write_command", "-D", &path];
    let mut running = start(&ready, &traced, &[]);
    expect(&mut running, "type help for the commands");
    end(running);
    let commands = fs::read_to_string(&log).unwrap();
    let last = commands.lines().next_back().unwrap_or_default();
    assert!(last.ends_with("0xfe"), "no reset was asked for: {commands}");
}

#[test]
fn a_bad_ecam_window_falls_back_to_ports_with_one_line() {
    for (base, buses, why) in [
        (0_u64, [0, 0xff], "0x0, buses 00 to ff, is not used: it is RAM"),
        (0xe000_1000, [0, 0xff], "0xe0001000, buses 00 to ff, is not used: its address is no multiple of 1 MiB"),
        (0xe000_0000, [2, 1], "0xe0000000, buses 02 to 01, is not used: it has no buses"),
        (1 << 60, [0, 0], "0x1000000000000000, buses 00 to 00, is not used: it lies beyond what can be mapped"),
        (0xe000_0000, [0, 0xff], "0xe0000000, buses 00 to ff, is not used: it reads otherwise than the ports"),
    ] {
        let Some(ready) = ready("windows that cannot be", "", 64) else { return };
        // 8 reserved bytes, then one entry.
        let mut table = vec![0; 8];
        table.extend(base.to_le_bytes());
        table.extend([0, 0, buses[0], buses[1], 0, 0, 0, 0]);
        let path = ready.folder.path().join("mcfg");
        fs::write(&path, table).unwrap();
        let table = format!("sig=MCFG,data={}", path.display());
        let mut running = start(&ready, &["-M", "pc", "-acpitable", &table], &[]);
        expect(&mut running, &format!("warning: pci: ECAM window at {why}"));
        expect(&mut running, "type help for the commands");
        running.type_line("ls /disk0").unwrap();
        expect(&mut running, "README.TXT");
        end(running);
    }
}

#[test]
fn the_tour_succeeds_on_a_microvm_whose_devices_acpi_declares() {
    for cmdline in ["tour", "tour drivers=reference"] {
        let ready = Ready::new("a microvm with ACPI", Testbed::QemuMicrovm, 64, cmdline).unwrap();
        let Some(ready) = ready else { return };
        take_tour(&ready, &["-M", "microvm,acpi=on"], &[]);
    }
}

#[test]
fn the_kernel_stays_in_x2apic_mode_with_two_cpus_and_takes_the_tour_there() {
    let Some(mut ready) = Ready::new("x2APIC", Testbed::Host, 64, "x2apic").unwrap() else { return };
    ready.machine.cpus = 2;
    let mut running = ready.machine.start().unwrap();
    let modes = expect(&mut running, "cpu: ");
    assert!(modes.ends_with("; x2APIC"), "{modes}");
    expect(&mut running, "type help for the commands");
    running.type_line("checks").unwrap();
    expect(&mut running, "0 failed");
    end(running);
    ready.machine.cmdline = "tour x2apic".into();
    let verdict = ready.follow(ready.machine.start().unwrap());
    assert!(verdict.succeeded(), "{}\n{}\n{}", verdict.complaint(), verdict.tail.join("\n"), verdict.stderr);
}
