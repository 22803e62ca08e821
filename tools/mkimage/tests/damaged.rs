//! Disks and ISO images with wrong bytes in their structures, or cut off: `inspect` and `extract` read them or say in one
//! line why not.

mod common;

use common::disks::image;
use mkimage::Error;
use mkimage::bootable::{Format, Image, extract};
use mkimage::inspect::inspect;
use mkimage::output::Existing;
use proptest::prelude::*;
use proptest::sample::select;
use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
/// The EFI system partition.
const ESP: usize = 2 * MIB;

struct Whole {
    folder: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

fn whole(format: Format) -> Whole {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let size = (format == Format::Disk).then_some(40 * MIB as u64);
    Image { size, ..image() }.write(format, &path, Existing::Keep, &mut |_, _| {}).unwrap();
    let bytes = fs::read(&path).unwrap();
    Whole { folder, path, bytes }
}

impl Whole {
    /// Where the structures are: partition tables; volume descriptors to boot catalogue; FAT's boot sector and what follows
    /// it, the start of its table, its root and first folders.
    fn structures(&self) -> Vec<Range<usize>> {
        let reserved = usize::from(u16::from_le_bytes([self.bytes[ESP + 14], self.bytes[ESP + 15]]));
        let table = ESP + reserved * 512;
        let label = |window: &[u8]| window == b"RINGSIDEESP";
        let root = ESP + 512 + self.bytes[ESP + 512..].windows(11).position(label).unwrap();
        vec![
            440..1280,
            32 * 1024..52 * 1024,
            ESP..ESP + 1024,
            table..table + 256,
            root..root + 256,
            root..root + 24 * 1024,
        ]
    }
}

fn looked_at(path: &Path) -> Result<(), TestCaseError> {
    for error in [inspect(path).err(), extract::extract(path).err()].into_iter().flatten() {
        let text = error.to_string();
        prop_assert!(!matches!(error, Error::Read { .. }) && text.lines().count() == 1, "{}", text);
    }
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() }
}

fn wrong_bytes_do_no_harm(format: Format) {
    let whole = whole(format);
    let file = File::options().write(true).open(&whole.path).unwrap();
    let put = |at: usize, byte: u8| {
        (&file).seek(SeekFrom::Start(at as u64)).unwrap();
        (&file).write_all(&[byte]).unwrap();
    };
    let place = select(whole.structures()).prop_flat_map(|range| range);
    let byte = prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()];
    let wrong = RefCell::new(Vec::new());
    proptest!(config(), |(damage in prop::collection::vec((place, byte), 1..6))| {
        wrong.take().into_iter().for_each(|at| put(at, whole.bytes[at]));
        damage.iter().for_each(|(at, byte)| put(*at, *byte));
        wrong.replace(damage.iter().map(|(at, _)| *at).collect());
        looked_at(&whole.path)?;
    });
}

#[test]
fn wrong_bytes_in_the_structures_of_a_disk_are_an_error_or_read_never_a_panic() {
    wrong_bytes_do_no_harm(Format::Disk);
}

#[test]
fn wrong_bytes_in_the_structures_of_an_iso_image_are_an_error_or_read_never_a_panic() {
    wrong_bytes_do_no_harm(Format::Iso);
}

#[test]
fn an_iso_image_cut_off_anywhere_is_an_error_or_read_never_a_panic() {
    let whole = whole(Format::Iso);
    proptest!(config(), |(len in prop_oneof![0..whole.bytes.len(), 0..3 * MIB])| {
        let short = whole.folder.path().join("short");
        fs::write(&short, &whole.bytes[..len]).unwrap();
        looked_at(&short)?;
    });
}

#[test]
fn a_gpt_with_odd_or_countless_entries_is_refused_whatever_its_checksum() {
    let whole = whole(Format::Iso);
    let sum = |bytes: &[u8]| crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(bytes).to_le_bytes();
    // The number of entries, and the size of each.
    for (count, size) in [(128u32, 256u32), (128, 0), (64, 47), (1 << 24, 128), (u32::MAX, 128)] {
        let mut spoilt = whole.bytes.clone();
        let header = &mut spoilt[512..604];
        header[80..84].copy_from_slice(&count.to_le_bytes());
        header[84..88].copy_from_slice(&size.to_le_bytes());
        header[16..20].fill(0);
        let crc = sum(header);
        header[16..20].copy_from_slice(&crc);
        let path = whole.folder.path().join("spoilt");
        fs::write(&path, spoilt).unwrap();
        assert!(matches!(inspect(&path), Err(Error::BadDisk { .. })), "{count} entries of {size} bytes");
        assert!(matches!(extract::extract(&path), Err(Error::NotBootable(_))), "{count} entries of {size} bytes");
    }
}

#[test]
fn the_copy_of_a_gpt_counts_where_the_first_is_damaged() {
    let whole = whole(Format::Iso);
    let mut spoilt = whole.bytes.clone();
    spoilt[512 + 84] = 99;
    let path = whole.folder.path().join("spoilt");
    fs::write(&path, spoilt).unwrap();
    assert_eq!(extract::extract(&path).unwrap(), extract::extract(&whole.path).unwrap());
}

/// The 16-bit entry of a cluster in the table of an ISO image's partition.
fn entry_of(cluster: usize) -> usize {
    ESP + 512 + 2 * cluster
}

#[test]
fn a_fat_whose_chains_turn_in_circles_meet_or_end_too_soon_is_damaged() {
    let whole = whole(Format::Iso);
    // The first two clusters are the folders EFI and EFI/BOOT; files follow.
    for (cluster, next) in [(2, 2u16), (2, 3), (2, 1), (2, 0xfff0), (6, 6), (6, 0xffff)] {
        let mut spoilt = whole.bytes.clone();
        spoilt[entry_of(cluster)..entry_of(cluster) + 2].copy_from_slice(&next.to_le_bytes());
        let path = whole.folder.path().join("spoilt");
        fs::write(&path, spoilt).unwrap();
        for error in [inspect(&path).err(), extract::extract(&path).err()] {
            assert!(matches!(error, Some(Error::BadDisk { .. })), "{cluster} to {next:#x}: {error:?}");
        }
    }
}

#[test]
fn a_file_in_no_cluster_and_a_full_folder_that_never_ends_are_damage_too() {
    let whole = whole(Format::Iso);
    let position =
        |name: &[u8]| whole.bytes.windows(name.len()).skip(ESP).position(|window| window == name).unwrap() + ESP;
    let mut nowhere = whole.bytes.clone();
    let kernel = position(b"KERNEL  ELF");
    nowhere[kernel + 26..kernel + 28].copy_from_slice(&1u16.to_le_bytes());
    let mut endless = whole.bytes.clone();
    endless[entry_of(2)..entry_of(2) + 2].copy_from_slice(&2u16.to_le_bytes());
    // The folder EFI, which starts with its own name; what is free in it becomes what is deleted.
    let folder = position(b".          ");
    for entry in endless[folder..folder + 2048].chunks_exact_mut(32).filter(|entry| entry[0] == 0) {
        entry[0] = 0xe5;
    }
    for (spoilt, says) in [(nowhere, "there is no cluster 1"), (endless, "cluster 2 belongs to two files")] {
        let path = whole.folder.path().join("spoilt");
        fs::write(&path, spoilt).unwrap();
        for error in [inspect(&path).err(), extract::extract(&path).err()] {
            let text = error.map_or_else(String::new, |error| error.to_string());
            assert!(text.ends_with(says), "{text:?} instead of {says:?}");
        }
    }
}
