//! Disks as inputs: files and devices.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Opens a file or a device for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    let unreadable = |source| Error::Read { path: path.into(), source };
    // Looked at before it is opened: that would wait for somebody to write to a pipe.
    let kind = fs::metadata(path).map_err(unreadable)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::OddFile(path.into()));
    }
    File::open(path).map_err(unreadable)
}

/// The size of a file or a device, which leaves the position there.
pub(crate) fn bytes(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
