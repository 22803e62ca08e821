//! ISO images from a kernel and loaders made in memory: what is on them, that they never differ, and what is refused.

mod common;

use common::Fixture;
use common::disks::{built, image};
use mkimage::bootable::{Format, Image, extract};
use mkimage::inspect::{BootEntryReport, DiskReport, PartitionKind, Report, inspect};
use mkimage::output::Existing;
use mkimage::time::Timestamp;
use shared_abi::disk::{BIOS_PARAMETERS, BiosParameters};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use zerocopy::FromBytes;

const BLOCK: usize = 2048;
const MIB: usize = 1 << 20;

fn write(image: &Image, output: &Path) -> mkimage::Result<()> {
    image.write(Format::Iso, output, Existing::Keep, &mut |_, _| {})
}

fn report(path: &Path) -> DiskReport {
    match inspect(path).unwrap() {
        Report::Disk(report) => report,
        Report::Elf(_) => panic!("an ELF file"),
    }
}

fn entry(platform: &str, sectors: u16, first_block: u32) -> BootEntryReport {
    BootEntryReport { platform: platform.into(), bootable: true, emulation: 0, load_segment: 0, sectors, first_block }
}

#[test]
fn what_goes_in_comes_out_again_by_the_partition_and_by_the_cds_own_records() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("iso");
    write(&image(), &output).unwrap();
    let parts = extract::extract(&output).unwrap();
    assert_eq!((parts.cmdline.as_str(), parts.initrd.as_deref()), ("tour x=1", Some(&[7; 3000][..])));
    assert!(parts.kernel == mkimage::image::build(&image().kernel, "", Vec::new()).unwrap(), "with its symbols");
    let bytes = fs::read(&output).unwrap();
    let iso = report(&output).iso.unwrap();
    let recorded = |path: &str| {
        let file = iso.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}"));
        &bytes[file.first_block as usize * BLOCK..][..file.bytes as usize]
    };
    assert!(recorded("RINGSIDE/KERNEL.ELF") == parts.kernel);
    assert_eq!(recorded("RINGSIDE/CMDLINE.TXT"), b"tour x=1\n");
    assert_eq!(recorded("RINGSIDE/INITRD.IMG"), [7; 3000]);
    assert_eq!(recorded("EFI/BOOT/BOOTX64.EFI"), b"MZ, if it were one");
}

#[test]
fn inspect_shows_label_boot_catalogue_files_partitions_and_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    fs::create_dir_all(files.join("a folder with a long name")).unwrap();
    fs::write(files.join("a folder with a long name/Ünïcode.text"), "x").unwrap();
    let output = folder.path().join("iso");
    write(&Image { files: Some(files), time: Timestamp::new(1_700_000_000), ..image() }, &output).unwrap();
    let report = report(&output);
    let iso = report.iso.as_ref().unwrap();
    assert_eq!((iso.label.as_str(), iso.created.as_str()), ("RINGSIDE", "2023111422132000"));
    assert_eq!(u64::from(iso.blocks) * BLOCK as u64, report.bytes);
    let sectors = report.partitions[1].sectors;
    assert_eq!(iso.boot, [entry("BIOS", 4, 512), entry("UEFI", sectors as u16, 1024)]);
    let names = report.partitions.iter().map(|partition| match &partition.kind {
        PartitionKind::Gpt { name, .. } => (name.as_str(), partition.first_sector),
        PartitionKind::Mbr(kind) => panic!("{kind:#x}"),
    });
    assert_eq!(names.collect::<Vec<_>>(), [("BIOS loader", 2048), ("EFI system", 4096)]);
    let volume = report.partitions[1].volume.as_ref().unwrap();
    assert_eq!((volume.kind.as_str(), volume.cluster_bytes), ("FAT16", 2048));
    assert!(volume.files.iter().any(|file| file.path == "a folder with a long name/Ünïcode.text"));
    let boot = report.partitions[1].boot.as_ref().unwrap();
    assert_eq!((boot.cmdline.as_str(), boot.initrd_bytes), ("tour x=1", Some(3000)));
    assert!(boot.kernel.pvh_entry.is_some());

    let (success, text, _) = mkimage(&["inspect", "iso"], folder.path());
    assert!(success && text.contains("El Torito     BIOS, no emulation, 4 sectors from block 512"), "{text}");
    assert!(text.contains("ISO 9660      \"RINGSIDE\"") && text.contains("PVH entry"), "{text}");
    let (success, text, _) = mkimage(&["inspect", "--json", "iso"], folder.path());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(success && json["iso"]["boot"][1]["platform"] == "UEFI", "{text}");
    assert_eq!(json["iso"]["files"].as_array().unwrap().len(), 7, "{text}");
}

#[test]
fn the_bios_loader_counts_in_blocks_on_a_cd_and_in_sectors_on_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("iso");
    write(&image(), &output).unwrap();
    let bytes = fs::read(&output).unwrap();
    let told = |at: usize| BiosParameters::read_from_bytes(&bytes[at + BIOS_PARAMETERS..][..40]).unwrap();
    let (disk, cd) = (told(0), told(MIB));
    assert_eq!((disk.rest_first, disk.rest_sectors, disk.block_shift), (2049, 2, 9));
    assert_eq!((cd.rest_first, cd.rest_sectors, cd.block_shift), (513, 0, 11), "it fits into one block");
    let sectors = report(&output).partitions[1].sectors;
    for told in [disk, cd] {
        assert_eq!((told.volume_first, told.volume_sectors), (4096, sectors));
    }
    assert_eq!(bytes[MIB + 510..MIB + 512], [0x55, 0xaa]);
    assert!(bytes[MIB + 512..MIB + 3 * 512].iter().all(|byte| *byte == 0x90));
}

#[test]
fn files_of_any_size_lie_on_blocks() {
    let folder = tempfile::tempdir().unwrap();
    // Clusters of 2, 4 and 8 KiB.
    for (mib, cluster, counted) in [(1, 2048, true), (33, 2048, false), (140, 4096, false), (300, 8192, false)] {
        let output = folder.path().join(mib.to_string());
        write(&Image { initrd: vec![0; mib * MIB], ..image() }, &output).unwrap();
        let report = report(&output);
        let volume = report.partitions[1].volume.as_ref().unwrap();
        assert_eq!((volume.kind.as_str(), volume.cluster_bytes), ("FAT16", cluster), "{mib} MiB");
        let iso = report.iso.unwrap();
        assert_eq!(iso.boot[1].sectors != 0, counted, "{mib} MiB");
        let initrd = iso.files.iter().find(|file| file.path == "RINGSIDE/INITRD.IMG").unwrap();
        assert_eq!(initrd.bytes as usize, mib * MIB);
        assert_eq!(extract::extract(&output).unwrap().initrd.map(|initrd| initrd.len()), Some(mib * MIB));
    }
}

#[test]
fn two_builds_in_different_folders_give_the_same_bytes_and_another_time_the_same_files_in_the_same_places() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let built = |image: &Image, folder: &Path, name: &str| built(Format::Iso, image, folder, name);
    let first = built(&image(), here.path(), "one");
    assert!(first == built(&image(), there.path(), "two"), "the same");
    let time = Timestamp::new(1_700_000_000);
    let later = built(&Image { time, ..image() }, here.path(), "three");
    let (old, new) = (report(&here.path().join("one")).iso.unwrap(), report(&here.path().join("three")).iso.unwrap());
    assert_eq!((old.created.as_str(), new.created.as_str()), ("1980010100000000", "2023111422132000"));
    assert_eq!(old.boot, new.boot);
    for (old, new) in old.files.iter().zip(&new.files) {
        assert_eq!((&old.path, old.bytes, old.first_block), (&new.path, new.bytes, new.first_block));
        if old.bytes > 0 {
            let place = old.first_block as usize * BLOCK..old.first_block as usize * BLOCK + old.bytes as usize;
            assert!(first[place.clone()] == later[place], "{}", old.path);
        }
    }
}

fn mkimage(args: &[&str], folder: &Path) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mkimage")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_says_one_line_about_bad_input_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    fs::write(folder.join("kernel"), Fixture::default().build()).unwrap();
    File::create(folder.join("large")).unwrap().set_len((2 << 30) + 1).unwrap();
    write(&image(), &folder.join("whole")).unwrap();
    let bytes = fs::read(folder.join("whole")).unwrap();
    fs::write(folder.join("short"), &bytes[..3 * MIB]).unwrap();
    let make = ["--kernel", "kernel", "--format", "iso", "-o", "new"];
    for (args, says) in [
        ([&make[..], &["--size", "64M"]].concat(), "--size is for disks; the format iso is as large as it needs to be"),
        ([&make[..], &["--initrd", "large"]].concat(), "cannot take large: an initrd larger than 2 GiB"),
        (vec!["extract", "short", "-o", "new"], "short is no bootable disk: "),
        (vec!["inspect", "short"], "short: disk is damaged: its ISO 9660 file system does not read: it ends at byte "),
    ] {
        let (success, _, message) = mkimage(&args, folder);
        assert!(!success && message.starts_with(&format!("mkimage: {says}")), "{args:?}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    assert!(!folder.join("new").exists());
}
