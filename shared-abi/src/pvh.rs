//! The PVH boot protocol: how every VMM of today starts an ELF kernel directly.
//!
//! Source: Xen `docs/misc/pvh.pandoc` ("x86/HVM direct boot ABI") and the public header `arch-x86/hvm/start_info.h`.
//! At entry: 32-bit protected mode, paging off, flat segments, interrupts off, EBX = guest physical address of
//! [`StartInfo`].

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Owner name of the ELF note, with its terminating NUL.
pub const NOTE_OWNER: &[u8; 4] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the note whose descriptor is the 32-bit physical entry point (4 or 8 bytes).
pub const NOTE_PHYS32_ENTRY: u32 = 18;

/// `XEN_HVM_START_MAGIC_VALUE`, "xEn3" with the top bit of the E set.
pub const START_MAGIC: u32 = 0x336e_c578;
/// The version of [`StartInfo`] that has a memory map.
pub const START_INFO_VERSION: u32 = 1;

/// `hvm_start_info`. All addresses are guest physical; zero means absent.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`START_MAGIC`].
    pub magic: u32,
    /// 0, or 1 when the memory map fields are there.
    pub version: u32,
    /// `SIF_xxx` flags.
    pub flags: u32,
    /// Entries in the module list.
    pub nr_modules: u32,
    /// Array of [`ModlistEntry`].
    pub modlist_paddr: u64,
    /// NUL-terminated command line.
    pub cmdline_paddr: u64,
    /// ACPI RSDP.
    pub rsdp_paddr: u64,
    /// Array of [`MemmapEntry`] (version 1).
    pub memmap_paddr: u64,
    /// Entries in the memory map (version 1).
    pub memmap_entries: u32,
    /// Zero.
    pub reserved: u32,
}
assert_layout!(StartInfo, size 56, nr_modules at 12, modlist_paddr at 16, cmdline_paddr at 24, rsdp_paddr at 32, memmap_paddr at 40, memmap_entries at 48);

/// `hvm_modlist_entry`: module 0 is the initrd.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModlistEntry {
    /// Start of the module.
    pub paddr: u64,
    /// Bytes.
    pub size: u64,
    /// NUL-terminated command line of the module, or 0.
    pub cmdline_paddr: u64,
    /// Zero.
    pub reserved: u64,
}
assert_layout!(ModlistEntry, size 32, size at 8, cmdline_paddr at 16);

/// `hvm_memmap_table_entry`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemmapEntry {
    /// Start of the range.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// What the range is.
    pub kind: MemmapKind,
    /// Zero.
    pub reserved: u32,
}
assert_layout!(MemmapEntry, size 24, size at 8, kind at 16);

/// The type of a memory map range, with the numbers of the E820 interface. Open: firmware may say anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MemmapKind(pub u32);

impl MemmapKind {
    /// Usable memory.
    pub const RAM: Self = Self(1);
    /// Not to be touched.
    pub const RESERVED: Self = Self(2);
    /// ACPI tables, usable once they have been read.
    pub const ACPI: Self = Self(3);
    /// ACPI non-volatile storage.
    pub const NVS: Self = Self(4);
    /// Memory with errors.
    pub const UNUSABLE: Self = Self(5);
}
