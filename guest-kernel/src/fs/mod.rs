//! Where the shell's files come from: the FAT file system of a disk, and the initrd.

mod boot_sector;
pub mod fat;
pub mod files;
pub mod gpt;
pub mod initrd;

use crc::{CRC_32_ISO_HDLC, Crc};

/// CRC-32 as zip and Ethernet have it.
pub fn crc32(bytes: &[u8]) -> u32 {
    static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    CRC.checksum(bytes)
}
