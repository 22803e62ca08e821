//! `cargo xtask reproduce`: the same sources, in another folder, with another home of cargo and at another time, must give
//! the same bytes.

use crate::artifacts::{self, Guest, Images};
use crate::options::Common;
use crate::workspace::{self, Place};
use crate::{setup, ui};
use anyhow::{Context, Result};
use mkimage::loaders;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is no source.
const NO_SOURCES: [&str; 2] = [".git", "target"];

/// `cargo xtask reproduce`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let here = Place::here();
    let elsewhere = tempfile::Builder::new().prefix("ringside again ").tempdir().context("cannot create a folder")?;
    let there = move_to(&here, elsewhere.path())?;
    let first = make(&setup, &here, &workspace::output()?)?;
    ui::say(&format!("the same once more in {}", elsewhere.path().display()));
    let second = make(&setup, &there, elsewhere.path())?;

    let mut differing = 0;
    for ((name, first), (_, second)) in first.iter().zip(&second) {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let verdict = match difference(&read(first)?, &read(second)?) {
            None => "the same bytes".to_owned(),
            Some(at) => {
                differing += 1;
                format!("differs from byte {at} on")
            }
        };
        println!("    {name:16} {verdict}");
    }
    println!("{} of {} files are the same", first.len() - differing, first.len());
    Ok(if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds in a place; the files to compare, by name.
fn make(setup: &setup::Setup, place: &Place, output: &Path) -> Result<[(&'static str, PathBuf); 5]> {
    let Guest { kernel, loaders } = artifacts::build_guest(setup.toolchain, place)?;
    let Images { image, boot_disk } = artifacts::make_images(&kernel, &loaders, output)?;
    Ok([
        ("kernel", kernel),
        (loaders::BIOS_FILE, loaders.join(loaders::BIOS_FILE)),
        (loaders::EFI_FILE, loaders.join(loaders::EFI_FILE)),
        ("guest.elf", image),
        ("ringside.img", boot_disk),
    ])
}

/// Copies the sources, the crates, and how cargo is set up.
fn move_to(here: &Place, folder: &Path) -> Result<Place> {
    let (root, cargo_home) = (folder.join("sources"), folder.join("home of cargo"));
    copy(&here.root, &root, &NO_SOURCES)?;
    // Other programs and other versions of the compiler are there, too.
    fs::create_dir(&cargo_home).with_context(|| format!("cannot create {}", cargo_home.display()))?;
    for name in ["config.toml", "config"] {
        let config = here.cargo_home.join(name);
        if config.is_file() {
            link(&config, &cargo_home.join(name))?;
        }
    }
    // What was built so far has left the crates there.
    copy(&here.cargo_home.join("registry"), &cargo_home.join("registry"), &[])?;
    let target = root.join("target");
    Ok(Place { root, target, cargo_home })
}

/// Copies a folder but what has one of these names.
fn copy(from: &Path, to: &Path, skipped: &[&str]) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if skipped.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &to.join(name), skipped)?;
        } else if kind.is_file() {
            link(&entry.path(), &to.join(name))?;
        }
    }
    Ok(())
}

/// The same file under another name, or a copy of it where that is another file system.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot copy {}", from.display()))
}

/// The first byte that differs, or that only one of them has.
fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let shared = a.len().min(b.len());
    a.iter().zip(b).position(|(a, b)| a != b).or((a.len() != b.len()).then_some(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_also_where_one_ends() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(difference(b"abc", b"axc"), Some(1));
        assert_eq!(difference(b"abc", b"abcd"), Some(3));
        assert_eq!(difference(b"", b"a"), Some(0));
    }

    #[test]
    fn sources_are_copied_whole_but_nothing_that_was_built() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        for path in ["src/deep", "target/debug", ".git", ".cargo"] {
            fs::create_dir_all(from.join(path)).unwrap();
        }
        for path in ["src/deep/a.rs", "target/debug/b", ".git/c", ".cargo/config.toml"] {
            fs::write(from.join(path), path).unwrap();
        }
        let to = folder.path().join("to");
        copy(&from, &to, &NO_SOURCES).unwrap();
        assert_eq!(fs::read_to_string(to.join("src/deep/a.rs")).unwrap(), "src/deep/a.rs");
        assert!(to.join(".cargo/config.toml").exists() && !to.join("target").exists() && !to.join(".git").exists());
    }
}
