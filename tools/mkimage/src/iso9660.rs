//! Structures of ISO 9660 (ECMA-119, 4th edition) and of its boot catalogue (El Torito 1.0), for [`crate::bootable`],
//! which writes them, and for `mkimage inspect`, which reads them.

use shared_abi::assert_layout;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, big_endian};

/// Bytes of a logical sector, and of a logical block of ours (6.1.2, 6.2.2).
pub(crate) const BLOCK: u64 = 2048;
/// The block of the first volume descriptor: the 32 KiB before it are the system's (6.2.1).
pub(crate) const FIRST_DESCRIPTOR: u64 = 16;
/// "Standard identifier" of every volume descriptor (8.1.2).
pub(crate) const IDENTIFIER: [u8; 5] = *b"CD001";

/// A 16-bit number in both byte orders (7.2.3).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Both16 {
    pub(crate) little: U16,
    big: big_endian::U16,
}

impl Both16 {
    pub(crate) fn new(number: u16) -> Self {
        Self { little: number.into(), big: number.into() }
    }
}

/// A 32-bit number in both byte orders (7.3.3).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Both32 {
    pub(crate) little: U32,
    big: big_endian::U32,
}

impl Both32 {
    pub(crate) fn new(number: u32) -> Self {
        Self { little: number.into(), big: number.into() }
    }
}

/// Types of volume descriptors (8.1.1).
pub(crate) mod descriptor {
    pub(crate) const BOOT: u8 = 0;
    pub(crate) const PRIMARY: u8 = 1;
    pub(crate) const TERMINATOR: u8 = 255;
}

/// What all volume descriptors start with (8.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DescriptorHeader {
    pub(crate) kind: u8,
    pub(crate) identifier: [u8; 5],
    pub(crate) version: u8,
}
assert_layout!(DescriptorHeader, size 7, identifier at 1, version at 6);

impl DescriptorHeader {
    pub(crate) fn new(kind: u8) -> Self {
        Self { kind, identifier: IDENTIFIER, version: 1 }
    }
}

/// Primary volume descriptor (8.4), up to what is reserved in it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct PrimaryDescriptor {
    pub(crate) header: DescriptorHeader,
    pub(crate) unused_1: u8,
    pub(crate) system: [u8; 32],
    pub(crate) volume: [u8; 32],
    pub(crate) unused_2: [u8; 8],
    pub(crate) blocks: Both32,
    pub(crate) unused_3: [u8; 32],
    pub(crate) set_size: Both16,
    pub(crate) sequence: Both16,
    pub(crate) block_bytes: Both16,
    pub(crate) path_table_bytes: Both32,
    pub(crate) path_table_little: U32,
    pub(crate) path_table_little_copy: U32,
    pub(crate) path_table_big: big_endian::U32,
    pub(crate) path_table_big_copy: big_endian::U32,
    pub(crate) root: DirectoryRecord,
    pub(crate) root_name: u8,
    pub(crate) volume_set: [u8; 128],
    pub(crate) publisher: [u8; 128],
    pub(crate) preparer: [u8; 128],
    pub(crate) application: [u8; 128],
    pub(crate) copyright_file: [u8; 37],
    pub(crate) abstract_file: [u8; 37],
    pub(crate) bibliographic_file: [u8; 37],
    pub(crate) created: [u8; 17],
    pub(crate) modified: [u8; 17],
    pub(crate) expires: [u8; 17],
    pub(crate) effective: [u8; 17],
    pub(crate) structure_version: u8,
}
assert_layout!(PrimaryDescriptor, size 882, volume at 40, blocks at 80, set_size at 120, path_table_little at 140,
    root at 156, volume_set at 190, copyright_file at 702, created at 813, structure_version at 881);

/// Boot record that points at the boot catalogue (El Torito, figure 7).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct BootDescriptor {
    pub(crate) header: DescriptorHeader,
    pub(crate) system: [u8; 32],
    pub(crate) unused: [u8; 32],
    pub(crate) catalogue: U32,
}
assert_layout!(BootDescriptor, size 75, system at 7, catalogue at 71);

/// The boot system that the boot record names; zeros follow.
pub(crate) const EL_TORITO: &[u8; 23] = b"EL TORITO SPECIFICATION";

/// A directory record up to its name (9.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DirectoryRecord {
    /// With the name, even.
    pub(crate) len: u8,
    pub(crate) attribute_blocks: u8,
    /// First block.
    pub(crate) extent: Both32,
    pub(crate) bytes: Both32,
    pub(crate) date: [u8; 7],
    pub(crate) flags: u8,
    pub(crate) unit: u8,
    pub(crate) gap: u8,
    pub(crate) sequence: Both16,
    pub(crate) name_len: u8,
}
assert_layout!(DirectoryRecord, size 33, extent at 2, bytes at 10, date at 18, flags at 25, sequence at 28, name_len at 32);

/// [`DirectoryRecord::flags`]: a directory.
pub(crate) const FLAG_DIRECTORY: u8 = 2;
/// Names of a directory itself and of the one that it is in (7.6.2).
pub(crate) const SELF: &[u8] = &[0];
pub(crate) const PARENT: &[u8] = &[1];

/// First entry of the boot catalogue (El Torito, figure 2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ValidationEntry {
    pub(crate) header: u8,
    pub(crate) platform: u8,
    pub(crate) reserved: U16,
    pub(crate) id: [u8; 24],
    pub(crate) checksum: U16,
    pub(crate) key: [u8; 2],
}
assert_layout!(ValidationEntry, size 32, id at 4, checksum at 28, key at 30);

impl ValidationEntry {
    pub(crate) const HEADER: u8 = 1;
    pub(crate) const KEY: [u8; 2] = [0x55, 0xaa];

    /// The sum of its 16-bit words, which is 0 in a good one.
    pub(crate) fn sum(&self) -> u16 {
        let words = self.as_bytes().chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
        words.fold(0, u16::wrapping_add)
    }
}

/// Platforms of boot entries (El Torito, figure 2; UEFI 2.10, 13.3.2.1).
pub(crate) const PLATFORM_BIOS: u8 = 0;
pub(crate) const PLATFORM_UEFI: u8 = 0xef;

/// The initial or default entry, and that of a section (El Torito, figures 3 and 5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct BootEntry {
    pub(crate) indicator: u8,
    /// 0: no emulation.
    pub(crate) medium: u8,
    /// Where the BIOS loads it to; 0: 0x7c0.
    pub(crate) segment: U16,
    pub(crate) system: u8,
    pub(crate) unused: u8,
    /// Sectors of 512 bytes.
    pub(crate) sectors: U16,
    /// First block.
    pub(crate) first: U32,
    pub(crate) selection: [u8; 20],
}
assert_layout!(BootEntry, size 32, segment at 2, sectors at 6, first at 8);

impl BootEntry {
    pub(crate) const BOOTABLE: u8 = 0x88;

    /// One that is loaded as it is.
    pub(crate) fn new(sectors: u16, first: u32) -> Self {
        Self {
            indicator: Self::BOOTABLE,
            medium: 0,
            segment: 0.into(),
            system: 0,
            unused: 0,
            sectors: sectors.into(),
            first: first.into(),
            selection: [0; 20],
        }
    }
}

/// What goes before the entries of another platform (El Torito, figure 4).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SectionHeader {
    /// [`Self::MORE`] or [`Self::LAST`].
    pub(crate) indicator: u8,
    pub(crate) platform: u8,
    pub(crate) entries: U16,
    pub(crate) id: [u8; 28],
}
assert_layout!(SectionHeader, size 32, entries at 2, id at 4);

impl SectionHeader {
    #[cfg_attr(not(feature = "inspect"), expect(dead_code, reason = "our only section is the last"))]
    pub(crate) const MORE: u8 = 0x90;
    pub(crate) const LAST: u8 = 0x91;
}
