//! The read-only FAT file system of a disk, by `embedded-sdmmc`.
//!
//! The crate reads synchronously, block by block: no other task runs meanwhile, and a small read-ahead keeps the
//! number of requests down. It insists on an old partition table: a disk that is one large file system gets one made up, one
//! sector long, in front of it; for a disk with a GUID partition table, or with blocks larger than a sector, the made-up one
//! names the first partition with such a file system and is seen in place of the disk's. The crate knows sectors of 512
//! bytes only: a file system with larger ones is shown as the same one in smaller ones (`boot_sector`).

use super::boot_sector;
use super::gpt::{self, Partition};
use crate::devices::disk::{Disk, DiskError};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use embedded_sdmmc::{
    Block, BlockCount, BlockDevice, BlockIdx, Mode, ShortFileName, TimeSource, Timestamp, VolumeIdx, VolumeManager,
};
use frontends::block::SECTOR_SIZE;

/// Sectors that are read at once.
const READ_AHEAD: u64 = 16;
/// Largest file that is read whole.
const FILE_MAX: u32 = 4 << 20;

type Error = embedded_sdmmc::Error<DiskError>;

struct Reader {
    disk: Rc<Disk>,
    /// The partition that a made-up partition table in the first sector names.
    made_up: Option<Partition>,
    /// Sectors of a made-up partition table before the disk's own.
    shift: u64,
    /// The disk's sector that the file system starts with, if it has larger sectors.
    rescaled: Option<u64>,
    cache: RefCell<Option<(u64, Vec<u8>)>>,
    /// The first failure of the disk: the library takes some for the end of a directory.
    failure: Failure,
}

type Failure = Rc<RefCell<Option<DiskError>>>;

/// Entries of an old partition table.
const ENTRIES: core::ops::Range<usize> = 446..510;
const ENTRY: usize = 16;
/// Kind of the first partition in an old partition table.
const FIRST_KIND: usize = ENTRIES.start + 4;

/// Sectors of a block.
fn block_sectors(disk: &Disk) -> u64 {
    u64::from(disk.block_size()) / SECTOR_SIZE as u64
}

/// What a partition table may count in, in sectors: the disk's blocks, or sectors, if it was made for another disk.
fn units(disk: &Disk) -> impl Iterator<Item = u64> + use<> {
    let block = block_sectors(disk);
    [block, 1].into_iter().take(if block > 1 { 2 } else { 1 })
}

/// The GUID partition table's header, if the disk has one.
fn guid_table(disk: &Disk, first: &[u8]) -> Result<Option<gpt::Layout>, DiskError> {
    if first[FIRST_KIND] != gpt::PROTECTIVE {
        return Ok(None);
    }
    for unit in units(disk) {
        if let Some(layout) = gpt::layout(&disk.read_now(unit, SECTOR_SIZE)?, unit) {
            return Ok(Some(layout));
        }
    }
    Err(DiskError("the disk's partition table is damaged".to_string()))
}

/// One past the last sector that does not belong to a partition table.
pub fn end_of_data(disk: &Disk) -> Result<u64, DiskError> {
    let table = guid_table(disk, &disk.read_now(0, SECTOR_SIZE)?)?;
    Ok(table.map_or(disk.capacity(), |table| table.end.min(disk.capacity())))
}

impl Reader {
    fn new(disk: Rc<Disk>, failure: Failure) -> Result<Self, DiskError> {
        let first = disk.read_now(0, SECTOR_SIZE)?;
        let (made_up, shift) = if boot_sector::is_fat(&first) {
            (Some(Partition { first: 1, sectors: disk.capacity() }), 1)
        } else if let Some(table) = guid_table(&disk, &first)? {
            (Some(Self::choose(&disk, Self::partitions(&disk, table)?)?), 0)
        } else if block_sectors(&disk) > 1 {
            (Some(Self::choose(&disk, Self::old_partitions(&disk, &first))?), 0)
        } else {
            (None, 0)
        };
        let start = made_up.map(|partition| partition.first - shift);
        let mut rescaled = None;
        if let Some(start) = start {
            let boot = disk.read_now(start, SECTOR_SIZE)?;
            rescaled = (boot_sector::sector_size(&boot) != SECTOR_SIZE).then_some(start);
        }
        Ok(Self { disk, made_up, shift, rescaled, cache: RefCell::new(None), failure })
    }

    fn partitions(disk: &Disk, table: gpt::Layout) -> Result<Vec<Partition>, DiskError> {
        let bytes = disk.read_now(table.table_first, table.table_bytes.next_multiple_of(SECTOR_SIZE))?;
        table.partitions(&bytes).ok_or_else(|| DiskError("the disk's partition table is damaged".to_string()))
    }

    /// Those of an old partition table.
    fn old_partitions(disk: &Disk, table: &[u8]) -> Vec<Partition> {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let partition = |(entry, unit): (&[u8], u64)| Partition {
            first: number(&entry[8..12]) * unit,
            sectors: number(&entry[12..16]) * unit,
        };
        let entries = units(disk).flat_map(|unit| table[ENTRIES].chunks_exact(ENTRY).map(move |entry| (entry, unit)));
        let possible = |partition: &Partition| (1..disk.capacity()).contains(&partition.first);
        entries.map(partition).filter(possible).collect()
    }

    /// The first partition that has FAT.
    fn choose(disk: &Disk, partitions: Vec<Partition>) -> Result<Partition, DiskError> {
        for partition in partitions {
            if boot_sector::is_fat(&disk.read_now(partition.first, SECTOR_SIZE)?) {
                return Ok(partition);
            }
        }
        Err(DiskError("no partition has a FAT file system".to_string()))
    }

    /// A partition table with one FAT32 partition (LBA).
    fn made_up_table(partition: Partition) -> [u8; SECTOR_SIZE] {
        let mut table = [0; SECTOR_SIZE];
        let number = |sectors| u32::try_from(sectors).unwrap_or(u32::MAX).to_le_bytes();
        table[FIRST_KIND] = 0x0c;
        table[446 + 8..446 + 12].copy_from_slice(&number(partition.first));
        table[446 + 12..446 + 16].copy_from_slice(&number(partition.sectors));
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        table
    }

    fn sector(&self, sector: u64, into: &mut [u8; SECTOR_SIZE]) -> Result<(), DiskError> {
        if let (0, Some(partition)) = (sector, self.made_up) {
            *into = Self::made_up_table(partition);
            return Ok(());
        }
        let sector = sector - self.shift;
        let start = sector / READ_AHEAD * READ_AHEAD;
        let mut cache = self.cache.borrow_mut();
        if !matches!(&*cache, Some((first, _)) if *first == start) {
            let count = READ_AHEAD.min(self.disk.capacity().saturating_sub(start));
            *cache = Some((start, self.disk.read_now(start, count as usize * SECTOR_SIZE)?));
        }
        let at = (sector - start) as usize * SECTOR_SIZE;
        let found = cache.as_ref().and_then(|(_, bytes)| bytes.get(at..at + SECTOR_SIZE));
        into.copy_from_slice(found.ok_or_else(|| DiskError("the file system reaches beyond its disk".to_string()))?);
        if self.rescaled == Some(sector) {
            boot_sector::rescale(into)
                .ok_or_else(|| DiskError("the file system's sectors are too large".to_string()))?;
        }
        Ok(())
    }
}

impl BlockDevice for Reader {
    type Error = DiskError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), DiskError> {
        for (block, sector) in blocks.iter_mut().zip(u64::from(start.0)..) {
            self.sector(sector, &mut block.contents).inspect_err(|error| {
                self.failure.borrow_mut().get_or_insert_with(|| error.clone());
            })?;
        }
        Ok(())
    }

    fn write(&self, _: &[Block], _: BlockIdx) -> Result<(), DiskError> {
        Err(DiskError("the file system is read-only".to_string()))
    }

    fn num_blocks(&self) -> Result<BlockCount, DiskError> {
        Ok(BlockCount(u32::try_from(self.disk.capacity() + self.shift).unwrap_or(u32::MAX)))
    }
}

/// Nothing is written, so nothing needs a time.
struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp { year_since_1970: 0, zero_indexed_month: 0, zero_indexed_day: 0, hours: 0, minutes: 0, seconds: 0 }
    }
}

/// An entry of a directory.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes; `None` for a directory.
    pub size: Option<u32>,
}

/// Lists a directory.
///
/// # Errors
/// What is wrong with the path or the disk.
pub fn list(disk: &Rc<Disk>, path: &str) -> Result<Vec<Entry>, String> {
    with_directory(disk, path, |directory| {
        let mut entries = Vec::new();
        let mut buffer = [0; 260];
        let mut long = embedded_sdmmc::LfnBuffer::new(&mut buffer);
        directory.iterate_dir_lfn(&mut long, |entry, name| {
            if entry.attributes.is_volume() {
                return core::ops::ControlFlow::Continue(());
            }
            let name = name.map_or_else(|| entry.name.to_string(), ToString::to_string);
            entries.push(Entry { name, size: (!entry.attributes.is_directory()).then_some(entry.size) });
            core::ops::ControlFlow::Continue(())
        })?;
        Ok(entries)
    })
}

/// Reads a file.
///
/// # Errors
/// What is wrong with the path or the disk.
pub fn read(disk: &Rc<Disk>, path: &str) -> Result<Vec<u8>, String> {
    let (directory, name) = path.trim_start_matches('/').rsplit_once('/').unwrap_or(("", path.trim_start_matches('/')));
    with_directory(disk, directory, |directory| {
        let file = directory.open_file_in_dir(name, Mode::ReadOnly)?;
        if file.length() > FILE_MAX {
            return Err(Error::NotEnoughSpace);
        }
        let mut bytes = alloc::vec![0; file.length() as usize];
        let mut read = 0;
        while read < bytes.len() {
            match file.read(&mut bytes[read..])? {
                0 => break,
                count => read += count,
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    })
}

type Directory<'a> = embedded_sdmmc::Directory<'a, Reader, NoTime, 4, 4, 1>;

fn with_directory<R>(
    disk: &Rc<Disk>,
    path: &str,
    then: impl FnOnce(&mut Directory<'_>) -> Result<R, Error>,
) -> Result<R, String> {
    let failure = Failure::default();
    let reader = Reader::new(disk.clone(), failure.clone()).map_err(|error| error.to_string())?;
    let manager: VolumeManager<_, _, 4, 4, 1> = VolumeManager::new(reader, NoTime);
    let work = || {
        let volume = manager.open_volume(VolumeIdx(0))?;
        let mut directory = volume.open_root_dir()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let name = ShortFileName::create_from_str(part).map_err(Error::FilenameError)?;
            directory.change_dir(name)?;
        }
        then(&mut directory)
    };
    let result = work().map_err(|error| message(&error));
    match failure.take() {
        Some(DiskError(why)) => Err(why),
        None => result,
    }
}

fn message(error: &Error) -> String {
    match error {
        Error::DeviceError(error) => error.0.clone(),
        Error::NotFound => "no such file or directory".to_string(),
        Error::NotEnoughSpace => alloc::format!("larger than {} MiB", FILE_MAX >> 20),
        Error::FilenameError(_) => "not an 8.3 name".to_string(),
        other => alloc::format!("{other:?}"),
    }
}
