//! What the VM starts with, from files or out of a bootable disk: opened once, and loaded whenever the machine starts.

use super::Error;
use crate::config::{Config, Kernel};
use crate::vmm::loader::{self, Sources};
use crate::vmm::memory::GuestRam;
use mkimage::bootable::extract::extract;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Kernel, command line and initrd.
pub(super) struct Image {
    /// The file that the user named.
    path: PathBuf,
    sources: Sources,
}

impl Image {
    /// Opens what `config` names.
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let (path, sources) = match &config.kernel {
            Kernel::Elf { path, initrd } => (path, from_files(path, initrd.as_deref(), &config.cmdline)?),
            Kernel::Disk(path) => (path, from_disk(path, &config.cmdline)?),
        };
        Ok(Self { path: path.clone(), sources })
    }

    /// Puts kernel, command line and initrd into guest memory and returns the entry.
    pub(super) fn load(&mut self, memory: &GuestRam) -> Result<u32, Error> {
        loader::load(memory, &mut self.sources).map_err(failed(&self.path))
    }
}

fn failed(path: &Path) -> impl FnOnce(loader::Error) -> Error {
    move |source| Error::Kernel { path: path.into(), source }
}

fn from_files(kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Result<Sources, Error> {
    let open_initrd = |path: &Path| match loader::open(path) {
        Ok(file) => Ok((path.to_owned(), file)),
        Err(error) => Err(loader::Error::Initrd(format!("{}: {error}", path.display()))),
    };
    let file = loader::open(kernel).map_err(failed(kernel))?;
    let initrd = initrd.map(open_initrd).transpose().map_err(failed(kernel))?;
    Ok(Sources { kernel: file, initrd, cmdline: cmdline.into() })
}

fn from_disk(path: &Path, cmdline: &str) -> Result<Sources, Error> {
    let parts = extract(path).map_err(|source| Error::Image { path: path.into(), source })?;
    let cmdline = [parts.cmdline.as_str(), cmdline].join(" ").trim().to_owned();
    // The loader reads files. These have no name, so that nothing is left of them however we end.
    let kept = |bytes: &[u8]| {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes).map(|()| file)
    };
    let kernel = kept(&parts.kernel).map_err(Error::system("write a temporary file"))?;
    let initrd = parts.initrd.as_deref().filter(|bytes| !bytes.is_empty()).map(kept).transpose();
    let initrd = initrd.map_err(Error::system("write a temporary file"))?.map(|file| (path.to_owned(), file));
    Ok(Sources { kernel, initrd, cmdline })
}
