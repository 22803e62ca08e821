//! Packages of the system's sources whose content a testbed boots: fetched and unpacked below the target directory, never
//! installed, and cached by content: a folder is that of the package with one digest, and is used only while its files have
//! theirs. Used for the stock Linux of `host-kvm-in-tcg` and the Xen of `xen-pv`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs that fetch and unpack.
pub(crate) const PROGRAMS: [&str; 3] = ["apt-get", "apt-cache", "dpkg-deb"];
/// Digests of all files of a folder, as sha256sum writes them.
const DIGESTS: &str = "SHA256SUMS";

/// What is wanted of a package.
pub(crate) struct Wanted {
    /// What it is, for people: "the kernel".
    pub(crate) what: &'static str,
    /// The files that a folder of the cache has.
    pub(crate) files: Vec<String>,
    /// Makes them out of the unpacked package in the first folder, in the second.
    pub(crate) collect: fn(&Path, &Path) -> Result<()>,
}

/// A package as the lists describe it.
pub(crate) struct Package {
    name: String,
    /// SHA-256 of the archive, in hexadecimal.
    digest: String,
    /// With version and digest.
    folder: String,
}

impl Wanted {
    /// The folder with the files of a package, out of `cache` or fetched into it; of the newest one there where the package
    /// lists say nothing now. `progress` is called with what takes a while.
    pub(crate) fn fetch(
        &self,
        package: Result<Package>,
        cache: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf> {
        fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let package = match package {
            Ok(package) => package,
            Err(error) => return self.newest_in(cache).ok_or(error),
        };
        let folder = cache.join(&package.folder);
        if self.is_whole(&folder) {
            return Ok(folder);
        }
        let Package { name, digest: expected, .. } = package;
        progress(&format!("fetching {}: the package {name} (unpacked below the target directory only)", self.what));
        // Whatever is interrupted leaves nothing that looks whole.
        let scratch = tempfile::tempdir_in(cache).context("cannot create a folder")?;
        let (work, whole) = (scratch.path().join("work"), scratch.path().join("whole"));
        fs::create_dir(&work)?;
        quietly(Command::new("apt-get").arg("download").arg(&name).current_dir(&work))?;
        let archive = find(&work, &|name| name.ends_with(".deb")).ok_or_else(|| anyhow!("apt-get left no package"))?;
        let digest = digest(&archive)?;
        ensure!(digest == expected, "apt-get left a package with digest {digest}, not {expected}");
        quietly(Command::new("dpkg-deb").arg("-x").arg(archive).arg(work.join("x")))?;
        self.make(&work.join("x"), &whole).with_context(|| format!("the package {name}"))?;
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::rename(&whole, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// Takes what is wanted out of an unpacked package, and notes its digests.
    pub(crate) fn make(&self, package: &Path, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        (self.collect)(package, to)?;
        let digests = bytes_of(Command::new("sha256sum").arg("--").args(&self.files).current_dir(to))?;
        fs::write(to.join(DIGESTS), digests).context("cannot write the digests")
    }

    /// Whether all files of a folder are there, with the digests that they had when it was made.
    pub(crate) fn is_whole(&self, folder: &Path) -> bool {
        let Ok(digests) = fs::read_to_string(folder.join(DIGESTS)) else { return false };
        let listed =
            |file: &str| digests.lines().any(|line| line.split_once("  ").is_some_and(|(_, name)| name == file));
        let all = self.files.iter().all(|file| listed(file));
        all && quietly(Command::new("sha256sum").args(["--check", "--status", DIGESTS]).current_dir(folder)).is_ok()
    }

    /// What was fetched earlier.
    pub(crate) fn newest_in(&self, cache: &Path) -> Option<PathBuf> {
        let folders = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
        folders.filter(|folder| self.is_whole(folder)).max()
    }
}

impl Package {
    /// The package of a name, as it would be fetched now.
    pub(crate) fn named(name: String) -> Result<Self> {
        let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions", &name]))?;
        Self::described(name, &shown)
    }

    fn described(name: String, shown: &str) -> Result<Self> {
        let field = |key: &str| {
            let found = shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            found.map(str::trim).ok_or_else(|| anyhow!("the package {name} has no {key}"))
        };
        let (version, digest) = (field("Version")?, field("SHA256")?.to_owned());
        let hexadecimal = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(hexadecimal, "the package {name} has no usable digest: {digest:?}");
        let folder = format!("{name}_{version}_{digest}").replace(['/', ':'], "_");
        Ok(Self { name, digest, folder })
    }
}

/// SHA-256 of a file, in hexadecimal.
fn digest(file: &Path) -> Result<String> {
    let line = output(Command::new("sha256sum").arg("--").arg(file))?;
    Ok(line.trim_start_matches('\\').split_whitespace().next().unwrap_or_default().to_owned())
}

/// A file below `folder` whose name fits.
pub(crate) fn find(folder: &Path, fits: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
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

pub(crate) fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes_of(command)?).into_owned())
}

pub(crate) fn bytes_of(command: &mut Command) -> Result<Vec<u8>> {
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

    #[test]
    fn the_folder_of_a_package_identifies_its_content() {
        let (first, second) = ("1".repeat(64), format!("{}2", "1".repeat(63)));
        let of = |digest: &str| Package::described("linux".into(), &format!("Version: 6.1:2\nSHA256: {digest}\n"));
        assert_eq!(of(&first).unwrap().folder, format!("linux_6.1_2_{first}"));
        assert_ne!(of(&second).unwrap().folder, of(&first).unwrap().folder);
        assert!(of("11").is_err() && Package::described("linux".into(), "Version: 1\n").is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(file.path()).unwrap(), empty);
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_named_with_its_last_words() {
        let error = quietly(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh ended with exit status: 3: last");
        assert_eq!(quietly(&mut Command::new("/nonexistent")).unwrap_err().to_string(), "cannot start /nonexistent");
    }
}
