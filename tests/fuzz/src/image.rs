//! Everything that reads images, which may come from anybody.

pub(crate) mod bundle;
pub(crate) mod container;
pub(crate) mod disk;
pub(crate) mod initrd;
pub(crate) mod kernel;

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// A file in memory, and a name for it.
fn file() -> (File, PathBuf) {
    let fd = memfd_create(c"image", MFdFlags::MFD_CLOEXEC);
    let file = File::from(fd.unwrap_or_else(|error| panic!("the system gives no file: {error}")));
    let name = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, name)
}
