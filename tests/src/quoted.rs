//! Paths in options of QEMU.

use std::path::Path;

/// A path in QEMU's option syntax, where a comma is written twice.
pub(crate) fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
