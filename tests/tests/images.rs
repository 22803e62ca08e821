//! Bootable disks and ISO images on all that boots them: SeaBIOS and OVMF in QEMU, microvm with the kernel taken out of one,
//! and our host; and what other programs say about them.
//! `cargo xtask test` names the kernel in `RINGSIDE_KERNEL`, the loaders in `RINGSIDE_LOADERS`, the host in `RINGSIDE_HOST`.

use mkimage::bootable::{Format, Image, extract};
use mkimage::inspect::{Report, inspect};
use mkimage::loaders::Loaders;
use mkimage::output::Existing;
use ringside_tests::firmware::{self, Firmware, Medium};
use ringside_tests::machine::run_folder;
use ringside_tests::sample;
use ringside_tests::testbed::{KvmPolicy, QEMU, Testbed, find_program};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);

struct Made {
    folder: TempDir,
    path: PathBuf,
}

/// A disk whose command line asks for the tour, with one program in its initrd; `None`, said, where there is nothing to
/// make it of.
fn made(test: &str, format: Format) -> Option<Made> {
    made_with(test, format, |_| {})
}

/// The same with more in the folder of programs.
fn made_with(test: &str, format: Format, more: impl FnOnce(&Path)) -> Option<Made> {
    let (Some(kernel), Some(loaders)) = (env::var_os("RINGSIDE_KERNEL"), env::var_os("RINGSIDE_LOADERS")) else {
        eprintln!("SKIPPED {test}: RINGSIDE_KERNEL or RINGSIDE_LOADERS is not set; cargo xtask test does that");
        return None;
    };
    let folder = run_folder(&env::temp_dir()).unwrap();
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("a program with a long name"), "#!/bin/ringside\n").unwrap();
    more(&programs);
    let mut image = Image::read(Path::new(&kernel), "tour", Some(&programs)).unwrap();
    image.loaders = Some(Loaders::read(Path::new(&loaders)).unwrap());
    // What the tour reads, beside the kernel.
    let files = folder.path().join("files");
    sample::write(&files, &folder.path().join("sample.img")).unwrap();
    image.files = Some(files);
    let path = folder.path().join("ringside.img");
    image.write(format, &path, Existing::Keep, &mut |_, _| {}).unwrap();
    Some(Made { folder, path })
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

fn boots(test: &str, format: Format, medium: Medium, steps: &[&str], memories_mib: &[u64]) {
    let Some(made) = made(test, format) else { return };
    boots_from(test, &made, medium, steps, memories_mib);
}

fn boots_from(test: &str, made: &Made, medium: Medium, steps: &[&str], memories_mib: &[u64]) {
    for firmware in Firmware::ALL {
        if let Err(why) = firmware.available() {
            eprintln!("SKIPPED {test}: {why}");
            continue;
        }
        for &memory in memories_mib {
            let command = firmware::command(firmware, &made.path, medium, memory, made.folder.path()).unwrap();
            let lines = firmware::listen(command, PATIENCE).unwrap();
            check(&lines, steps, &format!("{firmware:?} with {memory} MiB"));
        }
    }
}

#[test]
fn one_disk_takes_the_tour_with_bios_and_uefi_whether_memory_is_little_or_reaches_above_4_gib() {
    let test = "one_disk_takes_the_tour_with_bios_and_uefi_whether_memory_is_little_or_reaches_above_4_gib";
    boots(test, Format::Disk, Medium::VirtioDisk, &["file", "sectors"], &[64, 3 << 10, 6 << 10]);
}

#[test]
fn a_disk_that_only_firmware_can_read_still_boots() {
    boots("a_disk_that_only_firmware_can_read_still_boots", Format::Disk, Medium::Disk, &[], &[64]);
}

#[test]
fn an_iso_image_takes_the_tour_from_a_cd_with_bios_and_uefi() {
    let test = "an_iso_image_takes_the_tour_from_a_cd_with_bios_and_uefi";
    boots(test, Format::Iso, Medium::Cd, &[], &[64, 6 << 10]);
}

#[test]
fn an_iso_image_is_a_disk_too_that_boots_and_whose_files_the_kernel_reads() {
    let test = "an_iso_image_is_a_disk_too_that_boots_and_whose_files_the_kernel_reads";
    let Some(made) = made(test, Format::Iso) else { return };
    boots_from(test, &made, Medium::VirtioDisk, &["file", "sectors"], &[64]);
    boots_from(test, &made, Medium::Disk, &[], &[64]);
}

#[test]
fn a_cd_boots_whose_files_reach_beyond_what_a_boot_catalogue_can_count() {
    let test = "a_cd_boots_whose_files_reach_beyond_what_a_boot_catalogue_can_count";
    // 65,535 sectors of 512 bytes are 32 MiB; the initrd is the last file.
    let filler = |programs: &Path| fs::write(programs.join("filler"), vec![0x5a; 36 << 20]).unwrap();
    let Some(made) = made_with(test, Format::Iso, filler) else { return };
    boots_from(test, &made, Medium::Cd, &[], &[256]);
}

#[test]
fn what_is_extracted_from_the_disk_takes_the_tour_on_microvm() {
    let test = "what_is_extracted_from_the_disk_takes_the_tour_on_microvm";
    let Some(made) = made(test, Format::Disk) else { return };
    if let Err(why) = Testbed::QemuMicrovm.available(KvmPolicy::Absent) {
        eprintln!("SKIPPED {test}: {why}");
        return;
    }
    let parts = extract::extract(&made.path).unwrap();
    assert_eq!(parts.cmdline, "tour");
    let folder = made.folder.path().join("parts");
    parts.write(&folder, Existing::Keep).unwrap();
    let mut command = Command::new(QEMU);
    command.args(["-M", "microvm,acpi=off", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config"]);
    command.args(["-no-reboot", "-display", "none", "-serial", "stdio", "-m", "64"]);
    command.arg("-kernel").arg(folder.join("kernel.elf")).arg("-initrd").arg(folder.join("initrd.img"));
    command.args(["-append", &parts.cmdline]);
    check(&firmware::listen(command, PATIENCE).unwrap(), &[], "microvm");
}

#[test]
fn our_host_takes_kernel_command_line_and_initrd_out_of_a_disk() {
    on_our_host("our_host_takes_kernel_command_line_and_initrd_out_of_a_disk", Format::Disk);
}

#[test]
fn our_host_takes_kernel_command_line_and_initrd_out_of_an_iso_image() {
    on_our_host("our_host_takes_kernel_command_line_and_initrd_out_of_an_iso_image", Format::Iso);
}

fn on_our_host(test: &str, format: Format) {
    let Some(made) = made(test, format) else { return };
    let Some(mut command) = our_host(test, &made.path) else { return };
    let disk = made.folder.path().join("copy.img");
    fs::copy(&made.path, &disk).unwrap();
    command.arg("--disk").arg(&disk);
    check(&firmware::listen(command, PATIENCE).unwrap(), &["file", "sectors"], "our host");
}

#[test]
fn our_host_takes_them_out_of_a_qcow2_file_as_well() {
    let test = "our_host_takes_them_out_of_a_qcow2_file_as_well";
    if find_program("qemu-img").is_none() {
        eprintln!("SKIPPED {test}: qemu-img is not installed");
        return;
    }
    let Some(made) = made(test, Format::Qcow2) else { return };
    let Some(command) = our_host(test, &made.path) else { return };
    check(&firmware::listen(command, PATIENCE).unwrap(), &[], "our host, from qcow2");
}

/// Our host with an image; `None`, said, where it cannot run.
fn our_host(test: &str, image: &Path) -> Option<Command> {
    let Some(host) = env::var_os("RINGSIDE_HOST") else {
        eprintln!("SKIPPED {test}: RINGSIDE_HOST is not set; cargo xtask test does that");
        return None;
    };
    let kvm = if env::var_os("RINGSIDE_NO_KVM").is_some() { KvmPolicy::Absent } else { KvmPolicy::Use };
    if let Err(why) = Testbed::Host.available(kvm) {
        eprintln!("SKIPPED {test}: {why:#}");
        return None;
    }
    let mut command = Command::new(host);
    command.args(["run", "--mem", "64M", "--image"]).arg(image);
    Some(command)
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
        let Some(made) = made(test, format) else { return };
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
    let Some(made) = made(test, Format::Iso) else { return };
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
