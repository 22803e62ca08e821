//! The read-only FAT file system on the first disk, by `embedded-sdmmc`.
//!
//! The crate reads synchronously, block by block: everything else stands still meanwhile, and a small read-ahead keeps the
//! number of requests down. It insists on a partition table; a disk that is one large file system gets one made up, one
//! sector long, in front of it.

use crate::disk::{Disk, DiskError};
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
    /// Sectors of a made-up partition table before the disk's own.
    shift: u64,
    cache: RefCell<Option<(u64, Vec<u8>)>>,
}

impl Reader {
    fn new(disk: Rc<Disk>) -> Result<Self, DiskError> {
        let first = disk.read_now(0, SECTOR_SIZE)?;
        // A boot sector of FAT starts with a jump and names its type; a partition table does neither.
        let is_fat = matches!(first[0], 0xeb | 0xe9) && (&first[54..57] == b"FAT" || &first[82..85] == b"FAT");
        Ok(Self { disk, shift: u64::from(is_fat), cache: RefCell::new(None) })
    }

    /// A partition table with one FAT32 partition (LBA) over the whole disk.
    fn made_up_table(&self) -> [u8; SECTOR_SIZE] {
        let mut table = [0; SECTOR_SIZE];
        let sectors = u32::try_from(self.disk.capacity()).unwrap_or(u32::MAX);
        table[446 + 4] = 0x0c;
        table[446 + 8..446 + 12].copy_from_slice(&1u32.to_le_bytes());
        table[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        table
    }

    fn sector(&self, sector: u64, into: &mut [u8; SECTOR_SIZE]) -> Result<(), DiskError> {
        let Some(sector) = sector.checked_sub(self.shift) else {
            *into = self.made_up_table();
            return Ok(());
        };
        let start = sector / READ_AHEAD * READ_AHEAD;
        let mut cache = self.cache.borrow_mut();
        if !matches!(&*cache, Some((first, _)) if *first == start) {
            let count = READ_AHEAD.min(self.disk.capacity().saturating_sub(start));
            *cache = Some((start, self.disk.read_now(start, count as usize * SECTOR_SIZE)?));
        }
        let at = (sector - start) as usize * SECTOR_SIZE;
        let found = cache.as_ref().and_then(|(_, bytes)| bytes.get(at..at + SECTOR_SIZE));
        into.copy_from_slice(found.ok_or_else(|| DiskError("the file system reaches beyond its disk".to_string()))?);
        Ok(())
    }
}

impl BlockDevice for Reader {
    type Error = DiskError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), DiskError> {
        for (block, sector) in blocks.iter_mut().zip(u64::from(start.0)..) {
            self.sector(sector, &mut block.contents)?;
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
    let reader = Reader::new(disk.clone()).map_err(|error| error.to_string())?;
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
    work().map_err(|error| message(&error))
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
