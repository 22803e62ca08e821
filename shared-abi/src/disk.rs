//! The bootable disk: what mkimage writes and the loaders read.
//!
//! ```text
//! sector 0          protective MBR; its first 440 bytes are the first 440 of the BIOS loader, which loads the rest
//! sector 1 ..       GPT
//! 1 MiB ..          BIOS boot partition: the BIOS loader; its first sector is the one for CDs
//! 2 MiB ..          EFI system partition, FAT32: the files below, and the UEFI loader as EFI/BOOT/BOOTX64.EFI
//! end               the GPT's copy
//! ```
//!
//! An ISO image is such a disk, with FAT16 where that is enough, and has at 32 KiB what makes it a CD (ECMA-119, El Torito).
//! Its boot image for UEFI is the EFI system partition, that for BIOS the BIOS boot partition.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The folder of our files. All names here are 8.3 names, so that the loaders need not know long ones.
pub const FOLDER: &str = "ringside";
/// The kernel, an ELF file with a PVH entry.
pub const KERNEL: &str = "kernel.elf";
/// The command line, UTF-8; white space at its end does not count. May be absent.
pub const CMDLINE: &str = "cmdline.txt";
/// The initrd, PVH module 0. May be absent.
pub const INITRD: &str = "initrd.img";
/// Where firmware looks for a loader on a disk that it does not know.
pub const EFI_LOADER: [&str; 3] = ["EFI", "BOOT", "BOOTX64.EFI"];

/// Longest command line on a disk, with its terminating NUL: what the kernel looks at.
pub const CMDLINE_MAX: usize = 2048;

/// Bytes of a sector, in all the numbers here.
pub const SECTOR: u64 = 512;
/// First sector of the BIOS boot partition.
pub const BIOS_FIRST: u64 = 2048;
/// First sector of the EFI system partition.
pub const ESP_FIRST: u64 = 4096;

/// Where the BIOS loads the first sector of the loader, and the address that the loader is linked at.
pub const BIOS_LOAD: u64 = 0x7c00;
/// Bytes of the loader that go into sector 0.
pub const BIOS_FIRST_PART: usize = 440;
/// Offset of the [`BiosParameters`] in the loader, within its first part.
pub const BIOS_PARAMETERS: usize = 0x180;
/// Marks the parameters.
pub const BIOS_MAGIC: [u8; 8] = *b"RINGBIOS";

/// The medium, as mkimage describes it to the BIOS loader.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BiosParameters {
    /// [`BIOS_MAGIC`].
    pub magic: [u8; 8],
    /// First block of the medium with the rest of the loader, which follows the block that the BIOS has loaded.
    pub rest_first: u64,
    /// Sectors of the rest of the loader, in whole blocks.
    pub rest_sectors: u32,
    /// The medium's blocks have `1 << block_shift` bytes: 9, or 11 on a CD.
    pub block_shift: u32,
    /// First sector of the FAT file system.
    pub volume_first: u64,
    /// Sectors of the FAT file system.
    pub volume_sectors: u64,
}
assert_layout!(BiosParameters, size 40, rest_first at 8, rest_sectors at 16, block_shift at 20, volume_first at 24, volume_sectors at 32);
const _: () = assert!(BIOS_PARAMETERS + size_of::<BiosParameters>() <= BIOS_FIRST_PART);
