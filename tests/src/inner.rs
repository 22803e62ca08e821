//! The stock Linux in which the testbed host-kvm-in-tcg runs our host program: where its kernel comes from, and how the
//! initrd of a run is packed.

use crate::package::{Package, Wanted, bytes_of, find, output};
use anyhow::{Context, Result, anyhow, ensure};
use inner_init::{ARGUMENTS, IMAGE, MODULES, RINGSIDE, RUNS};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Depends on the newest kernel for virtual machines, under the name that has its version.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// What the kernel needs for our purpose and does not have built in, in the order of loading.
const NEEDED: [&str; 11] = [
    "irqbypass",
    "kvm",
    "kvm-amd",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];
const KERNEL: &str = "vmlinuz";

/// A stock kernel with the modules for a KVM of AMD's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linux {
    folder: PathBuf,
}

/// All that runs between QEMU and the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The kernel.
    pub linux: Linux,
    /// Its first process, linked statically.
    pub init: PathBuf,
    /// Our host program, linked statically.
    pub ringside: PathBuf,
}

impl Linux {
    /// The kernel of the newest package, out of `cache` or fetched into it; `progress` is called with what takes a while.
    ///
    /// # Errors
    /// When the package cannot be fetched, or lacks something.
    pub fn fetch(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        wanted().fetch(newest_package(), cache, progress).map(|folder| Self { folder })
    }

    /// The kernel in a folder of the cache, if it is whole.
    pub fn at(folder: &Path) -> Option<Self> {
        wanted().is_whole(folder).then(|| Self { folder: folder.into() })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kernel's image.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join(KERNEL)
    }
}

impl Inner {
    /// Writes the initrd of a run: with the guest's image, and the arguments for the host program.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn pack(&self, image: &Path, arguments: &[String], runs: &[String], initrd: &Path) -> Result<()> {
        let mut lines = arguments.iter().chain(runs);
        ensure!(lines.all(|line| !line.contains('\n')), "an argument has more than one line");
        let scratch = tempfile::tempdir().context("cannot create a folder")?;
        let root = scratch.path();
        for folder in [MODULES, "dev", "proc", "tmp"] {
            fs::create_dir(root.join(folder))?;
        }
        for (from, to) in [(&*self.init, "init"), (&*self.ringside, RINGSIDE), (image, IMAGE)] {
            fs::copy(from, root.join(to)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        for (at, module) in NEEDED.iter().enumerate() {
            let from = self.linux.folder.join(MODULES).join(format!("{module}.ko"));
            let to = root.join(MODULES).join(format!("{at:02}-{module}.ko"));
            fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        fs::write(root.join(ARGUMENTS), arguments.join("\n"))?;
        if !runs.is_empty() {
            fs::write(root.join(RUNS), runs.join("\n"))?;
        }
        let archive = mkimage::initrd::load(root).context("cannot pack the initrd")?;
        fs::write(initrd, archive).with_context(|| format!("cannot write {}", initrd.display()))
    }
}

fn newest_package() -> Result<Package> {
    let depends = output(Command::new("apt-cache").args(["depends", "--important", META_PACKAGE]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned);
    let name = name.ok_or_else(|| anyhow!("no package of this system's sources has a kernel ({META_PACKAGE})"))?;
    Package::named(name)
}

/// What is taken out of a package.
fn wanted() -> Wanted {
    let modules = NEEDED.iter().map(|module| format!("{MODULES}/{module}.ko"));
    Wanted { what: "a stock kernel", files: std::iter::once(KERNEL.to_owned()).chain(modules).collect(), collect }
}

/// Takes what is needed out of an unpacked package.
fn collect(package: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.join(MODULES))?;
    let kernel = find(package, &|name| name.starts_with("vmlinuz-")).ok_or_else(|| anyhow!("it has no kernel"))?;
    fs::copy(kernel, to.join(KERNEL))?;
    for module in NEEDED {
        let found = find(package, &|name| name.strip_prefix(module).is_some_and(|rest| rest.starts_with(".ko")));
        let found = found.ok_or_else(|| anyhow!("it has no module {module}"))?;
        let target = to.join(MODULES).join(format!("{module}.ko"));
        let program = match found.extension().and_then(OsStr::to_str) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            _ => {
                fs::copy(found, target)?;
                continue;
            }
        };
        let bytes = bytes_of(Command::new(program).arg("-dc").arg(found))?;
        fs::write(target, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package as Debian makes them, as far as we look.
    fn package(folder: &Path, without: &str) {
        fs::create_dir_all(folder.join("boot")).unwrap();
        fs::create_dir_all(folder.join("lib/modules/6.1/kernel")).unwrap();
        fs::write(folder.join("boot/vmlinuz-6.1"), "kernel").unwrap();
        for module in NEEDED.iter().filter(|module| **module != without) {
            fs::write(folder.join(format!("lib/modules/6.1/kernel/{module}.ko")), module).unwrap();
        }
    }

    #[test]
    fn a_package_gives_its_kernel_and_modules_and_is_found_again() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        package(&from, "");
        wanted().make(&from, &to).unwrap();
        assert_eq!(fs::read(to.join(MODULES).join("kvm.ko")).unwrap(), b"kvm");
        assert_eq!(wanted().newest_in(scratch.path()).as_deref(), Some(&*to));
        fs::write(to.join(MODULES).join("kvm.ko"), "another").unwrap();
        assert_eq!(wanted().newest_in(scratch.path()), None, "a kernel whose content changed is not used");
        fs::remove_file(to.join(MODULES).join("kvm.ko")).unwrap();
        assert_eq!(wanted().newest_in(scratch.path()), None, "half a kernel is not used");
        fs::remove_file(to.join("SHA256SUMS")).unwrap();
        assert_eq!(wanted().newest_in(scratch.path()), None, "nor is one of unknown origin");
    }

    #[test]
    fn a_package_without_a_needed_module_is_refused_by_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        package(scratch.path(), "kvm-amd");
        let error = wanted().make(scratch.path(), &scratch.path().join("to")).unwrap_err();
        assert_eq!(error.to_string(), "it has no module kvm-amd");
    }

    #[test]
    fn the_initrd_of_a_run_holds_all_that_the_first_process_looks_for() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        package(&path("package"), "");
        wanted().make(&path("package"), &path("linux")).unwrap();
        for name in ["i", "r", "g"] {
            fs::write(path(name), name).unwrap();
        }
        let inner = Inner { linux: Linux { folder: path("linux") }, init: path("i"), ringside: path("r") };
        inner.pack(&path("g"), &["run".into(), "a b".into()], &["c d".into()], &path("initrd")).unwrap();
        let archive = String::from_utf8_lossy(&fs::read(path("initrd")).unwrap()).into_owned();
        for text in
            ["init", "modules/01-kvm.ko", "modules/02-kvm-amd.ko", RINGSIDE, IMAGE, ARGUMENTS, "run\na b", RUNS, "c d"]
        {
            assert!(archive.contains(text), "{text}");
        }
        assert!(inner.pack(&path("g"), &["two\nlines".into()], &[], &path("initrd")).is_err());
    }
}
