//! Disks in the formats of other hypervisors: made raw, then converted by QEMU's `qemu-img`, which knows them best.

use super::{Progress, write_sparse};
use crate::sparse::Sparse;
use crate::{Error, Result, output};
use std::io;
use std::path::Path;
use std::process::Command;
use tempfile::Builder;

const PROGRAM: &str = "qemu-img";

/// Writes a disk in a format of qemu-img.
pub(super) fn write(disk: &Sparse, format: &str, output: &Path, progress: Progress<'_>) -> Result<()> {
    let failed = |source| Error::Write { path: output.into(), source };
    let folder = output::folder_of(output);
    let mut raw = Builder::new().prefix(".mkimage-").tempfile_in(folder).map_err(failed)?;
    write_sparse(raw.as_file_mut(), disk, progress).map_err(failed)?;
    output::write_path(output, 0o666, |converted| {
        let mut command = Command::new(PROGRAM);
        command.args(["convert", "-f", "raw", "-O", format]).arg(raw.path()).arg(converted);
        let done = command.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoQemuImg { format: format.to_owned() },
            _ => failed(error),
        })?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let line = said.lines().next().unwrap_or("it does not say why");
        Err(failed(io::Error::other(line.to_owned())))
    })
}
