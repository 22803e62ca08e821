//! Maps as firmware makes them, and worse.

use crate::boot::memory::{Map, PIECES_MAX};
use crate::mm::Range;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn range(start: u64, end: u64) -> Range {
    Range { start, end }
}

/// RAM, then what is not, as start and end.
fn map(ram: &[(u64, u64)], other: &[(u64, u64)]) -> Vec<Range> {
    let mut map = Map::default();
    ram.iter().for_each(|&(start, end)| map.add(start, end - start));
    other.iter().for_each(|&(start, end)| map.remove(start, end - start));
    assert_eq!(map.lost(), 0);
    map.finish().to_vec()
}

#[test]
fn a_pc_s_map_with_memory_above_4_gib_comes_out_in_whole_pages() {
    let ram = [(0, 0x9_fc00), (MIB, 0xbffd_f000), (4 * GIB, 7 * GIB)];
    let other = [(0x9_fc00, 0xa_0000), (0xf_0000, MIB), (0xbffd_f000, 0xc000_0000), (0xfeff_c000, 0xff00_0000)];
    assert_eq!(map(&ram, &other), [range(0, 0x9_f000), range(MIB, 0xbffd_f000), range(4 * GIB, 7 * GIB)]);
}

#[test]
fn order_does_not_matter_and_neighbours_join() {
    let ram = [(3 * MIB, 4 * MIB), (MIB, 2 * MIB), (8 * MIB, 9 * MIB), (2 * MIB, 3 * MIB), (MIB + 5, 2 * MIB)];
    assert_eq!(map(&ram, &[]), [range(MIB, 4 * MIB), range(8 * MIB, 9 * MIB)]);
}

#[test]
fn what_is_not_ram_wins_wherever_it_overlaps() {
    let ram = [(MIB, 16 * MIB)];
    let other = [
        // Over the start, inside, over two holes at once, a single byte, over the end, nothing at all.
        (0, 2 * MIB),
        (4 * MIB, 5 * MIB),
        (4 * MIB + 1, 6 * MIB + 7),
        (8 * MIB + 5, 8 * MIB + 6),
        (15 * MIB, 20 * MIB),
        (10 * MIB, 10 * MIB),
    ];
    let expected = [range(2 * MIB, 4 * MIB), range(6 * MIB + 4096, 8 * MIB), range(8 * MIB + 4096, 15 * MIB)];
    assert_eq!(map(&ram, &other), expected);
}

#[test]
fn ends_beyond_all_addresses_are_cut() {
    let mut map = Map::default();
    map.add(MIB, u64::MAX);
    map.add(u64::MAX - 4096, 8192);
    map.remove(GIB, u64::MAX);
    assert_eq!(map.finish().to_vec(), [range(MIB, GIB)]);
}

#[test]
fn of_too_many_pieces_the_shortest_are_given_up_and_counted() {
    let mut map = Map::default();
    // One page, two pages, …: apart from each other, the shortest in the middle of what is added.
    let count = PIECES_MAX as u64 + 10;
    let sizes: Vec<u64> = (1..=count).rev().map(|pages| pages * 4096).collect();
    sizes.iter().enumerate().for_each(|(index, size)| map.add((index as u64 + 1) * MIB, *size));
    assert_eq!(map.lost(), (1..=10).map(|pages| pages * 4096).sum::<u64>());
    // A hole in the longest splits it: one more is lost.
    map.remove(MIB + 4096, 4096);
    let pieces = map.finish();
    assert_eq!(pieces.len(), PIECES_MAX);
    assert_eq!(
        pieces[0],
        range(MIB + 2 * 4096, MIB + sizes[0]),
        "of the two halves and all others a page was the shortest"
    );
}

proptest! {
    /// Page by page: RAM is what some entry calls RAM all through and no entry calls something else.
    #[test]
    fn every_page_is_ram_exactly_if_all_of_it_is_and_nothing_else_says_otherwise(
        ram in proptest::collection::vec((0..64_u64, 0..20_u64), 0..20),
        other in proptest::collection::vec((0..256_u64, 0..30_u64), 0..20),
    ) {
        let mut map = Map::default();
        ram.iter().for_each(|&(start, len)| map.add(start * 4096, len * 4096));
        // In quarters of pages.
        other.iter().for_each(|&(start, len)| map.remove(start * 1024, len * 1024));
        prop_assert_eq!(map.lost(), 0);
        let pieces = map.finish();
        prop_assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for page in 0..100_u64 {
            let usable = pieces.iter().any(|piece| piece.start <= page * 4096 && (page + 1) * 4096 <= piece.end);
            let is_ram = ram.iter().any(|&(start, len)| start <= page && page < start + len);
            let is_taken = other.iter().any(|&(start, len)| start < page * 4 + 4 && page * 4 < start + len && len > 0);
            prop_assert_eq!(usable, is_ram && !is_taken, "page {}", page);
        }
    }
}
