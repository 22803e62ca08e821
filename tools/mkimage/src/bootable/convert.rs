//! Disks in the formats of other hypervisors: made raw, then converted by QEMU's `qemu-img`.

use super::{Bytes, Progress, Step, write_sparse};
use crate::sparse::Sparse;
use crate::{Error, Result, output, qemu_img};
use std::path::Path;
use tempfile::Builder;

/// Writes a disk in a format of qemu-img.
pub(super) fn write(disk: &Sparse, format: &str, output: &Path, progress: Progress<'_>) -> Result<()> {
    let failed = |source| Error::Write { path: output.into(), source };
    let folder = output::folder_of(output);
    let mut raw = Builder::new().prefix(".mkimage-").tempfile_in(folder).map_err(failed)?;
    write_sparse(raw.as_file_mut(), disk, progress).map_err(failed)?;
    output::write_path(output, 0o666, |converted| {
        let total = disk.used();
        let done = qemu_img::convert(("raw", raw.path()), (format, converted), u64::MAX, &mut |share| {
            progress(Step::Converting, Bytes { done: (share * total as f64) as u64, total });
        });
        done.map_err(|failure| failure.about(format, failed))
    })
}
