//! Bootable disks from a kernel and loaders made in memory: what is on them, that they never differ, and what is refused.

mod common;

use common::Fixture;
use common::disks::{built, image, program};
use mkimage::bootable::{Bytes, Format, Image, Step, extract};
use mkimage::inspect::{PartitionKind, Report, inspect};
use mkimage::loaders::{BIOS_FILE, EFI_FILE};
use mkimage::output::Existing;
use mkimage::time::Timestamp;
use mkimage::{Error, disk};
use object::elf;
use shared_abi::disk::{BIOS_PARAMETERS, BiosParameters};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zerocopy::FromBytes;

const MIB: u64 = 1 << 20;

fn write(image: &Image, output: &Path) -> mkimage::Result<()> {
    image.write(Format::Disk, output, Existing::Keep, &mut |_, _| {})
}

fn refused(image: &Image) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let error = write(image, &folder.path().join("disk")).unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{error}: something was left behind");
    assert_eq!(error.to_string().lines().count(), 1);
    error
}

#[test]
fn what_goes_in_comes_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("disk");
    write(&image(), &output).unwrap();
    let parts = extract::extract(&output).unwrap();
    assert_eq!((parts.cmdline.as_str(), parts.initrd.as_deref()), ("tour x=1", Some(&[7; 3000][..])));
    assert!(parts.kernel == mkimage::image::build(&image().kernel, "", Vec::new()).unwrap(), "with its symbols");
    let parts_folder = folder.path().join("parts");
    parts.write(&parts_folder, Existing::Keep).unwrap();
    assert_eq!(fs::read_to_string(parts_folder.join("cmdline.txt")).unwrap(), "tour x=1\n");
    assert!(matches!(parts.write(&parts_folder, Existing::Keep), Err(Error::Exists(_))));
    parts.write(&parts_folder, Existing::Replace).unwrap();
}

#[test]
fn inspect_shows_partitions_files_and_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    fs::create_dir_all(files.join("a folder with a long name")).unwrap();
    fs::write(files.join("a folder with a long name/Ünïcode.text"), "x").unwrap();
    let output = folder.path().join("disk");
    write(&Image { files: Some(files), ..image() }, &output).unwrap();
    let Report::Disk(report) = inspect(&output).unwrap() else { panic!("no disk") };
    assert_eq!(report.bytes, 64 * MIB);
    let names = report.partitions.iter().map(|partition| match &partition.kind {
        PartitionKind::Gpt { name, .. } => (name.as_str(), partition.first_sector),
        PartitionKind::Mbr(kind) => panic!("{kind:#x}"),
    });
    assert_eq!(names.collect::<Vec<_>>(), [("BIOS loader", 2048), ("EFI system", 4096)]);
    let esp = &report.partitions[1];
    let volume = esp.volume.as_ref().unwrap();
    let paths: Vec<_> = volume.files.iter().map(|file| file.path.as_str()).collect();
    let long = "a folder with a long name/Ünïcode.text";
    for path in ["EFI/BOOT/BOOTX64.EFI", "ringside/kernel.elf", "ringside/cmdline.txt", "ringside/initrd.img", long] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    assert_eq!(volume.kind, "FAT32");
    let boot = esp.boot.as_ref().unwrap();
    assert_eq!((boot.cmdline.as_str(), boot.initrd_bytes), ("tour x=1", Some(3000)));
    assert!(boot.kernel.pvh_entry.is_some());
    let text = inspect(&output).unwrap().to_string();
    assert!(text.contains("command line \"tour x=1\"") && text.contains("PVH entry"), "{text}");
}

#[test]
fn a_reader_of_inspect_who_has_seen_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    write(&image(), &folder.path().join("disk")).unwrap();
    for more in [["inspect", "disk"].as_slice(), &["inspect", "--json", "disk"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkimage"));
        let done = command.args(more).current_dir(&folder).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_bios_loader_gets_the_place_of_itself_and_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("disk");
    write(&image(), &output).unwrap();
    let bytes = fs::read(&output).unwrap();
    let told = BiosParameters::read_from_bytes(&bytes[BIOS_PARAMETERS..BIOS_PARAMETERS + 40]).unwrap();
    assert_eq!((told.rest_first, told.rest_sectors, told.block_shift, told.volume_first), (2049, 2, 9, 4096));
    assert!(bytes[2049 * 512..2051 * 512].iter().all(|byte| *byte == 0x90));
    assert_eq!(told.volume_first + told.volume_sectors, 63 * MIB / 512);
}

#[test]
fn two_builds_in_different_folders_give_the_same_bytes_and_another_time_or_word_others() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let built = |image: &Image, folder: &Path, name: &str| built(Format::Disk, image, folder, name);
    let first = built(&image(), here.path(), "one");
    assert!(first == built(&image(), there.path(), "two"), "the same");
    let time = Timestamp::new(1_700_000_000);
    assert!(first != built(&Image { time, ..image() }, here.path(), "three"), "another time");
    assert!(first != built(&Image { cmdline: "y".into(), ..image() }, here.path(), "four"), "another command line");
}

#[test]
fn a_disk_of_any_size_takes_only_the_room_of_what_is_on_it() {
    let folder = tempfile::tempdir().unwrap();
    for size in [40 * MIB, 64 * MIB, (1 << 30) + 512, 40 << 30] {
        let output = folder.path().join(size.to_string());
        write(&Image { size: Some(size), ..image() }, &output).unwrap();
        let metadata = fs::metadata(&output).unwrap();
        assert_eq!(metadata.len(), size);
        assert!(metadata.blocks() * 512 < 8 * MIB, "{size}: {} bytes", metadata.blocks() * 512);
        assert_eq!(extract::extract(&output).unwrap().cmdline, "tour x=1");
    }
}

#[test]
fn what_cannot_become_a_disk_is_refused_and_leaves_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let files = |name: &str| {
        let files = folder.path().join(format!("with {}", name.replace('?', "question")));
        fs::create_dir(&files).unwrap();
        fs::write(files.join(name), "x").unwrap();
        Image { files: Some(files), ..image() }
    };
    let kernel = |fixture: Fixture| Image { kernel: fixture.build(), ..image() };
    assert!(matches!(refused(&Image { size: Some(20 * MIB), ..image() }), Error::DiskSize { how: "small", .. }));
    assert!(matches!(refused(&Image { size: Some(1 << 42), ..image() }), Error::DiskSize { how: "large", .. }));
    let initrd = vec![1; 70 << 20];
    assert!(matches!(
        refused(&Image { initrd, size: Some(64 * MIB), ..image() }),
        Error::DiskSize { how: "small", .. }
    ));
    assert!(matches!(refused(&files("what?")), Error::BadName { .. }));
    assert!(matches!(refused(&Image { kernel: image().kernel[..3000].to_vec(), ..image() }), Error::BadElf { .. }));
    assert!(matches!(
        refused(&kernel(Fixture { machine: elf::EM_AARCH64, ..Fixture::default() })),
        Error::OtherMachine { .. }
    ));
    assert!(matches!(refused(&kernel(Fixture { with_note: false, ..Fixture::default() })), Error::NoPvhNote));
    assert!(matches!(refused(&Image { cmdline: "a\0b".into(), ..image() }), Error::BadCommandLine { .. }));
    assert!(matches!(refused(&Image { cmdline: "x".repeat(2047), ..image() }), Error::BadCommandLine { .. }));
    assert!(matches!(refused(&Image { loaders: None, ..image() }), Error::NoLoaders(_)));
}

#[test]
fn a_folder_that_takes_no_file_is_named() {
    // Not even root may make files there.
    let error = write(&image(), Path::new("/proc/self/disk")).unwrap_err().to_string();
    assert!(error.starts_with("cannot write /proc/self/disk: "), "{error}");
}

#[test]
fn formats_of_other_hypervisors_hold_the_same_disk() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED formats_of_other_hypervisors_hold_the_same_disk: qemu-img (package qemu-utils) is not installed"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk");
    write(&image(), &raw).unwrap();
    for (format, name) in [(Format::Qcow2, "qcow2"), (Format::Vhdx, "vhdx"), (Format::Vmdk, "vmdk")] {
        let output = folder.path().join(name);
        image().write(format, &output, Existing::Keep, &mut |_, _| {}).unwrap();
        let run = |arguments: &[&str]| Command::new("qemu-img").args(arguments).arg(&output).output().unwrap();
        let compared =
            Command::new("qemu-img").args(["compare", "-f", "raw", "-F", name]).arg(&raw).arg(&output).output();
        let compared = compared.unwrap();
        assert!(compared.status.success(), "{name}: {}", String::from_utf8_lossy(&compared.stdout));
        let checked = run(&["check", "-f", name]);
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing was left behind");
}

#[test]
fn progress_reports_every_step_and_ends_with_all_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut formats = vec![(Format::Disk, vec![Step::Composing, Step::Writing])];
    if Command::new("qemu-img").arg("--version").output().is_ok() {
        formats.push((Format::Qcow2, vec![Step::Composing, Step::Writing, Step::Converting]));
    }
    for (format, expected) in formats {
        let mut told = Vec::<(Step, Bytes)>::new();
        let output = folder.path().join(format!("{format:?}"));
        image().write(format, &output, Existing::Keep, &mut |step, bytes| told.push((step, bytes))).unwrap();
        let mut steps: Vec<Step> = told.iter().map(|(step, _)| *step).collect();
        steps.dedup();
        assert_eq!(steps, expected);
        let order = told.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1.done <= pair[1].1.done);
        let (_, last) = told.last().unwrap();
        assert!(order && last.total > 0 && last.done == last.total, "{told:?}");
    }
}

#[test]
fn an_existing_file_stays_unless_it_may_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("disk");
    fs::write(&output, "precious").unwrap();
    assert!(matches!(write(&image(), &output), Err(Error::Exists(_))));
    assert_eq!(fs::read_to_string(&output).unwrap(), "precious");
    image().write(Format::Disk, &output, Existing::Replace, &mut |_, _| {}).unwrap();
    assert_eq!(fs::metadata(&output).unwrap().len(), 64 * MIB);
}

#[test]
fn disks_of_others_and_damaged_ones_are_no_bootable_disks() {
    let folder = tempfile::tempdir().unwrap();
    let (output, data, text) = (folder.path().join("disk"), folder.path().join("data"), folder.path().join("text"));
    fs::create_dir(folder.path().join("files")).unwrap();
    disk::write(8 * MIB, &folder.path().join("files"), &data).unwrap();
    fs::write(&text, "text").unwrap();
    for path in [&data, &text] {
        assert!(matches!(extract::extract(path), Err(Error::NotBootable(_))));
    }
    assert!(matches!(extract::extract(folder.path()), Err(Error::OddFile(_))));
    write(&image(), &output).unwrap();
    let bytes = fs::read(&output).unwrap();
    for (start, len) in [(512, 512), (2 * MIB, 512), (2 * MIB + 32 * 512, 512 * 512)] {
        let mut spoilt = bytes.clone();
        spoilt[start as usize..(start + len) as usize].fill(0xa5);
        let path = folder.path().join("spoilt");
        fs::write(&path, spoilt).unwrap();
        // The copy of the table, or of the allocation table, may still do; what must not happen is a panic.
        let _ = extract::extract(&path);
        let _ = inspect(&path);
    }
    File::options().write(true).open(&output).unwrap().set_len(3 * MIB).unwrap();
    assert!(extract::extract(&output).is_err());
}

#[test]
fn the_program_says_one_line_about_bad_input_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let folder: PathBuf = place.path().into();
    fs::write(folder.join("kernel"), Fixture::default().build()).unwrap();
    fs::create_dir(folder.join("loaders")).unwrap();
    fs::write(folder.join("loaders").join(EFI_FILE), "MZ").unwrap();
    // An ELF file, but no loader.
    fs::write(folder.join("loaders").join(BIOS_FILE), Fixture::default().build()).unwrap();
    fs::write(folder.join("exists"), "").unwrap();
    for (more, says) in [
        (["--loaders", "nowhere", "-o", "new"].as_slice(), "cannot read nowhere/loader-efi.efi: "),
        (&["--loaders", "loaders", "-o", "new"], "cannot use the loader loaders/loader-bios: "),
        (&["-o", "exists"], "cannot write exists: it exists; --force replaces it"),
        (&["-o", "kernel", "--force"], "cannot write kernel: it is the input"),
        (&["-o", "/dev/null", "--force"], "cannot write /dev/null: it exists and is not a regular file"),
        (&["-o", "new", "--initrd", "missing"], "cannot read missing: "),
    ] {
        let mut args = vec!["--kernel", "kernel", "--format", "disk"];
        args.extend_from_slice(more);
        let (code, message) = program(&args, &folder);
        assert!(code == Some(1) && message.starts_with(&format!("mkimage: {says}")), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    assert!(!folder.join("new").exists());
}
