//! What mkimage puts into a kernel ELF so that it boots alone: command line, initrd and symbols.
//!
//! The kernel has a [`Slot`] in a section of its own, [`SLOT_SECTION`], empty as linked. mkimage appends one loadable
//! segment after the kernel and fills the slot with its physical address and length. The segment starts with a
//! [`Header`]; offsets in it count from the header. A part with length 0 is absent.
//!
//! Symbols are an array of [`Symbol`], ascending by address, then their names. `Symbol::name` counts from the end of the
//! array; a name ends with NUL and is demangled.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Section of the kernel that holds the [`Slot`], and nothing else.
pub const SLOT_SECTION: &str = ".ringside.bundle";
/// Marks a slot, so that inspect distinguishes our kernels from others.
pub const SLOT_MAGIC: [u8; 16] = *b"ringside bundle\0";
/// Version of this page.
pub const VERSION: u32 = 1;
/// Virtual address at which the kernel sees physical address 0 of its own image: vaddr = paddr + this.
pub const KERNEL_VIRTUAL_BASE: u64 = 0xffff_ffff_8000_0000;

/// Where the bundle is. Written by mkimage, read by the kernel at boot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// [`SLOT_MAGIC`].
    pub magic: [u8; 16],
    /// [`VERSION`].
    pub version: u32,
    /// Zero.
    pub reserved: u32,
    /// Guest physical address of the [`Header`], page aligned; 0 in a kernel without a bundle.
    pub paddr: u64,
    /// Bytes of the whole bundle.
    pub len: u64,
}
assert_layout!(Slot, size 40, version at 16, paddr at 24, len at 32);

impl Slot {
    /// The slot of a kernel as linked.
    pub const EMPTY: Self = Self { magic: SLOT_MAGIC, version: VERSION, reserved: 0, paddr: 0, len: 0 };
}

/// Start of the bundle.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`SLOT_MAGIC`].
    pub magic: [u8; 16],
    /// The default command line, UTF-8, no NUL.
    pub cmdline: Part,
    /// The initrd, as it was given or as newc cpio.
    pub initrd: Part,
    /// Symbols of the kernel's functions.
    pub symbols: Part,
    /// Entries in the array of [`Symbol`].
    pub symbol_count: u32,
    /// Zero.
    pub reserved: u32,
}
assert_layout!(Header, size 72, cmdline at 16, initrd at 32, symbols at 48, symbol_count at 64);

/// A range of the bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Part {
    /// Bytes from the start of the header.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}
assert_layout!(Part, size 16, len at 8);

/// One function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Symbol {
    /// Virtual address minus [`KERNEL_VIRTUAL_BASE`].
    pub address: u32,
    /// Offset of the name from the end of the array.
    pub name: u32,
}
assert_layout!(Symbol, size 8, name at 4);
