//! One bootable disk on all that boots it: SeaBIOS and OVMF in QEMU, microvm with the kernel taken out of it, and our host.
//! `cargo xtask test` names the kernel in `RINGSIDE_KERNEL`, the loaders in `RINGSIDE_LOADERS`, the host in `RINGSIDE_HOST`.

use mkimage::bootable::{Format, Image, extract};
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
    let (Some(kernel), Some(loaders)) = (env::var_os("RINGSIDE_KERNEL"), env::var_os("RINGSIDE_LOADERS")) else {
        eprintln!("SKIPPED {test}: RINGSIDE_KERNEL or RINGSIDE_LOADERS is not set; cargo xtask test does that");
        return None;
    };
    let folder = run_folder(&env::temp_dir()).unwrap();
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("a program with a long name"), "#!/bin/ringside\n").unwrap();
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

fn boots(test: &str, medium: Medium, steps: &[&str], memories_mib: &[u64]) {
    let Some(made) = made(test, Format::Disk) else { return };
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
    boots(test, Medium::VirtioDisk, &["file", "sectors"], &[64, 3 << 10, 6 << 10]);
}

#[test]
fn a_disk_that_only_firmware_can_read_still_boots() {
    boots("a_disk_that_only_firmware_can_read_still_boots", Medium::Disk, &[], &[64]);
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
fn our_host_takes_kernel_command_line_and_initrd_out_of_the_disk() {
    let test = "our_host_takes_kernel_command_line_and_initrd_out_of_the_disk";
    let Some(made) = made(test, Format::Disk) else { return };
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

#[test]
fn partition_table_and_file_system_have_no_faults_that_others_find() {
    let test = "partition_table_and_file_system_have_no_faults_that_others_find";
    let Some(made) = made(test, Format::Disk) else { return };
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
