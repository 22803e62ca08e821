//! The `bzimage` format: what mkimage writes, and the setup part (`guest-kernel/loader/linux`) reads, next to the fields of
//! the Linux boot protocol (Linux Documentation/arch/x86/boot.rst).

/// The protocol's version: 2.12.
pub const VERSION: u16 = 0x020c;
/// Where the part after the setup is loaded, byte for byte as it is in the file.
pub const LOAD: u32 = 0x10_0000;
/// Stands before [`ENTRY`].
pub const MAGIC: [u8; 8] = *b"RINGBZIM";
/// Offset in the setup part: the kernel's 32-bit physical entry, which mkimage writes.
pub const ENTRY: usize = 0x270;
/// Longest setup part.
pub const SETUP_MAX: usize = 0x4000;

/// Offsets of header fields that mkimage writes.
pub mod field {
    /// Sectors of the setup part after the first: a byte.
    pub const SETUP_SECTORS: usize = 0x1f1;
    /// The rest's length in units of 16 bytes: 4 bytes.
    pub const SYSTEM_SIZE: usize = 0x1f4;
    /// `HdrS`.
    pub const HEADER: usize = 0x202;
    /// Bytes of memory that the kernel has: 4 bytes.
    pub const INIT_SIZE: usize = 0x260;
}
