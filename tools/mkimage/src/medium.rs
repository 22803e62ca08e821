//! Disks as inputs: files, devices, and what is in the containers of other hypervisors.

use crate::container::{self, Container};
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// A file that is open for reading.
pub(crate) struct Medium {
    /// The file, or the disk in it.
    pub(crate) file: File,
    /// What the disk was in.
    #[cfg_attr(not(feature = "inspect"), expect(dead_code, reason = "inspect reports it"))]
    pub(crate) container: Option<Container>,
}

/// Opens a file or a device for reading, or the disk in a container.
pub(crate) fn open(path: &Path) -> Result<Medium> {
    let unreadable = |why| Error::Read { path: path.into(), why };
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let kind = fs::metadata(path).map_err(unreadable)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::OddFile(path.into()));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let start = container::start_of(&mut file).map_err(unreadable)?;
    let container = Container::recognise(&start).filter(|_| kind.is_file());
    let file = container.map_or(Ok(file), |container| container.unpack(path, &start))?;
    Ok(Medium { file, container })
}

/// The size of a file or a device, which leaves the position there.
pub(crate) fn bytes(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
