//! GUID partition tables (UEFI Specification 2.10, section 5.3, "GUID Partition Table (GPT) Disk Layout"), as far as `fs` needs
//! them to find a file system. The disk is not trusted: checksums are compared, and positions are checked by the code that reads there.

use alloc::vec::Vec;
use crc::{CRC_32_ISO_HDLC, Crc};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What stands for the whole disk in the old partition table before it.
pub const PROTECTIVE: u8 = 0xee;
const SIGNATURE: [u8; 8] = *b"EFI PART";
const SECTOR: usize = 512;
/// Largest table that is read: eight times the usual one.
const TABLE_MAX: u64 = 128 << 10;

/// The header, in the first bytes of its sector.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    signature: [u8; 8],
    revision: u32,
    header_size: u32,
    header_crc: u32,
    reserved: u32,
    own_sector: u64,
    other_sector: u64,
    first_usable: u64,
    last_usable: u64,
    disk_id: [u8; 16],
    table_first: u64,
    entries: u32,
    entry_size: u32,
    table_crc: u32,
    pad: u32,
}
const _: () = assert!(size_of::<Header>() == HEADER_SIZE + 4);
/// Bytes of the header that every revision has.
const HEADER_SIZE: usize = 92;

/// An entry's first bytes; names and attributes follow.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Entry {
    kind: [u8; 16],
    id: [u8; 16],
    first: u64,
    last: u64,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub sectors: u64,
}

/// Where the table is and what may be used for partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// First sector of the table.
    pub table_first: u64,
    /// Bytes of it.
    pub table_bytes: usize,
    /// One past the last sector that a partition may have.
    pub end: u64,
    /// Sectors of a block.
    block: u64,
    entry_size: usize,
    table_crc: u32,
}

fn crc32(bytes: &[u8]) -> u32 {
    Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(bytes)
}

/// Reads the header, at the start of the disk's second block, which has so many sectors; the table counts in blocks. `None`
/// if it is absent or damaged.
pub fn layout(sector: &[u8], block: u64) -> Option<Layout> {
    let (header, _) = Header::read_from_prefix(sector).ok()?;
    let size = header.header_size as usize;
    if header.signature != SIGNATURE || !(HEADER_SIZE..=SECTOR).contains(&size) {
        return None;
    }
    let mut covered = sector.get(..size)?.to_vec();
    covered[16..20].fill(0);
    let bytes = u64::from(header.entries) * u64::from(header.entry_size);
    let fits = header.entry_size as usize >= size_of::<Entry>() && bytes <= TABLE_MAX;
    (fits && crc32(&covered) == header.header_crc).then_some(Layout {
        table_first: header.table_first.saturating_mul(block),
        table_bytes: bytes as usize,
        end: header.last_usable.saturating_add(1).saturating_mul(block),
        block,
        entry_size: header.entry_size as usize,
        table_crc: header.table_crc,
    })
}

impl Layout {
    /// The partitions of the table, in its order; `None` if it is damaged.
    pub fn partitions(&self, table: &[u8]) -> Option<Vec<Partition>> {
        let table = table.get(..self.table_bytes).filter(|table| crc32(table) == self.table_crc)?;
        let entries = table.chunks_exact(self.entry_size).filter_map(|bytes| Entry::read_from_prefix(bytes).ok());
        let used = entries.filter(|(entry, _)| entry.kind != [0; 16] && entry.first <= entry.last);
        let partition = |(entry, _): (Entry, _)| {
            let blocks = (entry.last - entry.first).checked_add(1)?;
            Some(Partition { first: entry.first.checked_mul(self.block)?, sectors: blocks.checked_mul(self.block)? })
        };
        used.map(partition).collect()
    }
}

#[cfg(test)]
mod tests;
