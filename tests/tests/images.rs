//! Bootable disks and ISO images on all that boots them: SeaBIOS and OVMF in QEMU, microvm with the kernel taken out of one,
//! and our host; and what other programs say about them. See `ringside_tests::ready` for what the environment names.

use mkimage::bootable::{Format, Image, extract};
use mkimage::inspect::{Report, inspect};
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

/// A disk with one program in its initrd, and what the tour reads besides the kernel; `None`, reported, where there is nothing to
/// make it of.
fn made(test: &str, format: Format, cmdline: &str) -> Option<Made> {
    made_with(test, format, cmdline, |_| {})
}

/// The same with more in the folder of programs.
fn made_with(test: &str, format: Format, cmdline: &str, more: impl FnOnce(&Path)) -> Option<Made> {
    let (kernel, loaders) = (ready::named(ready::KERNEL, test)?, ready::named(ready::LOADERS, test)?);
    let folder = run_folder(&env::temp_dir()).unwrap();
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join(PROGRAM.0), PROGRAM.1).unwrap();
    more(&programs);
    let mut image = Image::read(&kernel, cmdline, Some(&programs)).unwrap();
    image.loaders = Some(Loaders::read(&loaders).unwrap());
    let files = folder.path().join("files");
    sample::write_files(&files).unwrap();
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

/// What a tour must have said: ready, no failed step, the end in good order.
fn check(lines: &[String], what: &str) {
    let said = lines.join("\n");
    assert!(lines.iter().any(|line| line.starts_with("@boot ready ok")), "{what}: not ready:\n{said}");
    assert!(lines.iter().any(|line| line.starts_with("@tour power-off ok failed=0")), "{what}: no good end:\n{said}");
    let failed =
        |line: &String| line.split_whitespace().nth(2).is_some_and(|outcome| matches!(outcome, "fail" | "error"));
    assert!(!lines.iter().any(failed), "{what}: something failed:\n{said}");
}

/// The kernel of a medium that it has no driver for takes the tour without it.
fn boots(test: &str, made: &Made, medium: Medium, memories_mib: &[u64]) {
    for firmware in Firmware::ALL {
        if let Err(why) = firmware.available() {
            eprintln!("SKIPPED {test}: {why}");
            continue;
        }
        for &memory in memories_mib {
            let command = firmware::command(firmware, &made.path, medium, memory, made.folder.path()).unwrap();
            let lines = firmware::listen(command, PATIENCE).unwrap();
            check(&lines, &format!("{firmware:?} with {memory} MiB"));
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
    let test = "a_disk_that_only_firmware_can_read_still_boots";
    let Some(made) = made(test, Format::Disk, "tour") else { return };
    boots(test, &made, Medium::Disk, &[64]);
}

#[test]
fn an_iso_image_takes_the_tour_from_a_cd_with_bios_and_uefi() {
    let test = "an_iso_image_takes_the_tour_from_a_cd_with_bios_and_uefi";
    let Some(made) = made(test, Format::Iso, "tour") else { return };
    boots(test, &made, Medium::Cd, &[64, 6 << 10]);
}

#[test]
fn an_iso_image_is_a_disk_too_that_boots_and_whose_files_the_kernel_reads() {
    let test = "an_iso_image_is_a_disk_too_that_boots_and_whose_files_the_kernel_reads";
    let Some(made) = made(test, Format::Iso, "tour") else { return };
    for firmware in Firmware::ALL {
        takes_the_tour(test, &made, Testbed::Qemu, Boot::Disk(firmware), 64);
    }
    boots(test, &made, Medium::Disk, &[64]);
}

#[test]
fn a_cd_boots_whose_files_reach_beyond_what_a_boot_catalogue_can_count() {
    let test = "a_cd_boots_whose_files_reach_beyond_what_a_boot_catalogue_can_count";
    // 65,535 sectors of 512 bytes are 32 MiB; the initrd is the last file.
    let filler = |programs: &Path| fs::write(programs.join("filler"), vec![0x5a; 36 << 20]).unwrap();
    let Some(made) = made_with(test, Format::Iso, "tour", filler) else { return };
    boots(test, &made, Medium::Cd, &[256]);
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
fn our_host_takes_kernel_command_line_and_initrd_out_of_every_format() {
    let test = "our_host_takes_kernel_command_line_and_initrd_out_of_every_format";
    for format in [Format::Disk, Format::Iso] {
        let Some(made) = made(test, format, "tour") else { return };
        takes_the_tour(test, &made, Testbed::Host, Boot::Disk(Firmware::SeaBios), 64);
    }
}

#[test]
fn our_host_takes_them_out_of_a_qcow2_file_as_well() {
    let test = "our_host_takes_them_out_of_a_qcow2_file_as_well";
    if find_program("qemu-img").is_none() {
        eprintln!("SKIPPED {test}: qemu-img is not installed");
        return;
    }
    let Some(made) = made(test, Format::Qcow2, "tour") else { return };
    // What is in the file is no disk that a guest could read: only what was taken out of it boots.
    if let Err(why) = Testbed::Host.available(ready::kvm()) {
        eprintln!("SKIPPED {test}: {why:#}");
        return;
    }
    let Some(host) = ready::named(ready::HOST, test) else { return };
    let mut command = Command::new(host);
    command.args(["run", "--mem", "64M", "--image"]).arg(&made.path);
    check(&firmware::listen(command, PATIENCE).unwrap(), "our host, from qcow2");
}

#[test]
fn programs_of_the_initrd_are_in_the_root_with_every_loader() {
    let test = "programs_of_the_initrd_are_in_the_root_with_every_loader";
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

/// What another program says, if it is there; it must succeed.
fn another_says(test: &str, program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
    let Some(found) = find_program(program) else {
        eprintln!("SKIPPED {test}: {program} is not installed");
        return None;
    };
    let output = Command::new(found).args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    Some(said)
}

#[test]
fn partition_table_and_file_system_have_no_faults_that_others_find() {
    let test = "partition_table_and_file_system_have_no_faults_that_others_find";
    for format in [Format::Disk, Format::Iso] {
        let Some(made) = made(test, format, "tour") else { return };
        let folder = made.folder.path();
        if let Some(said) = another_says(test, "sgdisk", &["-v", "ringside.img"], folder) {
            assert!(said.contains("No problems found"), "{format:?}: {said}");
        }
        let Report::Disk(report) = inspect(&made.path).unwrap() else { panic!("{format:?}: no disk") };
        let (start, bytes) = (report.partitions[1].first_sector * 512, report.partitions[1].sectors * 512);
        let image = fs::read(&made.path).unwrap();
        fs::write(folder.join("partition"), &image[start as usize..(start + bytes) as usize]).unwrap();
        if let Some(said) = another_says(test, "fsck.fat", &["-n", "partition"], folder) {
            assert!(!said.to_lowercase().contains("free cluster"), "{format:?}: {said}");
        }
    }
}

#[test]
fn others_find_the_files_and_both_boot_images_of_an_iso_image() {
    let test = "others_find_the_files_and_both_boot_images_of_an_iso_image";
    let Some(made) = made(test, Format::Iso, "tour") else { return };
    let folder = made.folder.path();
    let parts = extract::extract(&made.path).unwrap();
    let Report::Disk(report) = inspect(&made.path).unwrap() else { panic!("no disk") };
    let boot = &report.iso.as_ref().unwrap().boot;
    let arguments = ["-indev", "ringside.img", "-report_el_torito", "plain", "-osirrox", "on", "-extract", "/", "tree"];
    if let Some(said) = another_says(test, "xorriso", &arguments, folder) {
        for entry in boot {
            let line = |line: &&str| line.starts_with("El Torito boot img") && line.contains(&entry.platform);
            let line = said.lines().find(line).unwrap_or_else(|| panic!("no {entry:?}: {said}"));
            let words: Vec<&str> = line.split_whitespace().collect();
            let numbers = [entry.sectors.to_string(), entry.first_block.to_string()];
            assert!(words.contains(&"y") && words.ends_with(&[&numbers[0], &numbers[1]]), "{entry:?}: {line}");
        }
        let read = |path: &str| fs::read(folder.join("tree").join(path)).unwrap();
        assert!(read("RINGSIDE/KERNEL.ELF") == parts.kernel && Some(read("RINGSIDE/INITRD.IMG")) == parts.initrd);
        assert_eq!(read("RINGSIDE/CMDLINE.TXT"), b"tour\n");
        assert!(read("EFI/BOOT/BOOTX64.EFI").starts_with(b"MZ"));
    }
    if let Some(said) = another_says(test, "isoinfo", &["-d", "-i", "ringside.img"], folder) {
        let blocks = format!("Volume size is: {}", fs::metadata(&made.path).unwrap().len() / 2048);
        for line in ["Volume id: RINGSIDE", &blocks, "Key 55 AA", "Bootid 88 (bootable)"] {
            assert!(said.contains(line), "no {line:?}: {said}");
        }
    }
    if let Some(said) = another_says(test, "isoinfo", &["-p", "-i", "ringside.img"], folder) {
        let names = said.lines().filter(|line| line.contains(": ")).filter_map(|line| line.split_whitespace().nth(3));
        assert_eq!(names.collect::<Vec<_>>(), ["EFI", "RINGSIDE", "BOOT"], "{said}");
    }
}
