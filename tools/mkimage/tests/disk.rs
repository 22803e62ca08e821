//! Disks: what is on them, what does not fit, and what a second tool says about them.

use mkimage::inspect::{PartitionKind, Report, inspect};
use mkimage::{Error, disk};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

fn sample(folder: &Path) {
    fs::create_dir_all(folder.join("docs/deep")).unwrap();
    fs::write(folder.join("README.TXT"), "hello\n").unwrap();
    fs::write(folder.join("docs/A longer name.txt"), vec![b'x'; 100_000]).unwrap();
    fs::write(folder.join("docs/deep/empty"), "").unwrap();
}

fn files(path: &Path) -> Vec<(String, u64)> {
    let Report::Disk(report) = inspect(path).unwrap() else { panic!("no disk") };
    let volume = report.partitions[0].volume.as_ref().unwrap();
    volume.files.iter().map(|file| (file.path.clone(), file.bytes)).collect()
}

#[test]
fn a_disk_holds_the_files_of_its_folder_in_one_partition_at_1_mib() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("files");
    sample(&folder);
    for (size, kind, fat) in [(4 * MIB, 0x06, "FAT16"), (64 * MIB, 0x06, "FAT16"), (600 * MIB, 0x0c, "FAT32")] {
        let output = place.path().join("disk");
        disk::write(size, &folder, &output).unwrap();
        assert_eq!(fs::metadata(&output).unwrap().len(), size);
        let Report::Disk(report) = inspect(&output).unwrap() else { panic!("no disk") };
        let partition = &report.partitions[0];
        assert_eq!((&partition.kind, partition.first_sector), (&PartitionKind::Mbr(kind), 2048));
        let volume = partition.volume.as_ref().unwrap();
        assert_eq!((volume.kind.as_str(), volume.label.trim()), (fat, "RINGSIDE"));
        let expected = [
            ("README.TXT", 6),
            ("docs/", 0),
            ("docs/A longer name.txt", 100_000),
            ("docs/deep/", 0),
            ("docs/deep/empty", 0),
        ];
        assert_eq!(files(&output), expected.map(|(path, bytes)| (path.to_owned(), bytes)));
    }
}

#[test]
fn same_files_give_the_same_bytes_whenever_and_in_whatever_order_they_were_made() {
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    sample(&first);
    fs::create_dir_all(second.join("docs/deep")).unwrap();
    fs::write(second.join("docs/deep/empty"), "").unwrap();
    fs::write(second.join("docs/A longer name.txt"), vec![b'x'; 100_000]).unwrap();
    fs::write(second.join("README.TXT"), "hello\n").unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::options().write(true).open(second.join("README.TXT")).unwrap().set_modified(long_ago).unwrap();
    let outputs = [place.path().join("a"), place.path().join("b")];
    disk::write(8 * MIB, &first, &outputs[0]).unwrap();
    disk::write(8 * MIB, &second, &outputs[1]).unwrap();
    assert!(fs::read(&outputs[0]).unwrap() == fs::read(&outputs[1]).unwrap());
}

#[test]
fn a_disk_takes_only_the_space_of_what_is_on_it() {
    let place = tempfile::tempdir().unwrap();
    sample(&place.path().join("files"));
    let output = place.path().join("disk");
    disk::write(64 * MIB, &place.path().join("files"), &output).unwrap();
    assert!(fs::metadata(&output).unwrap().blocks() * 512 < 4 * MIB);
}

#[test]
fn files_that_do_not_fit_are_named_and_leave_no_disk() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("files");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("big"), vec![1; 5 << 20]).unwrap();
    let output = place.path().join("disk");
    let error = disk::write(4 * MIB, &folder, &output).unwrap_err();
    assert!(matches!(&error, Error::DiskFull { path, size } if path.ends_with("big") && *size == 4 * MIB), "{error}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "only the folder is there");
}

#[test]
fn impossible_sizes_and_names_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("files");
    fs::create_dir(&folder).unwrap();
    let output = place.path().join("disk");
    assert!(matches!(disk::write(MIB, &folder, &output), Err(Error::DiskSize { how: "small", .. })));
    assert!(matches!(disk::write(1 << 42, &folder, &output), Err(Error::DiskSize { how: "large", .. })));
    assert!(matches!(disk::write(8 * MIB, &place.path().join("none"), &output), Err(Error::Read { .. })));
    fs::write(folder.join("what?"), "").unwrap();
    assert!(matches!(disk::write(8 * MIB, &folder, &output), Err(Error::BadName { .. })));
    fs::remove_file(folder.join("what?")).unwrap();
    fs::write(folder.join("same"), "1").unwrap();
    fs::write(folder.join("SAME"), "2").unwrap();
    assert!(matches!(disk::write(8 * MIB, &folder, &output), Err(Error::BadName { .. })));
    assert!(!output.exists());
}

#[test]
fn damaged_disks_are_reported_and_other_files_too() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("files");
    sample(&folder);
    let output = place.path().join("disk");
    disk::write(4 * MIB, &folder, &output).unwrap();
    File::options().write(true).open(&output).unwrap().set_len(2 * MIB).unwrap();
    assert!(matches!(inspect(&output), Err(Error::BadDisk { .. })));
    let text = place.path().join("text");
    fs::write(&text, "just text").unwrap();
    assert!(matches!(inspect(&text), Err(Error::Unknown(_))));
}

#[test]
fn fsck_finds_nothing_to_complain_about() {
    let fsck = ["/sbin/fsck.fat", "/usr/sbin/fsck.fat"].iter().find(|path| Path::new(path).exists());
    let Some(fsck) = fsck else {
        eprintln!("SKIPPED fsck_finds_nothing_to_complain_about: fsck.fat (package dosfstools) is not installed");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("files");
    sample(&folder);
    for size in [4 * MIB, 16 * MIB, 64 * MIB, 511 * MIB, 600 * MIB] {
        let output = place.path().join("disk");
        disk::write(size, &folder, &output).unwrap();
        let partition = place.path().join("partition");
        let mut disk = File::open(&output).unwrap();
        std::io::Seek::seek(&mut disk, std::io::SeekFrom::Start(disk::PARTITION_START)).unwrap();
        std::io::copy(&mut disk, &mut File::create(&partition).unwrap()).unwrap();
        let result = Command::new(fsck).arg("-n").arg(&partition).output().unwrap();
        let said = String::from_utf8_lossy(&result.stdout);
        assert!(result.status.success(), "{size}: {said}");
        assert!(!said.to_lowercase().contains("free cluster"), "{size}: {said}");
    }
}

#[test]
fn mtools_reads_the_same_bytes_back() {
    let installed = Command::new("mtype").arg("--version").output().is_ok();
    if !installed {
        eprintln!("SKIPPED mtools_reads_the_same_bytes_back: mtype (package mtools) is not installed");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("files");
    sample(&folder);
    for size in [8 * MIB, 600 * MIB] {
        let output = place.path().join("disk");
        disk::write(size, &folder, &output).unwrap();
        let partition = format!("{}@@{}", output.display(), disk::PARTITION_START);
        for name in ["README.TXT", "docs/A longer name.txt", "docs/deep/empty"] {
            let result = Command::new("mtype").args(["-i", &partition, &format!("::/{name}")]).output().unwrap();
            assert!(result.status.success(), "{name}: {}", String::from_utf8_lossy(&result.stderr));
            assert!(result.stdout == fs::read(folder.join(name)).unwrap(), "{name}");
        }
    }
}
