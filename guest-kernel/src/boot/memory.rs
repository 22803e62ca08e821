//! Which memory is the kernel's, out of a firmware's map: ranges in any order, that overlap, that contradict each other. Where
//! they do, what is not RAM wins. `info` feeds it with every entry of the loader's map.

use crate::mm::Range;
use heapless::Vec;

/// Pieces of RAM that are kept: a firmware's map has about a hundred entries, most of which join.
pub(super) const PIECES_MAX: usize = 128;
/// RAM above is not used: the direct map ends there.
const END: u64 = 1 << 46;
const PAGE: u64 = 4096;

/// RAM, as far as the map has been read: sorted, apart from each other.
#[derive(Default)]
pub(super) struct Map {
    pieces: Vec<Range, PIECES_MAX>,
    lost: u64,
}

impl Map {
    /// Bytes that there was no place for: the shortest pieces go first.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Adds RAM. All of it comes before what is [taken out](Self::remove).
    pub(super) fn add(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len).min(END);
        if start >= end {
            return;
        }
        let mut new = Range { start, end };
        // Those that it touches become one with it.
        let first = self.pieces.partition_point(|piece| piece.end < new.start);
        while let Some(&piece) = self.pieces.get(first).filter(|piece| piece.start <= new.end) {
            new = Range { start: new.start.min(piece.start), end: new.end.max(piece.end) };
            self.pieces.remove(first);
        }
        self.insert(first, new);
    }

    /// Takes out what is not RAM.
    pub(super) fn remove(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len);
        let mut index = self.pieces.partition_point(|piece| piece.end <= start);
        while let Some(piece) = self.pieces.get_mut(index).filter(|piece| piece.start < end && start < end) {
            match (piece.start < start, end < piece.end) {
                (true, true) => {
                    let rest = Range { start: end, end: piece.end };
                    piece.end = start;
                    return self.insert(index + 1, rest);
                }
                (true, false) => {
                    piece.end = start;
                    index += 1;
                }
                (false, true) => {
                    piece.start = end;
                    return;
                }
                (false, false) => {
                    self.pieces.remove(index);
                }
            }
        }
    }

    fn insert(&mut self, mut at: usize, new: Range) {
        if self.pieces.is_full() {
            let shortest = self.pieces.iter().enumerate().min_by_key(|(_, piece)| piece.len());
            let Some((index, len)) = shortest.map(|(index, piece)| (index, piece.len())) else { return };
            self.lost += len.min(new.len());
            if new.len() <= len {
                return;
            }
            self.pieces.remove(index);
            at -= usize::from(index < at);
        }
        let _ = self.pieces.insert(at, new);
    }

    /// Whole pages, sorted, apart from each other.
    pub(super) fn finish(self) -> Vec<Range, PIECES_MAX> {
        let whole = |piece: Range| Range { start: piece.start.next_multiple_of(PAGE), end: piece.end / PAGE * PAGE };
        self.pieces.into_iter().map(whole).filter(|piece| piece.start < piece.end).collect()
    }
}

#[cfg(test)]
mod tests;
