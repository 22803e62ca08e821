//! What a hypervisor boots that does not take an ELF file: a bootable disk, with the run's command line in it, and a bzImage.

use anyhow::{Context, Result, anyhow};
use mkimage::bootable::{Format, Image};
use mkimage::loaders::Loaders;
use mkimage::output::Existing;
use std::path::{Path, PathBuf};

/// Placeholders that stand for the kernel.
pub const KERNELS: [&str; 4] = ["image", "bzimage", "boot_disk", "boot_iso"];
/// Those among them that hold the command line too.
pub const WITH_CMDLINE: [&str; 2] = ["boot_disk", "boot_iso"];

/// What they are made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The guest's image.
    pub image: &'a Path,
    /// The folder of the loaders, or why there is none.
    pub loaders: std::result::Result<&'a PathBuf, &'a String>,
}

/// Makes the file of a placeholder.
///
/// # Errors
/// When there are no loaders, or it cannot be written.
pub fn make(placeholder: &str, parts: Parts<'_>, cmdline: &str, output: &Path) -> Result<()> {
    let format = match placeholder {
        "bzimage" => Format::BzImage,
        "boot_iso" => Format::Iso,
        _ => Format::Disk,
    };
    let cmdline = if WITH_CMDLINE.contains(&placeholder) { cmdline } else { "" };
    let mut image = Image::read(parts.image, cmdline, None)?;
    let folder = parts.loaders.map_err(|why| anyhow!("there are no loaders: {why}"))?;
    image.loaders = Some(Loaders::read(folder)?);
    image
        .write(format, output, Existing::Replace, &mut |_, _| {})
        .with_context(|| format!("cannot make {{{placeholder}}}"))
}
