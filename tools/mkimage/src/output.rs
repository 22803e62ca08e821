//! How results reach the disk: written next to their place, then renamed, so that no partial file is ever seen.

use crate::{Error, Result};
use nix::fcntl::{FcntlArg, fcntl};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::{Builder, NamedTempFile};

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and that is an error.
    Keep,
    /// It is replaced.
    Replace,
}

/// Refuses an output that exists, unless it may be replaced.
///
/// # Errors
/// [`Error::Exists`].
pub fn check_existing(output: &Path, existing: Existing) -> Result<()> {
    if existing == Existing::Keep && fs::symlink_metadata(output).is_ok() {
        return Err(Error::Exists(output.into()));
    }
    check_unused(output)
}

/// Refuses an output that is there and is no regular file: a file would be put in the place of a device or a pipe.
fn check_file(output: &Path) -> Result<()> {
    match fs::metadata(output) {
        Ok(target) if !target.is_file() => Err(Error::OutputNotAFile(output.into())),
        _ => Ok(()),
    }
}

/// Refuses to replace a file that another process has locked: QEMU, Cloud Hypervisor and our host lock the disks of machines that
/// run, which would go on with the old file, and lose what they write to it.
fn check_unused(output: &Path) -> Result<()> {
    // What is not there or cannot be opened is not locked by a machine of ours either.
    let Ok(file) = fs::metadata(output)
        .and_then(|found| if found.is_file() { File::open(output) } else { Err(ErrorKind::Other.into()) })
    else {
        return Ok(());
    };
    let whole = |kind: i32| libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let mut lock = whole(libc::F_WRLCK);
    // Where locks cannot be queried, there are none.
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) if i32::from(lock.l_type) != libc::F_UNLCK => Err(Error::InUse(output.into())),
        _ => Ok(()),
    }
}

/// Refuses an output that is not a regular file, or that is one of the inputs.
///
/// # Errors
/// [`Error::OutputNotAFile`], [`Error::OutputIsInput`].
pub fn check(output: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(output) else { return Ok(()) };
    // A link is followed: the checks would see its target, but the rename would replace the link.
    let target = fs::metadata(output).unwrap_or(metadata);
    if !target.is_file() {
        return Err(Error::OutputNotAFile(output.into()));
    }
    let place = output.canonicalize().ok();
    if inputs.iter().any(|input| place.is_some() && input.canonicalize().ok() == place) {
        return Err(Error::OutputIsInput(output.into()));
    }
    Ok(())
}

/// Calls `fill` with a new file and puts that at `output` when it succeeds.
///
/// # Errors
/// Those of `fill`, and [`Error::Write`].
pub fn write(output: &Path, mode: u32, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut file = temporary_for(output, mode)?;
    fill(file.file())?;
    put(file, output)
}

/// Puts bytes at `output`, which may be replaced.
///
/// # Errors
/// [`Error::Write`].
pub fn write_bytes(output: &Path, bytes: &[u8]) -> Result<()> {
    write(output, 0o666, |file| file.write_all(bytes).map_err(|why| Error::Write { path: output.into(), why }))
}

/// The same for a writer that needs the new file's path.
///
/// # Errors
/// As [`write()`].
pub fn write_path(output: &Path, mode: u32, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let file = temporary_for(output, mode)?;
    fill(file.path())?;
    put(file, output)
}

/// Files that are being made and have no name of their own yet.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Removes what is being made: for a program that is about to be ended by a signal. Nothing can be put in its place after it.
pub fn remove_unfinished() {
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(path) = unfinished.pop_first() {
        // There is nobody to tell.
        let _ = fs::remove_file(path);
    }
    // The lock stays taken: no other file is begun before the program ends.
    std::mem::forget(unfinished);
}

/// A file under a name of its own, until it is put in its place; it goes when this goes.
pub(crate) struct Unfinished(NamedTempFile);

impl Unfinished {
    pub(crate) fn new(builder: &Builder<'_, '_>, folder: &Path) -> io::Result<Self> {
        let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        let file = builder.tempfile_in(folder)?;
        unfinished.insert(file.path().to_owned());
        Ok(Self(file))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&mut self) -> &mut File {
        self.0.as_file_mut()
    }

    /// Gives it its name, in place of what had that.
    fn rename(&mut self, output: &Path) -> io::Result<()> {
        // The name of before is free again: nothing of ours is removed with this.
        fs::rename(self.path(), output)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).remove(self.0.path());
    }
}

/// The folder of a file.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary_for(output: &Path, mode: u32) -> Result<Unfinished> {
    let mut builder = Builder::new();
    builder.prefix(".mkimage-").permissions(Permissions::from_mode(mode));
    let folder = folder_of(output);
    Unfinished::new(&builder, folder).map_err(|why| {
        // Of a folder that is not there the crate would say the temporary file's name.
        let why = fs::metadata(folder).err().unwrap_or(why);
        Error::Write { path: output.into(), why }
    })
}

/// On the disk first, then under its name: after a crash there is the old file or the new one, whole.
fn put(mut file: Unfinished, output: &Path) -> Result<()> {
    let failed = |why| Error::Write { path: output.into(), why };
    check_file(output)?;
    check_unused(output)?;
    file.file().sync_all().map_err(failed)?;
    file.rename(output).map_err(failed)?;
    File::open(folder_of(output)).and_then(|folder| folder.sync_all()).map_err(failed)
}
