//! Data disks: a partition table with one FAT partition at 1 MiB, filled from a folder.
//!
//! Everything that a formatter would take from the clock or from chance is fixed: volume id, time stamps (1980-01-01),
//! order of the files. The file is sparse.

pub(crate) mod check;
pub(crate) mod dots;
pub(crate) mod fat;
mod holes;

use crate::{Error, Result, initrd, output, size};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::{BufStream, StreamSlice};
use holes::Holes;
use shared_abi::assert_layout;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Where the partition starts.
pub const PARTITION_START: u64 = 1 << 20;
/// The smallest disk: below it FAT16, the least that drivers of small systems read, has too few clusters.
pub const SMALLEST: u64 = 4 << 20;
/// The largest disk: sector numbers in the partition table have 32 bits.
pub const LARGEST: u64 = (1 << 41) - SECTOR;

const VOLUME_ID: u32 = 0x5249_4e47;
const VOLUME_LABEL: [u8; 11] = *b"RINGSIDE   ";
/// From this size on a partition is FAT32.
const FAT32_FROM: u64 = 512 << 20;

/// An entry of the partition table of a master boot record.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct PartitionEntry {
    status: u8,
    first_chs: [u8; 3],
    pub(crate) kind: u8,
    last_chs: [u8; 3],
    pub(crate) first: U32,
    pub(crate) sectors: U32,
}
assert_layout!(PartitionEntry, size 16, kind at 4, first at 8, sectors at 12);

/// Offset of the first of the four entries.
pub(crate) const PARTITION_TABLE: usize = 446;
/// The last two bytes of a master boot record.
pub(crate) const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// "Too large for cylinders": use the sector numbers.
const NO_CHS: [u8; 3] = [0xfe, 0xff, 0xff];
const KIND_FAT16: u8 = 0x06;
const KIND_FAT32_LBA: u8 = 0x0c;

/// Makes a disk of `size` bytes (rounded up to sectors) with the files of `folder`.
///
/// # Errors
/// When the size is impossible, something in the folder cannot be stored, or it does not fit.
pub fn write(size: u64, folder: &Path, output: &Path) -> Result<()> {
    let range = || format!("between {} and {} are possible", size::display(SMALLEST), size::display(LARGEST));
    if size < SMALLEST {
        return Err(Error::DiskSize { size, how: "small", range: range() });
    }
    if size > LARGEST {
        return Err(Error::DiskSize { size, how: "large", range: range() });
    }
    let size = size.next_multiple_of(SECTOR);
    output::check(output, &[folder])?;
    output::write(output, 0o666, |file| fill(file, size, folder, output))
}

fn fill(file: &mut File, size: u64, folder: &Path, output: &Path) -> Result<()> {
    let failed = |why| Error::Write { path: output.into(), why };
    file.set_len(size).map_err(failed)?;
    let partition = size - PARTITION_START;
    file.write_all(&partition_table(partition)).map_err(failed)?;
    let mut file = Holes::new(file);
    let mut slice = BufStream::new(StreamSlice::new(&mut file, PARTITION_START, size).map_err(failed)?);
    fatfs::format_volume(&mut slice, format_options(partition)).map_err(failed)?;
    slice.seek(SeekFrom::Start(0)).map_err(failed)?;
    // Without the chrono feature fatfs has no clock: every time stamp is the first that FAT can hold.
    let volume = FileSystem::new(slice, FsOptions::new()).map_err(failed)?;
    copy_tree(&volume, folder, size)?;
    // Counts the free clusters, which FAT32 keeps on the disk.
    volume.stats().map_err(failed)?;
    volume.unmount().map_err(failed)?;
    let slice = StreamSlice::new(file, PARTITION_START, size).map_err(failed)?;
    dots::repair(slice).map_err(failed)
}

fn partition_table(partition: u64) -> [u8; SECTOR as usize] {
    let sectors = |bytes: u64| U32::new((bytes / SECTOR) as u32);
    let entry = PartitionEntry {
        status: 0,
        first_chs: NO_CHS,
        kind: if partition >= FAT32_FROM { KIND_FAT32_LBA } else { KIND_FAT16 },
        last_chs: NO_CHS,
        first: sectors(PARTITION_START),
        sectors: sectors(partition),
    };
    let mut record = [0; SECTOR as usize];
    record[PARTITION_TABLE..PARTITION_TABLE + size_of::<PartitionEntry>()].copy_from_slice(entry.as_bytes());
    record[510..].copy_from_slice(&BOOT_SIGNATURE);
    record
}

fn format_options(partition: u64) -> FormatVolumeOptions {
    let options = FormatVolumeOptions::new().volume_id(VOLUME_ID).volume_label(VOLUME_LABEL).total_sectors(
        // LARGEST keeps this below 2^32.
        (partition / SECTOR) as u32,
    );
    if partition >= FAT32_FROM {
        return options.fat_type(FatType::Fat32);
    }
    // FAT16 has between 4085 and 65524 clusters: the smallest cluster that keeps the count below.
    let cluster = (partition / 65_000).next_power_of_two().max(SECTOR);
    options.fat_type(FatType::Fat16).bytes_per_cluster(cluster as u32)
}

pub(crate) fn copy_tree<T: Read + Write + Seek>(volume: &FileSystem<T>, folder: &Path, size: u64) -> Result<()> {
    let root = volume.root_dir();
    for (name, path) in initrd::walk(folder)? {
        let unreadable = |why| Error::Read { path: path.clone(), why };
        // fatfs says "other" for everything; only its message distinguishes a bad name from a full disk.
        let not_stored = |error: io::Error| match error.to_string().to_lowercase() {
            why if why.starts_with("file name") || error.kind() == io::ErrorKind::AlreadyExists => {
                Error::BadName { path: path.clone(), why }
            }
            _ => Error::DiskFull { path: path.clone(), size },
        };
        // Links are followed: FAT has none.
        let metadata = fs::metadata(&path).map_err(unreadable)?;
        if fs::symlink_metadata(&path).map_err(unreadable)?.is_dir() {
            root.create_dir(&name).map_err(not_stored)?;
        } else if metadata.is_file() {
            // Opening for writing would silently take over a file whose name differs only in case.
            if root.open_file(&name).is_ok() {
                let why = "another file has the same name but for case".into();
                return Err(Error::BadName { path, why });
            }
            if u32::try_from(metadata.len()).is_err() {
                return Err(Error::BadName { path, why: "a file on FAT has less than 4 GiB".into() });
            }
            let mut content = File::open(&path).map_err(unreadable)?;
            let mut file = root.create_file(&name).map_err(not_stored)?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                let len = content.read(&mut buffer).map_err(unreadable)?;
                if len == 0 {
                    break;
                }
                file.write_all(&buffer[..len]).map_err(not_stored)?;
            }
            file.flush().map_err(not_stored)?;
        } else {
            return Err(Error::OddFile(path));
        }
    }
    Ok(())
}
