//! The formats of images.

use crate::output::{self, Existing};
use crate::{Error, Result, device};
use std::path::Path;

/// What to make of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "program", derive(clap::ValueEnum))]
pub enum Format {
    /// One ELF file that boots alone wherever a PVH ELF boots
    Elf,
    /// The same for hypervisors that boot by the Linux boot protocol alone
    #[cfg_attr(feature = "program", value(name = "bzimage"))]
    BzImage,
    /// A raw disk that boots with BIOS and with UEFI
    Disk,
    /// An ISO 9660 image that boots with BIOS and with UEFI, from a CD or written to a USB stick
    Iso,
    /// The disk for QEMU; needs qemu-img
    Qcow2,
    /// The same for Hyper-V; needs qemu-img
    Vhdx,
    /// The same for VMware; needs qemu-img
    Vmdk,
}

impl Format {
    /// The format of a file with such a name.
    pub fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "elf" => Some(Self::Elf),
            "bzimage" => Some(Self::BzImage),
            "img" | "raw" => Some(Self::Disk),
            "iso" => Some(Self::Iso),
            "qcow2" => Some(Self::Qcow2),
            "vhdx" => Some(Self::Vhdx),
            "vmdk" => Some(Self::Vmdk),
            _ => None,
        }
    }

    /// Refuses an output where this format cannot go: what is no regular file, but for a disk's device; what exists, unless
    /// it may be replaced; what is one of the inputs.
    ///
    /// # Errors
    /// [`Error::OutputNotAFile`], [`Error::NotForDevices`], [`Error::Exists`], [`Error::OutputIsInput`].
    pub fn check_output(self, output: &Path, inputs: &[&Path], existing: Existing) -> Result<()> {
        if !device::is_device(output) {
            output::check(output, inputs)?;
        } else if !matches!(self, Self::Disk | Self::Iso) {
            let other = if self == Self::BzImage { "bzimage" } else { "elf" };
            let format = self.of_qemu_img().unwrap_or(other);
            return Err(Error::NotForDevices { path: output.into(), format });
        }
        output::check_existing(output, existing)
    }

    /// qemu-img's name, for what it makes.
    pub(crate) fn of_qemu_img(self) -> Option<&'static str> {
        match self {
            Self::Elf | Self::BzImage | Self::Disk | Self::Iso => None,
            Self::Qcow2 => Some("qcow2"),
            Self::Vhdx => Some("vhdx"),
            Self::Vmdk => Some("vmdk"),
        }
    }
}
