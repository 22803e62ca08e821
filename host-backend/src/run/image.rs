//! Loads what the VM starts with: from files, or out of a bootable disk.

use super::Error;
use crate::config::{Config, Kernel};
use crate::vmm::loader;
use crate::vmm::memory::GuestRam;
use mkimage::bootable::extract::extract;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

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
    // The loader reads files, and these are gone once the guest has them.
    let kept = |bytes: &[u8]| {
        let mut file = NamedTempFile::with_prefix("ringside-")?;
        file.write_all(bytes).map(|()| file)
    };
    let kernel = kept(&parts.kernel).map_err(Error::system("write a temporary file"))?;
    let initrd = parts.initrd.as_deref().filter(|bytes| !bytes.is_empty()).map(kept).transpose();
    let initrd = initrd.map_err(Error::system("write a temporary file"))?;
    let initrd = initrd.as_ref().map(NamedTempFile::path);
    let sources = loader::Sources { kernel: kernel.path(), initrd, cmdline: cmdline.trim() };
    loader::load(memory, sources).map_err(|source| Error::Kernel { path: path.into(), source })
}
