//! What a block device stores its sectors in: the [`Engine`] trait, and its implementation for raw files.

use crate::config::{Disk, DiskAccess};
use crate::virtio::Flush;
use crate::virtio::queue::Slice;
use shared_abi::virtio::blk::SECTOR_SIZE;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::sync::Arc;
use vmm_sys_util::write_zeroes::{PunchHole, WriteZeroesAt};

/// Storage of a fixed number of bytes. The device checks every range before it calls.
pub trait Engine: Send {
    /// Bytes.
    fn len(&self) -> u64;

    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has this many bytes from now on. What a smaller size hides stays in the storage; new bytes read as zeroes.
    ///
    /// # Errors
    /// When the storage cannot grow so far.
    fn resize(&mut self, len: u64, access: DiskAccess) -> io::Result<()>;

    /// Fills `buffers` from `offset` on.
    ///
    /// # Errors
    /// Those of the storage.
    fn read_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()>;

    /// Stores `buffers` from `offset` on.
    ///
    /// # Errors
    /// Those of the storage.
    fn write_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()>;

    /// Makes all writes durable, from any thread and also while the engine is at work. Asked once.
    fn flusher(&self) -> Arc<dyn Flush>;

    /// The contents of the range do not matter any more.
    ///
    /// # Errors
    /// Those of the storage.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// The range reads as zeroes from now on.
    ///
    /// # Errors
    /// Those of the storage.
    fn write_zeroes(&mut self, offset: u64, len: u64, space: Space) -> io::Result<()>;
}

/// What becomes of the space of zeroed sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// It stays allocated.
    Keep,
    /// It may be given back.
    MayFree,
}

/// Why a disk image cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is neither a regular file nor a block device")]
    WrongKind,
    #[error("it is read-only; add ,ro to give it to the guest like that")]
    ReadOnly,
    #[error("it is in use by another process (or given twice)")]
    Locked,
    #[error("the block device is in use: mounted, or held by another program")]
    Busy,
    #[error("its size of {0} bytes is not a multiple of {SECTOR_SIZE}")]
    Size(u64),
    #[error("it is empty")]
    Empty,
}

/// A raw image: sector n is at byte 512 * n of a file or block device.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    /// The same file for the flush, which may not wait for what `file` is used for.
    flushed: Arc<SyncData>,
    len: u64,
}

/// Flushes a file.
#[derive(Debug)]
struct SyncData(File);

impl Flush for SyncData {
    fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl RawFile {
    /// Opens and locks an image: for itself alone, or shared with other readers.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(disk: &Disk) -> Result<Self, OpenError> {
        let metadata = std::fs::metadata(&disk.path)?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::WrongKind);
        }
        let writes = disk.access == DiskAccess::ReadWrite;
        // Root may write to everything; an image without any write permission is still meant to stay as it is.
        if writes && metadata.permissions().mode() & 0o222 == 0 {
            return Err(OpenError::ReadOnly);
        }
        // Two who write to a device ruin it, and a lock says nothing to a file system that is mounted.
        let exclusive = if writes && kind.is_block_device() { libc::O_EXCL } else { 0 };
        let open = OpenOptions::new().read(true).write(writes).custom_flags(exclusive).open(&disk.path);
        let mut file = open.map_err(|error| {
            if exclusive != 0 && error.raw_os_error() == Some(libc::EBUSY) {
                return OpenError::Busy;
            }
            let refused = matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS));
            if writes && refused && File::open(&disk.path).is_ok() { OpenError::ReadOnly } else { error.into() }
        })?;
        lock(&file, disk.access)?;
        let len = file.seek(SeekFrom::End(0))?;
        if len == 0 {
            return Err(OpenError::Empty);
        }
        if !len.is_multiple_of(SECTOR_SIZE as u64) {
            return Err(OpenError::Size(len));
        }
        let flushed = Arc::new(SyncData(file.try_clone()?));
        Ok(Self { file, flushed, len })
    }
}

/// Takes a lock that lives as long as the open file, in whatever process.
fn lock(file: &File, access: DiskAccess) -> Result<(), OpenError> {
    let kind = match access {
        DiskAccess::ReadWrite => libc::F_WRLCK,
        DiskAccess::ReadOnly => libc::F_RDLCK,
    };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: `lock` is a complete flock structure, and the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(OpenError::Locked),
        _ => Err(error.into()),
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl RawFile {
    /// One preadv or pwritev after the other until all buffers are through.
    fn transfer(&self, buffers: &[Slice<'_>], mut offset: u64, direction: Direction) -> io::Result<()> {
        let guards: Vec<_> = buffers.iter().map(Slice::ptr_guard_mut).collect();
        let mut vectors: Vec<_> =
            guards.iter().map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() }).collect();
        let mut rest = vectors.as_mut_slice();
        while let [first, ..] = rest {
            if first.iov_len == 0 {
                rest = &mut rest[1..];
                continue;
            }
            // A chain has no more buffers than IOV_MAX, and a disk no more bytes than off_t can say.
            let (fd, count, at) = (self.file.as_raw_fd(), rest.len() as libc::c_int, offset as libc::off_t);
            // SAFETY: each vector is a slice of guest memory that stays mapped while its guard lives. The guest may
            // change the bytes meanwhile, which the kernel does not mind.
            let done = unsafe {
                match direction {
                    Direction::Read => libc::preadv(fd, rest.as_ptr(), count, at),
                    Direction::Write => libc::pwritev(fd, rest.as_ptr(), count, at),
                }
            };
            match done {
                ..0 => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
                // The image was truncated from outside.
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                done => {
                    offset += done as u64;
                    rest = advance(rest, done as usize);
                }
            }
        }
        Ok(())
    }
}

/// Drops the first `done` bytes of the vectors.
fn advance(mut vectors: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    while done > 0 {
        let first = &mut vectors[0];
        if done < first.iov_len {
            first.iov_base = first.iov_base.cast::<u8>().wrapping_add(done).cast();
            first.iov_len -= done;
            break;
        }
        done -= first.iov_len;
        vectors = &mut vectors[1..];
    }
    vectors
}

impl Engine for RawFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn resize(&mut self, len: u64, access: DiskAccess) -> io::Result<()> {
        // The file may have grown since it was opened; a block device grows only by itself.
        if len > self.file.seek(SeekFrom::End(0))? {
            if access == DiskAccess::ReadOnly || !self.file.metadata()?.is_file() {
                return Err(io::Error::other("the image is smaller, and not ours to grow"));
            }
            if libc::off_t::try_from(len).is_err() {
                let most = libc::off_t::MAX;
                return Err(io::Error::other(format!("a file has at most {most} bytes; choose a smaller size")));
            }
            self.file.set_len(len)?;
        }
        self.len = len;
        Ok(())
    }

    fn read_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()> {
        self.transfer(buffers, offset, Direction::Read)
    }

    fn write_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()> {
        self.transfer(buffers, offset, Direction::Write)
    }

    fn flusher(&self) -> Arc<dyn Flush> {
        self.flushed.clone()
    }

    /// A hole, or nothing where the file system has no holes.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match self.file.punch_hole(offset, len) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, space: Space) -> io::Result<()> {
        if space == Space::MayFree && self.file.punch_hole(offset, len).is_ok() {
            return Ok(());
        }
        self.file.write_all_zeroes_at(offset, len as usize)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
