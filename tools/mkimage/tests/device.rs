//! Disks on block devices: loop devices with old content, where the machine has them and lets us.

mod common;

use common::disks::{image, prepare, program};
use mkimage::bootable::{Format, Image, extract};
use mkimage::inspect::{Report, inspect};
use mkimage::output::Existing;
use mkimage::{Error, device};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// A loop device over a file full of old content.
struct Loop {
    path: PathBuf,
    /// The bytes on it.
    backing: File,
    folder: TempDir,
}

impl Loop {
    /// `None`, and why, where there can be none.
    fn new(test: &str, bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("backing");
        Self::over(test, bytes, file, folder, &[])
    }

    fn over(test: &str, bytes: u64, file: PathBuf, folder: TempDir, more: &[&str]) -> Option<Self> {
        let mut backing = File::options().read(true).write(true).create_new(true).open(&file).unwrap();
        // Nothing that reads as anything: no zero, no text, no end of a table.
        let old = [0xa5; MIB as usize];
        // A full disk is full from here on.
        (0..bytes.min(80 * MIB) / MIB).try_for_each(|_| backing.write_all(&old)).ok();
        backing.set_len(bytes).unwrap();
        backing.write_all_at(&old, bytes - MIB).ok();
        let made = Command::new("losetup").args(["--find", "--show", "--partscan"]).args(more).arg(&file).output();
        match made {
            Ok(made) if made.status.success() => {
                let path = String::from_utf8(made.stdout).unwrap().trim().into();
                Some(Self { path, backing, folder })
            }
            Ok(made) => skipped(test, String::from_utf8_lossy(&made.stderr).trim()),
            Err(error) => skipped(test, &format!("losetup: {error}")),
        }
    }

    fn bytes(&self, start: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.backing.read_exact_at(&mut bytes, start).unwrap();
        bytes
    }

    /// Runs the program with the device as its output.
    fn write(&self, more: &[&str]) -> (Option<i32>, String) {
        let files = self.folder.path();
        prepare(files);
        let mut args = vec!["--kernel", "kernel", "--loaders", "loaders", "--cmdline", "tour x=1", "-o"];
        args.push(self.path.to_str().unwrap());
        args.extend_from_slice(more);
        program(&args, files)
    }

    /// Runs the program, which is to refuse and to leave the device as it is.
    fn refused(&self, more: &[&str]) -> String {
        let before = self.bytes(0, 4 * MIB);
        let (code, said) = self.write(more);
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
        assert!(self.bytes(0, 4 * MIB) == before, "{said}: something was written");
        said
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn skipped<T>(test: &str, why: &str) -> Option<T> {
    eprintln!("SKIPPED {test}: {}", why.lines().next().unwrap_or_default());
    None
}

/// What another program says about a disk; it must find it good.
fn another_says(test: &str, name: &str, argument: &str, file: &Path) -> Option<String> {
    let mut places = ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|folder| Path::new(folder).join(name));
    let Some(program) = places.find(|path| path.exists()) else {
        return skipped(test, &format!("{name} is not installed"));
    };
    let done = Command::new(program).arg(argument).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    Some(said)
}

const DISK: [&str; 3] = ["--format", "disk", "--force"];

#[test]
fn a_device_with_old_content_becomes_a_disk_without_a_fault() {
    let test = "a_device_with_old_content_becomes_a_disk_without_a_fault";
    let Some(device) = Loop::new(test, 1 << 30) else { return };
    assert_eq!(device.write(&DISK), (Some(0), String::new()));

    let parts = extract::extract(&device.path).unwrap();
    assert_eq!((parts.cmdline.as_str(), parts.initrd), ("tour x=1", None));
    let Report::Disk(report) = inspect(&device.path).unwrap() else { panic!("no disk") };
    assert_eq!(report.bytes, 1 << 30);
    let esp = &report.partitions[1];
    assert_eq!((esp.first_sector * SECTOR, esp.sectors * SECTOR), (2 * MIB, 61 * MIB), "as in a file of 64 MiB");

    // Nothing old around the partitions, and nothing touched where the disk has nothing.
    let has_old = |start, len| device.bytes(start, len).windows(16).any(|bytes| bytes == [0xa5; 16]);
    assert!(!has_old(0, 2 * MIB) && !has_old((1 << 30) - MIB, MIB));
    assert!(device.bytes(64 * MIB, 16 * MIB).iter().all(|byte| *byte == 0xa5));

    if let Some(said) = another_says(test, "sgdisk", "-v", &device.path) {
        assert!(said.contains("No problems found"), "{said}");
    }
    let partition = device.folder.path().join("partition");
    fs::write(&partition, device.bytes(2 * MIB, 61 * MIB)).unwrap();
    if let Some(said) = another_says(test, "fsck.fat", "-n", &partition) {
        assert!(!said.to_lowercase().contains("free cluster") && !said.contains("differences"), "{said}");
    }
}

#[test]
fn an_iso_image_on_a_device_is_a_disk_and_a_cd() {
    let test = "an_iso_image_on_a_device_is_a_disk_and_a_cd";
    // No whole number of blocks of a CD.
    let all = (100 << 20) + SECTOR;
    let Some(device) = Loop::new(test, all) else { return };
    assert_eq!(device.write(&["--format", "iso", "--force"]), (Some(0), String::new()));
    assert_eq!(extract::extract(&device.path).unwrap().cmdline, "tour x=1");
    let Report::Disk(report) = inspect(&device.path).unwrap() else { panic!("no disk") };
    let file = device.folder.path().join("file");
    image().write(Format::Iso, &file, Existing::Keep, &mut |_, _| {}).unwrap();
    let Report::Disk(in_file) = inspect(&file).unwrap() else { panic!("no disk") };
    assert!(in_file.bytes < all && report.bytes == all);
    // The volume is as large as in a file (ECMA-119, 8.4.8), wherever the device ends.
    let blocks = |bytes: &[u8]| u32::from_le_bytes(bytes[80..84].try_into().unwrap());
    assert_eq!(u64::from(blocks(&device.bytes(32 << 10, 2048))) * 2048, in_file.bytes);
    assert!(report.iso.is_some() && report.partitions.len() == in_file.partitions.len());
    if let Some(said) = another_says(test, "sgdisk", "-v", &device.path) {
        assert!(said.contains("No problems found"), "{said}");
    }
}

#[test]
fn a_device_is_refused_with_one_line_and_stays_as_it_is() {
    let test = "a_device_is_refused_with_one_line_and_stays_as_it_is";
    let Some(device) = Loop::new(test, 40 * MIB) else { return };
    let name = device.path.display();
    assert_eq!(
        device.refused(&["--format", "disk"]),
        format!("mkimage: cannot write {name}: it exists; --force replaces it\n")
    );
    for format in ["elf", "qcow2", "vhdx", "vmdk"] {
        let says = format!(
            "mkimage: cannot write {name}: it is a device, and the format {format} is one for files; use --format disk or iso\n"
        );
        assert_eq!(device.refused(&["--format", format, "--force"]), says);
    }
    let says =
        "mkimage: the device has 41943040 bytes, the disk needs 67108864; use a larger device or a smaller --size\n";
    assert_eq!(device.refused(&DISK), says);
    let (code, said) = device.write(&[DISK.as_slice(), &["--size", "40M"]].concat());
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn a_device_that_cannot_take_a_disk_is_refused_and_the_line_says_why() {
    let test = "a_device_that_cannot_take_a_disk_is_refused_and_the_line_says_why";
    for (option, why) in [
        ("--read-only", "it is read-only"),
        ("--sector-size=4096", "its sectors have 4096 bytes; only 512 are supported"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(device) = Loop::over(test, 70 * MIB, folder.path().join("backing"), folder, &[option]) else { return };
        assert_eq!(device.refused(&DISK), format!("mkimage: cannot write {}: {why}\n", device.path.display()));
    }
}

#[test]
fn a_device_in_use_is_refused() {
    let test = "a_device_in_use_is_refused";
    let Some(device) = Loop::new(test, 70 * MIB) else { return };
    let held = File::options().write(true).custom_flags(libc::O_EXCL).open(&device.path).unwrap();
    let in_use = format!("mkimage: cannot write {}: it is in use: ", device.path.display());
    assert_eq!(device.refused(&DISK), format!("{in_use}another program holds it\n"));
    // That it is free afterwards is seen where it was mounted: a process that another test starts just now has this file, too.
    drop(held);
}

#[test]
fn a_write_that_fails_halfway_is_said_and_leaves_nothing_that_boots() {
    let test = "a_write_that_fails_halfway_is_said_and_leaves_nothing_that_boots";
    let place = tempfile::tempdir().unwrap();
    let small = place.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3M", "none"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skipped(test, "mount makes no small tmpfs").unwrap_or_default();
    }
    let _mount = Mount(small.clone());
    // The device is larger than the file system below it: a write far past its end fails.
    let Some(device) = Loop::over(test, 70 * MIB, small.join("backing"), tempfile::tempdir().unwrap(), &[]) else {
        return;
    };
    let (code, said) = device.write(&DISK);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.starts_with(&format!("mkimage: cannot write {}: ", device.path.display())), "{said}");
    assert!(device.bytes(0, SECTOR) == [0; SECTOR as usize], "the start is there");
}

/// A file system that is mounted for as long as this lives.
struct Mount(PathBuf);

impl Mount {
    fn new(device: &Path, place: &Path) -> Result<Self, String> {
        fs::create_dir(place).unwrap();
        for (program, arguments) in [("mkfs.ext2", ["-q"].as_slice()), ("mount", &[])] {
            let mut command = Command::new(program);
            command.args(arguments).arg(device).stdin(Stdio::null());
            if program == "mount" {
                command.arg(place);
            }
            let done = command.output().map_err(|error| format!("{program}: {error}"))?;
            if !done.status.success() {
                return Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr)));
            }
        }
        Ok(Self(place.into()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_mounted_device_is_refused_and_the_line_says_where_it_is_mounted() {
    let test = "a_mounted_device_is_refused_and_the_line_says_where_it_is_mounted";
    let Some(device) = Loop::new(test, 70 * MIB) else { return };
    let place = device.folder.path().join("my stick");
    let mount = match Mount::new(&device.path, &place) {
        Ok(mount) => mount,
        Err(why) => return skipped(test, &why).unwrap_or_default(),
    };
    let name = device.path.file_name().unwrap().display();
    let says = format!("/dev/{name}: it is in use: {name} is mounted on {}\n", place.display());
    assert_eq!(device.refused(&DISK), format!("mkimage: cannot write {says}"));
    drop(mount);
    assert_eq!(device.write(&DISK).0, Some(0));
}

#[test]
fn a_device_with_a_mounted_partition_is_refused_and_a_partition_too() {
    let test = "a_device_with_a_mounted_partition_is_refused_and_a_partition_too";
    let Some(device) = Loop::new(test, 70 * MIB) else { return };
    // Told to the kernel directly: not every one reads partition tables of loop devices.
    let added = Command::new("addpart").arg(&device.path).args(["1", "2048", "100000"]).output();
    let partition = PathBuf::from(format!("{}p1", device.path.display()));
    if !added.is_ok_and(|done| done.status.success()) || !partition.exists() {
        return skipped(test, "addpart makes no partition of a loop device").unwrap_or_default();
    }
    let place = device.folder.path().join("mounted");
    let mount = match Mount::new(&partition, &place) {
        Ok(mount) => mount,
        Err(why) => return skipped(test, &why).unwrap_or_default(),
    };
    let name = partition.file_name().unwrap().display();
    let said = device.refused(&DISK);
    assert!(said.ends_with(&format!(": it is in use: {name} is mounted on {}\n", place.display())), "{said}");
    drop(mount);
    let error = image().write(Format::Disk, &partition, Existing::Replace, &mut |_, _| {}).unwrap_err();
    assert!(matches!(&error, Error::BadDevice { why, .. } if why.starts_with("it is a partition")), "{error}");
}

#[test]
fn what_is_no_block_device_stays_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [Path::new("/dev/null"), &pipe, folder.path()] {
        assert!(!device::is_device(path));
        let written = image().write(Format::Disk, path, Existing::Replace, &mut |_, _| {});
        assert!(matches!(written, Err(Error::OutputNotAFile(_))), "{}", path.display());
        assert!(matches!(extract::extract(path), Err(Error::OddFile(_))), "{}", path.display());
    }
}

#[test]
fn on_a_larger_device_only_the_copy_of_the_table_lies_elsewhere() {
    let all = (32 << 30) + 7 * SECTOR;
    let device = &mut image().compose(Format::Disk, Some(all)).unwrap();
    let file = &mut image().compose(Format::Disk, None).unwrap();
    assert_eq!((device.len(), file.len()), (all, 64 * MIB));
    let written: u64 = device.written().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(written < 8 * MIB, "{written} bytes are written to 32 GiB");

    let read = |disk: &mut mkimage::sparse::Sparse, at: u64, len: u64| {
        let mut bytes = vec![0; len as usize];
        disk.seek(SeekFrom::Start(at)).unwrap();
        disk.read_exact(&mut bytes).unwrap();
        bytes
    };
    assert!(read(device, MIB, 62 * MIB) == read(file, MIB, 62 * MIB), "the partitions are the same");
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    // UEFI 2.10, table 5.5: this header, its copy, the last sector for partitions.
    let header = read(device, SECTOR, SECTOR);
    let copy = read(device, all - SECTOR, SECTOR);
    let last = all / SECTOR - 1;
    assert!(header.starts_with(b"EFI PART") && copy.starts_with(b"EFI PART"));
    assert_eq!((number(&header, 24), number(&header, 32)), (1, last));
    assert_eq!((number(&copy, 24), number(&copy, 32)), (last, 1));
    assert_eq!(number(&header, 48), last - 33);
    assert!(read(device, 2 * SECTOR, 32 * SECTOR) == read(device, all - 33 * SECTOR, 32 * SECTOR), "the entries");

    let sized = Image { size: Some(1 << 30), ..image() };
    let bios = |disk: &mut mkimage::sparse::Sparse| read(disk, 0, 440);
    assert!(
        bios(&mut sized.compose(Format::Disk, Some(all)).unwrap())
            == bios(&mut sized.compose(Format::Disk, None).unwrap()),
        "--size counts"
    );
    let error = sized.compose(Format::Disk, Some((1 << 30) - 1)).unwrap_err();
    assert!(matches!(error, Error::DeviceTooSmall { has, needs } if has == (1 << 30) - SECTOR && needs == 1 << 30));
}
