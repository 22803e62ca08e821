//! From a disk's files to the PVH entry: what the UEFI loader (`efi`) and the BIOS loader (`bios`) have in common.
//!
//! Both run in 64-bit mode, find memory map, ACPI root pointer and files in their own way, and then go the same one:
//! [`Kernel::parse`], [`MemoryMap`], [`Handover`]. The files are not trusted; the firmware is.
#![no_std]

mod handover;
mod kernel;
mod map;

pub use handover::{Boot, Handover, block_size};
pub use kernel::{Kernel, Segment};
pub use map::MemoryMap;

use core::fmt;

/// Why a kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The kernel is no ELF file for this machine.
    NotElf,
    /// A part of the kernel lies outside its file, or makes no sense.
    Damaged(&'static str),
    /// There is no PVH note.
    NoPvhNote,
    /// A segment does not lie in RAM.
    NotInRam(u64, u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("the kernel is no ELF file for x86-64"),
            Self::Damaged(what) => write!(f, "the kernel's ELF file is damaged: {what}"),
            Self::NoPvhNote => f.write_str("the kernel has no PVH entry (ELF note \"Xen\", type 18)"),
            Self::NotInRam(start, end) => {
                write!(f, "the kernel wants {start:#x}..{end:#x}, where this machine has no free memory")
            }
        }
    }
}

/// The command line in a file's bytes: up to a NUL, without white space at its end.
pub fn cmdline(file: &[u8]) -> &[u8] {
    let end = file.iter().position(|&byte| byte == 0).unwrap_or(file.len());
    file[..end].trim_ascii_end()
}
