//! Machines that are put together otherwise than the testbeds': devices behind bridges, registers and memory above 4 GiB,
//! little memory, an initrd, a legacy device. On QEMU with a software CPU. `cargo xtask test` names the kernel in
//! `RINGSIDE_KERNEL`.

use cpio::newc;
use ringside_tests::console::Event;
use ringside_tests::machine::{Access, Disk, Machine, Publish, Running, SerialLine, run_folder};
use ringside_tests::testbed::{KvmPolicy, Testbed};
use ringside_tests::tour::{self, DiskKnowledge, Silent};
use ringside_tests::{sample, web};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use std::{env, thread};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine on QEMU's q35 that is not started yet.
struct Parts {
    machine: Machine,
    disk: DiskKnowledge,
    folder: TempDir,
}

/// `None`, said, where there is nothing to boot or nothing to boot on.
fn parts(test: &str, cmdline: &str, memory_mib: u64) -> Option<Parts> {
    let testbed = Testbed::Qemu;
    let Some(kernel) = env::var_os("RINGSIDE_KERNEL") else {
        eprintln!("SKIPPED {test}: RINGSIDE_KERNEL names no kernel; cargo xtask test does");
        return None;
    };
    if let Err(why) = testbed.available(KvmPolicy::Absent) {
        eprintln!("SKIPPED {test}: {why}");
        return None;
    }
    let folder = run_folder(&env::temp_dir()).unwrap();
    let inside = |name: &str| folder.path().join(name);
    let (image, original, path) = (inside("guest.elf"), inside("original.img"), inside("disk.img"));
    mkimage::image::write(Path::new(&kernel), "", None, &image).unwrap();
    let file = sample::write(&inside("files"), &original).unwrap();
    fs::copy(&original, &path).unwrap();
    let machine = Machine {
        testbed,
        image,
        cmdline: cmdline.into(),
        memory: memory_mib << 20,
        cpus: 1,
        disk: Disk { path, access: Access::ReadWrite },
        publish: Publish { host: web::free_port().unwrap(), guest: 80 },
        more: Vec::new(),
        ringside: "ringside".into(),
        inner: None,
        xen: None,
        folder: folder.path().into(),
    };
    Some(Parts { machine, disk: DiskKnowledge::Sample { file, original }, folder })
}

impl Parts {
    /// Starts it with more arguments, and with options added to devices by the names that these begin with.
    fn start(&self, first: &[&str], options: &[(&str, &str)]) -> Running {
        let usual = self.machine.command(SerialLine::Captured);
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

    fn take_tour(&self, first: &[&str], options: &[(&str, &str)]) {
        let running = self.start(first, options);
        let verdict = tour::follow(&self.machine, running, &self.disk, &mut Silent, &AtomicBool::new(false));
        assert!(verdict.succeeded(), "{}\n{}\n{}", verdict.complaint(), verdict.tail.join("\n"), verdict.stderr);
        let skipped = verdict.steps.iter().filter(|step| step.state == tour::State::Skipped);
        assert_eq!(skipped.count(), 0, "all devices were found: {:?}", verdict.steps);
    }
}

#[test]
fn the_tour_succeeds_with_every_device_behind_a_bridge() {
    for cmdline in ["tour", "tour drivers=reference"] {
        let Some(parts) = parts("devices behind bridges", cmdline, 128) else { return };
        let bridges = [
            // A root port; a switch with a port; conventional PCI behind a bridge behind a bridge.
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
        parts.take_tour(bridges.as_flattened(), &places);
    }
}

#[test]
fn the_tour_succeeds_with_registers_above_4_gib() {
    let Some(parts) = parts("registers above 4 GiB", "tour", 128) else { return };
    // It leaves no room below: the firmware puts all registers that may be there above.
    let memory =
        ["-object", "memory-backend-ram,id=large,size=4G,reserve=off", "-device", "ivshmem-plain,memdev=large"];
    parts.take_tour(&memory, &[]);
}

#[test]
fn the_tour_succeeds_with_little_memory_and_with_memory_above_4_gib() {
    for memory_mib in [64, 3 << 10, 6 << 10] {
        let Some(parts) = parts("64 MiB, 3 GiB and 6 GiB", "tour", memory_mib) else { return };
        parts.take_tour(&["-device", "pcie-root-port,id=root,chassis=1"], &[("virtio-blk-pci", ",bus=root")]);
    }
}

/// What a line of the console must have; everything up to there is passed over.
fn expect(running: &mut Running, text: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while Instant::now() < deadline {
        match running.console.next(Duration::from_millis(100)) {
            Event::Line(line) if line.contains(text) => return line,
            Event::Line(line) => seen.push(line),
            Event::Quiet => {}
            Event::Closed => break,
        }
    }
    panic!("no {text:?} in:\n{}\n{}", seen.join("\n"), running.stderr());
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
fn the_initrd_s_files_are_in_the_root_and_the_disk_s_beside_them() {
    let Some(parts) = parts("an initrd", "", 64) else { return };
    let path = parts.folder.path().join("programs.cpio");
    let program: Vec<u8> = (0..300_000_u32).map(|byte| (byte * 7) as u8).collect();
    fs::write(&path, initrd(&[("greeting.txt", b"hello from the initrd\n"), ("bin/program", &program)])).unwrap();
    let mut running = parts.start(&["-initrd", path.to_str().unwrap()], &[]);
    expect(&mut running, "type help for the commands");
    running.type_line("ls").unwrap();
    for name in ["dir disk0", "dir bin", "22 greeting.txt"] {
        expect(&mut running, name);
    }
    running.type_line("cat greeting.txt").unwrap();
    expect(&mut running, "hello from the initrd");
    running.type_line("sum /bin/program").unwrap();
    expect(&mut running, &format!("{:08x} 300000 /bin/program", sample::crc32(&program)));
    let DiskKnowledge::Sample { file, .. } = &parts.disk else { unreachable!("the sample disk") };
    running.type_line(&format!("sum /disk0/{}", file.path)).unwrap();
    expect(&mut running, &format!("{:08x} {} /disk0/{}", file.crc32, file.bytes, file.path));
    running.type_line("cat bin/nothing").unwrap();
    expect(&mut running, "error: bin/nothing: no such file or directory");
    end(running);
}

#[test]
fn a_damaged_initrd_is_told_in_one_line_and_the_kernel_goes_on() {
    let Some(parts) = parts("a damaged initrd", "", 64) else { return };
    let path = parts.folder.path().join("damaged.cpio");
    let whole = initrd(&[("a", b"hello"), ("b", &[7; 5000])]);
    fs::write(&path, &whole[..4000]).unwrap();
    let mut running = parts.start(&["-initrd", path.to_str().unwrap()], &[]);
    expect(&mut running, "error: initrd: truncated: the file at byte 120 reaches behind the end");
    expect(&mut running, "type help for the commands");
    running.type_line("ls").unwrap();
    expect(&mut running, "error: initrd: truncated");
    running.type_line("ls /disk0").unwrap();
    expect(&mut running, "README.TXT");
    end(running);
}

#[test]
fn a_legacy_device_behind_a_bridge_is_refused_in_one_line() {
    let Some(parts) = parts("a legacy device", "", 64) else { return };
    let legacy = [
        ["-device", "pcie-pci-bridge,id=outer"],
        ["-device", "virtio-serial-pci,bus=outer,addr=4,disable-legacy=off,disable-modern=on"],
    ];
    let mut running = parts.start(legacy.as_flattened(), &[]);
    let line = expect(&mut running, "warning: pci 01:04.0:");
    assert!(line.ends_with("legacy device, not driven: it needs disable-legacy=on"), "{line}");
    expect(&mut running, "type help for the commands");
    end(running);
}
