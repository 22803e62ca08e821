//! The Xen under which the testbed xen-pv boots the image as its first domain: where it comes from. QEMU loads it where a
//! kernel goes, and the image as its first module.

use crate::package::{Package, Wanted, find, output};
use anyhow::{Context, Result, anyhow, ensure};
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Before and after the version in the name of a package.
const NAME: (&str, &str) = ("xen-hypervisor-", "-amd64");
const HYPERVISOR: &str = "xen.elf";
/// It has 2.5 MiB: more than this is something else.
const SIZE_MAX: u64 = 64 << 20;

/// A hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xen {
    folder: PathBuf,
}

impl Xen {
    /// The newest one of the system's sources, out of `cache` or fetched into it; `progress` is called with what takes a while.
    ///
    /// # Errors
    /// When the package cannot be fetched, or lacks something.
    pub fn fetch(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        wanted().fetch(newest_package(), cache, progress).map(|folder| Self { folder })
    }

    /// The hypervisor in a folder of the cache, if it is whole.
    pub fn at(folder: &Path) -> Option<Self> {
        wanted().is_whole(folder).then(|| Self { folder: folder.into() })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The hypervisor as a multiboot ELF file, which is all that QEMU loads.
    pub fn file(&self) -> PathBuf {
        self.folder.join(HYPERVISOR)
    }
}

fn newest_package() -> Result<Package> {
    let pattern = format!("^{}[0-9.]+{}$", NAME.0, NAME.1);
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let name = newest(&found).ok_or_else(|| anyhow!("no package of this system's sources has a Xen for amd64"))?;
    Package::named(name)
}

/// The name with the highest version, of lines as `apt-cache search` writes them.
fn newest(found: &str) -> Option<String> {
    let names = found.lines().filter_map(|line| {
        let name = line.split_whitespace().next()?;
        let version = name.strip_prefix(NAME.0)?.strip_suffix(NAME.1)?;
        let numbers: Option<Vec<u32>> = version.split('.').map(|number| number.parse().ok()).collect();
        Some((numbers?, name.to_owned()))
    });
    names.max().map(|(_, name)| name)
}

/// What is taken out of a package.
fn wanted() -> Wanted {
    Wanted { what: "Xen", files: vec![HYPERVISOR.into()], collect }
}

/// Unpacks `boot/xen-VERSION-amd64.gz`: QEMU does not.
fn collect(package: &Path, to: &Path) -> Result<()> {
    let packed = find(&package.join("boot"), &|name| name.starts_with("xen-") && name.ends_with(".gz"));
    let packed = packed.ok_or_else(|| anyhow!("it has no hypervisor"))?;
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(packed)?).take(SIZE_MAX + 1).read_to_end(&mut bytes).context("it does not unpack")?;
    ensure!(bytes.len() as u64 <= SIZE_MAX, "its hypervisor is larger than {} MiB", SIZE_MAX >> 20);
    ensure!(bytes.starts_with(b"\x7fELF"), "its hypervisor is no ELF file");
    fs::write(to.join(HYPERVISOR), bytes).context("cannot write the hypervisor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn package(folder: &Path, content: &[u8]) {
        fs::create_dir_all(folder.join("boot")).unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        fs::write(folder.join("boot/xen-4.17-amd64.gz"), encoder.finish().unwrap()).unwrap();
    }

    #[test]
    fn a_package_gives_its_hypervisor_unpacked_and_whole_or_says_why_not() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        package(&from, b"\x7fELF and more");
        wanted().make(&from, &to).unwrap();
        let xen = Xen::at(&to).unwrap();
        assert_eq!(fs::read(xen.file()).unwrap(), b"\x7fELF and more");
        fs::write(xen.file(), b"\x7fELF and less").unwrap();
        assert_eq!(Xen::at(&to), None, "a hypervisor whose content changed is not used");
        package(&from, b"a script");
        assert_eq!(wanted().make(&from, &to).unwrap_err().to_string(), "its hypervisor is no ELF file");
        fs::write(from.join("boot/xen-4.17-amd64.gz"), "no gzip").unwrap();
        assert_eq!(wanted().make(&from, &to).unwrap_err().to_string(), "it does not unpack");
        fs::remove_file(from.join("boot/xen-4.17-amd64.gz")).unwrap();
        assert_eq!(wanted().make(&from, &to).unwrap_err().to_string(), "it has no hypervisor");
    }

    #[test]
    fn the_newest_version_is_the_one_with_the_highest_numbers() {
        let found = "xen-hypervisor-4.9-amd64 - Xen\nxen-hypervisor-4.17-amd64 - Xen\nxen-hypervisor-common - no\n";
        assert_eq!(newest(found).as_deref(), Some("xen-hypervisor-4.17-amd64"));
        assert_eq!(newest("xen-hypervisor-amd64 - none\n"), None);
    }
}
