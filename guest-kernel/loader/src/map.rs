//! The memory map that the kernel gets: sorted, without overlaps, neighbours of one kind merged.

use core::ops::Range;
use shared_abi::pvh::{MemmapEntry, MemmapKind};

/// Entries that are kept; what is beyond stays unused memory.
pub(crate) const ENTRIES_MAX: usize = 256;
const PAGE: u64 = 4096;

/// What the firmware said.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    entries: heapless::Vec<MemmapEntry, ENTRIES_MAX>,
}

impl MemoryMap {
    /// Nothing.
    pub const fn new() -> Self {
        Self { entries: heapless::Vec::new() }
    }

    /// Adds a range that firmware reports, in any order. Where two overlap, what is not RAM wins.
    pub fn add(&mut self, addr: u64, size: u64, kind: MemmapKind) {
        let mut start = addr;
        let end = addr.saturating_add(size);
        if kind != MemmapKind::RAM {
            self.cut_ram(start..end);
        }
        // Only the pieces that are not there yet.
        let mut index = 0;
        while start < end {
            let next = self.entries.get(index).map(|entry| (entry.addr, entry.addr + entry.size));
            match next {
                Some((_, taken)) if taken <= start => index += 1,
                Some((first, taken)) if first <= start => start = taken,
                other => {
                    let stop = other.map_or(end, |(first, _)| first.min(end));
                    if self.insert(index, start..stop, kind).is_none() {
                        return;
                    }
                    start = stop;
                }
            }
        }
        self.merge();
    }

    fn insert(&mut self, index: usize, range: Range<u64>, kind: MemmapKind) -> Option<()> {
        let entry = MemmapEntry { addr: range.start, size: range.end - range.start, kind, reserved: 0 };
        self.entries.insert(index, entry).ok()
    }

    fn cut_ram(&mut self, hole: Range<u64>) {
        let mut index = 0;
        while let Some(&entry) = self.entries.get(index) {
            let end = entry.addr + entry.size;
            if entry.kind != MemmapKind::RAM || end <= hole.start || hole.end <= entry.addr {
                index += 1;
                continue;
            }
            self.entries.remove(index);
            for piece in [entry.addr..hole.start, hole.end..end] {
                if piece.start < piece.end && self.insert(index, piece, MemmapKind::RAM).is_some() {
                    index += 1;
                }
            }
        }
    }

    fn merge(&mut self) {
        let mut index: usize = 1;
        while let (Some(&before), Some(&entry)) = (self.entries.get(index.wrapping_sub(1)), self.entries.get(index)) {
            if before.kind == entry.kind && before.addr + before.size == entry.addr {
                self.entries[index - 1].size += entry.size;
                self.entries.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// What the kernel gets.
    pub fn entries(&self) -> &[MemmapEntry] {
        &self.entries
    }

    /// Whether all of a range is RAM.
    pub fn is_ram(&self, range: &Range<u64>) -> bool {
        self.ram().any(|ram| ram.start <= range.start && range.end <= ram.end)
    }

    /// The highest pages below 4 GiB that are RAM, apart from some ranges.
    pub fn place(&self, len: u64, taken: &[Range<u64>]) -> Option<u64> {
        let mut best = None;
        for ram in self.ram() {
            let mut end = ram.end.min(1 << 32);
            // Down from the end, below each taken range that is in the way.
            while let Some(start) = end.checked_sub(len).map(|start| start / PAGE * PAGE) {
                if start < ram.start || start == 0 {
                    break;
                }
                match taken.iter().find(|taken| taken.start < start + len && start < taken.end) {
                    Some(taken) => end = taken.start,
                    None => {
                        best = best.max(Some(start));
                        break;
                    }
                }
            }
        }
        best
    }

    fn ram(&self) -> impl Iterator<Item = Range<u64>> {
        let ram = self.entries.iter().filter(|entry| entry.kind == MemmapKind::RAM);
        ram.map(|entry| entry.addr..entry.addr + entry.size)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn map(parts: &[(u64, u64, MemmapKind)]) -> MemoryMap {
        let mut map = MemoryMap::new();
        parts.iter().for_each(|&(start, end, kind)| map.add(start, end - start, kind));
        map
    }

    fn ranges(map: &MemoryMap) -> Vec<(u64, u64, u32)> {
        map.entries().iter().map(|entry| (entry.addr, entry.addr + entry.size, entry.kind.0)).collect()
    }

    const RAM: MemmapKind = MemmapKind::RAM;
    const RESERVED: MemmapKind = MemmapKind::RESERVED;
    const ACPI: MemmapKind = MemmapKind::ACPI;

    #[test]
    fn ranges_in_any_order_come_out_sorted_and_neighbours_merged() {
        let map = map(&[(0x5000, 0x9000, RAM), (0, 0x2000, RAM), (0x2000, 0x5000, RAM), (0x9000, 0xa000, ACPI)]);
        assert_eq!(ranges(&map), [(0, 0x9000, 1), (0x9000, 0xa000, 3)]);
    }

    #[test]
    fn reserved_ranges_win_over_ram_in_either_order() {
        let expected = [(0, 0x2000, 1), (0x2000, 0x3000, 2), (0x3000, 0x9000, 1)];
        assert_eq!(ranges(&map(&[(0, 0x9000, RAM), (0x2000, 0x3000, RESERVED)])), expected);
        assert_eq!(ranges(&map(&[(0x2000, 0x3000, RESERVED), (0, 0x9000, RAM)])), expected);
    }

    #[test]
    fn ranges_that_wrap_or_are_empty_do_no_harm() {
        let map = map(&[(0, 0, RAM), (0x1000, 0x2000, RAM)]);
        assert_eq!(ranges(&map), [(0x1000, 0x2000, 1)]);
        let mut map = map;
        map.add(u64::MAX - 10, 100, RAM);
        assert!(!map.is_ram(&(0..1)));
    }

    #[test]
    fn more_ranges_than_are_kept_lose_memory_and_nothing_else() {
        let mut map = MemoryMap::new();
        (0..1000).for_each(|index| map.add(index * 0x2000, 0x1000, RAM));
        assert_eq!(map.entries().len(), ENTRIES_MAX);
    }

    #[test]
    fn places_are_as_high_as_possible_below_4_gib_and_free() {
        let map = map(&[(0x1000, 0x9_f000, RAM), (0x10_0000, 0x400_0000, RAM), (1 << 32, 8 << 32, RAM)]);
        assert_eq!(map.place(0x1800, &[]), Some(0x3ff_e000));
        assert_eq!(map.place(0x1000, &[0..0, 0x200_0000..0x400_0000]), Some(0x1ff_f000));
        assert_eq!(map.place(0x1000, &[0..0, 0x10_0000..0x400_0000]), Some(0x9_e000));
        assert_eq!(map.place(1 << 30, &[]), None);
        assert!(map.is_ram(&(0x20_0000..0x30_0000)) && !map.is_ram(&(0x9_0000..0x11_0000)));
    }
}
