//! What is inside the program: the guest's image, the loaders for what firmware boots, the profiles.

use anyhow::{Context, Result, bail};
use mkimage::loaders;
use ringside_tests::conform::profile::{self, Named, Profile};
use std::fs;
use std::path::{Path, PathBuf};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/parts.rs"));
}

/// The profiles, each by its file's name; those that cannot be used with the reason.
pub fn profiles() -> Vec<Named> {
    let read = |&(name, text): &(&str, &str)| {
        let path = Path::new(name);
        (profile::stem(path), Profile::parse(path, text))
    };
    embedded::PROFILES.iter().map(read).collect()
}

/// The text of a profile.
pub fn profile_text(name: &str) -> Option<&'static str> {
    embedded::PROFILES.iter().find(|(file, _)| file.strip_suffix(".toml") == Some(name)).map(|(_, text)| *text)
}

/// Puts the image into a folder.
///
/// # Errors
/// When there is none inside, or the folder cannot be written.
pub fn image(folder: &Path) -> Result<PathBuf> {
    let Some(image) = embedded::IMAGE else {
        bail!("this build has no guest inside: name one by --image, or make a build that has by `cargo xtask dist`");
    };
    let path = folder.join("guest.elf");
    write(&path, image)?;
    Ok(path)
}

/// Puts the loaders into a folder; why not, where there are none inside.
///
/// # Errors
/// When the folder cannot be written.
pub fn loaders(folder: &Path) -> Result<std::result::Result<PathBuf, String>> {
    let (Some(bios), Some(efi), Some(linux)) = (embedded::BIOS, embedded::EFI, embedded::LINUX) else {
        return Ok(Err("this build has none inside: name their folder by --loaders".into()));
    };
    let folder = folder.join(loaders::FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, bytes) in [(loaders::BIOS_FILE, bios), (loaders::EFI_FILE, efi), (loaders::LINUX_FILE, linux)] {
        write(&folder.join(name), bytes)?;
    }
    Ok(Ok(folder))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_inside_and_can_be_used() {
        let profiles = profiles();
        let names: Vec<&str> = profiles.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"qemu-tcg-q35") && names.contains(&"firecracker"), "{names:?}");
        for (name, profile) in &profiles {
            assert_eq!(&profile.as_ref().unwrap().name, name);
        }
    }
}
