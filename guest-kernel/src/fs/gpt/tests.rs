//! The kernel's reader of GUID partition tables.

use crate::fs::crc32;
use crate::fs::gpt::{self, Partition};

/// A header's sector and a table with these partitions, first and last sector.
fn disk(partitions: &[(u64, u64)]) -> (Vec<u8>, Vec<u8>) {
    const ENTRIES: usize = 128;
    const ENTRY: usize = 128;
    let mut table = vec![0; ENTRIES * ENTRY];
    for (entry, (first, last)) in table.chunks_exact_mut(ENTRY).zip(partitions) {
        entry[..16].fill(0x5a);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
    }
    let mut header = vec![0; 512];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[48..56].copy_from_slice(&131_038_u64.to_le_bytes());
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
    header[84..88].copy_from_slice(&(ENTRY as u32).to_le_bytes());
    header[88..92].copy_from_slice(&crc32(&table).to_le_bytes());
    seal(&mut header);
    (header, table)
}

fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32(&header[..92]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn partitions_come_in_the_table_s_order_and_unused_entries_are_none() {
    let (header, mut table) = disk(&[(4096, 8191), (0, 0), (2048, 2048)]);
    table[128..144].fill(0);
    let mut header = header;
    header[88..92].copy_from_slice(&crc32(&table).to_le_bytes());
    seal(&mut header);
    let layout = gpt::layout(&header, 1).unwrap();
    assert_eq!((layout.table_first, layout.table_bytes, layout.end), (2, 16 << 10, 131_039));
    let expected = [Partition { first: 4096, sectors: 4096 }, Partition { first: 2048, sectors: 1 }];
    assert_eq!(layout.partitions(&table).unwrap(), expected);
}

#[test]
fn a_table_of_a_disk_with_larger_blocks_counts_in_them() {
    let (header, table) = disk(&[(6, 9)]);
    let layout = gpt::layout(&header, 8).unwrap();
    assert_eq!((layout.table_first, layout.end), (16, 131_039 * 8));
    assert_eq!(layout.partitions(&table).unwrap(), [Partition { first: 48, sectors: 32 }]);
    let (header, table) = disk(&[(6, u64::MAX / 8 + 10)]);
    assert_eq!(gpt::layout(&header, 8).unwrap().partitions(&table), None, "more sectors than a number holds");
}

#[test]
fn a_changed_byte_is_found_by_the_checksums() {
    let (header, table) = disk(&[(4096, 8191)]);
    for at in 0..92 {
        let mut changed = header.clone();
        changed[at] ^= 0x40;
        assert_eq!(gpt::layout(&changed, 1), None, "byte {at} of the header");
    }
    let layout = gpt::layout(&header, 1).unwrap();
    for at in [0, 40, 127, 128, table.len() - 1] {
        let mut changed = table.clone();
        changed[at] ^= 1;
        assert_eq!(layout.partitions(&changed), None, "byte {at} of the table");
    }
    assert_eq!(layout.partitions(&table[..512]), None);
}

#[test]
fn numbers_that_make_no_sense_are_refused_whatever_their_checksums() {
    for (at, value) in [(12, 91), (12, 513), (12, u32::MAX), (80, u32::MAX), (84, 47), (84, 0), (84, u32::MAX)] {
        let (mut header, _) = disk(&[(4096, 8191)]);
        header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        seal(&mut header);
        assert_eq!(gpt::layout(&header, 1), None, "{value} at {at}");
    }
    assert_eq!(gpt::layout(&[0; 512], 1), None);
    assert_eq!(gpt::layout(&[], 1), None);
    let (header, table) = disk(&[(0, u64::MAX)]);
    assert_eq!(gpt::layout(&header, 1).unwrap().partitions(&table), None, "more sectors than a number holds");
}
