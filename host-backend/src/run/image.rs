//! Loads what the VM starts with: from files, or out of a bootable disk.

use super::Error;
use crate::config::{Config, Kernel};
use crate::vmm::loader;
use crate::vmm::memory::GuestRam;
use mkimage::bootable::extract::extract;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Puts kernel, command line and initrd into guest memory and returns the entry.
pub(super) fn load(memory: &GuestRam, config: &Config) -> Result<u32, Error> {
    match &config.kernel {
        Kernel::Elf { path, initrd } => {
            let sources = loader::Sources { kernel: path, initrd: initrd.as_deref(), cmdline: &config.cmdline };
            loader::load(memory, sources).map_err(|source| Error::Kernel { path: path.clone(), source })
        }
        Kernel::Disk(path) => load_disk(memory, path, &config.cmdline),
    }
}

fn load_disk(memory: &GuestRam, path: &Path, cmdline: &str) -> Result<u32, Error> {
    let parts = extract(path).map_err(|source| Error::Image { path: path.into(), source })?;
    let cmdline = [parts.cmdline.as_str(), cmdline].join(" ");
    // The loader reads files. These have no name, so that nothing is left of them however we end.
    let kept = |bytes: &[u8]| {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes).map(|()| file)
    };
    let kernel_file = kept(&parts.kernel).map_err(Error::system("write a temporary file"))?;
    let initrd_file = parts.initrd.as_deref().filter(|bytes| !bytes.is_empty()).map(kept).transpose();
    let initrd_file = initrd_file.map_err(Error::system("write a temporary file"))?;
    let (kernel, initrd) = (path_of(&kernel_file), initrd_file.as_ref().map(path_of));
    let sources = loader::Sources { kernel: &kernel, initrd: initrd.as_deref(), cmdline: cmdline.trim() };
    loader::load(memory, sources).map_err(|source| Error::Kernel { path: path.into(), source })
}

/// A name for a file that has none.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
