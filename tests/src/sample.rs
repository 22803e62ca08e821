//! The sample disk: a FAT file system with a few files, the same bytes on every machine.

use anyhow::{Context, Result};
use crc::{CRC_32_ISO_HDLC, Crc};
use shared_abi::tour::SAMPLE_FILE;
use std::fs;
use std::path::Path;

/// Size of the sample disk.
pub const DISK_BYTES: u64 = 64 << 20;

/// A file as both sides must see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedFile {
    /// Its name.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32/ISO-HDLC of its content.
    pub crc32: u32,
}

/// Makes the sample disk at `disk`, whole or not at all: others may be making and reading the same one.
///
/// # Errors
/// When it cannot be written.
pub fn write(disk: &Path) -> Result<ExpectedFile> {
    let folder = tempfile::tempdir().context("cannot create a folder for the sample disk's files")?;
    let file = write_files(folder.path())?;
    mkimage::disk::write(DISK_BYTES, folder.path(), disk)?;
    Ok(file)
}

/// Writes the files that are on it into a folder.
///
/// # Errors
/// When they cannot be written.
pub fn write_files(folder: &Path) -> Result<ExpectedFile> {
    fs::create_dir_all(folder.join("DOCS")).with_context(|| format!("cannot create {}", folder.display()))?;
    let readme = readme();
    for (name, content) in [
        (SAMPLE_FILE, readme.as_bytes().to_vec()),
        ("DOCS/LONG.TXT", long_text().into_bytes()),
        ("NUMBERS.BIN", numbers(1 << 20)),
        ("EMPTY.TXT", Vec::new()),
    ] {
        fs::write(folder.join(name), content).with_context(|| format!("cannot write {name} of the sample disk"))?;
    }
    Ok(ExpectedFile { path: SAMPLE_FILE.into(), bytes: readme.len() as u64, crc32: crc32(readme.as_bytes()) })
}

/// The checksum that the guest reports.
pub fn crc32(bytes: &[u8]) -> u32 {
    Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(bytes)
}

fn readme() -> String {
    let mut text = String::from(
        "This is the sample disk of Ringside.\n\n\
         A guest reads this file through its own block driver, over a ring that it shares with the host, from a FAT\n\
         file system, and prints its length and CRC-32. The command that made the disk knows both.\n\n",
    );
    for line in 1..=100 {
        text.push_str(&format!("line {line}: so that the file takes more than one sector, cluster and request\n"));
    }
    text
}

fn long_text() -> String {
    (0..20_000).map(|line| format!("{line:05}\n")).collect()
}

/// A pattern without period, cheap to make: a multiplicative generator.
fn numbers(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(48_271) % 0x7fff_ffff;
        (state >> 16) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_with_the_known_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_disk_is_the_same_each_time_and_holds_the_file_as_expected() {
        let place = tempfile::tempdir().unwrap();
        let disks = [place.path().join("a"), place.path().join("b")];
        let expected = disks.each_ref().map(|disk| write(disk).unwrap());
        assert_eq!(expected[0], expected[1]);
        assert!(fs::read(&disks[0]).unwrap() == fs::read(&disks[1]).unwrap());
        let mkimage::inspect::Report::Disk(report) = mkimage::inspect::inspect(&disks[0]).unwrap() else { panic!() };
        let volume = report.partitions[0].volume.as_ref().unwrap();
        let file = volume.files.iter().find(|file| file.path == SAMPLE_FILE).unwrap();
        assert_eq!(file.bytes, expected[0].bytes);
    }

    #[test]
    fn parallel_runs_make_it_and_each_finds_it_whole() {
        let place = tempfile::tempdir().unwrap();
        let disk = place.path().join("sample.img");
        let whole = {
            write(&disk).unwrap();
            crc32(&fs::read(&disk).unwrap())
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        write(&disk).unwrap();
                        assert_eq!(crc32(&fs::read(&disk).unwrap()), whole);
                    }
                });
            }
        });
    }
}
