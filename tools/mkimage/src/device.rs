//! Block devices as outputs: the USB stick that `--format disk` or `iso` with `--force` writes to.
//!
//! What is on a device is lost with the first byte, and no rename makes up for a write that was interrupted. So whatever can
//! be wrong is found before, and the start, without which nothing boots, is erased first and written last.

mod holder;

use crate::progress::{Bytes, Progress, Step};
use crate::sparse::{PIECE, Sparse};
use crate::{Error, Result};
use shared_abi::disk::SECTOR;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes after which a device has to say that it has them: otherwise all would wait in memory until the end.
const SYNC_EVERY: u64 = 8 << 20;

/// Whether a path is a block device, or a link to one.
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// A block device that nothing else has claimed, nor any of its partitions.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Device {
    /// Claims a device. Changes nothing on it.
    ///
    /// # Errors
    /// When it cannot be opened, is in use, is read-only, is a partition, or has sectors of another size than 512 bytes.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |why| Error::Write { path: path.into(), why };
        let refused = |why: String| Error::BadDevice { path: path.into(), why };
        let number = fs::metadata(path).map_err(failed)?.rdev();
        let sysfs = holder::sysfs(number);
        if sysfs.join("partition").exists() {
            return Err(refused("it is a partition, and firmware boots only from a whole device; name that".into()));
        }
        let attribute = |name: &str| fs::read_to_string(sysfs.join(name)).unwrap_or_default().trim().to_owned();
        if attribute("ro") == "1" {
            return Err(refused("it is read-only".into()));
        }
        // Without O_CREAT, O_EXCL claims a block device: EBUSY if it or a partition of it is mounted or claimed otherwise.
        let mut file = match File::options().read(true).write(true).custom_flags(libc::O_EXCL).open(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(refused(format!("it is in use: {}", holder::of(number))));
            }
            opened => opened.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.file_type().is_block_device() || metadata.rdev() != number {
            return Err(refused("it has just become something else".into()));
        }
        let sector = attribute("queue/logical_block_size").parse::<u64>();
        if let Some(sector) = sector.ok().filter(|sector| *sector != SECTOR) {
            return Err(refused(format!("its sectors have {sector} bytes; only {SECTOR} are supported")));
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { path: path.into(), file, bytes })
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes what was written to a disk in memory, the zeros too, and returns when the device has it.
    ///
    /// # Errors
    /// [`Error::DeviceTooSmall`], with nothing written; [`Error::Write`], with nothing on the device that boots.
    pub fn write(mut self, disk: &Sparse, progress: Progress<'_>) -> Result<()> {
        if disk.len() > self.bytes {
            return Err(Error::DeviceTooSmall { has: self.bytes, needs: disk.len() });
        }
        let path = std::mem::take(&mut self.path);
        self.sweep(disk, progress).map_err(|why| Error::Write { path, why })
    }

    fn sweep(&mut self, disk: &Sparse, progress: Progress<'_>) -> io::Result<()> {
        let total = disk.written().map(|(_, bytes)| bytes.len() as u64).sum();
        // The master boot record is in the first piece, and a GPT does not count without (UEFI 2.10, 5.2.3).
        let erased = [0; PIECE];
        self.write_at(0, &erased[..disk.len().min(PIECE as u64) as usize])?;
        self.file.sync_data()?;
        let (mut done, mut waiting) = (0, 0);
        for (at, bytes) in disk.written().filter(|(at, _)| *at != 0) {
            self.write_at(at, bytes)?;
            done += bytes.len() as u64;
            waiting += bytes.len() as u64;
            if waiting >= SYNC_EVERY {
                self.file.sync_data()?;
                waiting = 0;
            }
            progress(Step::Writing, Bytes { done, total });
        }
        self.file.sync_data()?;
        if let Some((at, bytes)) = disk.written().next().filter(|(at, _)| *at == 0) {
            self.write_at(at, bytes)?;
        }
        self.file.sync_all()?;
        progress(Step::Writing, Bytes { done: total, total });
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)
    }
}
