//! Disks: partition tables, FAT, ISO 9660 and El Torito, and what is taken out of them to be booted.
//!
//! The bytes are damage to a disk that `mkimage` made: the first chooses the disk, the second whether checksums are made
//! right again, then come places and bytes. A whole disk would be megabytes, and nothing random gets past its checksums.

use super::file;
use crate::{assert_one_line, seeds};
use crc::{CRC_32_ISO_HDLC, Crc};
use hostile_driver::Script;
use mkimage::Error;
use mkimage::bootable::Format;
use mkimage::bootable::extract::{self, Parts};
use mkimage::inspect;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

const SECTOR: u64 = 512;
const BLOCK: u64 = 2048;
/// Where the EFI system partition starts.
const ESP: u64 = 2 << 20;
/// Pieces of damage, at most.
const PIECES: usize = 32;

/// A disk, and where its structures are.
struct Base {
    file: File,
    path: PathBuf,
    len: u64,
    structures: Vec<Range<u64>>,
    parts: Option<Parts>,
}

pub(crate) fn run(bytes: &[u8]) {
    static BASES: OnceLock<[Base; 3]> = OnceLock::new();
    let bases = BASES.get_or_init(|| [bootable(Format::Iso), bootable(Format::Disk), data()]);
    let mut script = Script::from_bytes(bytes.to_vec());
    let base = &bases[script.below(3) as usize];
    let repairs = script.one_in(2);
    let mut before = Vec::new();
    while !script.ended() && before.len() < PIECES {
        let range = &base.structures[script.below(base.structures.len() as u32) as usize];
        let at = range.start + u64::from(script.below(65536)) % (range.end - range.start);
        let damage: Vec<u8> = (0..=script.below(16)).map(|_| script.byte()).collect();
        before.push(base.replace(at, &damage));
    }
    if repairs {
        before.extend(base.repair());
    }
    look(base, before.is_empty());
    for (at, bytes) in before.into_iter().rev() {
        base.put(at, &bytes);
    }
}

/// Everything that reads a disk.
fn look(base: &Base, is_whole: bool) {
    let extracted = extract::extract(&base.path);
    let mut file = File::open(&base.path).unwrap_or_else(|error| panic!("{error}"));
    let inspected = inspect::structures(&mut file);
    if is_whole {
        assert_eq!(extracted.as_ref().ok(), base.parts.as_ref());
        assert!(inspected.is_ok(), "{:?}", inspected.err());
    }
    match &extracted {
        Ok(Parts { kernel, cmdline, initrd }) => {
            let bytes = kernel.len() + cmdline.len() + initrd.as_ref().map_or(0, Vec::len);
            assert!(bytes as u64 <= base.len, "{bytes} bytes out of a disk of {}", base.len);
        }
        Err(error) => check_error(error),
    }
    match &inspected {
        Ok((iso, partitions)) => {
            let blocks = iso.as_ref().map_or(0, |iso| iso.blocks);
            assert!(u64::from(blocks) * BLOCK <= base.len, "{blocks} blocks");
            for partition in partitions {
                let end = partition.first_sector.checked_add(partition.sectors);
                assert!(end.is_some_and(|end| end <= base.len / SECTOR), "{partition:?}");
            }
            assert!(serde_json::to_string(partitions).is_ok() && serde_json::to_string(iso).is_ok());
        }
        Err(error) => check_error(error),
    }
}

fn check_error(error: &Error) {
    assert_one_line(&error.to_string());
    assert!(!matches!(error, Error::Read { .. }), "damage is called a file that cannot be read: {error}");
}

impl Base {
    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap_or_else(|error| panic!("{len} bytes at {at}: {error}"));
        bytes
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap_or_else(|error| panic!("{} bytes at {at}: {error}", bytes.len()));
    }

    /// Puts bytes somewhere; what was there.
    fn replace(&self, at: u64, bytes: &[u8]) -> (u64, Vec<u8>) {
        let bytes = &bytes[..bytes.len().min((self.len - at) as usize)];
        let before = self.read(at, bytes.len());
        self.put(at, bytes);
        (at, before)
    }

    /// Makes the checksums of the GPT and of the boot catalogue right; what was there.
    fn repair(&self) -> Vec<(u64, Vec<u8>)> {
        const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
        let mut before = Vec::new();
        let mut header = self.read(SECTOR, 92);
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        // As many entries as fit where they usually are.
        let entries = word(&header, 80).saturating_mul(word(&header, 84)).min(32 * SECTOR as u32);
        let sum = CRC.checksum(&self.read(2 * SECTOR, entries as usize));
        header[88..92].copy_from_slice(&sum.to_le_bytes());
        header[16..20].fill(0);
        let sum = CRC.checksum(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        before.push(self.replace(SECTOR, &header));
        let record = self.read(17 * BLOCK, BLOCK as usize);
        let catalogue = u64::from(word(&record, 71)) * BLOCK;
        if catalogue + 32 <= self.len {
            let mut entry = self.read(catalogue, 32);
            entry[28..30].fill(0);
            let words = entry.chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
            let sum = words.fold(0, u16::wrapping_sub);
            entry[28..30].copy_from_slice(&sum.to_le_bytes());
            before.push(self.replace(catalogue, &entry));
        }
        before
    }
}

/// A disk or an ISO image that boots.
fn bootable(format: Format) -> Base {
    let image = seeds::image(format);
    let disk = image.compose(format, None).unwrap_or_else(|error| panic!("{error}"));
    let (file, path) = file();
    let mut base = Base { file, path, len: disk.len(), structures: Vec::new(), parts: None };
    base.file.set_len(disk.len()).unwrap_or_else(|error| panic!("{error}"));
    disk.pieces().for_each(|(at, bytes)| base.put(at, bytes));
    base.parts = extract::extract(&base.path).ok();
    assert!(base.parts.is_some(), "nothing is found on our own disk");
    base.structures = vec![440..SECTOR, SECTOR..SECTOR + 92, 2 * SECTOR..2 * SECTOR + 256];
    if format == Format::Iso {
        base.structures.extend([16 * BLOCK..17 * BLOCK, 17 * BLOCK..18 * BLOCK, 18 * BLOCK..26 * BLOCK]);
    }
    base.structures.extend(base.volume(ESP));
    base
}

/// A data disk with a master boot record.
fn data() -> Base {
    const START: u64 = 1 << 20;
    let made = tempfile::tempdir().map_err(unwritten).and_then(|folder| {
        let (files, disk) = (folder.path().join("files"), folder.path().join("disk"));
        std::fs::create_dir_all(files.join("folder")).map_err(unwritten)?;
        std::fs::write(files.join("folder/file"), [7; 5000]).map_err(unwritten)?;
        mkimage::disk::write(4 << 20, &files, &disk)?;
        std::fs::read(disk).map_err(unwritten)
    });
    let bytes = made.unwrap_or_else(|error| panic!("{error}"));
    let (file, path) = file();
    let mut base = Base { file, path, len: bytes.len() as u64, structures: Vec::new(), parts: None };
    base.put(0, &bytes);
    base.structures = base.volume(START);
    base.structures.insert(0, 440..SECTOR);
    base
}

impl Base {
    /// The structures of a FAT volume: boot sector, start of the table, root folder, and the folders after it.
    fn volume(&self, start: u64) -> Vec<Range<u64>> {
        let boot = self.read(start, SECTOR as usize);
        let number = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let (reserved, root_entries, per_fat) = (number(14), number(17), number(22));
        let per_fat = if per_fat == 0 { number(36) } else { per_fat };
        let table = start + reserved * SECTOR;
        let root = table + 2 * per_fat * SECTOR;
        let clusters = root + root_entries * 32;
        vec![start..start + SECTOR, table..table + 128, root..root + 512, clusters..clusters + 3 * BLOCK]
    }
}

fn unwritten(why: std::io::Error) -> Error {
    Error::Write { path: "a folder".into(), why }
}
