//! Everything that can be wrong with what a user gives `mkimage`. One lower-case line each, with the offending value.

use std::io;
use std::path::{Path, PathBuf};

/// Why no image or report was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened, read or listed.
    #[error("cannot read {path}: {why}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write {path}: {why}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The output exists and is something else than a file.
    #[error("cannot write {0}: it exists and is not a regular file")]
    OutputNotAFile(PathBuf),
    /// The output exists.
    #[error("cannot write {0}: it exists; --force replaces it")]
    Exists(PathBuf),
    /// The output is locked by another process.
    #[error("cannot replace {0}: a running machine has locked it; end that first, or choose another output")]
    InUse(PathBuf),
    /// An input is larger than anything that makes sense.
    #[error("cannot take {path}: {bytes} bytes; at most {most} are taken")]
    InputTooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// What is possible.
        most: String,
    },
    /// Something about a file, which is named here: the rest of the message does not.
    #[error("{path}: {why}")]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: Box<Error>,
    },
    /// The output is a device, which takes only disks.
    #[error("cannot write {path}: it is a device, and the format {format} is one for files; use --format disk or iso")]
    NotForDevices {
        /// The device.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
    /// The output is a device that cannot be used.
    #[error("cannot write {path}: {why}")]
    BadDevice {
        /// The device.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The output is a device with too little room.
    #[error("the device has {has} bytes, the disk needs {needs}; use a larger device or a smaller --size")]
    DeviceTooSmall {
        /// Bytes of the device.
        has: u64,
        /// Bytes of the disk.
        needs: u64,
    },
    /// The output would replace the input.
    #[error("cannot write {0}: it is the input; choose another output")]
    OutputIsInput(PathBuf),
    /// The kernel does not start with the ELF magic.
    #[error("kernel is no ELF file")]
    NotElf,
    /// The kernel is an ELF file of another kind.
    #[error("kernel is {found}; a 64-bit little-endian x86-64 executable is needed")]
    OtherMachine {
        /// What it is.
        found: String,
    },
    /// A part of the ELF file lies past its end, or is malformed.
    #[error("kernel ELF is damaged or truncated: {what}")]
    BadElf {
        /// Which part.
        what: String,
    },
    /// There is nothing to load.
    #[error("kernel has no loadable segment")]
    NothingToLoad,
    /// No PVH entry.
    #[error("kernel has no PVH entry (ELF note \"Xen\", type 18), so no VMM could start it")]
    NoPvhNote,
    /// The PVH entry is nowhere in the kernel.
    #[error("the PVH entry {entry:#x} is in no executable segment of the kernel")]
    EntryOutside {
        /// The address in the note.
        entry: u64,
    },
    /// No bundle slot.
    #[error("kernel has no section {}: it cannot take a bundle", shared_abi::bundle::SLOT_SECTION)]
    NoSlot,
    /// The slot is not as this version knows it.
    #[error("the bundle slot of the kernel is not usable: {what}")]
    BadSlot {
        /// What is wrong.
        what: String,
    },
    /// The kernel is an image already.
    #[error("kernel already carries a bundle at {paddr:#x}; give mkimage the kernel as it was linked")]
    AlreadyAnImage {
        /// Where the bundle is.
        paddr: u64,
    },
    /// The image would reach beyond what the kernel maps.
    #[error("kernel and bundle end at {end:#x}, beyond the kernel's 2 GiB; use a smaller initrd")]
    TooLarge {
        /// Physical end.
        end: u64,
    },
    /// The command line has a NUL or does not fit.
    #[error("command line {what}")]
    BadCommandLine {
        /// What is wrong.
        what: String,
    },
    /// A bundle in an image does not parse.
    #[error("bundle is damaged: {what}")]
    BadBundle {
        /// What is wrong.
        what: &'static str,
    },
    /// Something in a folder is neither file nor folder.
    #[error("cannot take {0}: it is neither a file nor a folder")]
    OddFile(PathBuf),
    /// A name that the file system or archive cannot hold.
    #[error("cannot take {path}: {why}")]
    BadName {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A size that is no size.
    #[error("bad size {text:?}: {why}")]
    BadSize {
        /// As given.
        text: String,
        /// Why.
        why: &'static str,
    },
    /// A disk size that no FAT disk can have.
    #[error("a disk of {size} bytes is too {how}: {range}")]
    DiskSize {
        /// The size asked for.
        size: u64,
        /// "small" or "large".
        how: &'static str,
        /// What is possible.
        range: String,
    },
    /// The files do not fit.
    #[error("{path} does not fit: the disk is full at {size} bytes; use a larger --size")]
    DiskFull {
        /// The first file that did not fit.
        path: PathBuf,
        /// Size of the disk.
        size: u64,
    },
    /// Inspected file is nothing that we know.
    #[error("{0} is neither an ELF file, nor a disk with a partition table, nor an ISO image")]
    Unknown(PathBuf),
    /// A disk's partition table or file system does not parse.
    #[error("disk is damaged: {what}")]
    BadDisk {
        /// What is wrong.
        what: String,
    },
    /// Not a disk that mkimage has made.
    #[error("{0} is no bootable disk: it has no EFI system partition with {kernel}", kernel = "ringside/kernel.elf")]
    NotBootable(PathBuf),
    /// There are no loaders for a bootable disk.
    #[error("cannot find the loaders in {0}; `cargo xtask build` makes them, --loaders names their folder")]
    NoLoaders(PathBuf),
    /// A disk in the format of another hypervisor cannot be read.
    #[error("cannot read {path} as {format}: {why}")]
    BadContainer {
        /// The file.
        path: PathBuf,
        /// The format that it starts as.
        format: &'static str,
        /// Why not: qemu-img's words, or ours.
        why: String,
    },
    /// The program that makes and reads a format is missing.
    #[error("the format {format} needs qemu-img, which is not installed (package qemu-utils)")]
    NoQemuImg {
        /// The format.
        format: String,
    },
    /// A file is not a loader.
    #[error("cannot use the loader {path}: {what}")]
    BadLoader {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: &'static str,
    },
    /// `SOURCE_DATE_EPOCH` is no number.
    #[error("bad SOURCE_DATE_EPOCH {0:?}: use seconds since 1970")]
    BadTime(String),
    /// A part of a disk cannot be made.
    #[error("cannot make {what}: {why}")]
    Compose {
        /// Which part.
        what: &'static str,
        /// What went wrong.
        why: io::Error,
    },
}

impl Error {
    /// The same with the name of the file that it is about, unless it has one.
    #[must_use]
    pub fn of(self, path: &Path) -> Self {
        match self {
            Self::NotElf
            | Self::OtherMachine { .. }
            | Self::BadElf { .. }
            | Self::NothingToLoad
            | Self::NoPvhNote
            | Self::EntryOutside { .. }
            | Self::NoSlot
            | Self::BadSlot { .. }
            | Self::AlreadyAnImage { .. }
            | Self::TooLarge { .. }
            | Self::BadBundle { .. }
            | Self::BadDisk { .. } => Self::In { path: path.into(), why: self.into() },
            other => other,
        }
    }
}
