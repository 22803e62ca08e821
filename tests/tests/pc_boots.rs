//! The image by the Linux boot protocol, and what the BIOS loader says on a CPU that it cannot use. `cargo xtask test` names the
//! kernel in `RINGSIDE_KERNEL` and the folder of the loaders in `RINGSIDE_LOADERS`.

use mkimage::bootable::{Format, Image};
use mkimage::loaders::Loaders;
use mkimage::output::Existing;
use ringside_tests::ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::{QEMU, find_program};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A machine without devices is through in a few seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// An image in a folder; `None`, said, where there is nothing to make it of, or nothing to boot it.
fn made(test: &str, format: Format, cmdline: &str) -> Option<(TempDir, PathBuf)> {
    let (kernel, loaders) = (ready::named(ready::KERNEL, test)?, ready::named(ready::LOADERS, test)?);
    if find_program(QEMU).is_none() {
        eprintln!("SKIPPED {test}: {QEMU} is not installed");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut image = Image::read(&kernel, cmdline, None).unwrap();
    image.loaders = Some(Loaders::read(&loaders).unwrap());
    let path = folder.path().join("image");
    image.write(format, &path, Existing::Keep, &mut |_, _| {}).unwrap();
    Some((folder, path))
}

/// QEMU's PC with its BIOS, its serial line on the standard output.
fn pc(cpu: &str) -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-M", "q35", "-accel", "tcg", "-cpu", cpu, "-m", "128", "-nodefaults", "-no-user-config"]);
    command.args(["-no-reboot", "-display", "none", "-serial", "stdio"]);
    command
}

#[test]
fn a_bzimage_boots_with_its_command_line_that_of_the_loader_and_the_loaders_initrd() {
    let test = "a_bzimage_boots_with_its_command_line_that_of_the_loader_and_the_loaders_initrd";
    let Some((folder, path)) = made(test, Format::BzImage, "conform=mm/*") else { return };
    assert_eq!(&fs::read(&path).unwrap()[0x202..0x206], b"HdrS");
    let mut command = pc("max");
    command.arg("-kernel").arg(&path).args(["-append", "without=mm/stack*"]);
    let mut running = Running::spawn(command).unwrap();
    let last = running.expect("@boot conform ok", PATIENCE).unwrap();
    assert!(last.contains("ran=3 failed=0"), "{last}");
    assert!(running.wait(PATIENCE).unwrap().success());

    // No archive: the kernel says so on the way to its shell, which shows that it has come.
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, "no archive").unwrap();
    let Some((_folder, path)) = made(test, Format::BzImage, "") else { return };
    let mut command = pc("max");
    command.arg("-kernel").arg(&path).arg("-initrd").arg(&initrd);
    let mut running = Running::spawn(command).unwrap();
    running.expect("initrd: not a newc cpio archive", PATIENCE).unwrap();
    running.expect("type help for the commands", PATIENCE).unwrap();
    running.type_line("poweroff").unwrap();
    assert!(running.wait(PATIENCE).unwrap().success());
}

#[test]
fn a_cpu_without_64_bit_mode_or_no_execute_pages_is_reported_by_the_kernel_itself() {
    let test = "a_cpu_without_64_bit_mode_or_no_execute_pages_is_reported_by_the_kernel_itself";
    for cpu in ["qemu32", "qemu64,-nx", "qemu64,-lm"] {
        let Some((_folder, path)) = made(test, Format::Elf, "") else { return };
        let mut command = pc(cpu);
        command.arg("-kernel").arg(&path);
        let mut running = Running::spawn(command).unwrap();
        running.expect("ringside: this CPU has no 64-bit mode with no-execute pages", PATIENCE).unwrap();
    }
}

#[test]
fn a_cpu_without_64_bit_mode_is_reported_on_the_serial_line_from_disk_and_cd() {
    let test = "a_cpu_without_64_bit_mode_is_reported_on_the_serial_line_from_disk_and_cd";
    for format in [Format::Disk, Format::Iso] {
        let Some((_folder, path)) = made(test, format, "") else { return };
        let mut command = pc("qemu32");
        match format {
            Format::Iso => command.arg("-cdrom").arg(&path),
            _ => command.arg("-drive").arg(format!("if=ide,format=raw,file={}", path.display())),
        };
        let mut running = Running::spawn(command).unwrap();
        running.expect("ringside loader: this CPU has no 64-bit mode", PATIENCE).unwrap();
    }
}
