//! The stock Linux in which the testbed host-kvm-in-tcg runs our host program: where its kernel comes from, and how the
//! initrd of a run is packed. The kernel's package is fetched and unpacked below the target directory, never installed, and
//! cached by content: a folder is that of the package with one digest, and is used only while its files have theirs.

use anyhow::{Context, Result, anyhow, bail, ensure};
use inner_init::{ARGUMENTS, IMAGE, MODULES, RINGSIDE, RUNS};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
/// Digests of all files of a folder, as sha256sum writes them.
const DIGESTS: &str = "SHA256SUMS";

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
    /// The kernel of the newest package, out of `cache` or fetched into it; `progress` hears what takes a while.
    ///
    /// # Errors
    /// When the package cannot be fetched, or lacks something.
    pub fn fetch(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let package = match newest_package() {
            Ok(package) => package,
            Err(error) => return newest_in(cache).ok_or(error),
        };
        let folder = cache.join(&package.folder);
        if is_whole(&folder) {
            return Ok(Self { folder });
        }
        progress(&format!("fetching the kernel package {} (unpacked below the target directory only)", package.name));
        // Whatever is interrupted leaves nothing that looks whole.
        let scratch = tempfile::tempdir_in(cache).context("cannot create a folder")?;
        let (work, whole) = (scratch.path().join("work"), scratch.path().join("whole"));
        fs::create_dir(&work)?;
        quietly(Command::new("apt-get").arg("download").arg(&package.name).current_dir(&work))?;
        let archive = find(&work, &|name| name.ends_with(".deb")).ok_or_else(|| anyhow!("apt-get left no package"))?;
        let digest = digest(&archive)?;
        ensure!(digest == package.digest, "apt-get left a package with digest {digest}, not {}", package.digest);
        quietly(Command::new("dpkg-deb").arg("-x").arg(archive).arg(work.join("x")))?;
        collect(&work.join("x"), &whole).with_context(|| format!("the package {}", package.name))?;
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::rename(&whole, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The kernel in a folder of the cache, if it is whole.
    pub fn at(folder: &Path) -> Option<Self> {
        is_whole(folder).then(|| Self { folder: folder.into() })
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

struct Package {
    name: String,
    /// SHA-256 of the archive, in hexadecimal.
    digest: String,
    /// With version and digest.
    folder: String,
}

fn newest_package() -> Result<Package> {
    let depends = output(Command::new("apt-cache").args(["depends", "--important", META_PACKAGE]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned);
    let name = name.ok_or_else(|| anyhow!("no package of this system's sources has a kernel ({META_PACKAGE})"))?;
    let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions", &name]))?;
    described(name, &shown)
}

/// A package as its lists describe it.
fn described(name: String, shown: &str) -> Result<Package> {
    let field = |key: &str| {
        let found = shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        found.map(str::trim).ok_or_else(|| anyhow!("the package {name} has no {key}"))
    };
    let (version, digest) = (field("Version")?, field("SHA256")?.to_owned());
    let hexadecimal = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure!(hexadecimal, "the package {name} has no usable digest: {digest:?}");
    let folder = format!("{name}_{version}_{digest}").replace(['/', ':'], "_");
    Ok(Package { name, digest, folder })
}

/// SHA-256 of a file, in hexadecimal.
fn digest(file: &Path) -> Result<String> {
    let line = output(Command::new("sha256sum").arg("--").arg(file))?;
    Ok(line.trim_start_matches('\\').split_whitespace().next().unwrap_or_default().to_owned())
}

/// A kernel fetched earlier, where the package lists say nothing now.
fn newest_in(cache: &Path) -> Option<Linux> {
    let folders = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
    folders.filter(|folder| is_whole(folder)).max().map(|folder| Linux { folder })
}

/// Whether all files of a folder are there, with the digests that they had when it was made.
fn is_whole(folder: &Path) -> bool {
    let Ok(digests) = fs::read_to_string(folder.join(DIGESTS)) else { return false };
    let listed = |file: &str| digests.lines().any(|line| line.split_once("  ").is_some_and(|(_, name)| name == file));
    let all = files().iter().all(|file| listed(file));
    all && quietly(Command::new("sha256sum").args(["--check", "--status", DIGESTS]).current_dir(folder)).is_ok()
}

/// What is taken out of a package.
fn files() -> Vec<String> {
    let modules = NEEDED.iter().map(|module| format!("{MODULES}/{module}.ko"));
    std::iter::once(KERNEL.to_owned()).chain(modules).collect()
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
    let digests = bytes_of(Command::new("sha256sum").arg("--").args(files()).current_dir(to))?;
    fs::write(to.join(DIGESTS), digests).context("cannot write the digests")
}

/// A file below `folder` whose name fits.
fn find(folder: &Path, fits: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let kind = entry.file_type().ok()?;
        if kind.is_file() && entry.file_name().to_str().is_some_and(fits) {
            return Some(entry.path());
        }
        if kind.is_dir()
            && let Some(found) = find(&entry.path(), fits)
        {
            return Some(found);
        }
    }
    None
}

fn quietly(command: &mut Command) -> Result<()> {
    bytes_of(command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes_of(command)?).into_owned())
}

fn bytes_of(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        bail!("{name} ended with {}: {}", output.status, last.trim());
    }
    Ok(output.stdout)
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
        collect(&from, &to).unwrap();
        assert_eq!(fs::read(to.join(MODULES).join("kvm.ko")).unwrap(), b"kvm");
        assert_eq!(newest_in(scratch.path()).unwrap().kernel(), to.join(KERNEL));
        fs::write(to.join(MODULES).join("kvm.ko"), "another").unwrap();
        assert_eq!(newest_in(scratch.path()), None, "a kernel whose content changed is none");
        fs::remove_file(to.join(MODULES).join("kvm.ko")).unwrap();
        assert_eq!(newest_in(scratch.path()), None, "half a kernel is none");
        fs::remove_file(to.join(DIGESTS)).unwrap();
        assert_eq!(newest_in(scratch.path()), None, "nor is one of which nobody knows what it was");
    }

    #[test]
    fn the_folder_of_a_package_tells_its_content_apart() {
        let (first, second) = ("1".repeat(64), format!("{}2", "1".repeat(63)));
        let of = |digest: &str| described("linux".into(), &format!("Version: 6.1:2\nSHA256: {digest}\n"));
        assert_eq!(of(&first).unwrap().folder, format!("linux_6.1_2_{first}"));
        assert_ne!(of(&second).unwrap().folder, of(&first).unwrap().folder);
        assert!(of("11").is_err() && described("linux".into(), "Version: 1\n").is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(file.path()).unwrap(), empty);
    }

    #[test]
    fn a_package_without_a_needed_module_is_refused_by_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        package(scratch.path(), "kvm-amd");
        let error = collect(scratch.path(), &scratch.path().join("to")).unwrap_err();
        assert_eq!(error.to_string(), "it has no module kvm-amd");
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_named_with_its_last_words() {
        let error = quietly(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh ended with exit status: 3: last");
        assert_eq!(quietly(&mut Command::new("/nonexistent")).unwrap_err().to_string(), "cannot start /nonexistent");
    }

    #[test]
    fn the_initrd_of_a_run_holds_all_that_the_first_process_looks_for() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        package(&path("package"), "");
        collect(&path("package"), &path("linux")).unwrap();
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
