//! How results reach the disk: written beside their place, then renamed, so that no half file is ever seen.

use crate::{Error, Result};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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
    Ok(())
}

/// Refuses an output that is not a regular file, or that is one of the inputs.
///
/// # Errors
/// [`Error::OutputNotAFile`], [`Error::OutputIsInput`].
pub fn check(output: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(output) else { return Ok(()) };
    // A link is followed: it is the file behind it that would be looked at, but the link that would be replaced.
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
    let mut file = beside(output, mode)?;
    fill(file.as_file_mut())?;
    put(file, output)
}

/// Puts bytes at `output`, which may be replaced.
///
/// # Errors
/// [`Error::Write`].
pub fn write_bytes(output: &Path, bytes: &[u8]) -> Result<()> {
    write(output, 0o666, |file| file.write_all(bytes).map_err(|source| Error::Write { path: output.into(), source }))
}

/// The same for who wants the new file's path.
///
/// # Errors
/// As [`write()`].
pub fn write_path(output: &Path, mode: u32, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let file = beside(output, mode)?;
    fill(file.path())?;
    put(file, output)
}

/// The folder of a file.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(output: &Path, mode: u32) -> Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".mkimage-").permissions(Permissions::from_mode(mode));
    builder.tempfile_in(folder_of(output)).map_err(|source| Error::Write { path: output.into(), source })
}

fn put(file: NamedTempFile, output: &Path) -> Result<()> {
    file.persist(output).map_err(|error| Error::Write { path: output.into(), source: error.error })?;
    Ok(())
}
