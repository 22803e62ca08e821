//! One bootable disk on all that boots it: SeaBIOS and OVMF in QEMU, microvm with the kernel taken out of it, and our host.
//! `cargo xtask test` names the kernel in `RINGSIDE_KERNEL`, the loaders in `RINGSIDE_LOADERS`, the host in `RINGSIDE_HOST`.

use mkimage::bootable::{Format, Image, extract};
use mkimage::loaders::Loaders;
use mkimage::output::Existing;
use ringside_tests::firmware::{self, Firmware, Medium};
use ringside_tests::machine::{Boot, run_folder};
use ringside_tests::ready::{self, Ready};
use ringside_tests::running::Running;
use ringside_tests::sample;
use ringside_tests::testbed::{Testbed, find_program};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
/// In the initrd.
const PROGRAM: (&str, &str) = ("a program with a long name", "#!/bin/ringside\n");

struct Made {
    folder: TempDir,
    path: PathBuf,
}

/// A disk with one program in its initrd, and what the tour reads beside the kernel; `None`, said, where there is nothing to
/// make it of.
fn made(test: &str, format: Format, cmdline: &str) -> Option<Made> {
    let (kernel, loaders) = (ready::named(ready::KERNEL, test)?, ready::named(ready::LOADERS, test)?);
    let folder = run_folder(&env::temp_dir()).unwrap();
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join(PROGRAM.0), PROGRAM.1).unwrap();
    let mut image = Image::read(&kernel, cmdline, Some(&programs)).unwrap();
    image.loaders = Some(Loaders::read(&loaders).unwrap());
    let files = folder.path().join("files");
    sample::write(&files, &folder.path().join("sample.img")).unwrap();
    image.files = Some(files);
    let path = folder.path().join("ringside.img");
    image.write(format, &path, Existing::Keep, &mut |_, _| {}).unwrap();
    Some(Made { folder, path })
}

/// A machine with all devices whose disk is a copy of the image, and that boots it in this way; `None`, said, where that
/// is not possible here.
fn machine(test: &str, made: &Made, testbed: Testbed, boot: Boot, memory_mib: u64) -> Option<Ready> {
    if let Boot::Disk(firmware) = boot
        && testbed == Testbed::Qemu
        && let Err(why) = firmware.available()
    {
        eprintln!("SKIPPED {test}: {why}");
        return None;
    }
    let mut ready = Ready::new(test, testbed, memory_mib, "").unwrap()?;
    ready.take_disk(&made.path).unwrap();
    ready.machine.boot = boot;
    Some(ready)
}

/// Every step of the tour passes, seen from both sides.
fn takes_the_tour(test: &str, made: &Made, testbed: Testbed, boot: Boot, memory_mib: u64) {
    let what = format!("{testbed}, {boot:?}, {memory_mib} MiB");
    let Some(ready) = machine(test, made, testbed, boot, memory_mib) else { return };
    let verdict = ready.follow(ready.machine.start().unwrap());
    assert!(verdict.succeeded(), "{what}: {}\n{}\n{}", verdict.complaint(), verdict.tail.join("\n"), verdict.stderr);
}

/// What a tour must have said: ready, these steps done, no failed step, the end in good order.
fn check(lines: &[String], steps: &[&str], what: &str) {
    let said = lines.join("\n");
    for step in steps {
        let done = format!("@tour {step} ok");
        assert!(lines.iter().any(|line| line.starts_with(&done)), "{what}: no {done:?}:\n{said}");
    }
    assert!(lines.iter().any(|line| line.starts_with("@boot ready ok")), "{what}: not ready:\n{said}");
    assert!(lines.iter().any(|line| line.starts_with("@tour power-off ok failed=0")), "{what}: no good end:\n{said}");
    let failed =
        |line: &String| line.split_whitespace().nth(2).is_some_and(|outcome| matches!(outcome, "fail" | "error"));
    assert!(!lines.iter().any(failed), "{what}: something failed:\n{said}");
}

/// The kernel of a medium that it has no driver for takes the tour without it.
fn boots(test: &str, medium: Medium, memories_mib: &[u64]) {
    let Some(made) = made(test, Format::Disk, "tour") else { return };
    for firmware in Firmware::ALL {
        if let Err(why) = firmware.available() {
            eprintln!("SKIPPED {test}: {why}");
            continue;
        }
        for &memory in memories_mib {
            let command = firmware::command(firmware, &made.path, medium, memory, made.folder.path()).unwrap();
            let lines = firmware::listen(command, PATIENCE).unwrap();
            check(&lines, &[], &format!("{firmware:?} with {memory} MiB"));
        }
    }
}

#[test]
fn one_disk_takes_the_tour_with_bios_and_uefi_whether_memory_is_little_or_reaches_above_4_gib() {
    let test = "one_disk_takes_the_tour_with_bios_and_uefi_whether_memory_is_little_or_reaches_above_4_gib";
    let Some(made) = made(test, Format::Disk, "tour") else { return };
    for firmware in Firmware::ALL {
        for memory_mib in [64, 3 << 10, 6 << 10] {
            takes_the_tour(test, &made, Testbed::Qemu, Boot::Disk(firmware), memory_mib);
        }
    }
}

#[test]
fn a_disk_that_only_firmware_can_read_still_boots() {
    boots("a_disk_that_only_firmware_can_read_still_boots", Medium::Disk, &[64]);
}

#[test]
fn what_is_extracted_from_the_disk_takes_the_tour_on_microvm() {
    let test = "what_is_extracted_from_the_disk_takes_the_tour_on_microvm";
    let Some(made) = made(test, Format::Disk, "tour") else { return };
    let parts = extract::extract(&made.path).unwrap();
    let folder = made.folder.path().join("parts");
    parts.write(&folder, Existing::Keep).unwrap();
    let boot = Boot::Kernel { image: folder.join("kernel.elf"), initrd: Some(folder.join("initrd.img")) };
    let Some(mut ready) = machine(test, &made, Testbed::QemuMicrovm, boot, 64) else { return };
    ready.machine.cmdline = parts.cmdline;
    let verdict = ready.follow(ready.machine.start().unwrap());
    assert!(verdict.succeeded(), "{}\n{}", verdict.complaint(), verdict.tail.join("\n"));
}

#[test]
fn our_host_takes_kernel_command_line_and_initrd_out_of_the_disk() {
    let test = "our_host_takes_kernel_command_line_and_initrd_out_of_the_disk";
    let Some(made) = made(test, Format::Disk, "tour") else { return };
    takes_the_tour(test, &made, Testbed::Host, Boot::Disk(Firmware::SeaBios), 64);
}

#[test]
fn programs_of_the_initrd_are_in_the_root_whoever_loaded_them() {
    let test = "programs_of_the_initrd_are_in_the_root_whoever_loaded_them";
    let Some(made) = made(test, Format::Disk, "") else { return };
    let firmware = Firmware::ALL.map(|firmware| (Testbed::Qemu, firmware));
    for (testbed, firmware) in firmware.into_iter().chain([(Testbed::Host, Firmware::SeaBios)]) {
        let Some(ready) = machine(test, &made, testbed, Boot::Disk(firmware), 64) else { continue };
        let mut running = ready.machine.start().unwrap();
        let expect = |running: &mut Running, text: &str| drop(running.expect(text, PATIENCE).unwrap());
        expect(&mut running, "type help for the commands");
        let (name, content) = PROGRAM;
        running.type_line("ls").unwrap();
        expect(&mut running, &format!("{} {name}", content.len()));
        running.type_line(&format!("sum {name}")).unwrap();
        expect(&mut running, &format!("{:08x} {} {name}", sample::crc32(content.as_bytes()), content.len()));
        running.type_line(&format!("cat {name}")).unwrap();
        expect(&mut running, content.trim_end());
        running.type_line("poweroff").unwrap();
        assert!(running.wait(PATIENCE).unwrap().success(), "{testbed}, {firmware:?}");
    }
}

#[test]
fn partition_table_and_file_system_have_no_faults_that_others_find() {
    let test = "partition_table_and_file_system_have_no_faults_that_others_find";
    let Some(made) = made(test, Format::Disk, "tour") else { return };
    let run = |program: &str, arguments: &[&str], file: &Path| {
        let Some(program) = find_program(program) else {
            eprintln!("SKIPPED {test}: {program} is not installed");
            return None;
        };
        let output = Command::new(&program).args(arguments).arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Some((output.status, said))
    };
    if let Some((status, said)) = run("sgdisk", &["-v"], &made.path) {
        assert!(status.success() && said.contains("No problems found"), "{said}");
    }
    let partition = made.folder.path().join("partition");
    let bytes = fs::read(&made.path).unwrap();
    // The system partition ends with the last whole MiB before the table's copy.
    fs::write(&partition, &bytes[2 << 20..bytes.len() - (1 << 20)]).unwrap();
    if let Some((status, said)) = run("fsck.fat", &["-n"], &partition) {
        assert!(status.success() && !said.to_lowercase().contains("free cluster"), "{said}");
    }
}
