//! Disks in the formats of other hypervisors as inputs: what is in them, and which ones are refused.

mod common;

use common::disks::{image, prepare, program};
use mkimage::bootable::{Format, extract};
use mkimage::inspect::{DiskReport, Report, inspect};
use mkimage::output::Existing;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const FORMATS: [(Format, &str); 3] = [(Format::Qcow2, "qcow2"), (Format::Vhdx, "vhdx"), (Format::Vmdk, "vmdk")];

fn lacks_qemu_img(test: &str) -> bool {
    let lacks = Command::new("qemu-img").arg("--version").output().is_err();
    if lacks {
        eprintln!("SKIPPED {test}: qemu-img (package qemu-utils) is not installed");
    }
    lacks
}

/// Runs qemu-img in a folder.
fn qemu_img(folder: &Path, arguments: &str) {
    let done = Command::new("qemu-img").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "qemu-img {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

fn disk_in(path: &Path) -> DiskReport {
    let Report::Disk(report) = inspect(path).unwrap() else { panic!("no disk") };
    report
}

/// Runs `inspect` and `extract` on a file. Both are to say the same line, and to leave nothing.
fn refused(folder: &TempDir, name: &str) -> String {
    let temporary = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkimage"));
        let done = command.args(arguments).current_dir(folder).env("TMPDIR", temporary.path()).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), said.lines().count(), done.stdout.len()), (Some(1), 1, 0), "{said}");
        assert!(said.len() < 500, "{said}");
        said
    };
    let said = run(&["inspect", name]);
    assert_eq!(said, run(&["extract", name, "-o", "parts"]));
    assert!(!folder.path().join("parts").exists());
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "{said}: something was left behind");
    said
}

#[test]
fn a_container_holds_the_disk_that_went_in_and_inspect_reports_both() {
    if lacks_qemu_img("a_container_holds_the_disk_that_went_in_and_inspect_reports_both") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |format, name: &str| {
        let path = folder.path().join(name);
        image().write(format, &path, Existing::Keep, &mut |_, _| {}).unwrap();
        path
    };
    let raw_path = write(Format::Disk, "disk");
    let raw = disk_in(&raw_path);
    assert!(raw.container.is_none());
    for (format, name) in FORMATS {
        let path = write(format, name);
        assert_eq!(extract::extract(&path).unwrap(), extract::extract(&raw_path).unwrap(), "{name}");
        let report = disk_in(&path);
        assert_eq!((&report.sha256, report.bytes), (&raw.sha256, raw.bytes), "{name}");
        let text = report.to_string();
        assert!(text.starts_with(&format!("type          disk in {name}\n")), "{text}");
        let container = report.container.unwrap();
        let bytes = fs::read(&path).unwrap();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((container.format, container.bytes), (name, bytes.len() as u64));
        assert_eq!(container.sha256, digest, "{name}");
        assert!(text.contains(&digest) && text.contains(&raw.sha256), "{text}");
    }
    // VMware's other form: a text, and the content next to it. A colon in a path is no protocol.
    let other = folder.path().join("a:b");
    fs::create_dir(&other).unwrap();
    qemu_img(folder.path(), "convert -f raw -O vmdk -o subformat=monolithicFlat disk flat.vmdk");
    for name in ["flat.vmdk", "flat-flat.vmdk"] {
        fs::rename(folder.path().join(name), other.join(name)).unwrap();
    }
    let report = disk_in(&other.join("flat.vmdk"));
    assert_eq!((report.sha256, report.container.unwrap().format), (raw.sha256, "vmdk"));
}

#[test]
fn a_container_that_names_other_files_is_refused() {
    if lacks_qemu_img("a_container_that_names_other_files_is_refused") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let whole = "; only a disk that is whole in itself is taken\n";
    qemu_img(place, "create -q -f qcow2 base.qcow2 1M");
    qemu_img(place, "create -q -f qcow2 -b base.qcow2 -F qcow2 child.qcow2");
    let says = format!("mkimage: cannot read child.qcow2 as qcow2: it names a backing file{whole}");
    assert_eq!(refused(&folder, "child.qcow2"), says);
    qemu_img(place, "create -q -f qcow2 -o data_file=data.raw outside.qcow2 1M");
    let says = format!("mkimage: cannot read outside.qcow2 as qcow2: its data are in another file{whole}");
    assert_eq!(refused(&folder, "outside.qcow2"), says);
    qemu_img(place, "create -q -f vmdk base.vmdk 1M");
    qemu_img(place, "create -q -f vmdk -b base.vmdk -F vmdk child.vmdk");
    let says = format!("mkimage: cannot read child.vmdk as vmdk: it names another file, \"base.vmdk\"{whole}");
    assert_eq!(refused(&folder, "child.vmdk"), says);
}

#[test]
fn a_descriptor_may_name_only_files_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let descriptor = |name: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"{name}\" 0\n"
        );
        fs::write(place.join("text.vmdk"), text).unwrap();
        refused(&folder, "text.vmdk")
    };
    for name in ["/etc/passwd", "../x", "nbd:localhost:1", "json:{}"] {
        let said = descriptor(name);
        assert!(said.contains("it names files in other places"), "{said}");
    }
    symlink("/etc/passwd", place.join("link")).unwrap();
    assert!(descriptor("link").contains("no regular file"));
    // An extent can be one more descriptor, and so can a file that is taken by itself.
    fs::write(place.join("nested"), [b"KDMV".as_slice(), &[0; 508]].concat()).unwrap();
    assert!(descriptor("nested").contains("one of its files has no size"));
    assert!(refused(&folder, "nested").contains("it has no size"));
}

#[test]
fn a_damaged_container_is_one_line_of_qemu_img() {
    if lacks_qemu_img("a_damaged_container_is_one_line_of_qemu_img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut says_qemu_img = 0;
    for (format, name) in FORMATS {
        let path = folder.path().join(name);
        image().write(format, &path, Existing::Keep, &mut |_, _| {}).unwrap();
        let bytes = fs::read(&path).unwrap();
        let mut spoilt_header = bytes.clone();
        spoilt_header[9..bytes.len().min(1 << 20)].fill(0xff);
        for damaged in [&bytes[..20], &spoilt_header] {
            fs::write(&path, damaged).unwrap();
            let said = refused(&folder, name);
            assert!(said.starts_with(&format!("mkimage: cannot read {name} as {name}: ")), "{said}");
            says_qemu_img += usize::from(said.contains(": qemu-img: "));
        }
        // Anything else that is spoilt may do no harm, or is one more line.
        for at in (4..bytes.len().min(1 << 18)).step_by(1 << 15) {
            let mut spoilt = bytes.clone();
            spoilt[at..(at + 64).min(bytes.len())].fill(0xff);
            fs::write(&path, spoilt).unwrap();
            if let Err(error) = inspect(&path) {
                assert_eq!(error.to_string().lines().count(), 1);
            }
        }
    }
    assert!(says_qemu_img >= 5, "all but one qcow2 that seems to have a backing file: {says_qemu_img}");
}

#[test]
fn a_small_file_that_claims_to_be_a_huge_disk_is_refused() {
    if lacks_qemu_img("a_small_file_that_claims_to_be_a_huge_disk_is_refused") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), "create -q -f qcow2 huge.qcow2 65G");
    let says =
        "mkimage: cannot read huge.qcow2 as qcow2: the disk in it has 69793218560 bytes; at most 64G are taken\n";
    assert_eq!(refused(&folder, "huge.qcow2"), says);
}

#[test]
fn a_small_file_whose_content_would_fill_the_disk_is_ended_on_the_way() {
    if lacks_qemu_img("a_small_file_whose_content_would_fill_the_disk_is_ended_on_the_way") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // 2 GiB of ones, compressed cluster by cluster.
    let whole = folder.path().join("whole");
    let mut file = File::create(&whole).unwrap();
    let ones = vec![1; 1 << 20];
    (0..2048).for_each(|_| file.write_all(&ones).unwrap());
    qemu_img(folder.path(), "convert -c -f raw -O qcow2 whole bomb.qcow2");
    fs::remove_file(&whole).unwrap();
    assert!(fs::metadata(folder.path().join("bomb.qcow2")).unwrap().len() < 64 << 20);
    let said = refused(&folder, "bomb.qcow2");
    assert!(said.contains("its content grows to more than 1G"), "{said}");
}

#[test]
fn without_qemu_img_the_line_says_which_package_has_it() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    fs::write(folder.path().join("disk.qcow2"), [b"QFI\xfb".as_slice(), &[0; 508]].concat()).unwrap();
    let make = ["--kernel", "kernel", "--loaders", "loaders", "--format", "qcow2", "-o", "new"];
    for arguments in [["inspect", "disk.qcow2"].as_slice(), &["extract", "disk.qcow2", "-o", "new"], &make] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkimage"));
        let done = command.args(arguments).current_dir(&folder).env("PATH", "/nowhere").output().unwrap();
        let says = "mkimage: the format qcow2 needs qemu-img, which is not installed (package qemu-utils)\n";
        assert_eq!((done.status.code(), str::from_utf8(&done.stderr).unwrap()), (Some(1), says));
    }
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["disk.qcow2", "kernel", "loaders"], "nothing was left behind");
    // With it, or without: an ordinary disk needs none.
    assert_eq!(
        program(&["--kernel", "kernel", "--loaders", "loaders", "--format", "disk", "-o", "d"], folder.path()).0,
        Some(0)
    );
}
