//! Which pages are in the balloon: a stack of page numbers that costs 4 bytes a page.
//!
//! It grows in chunks, ahead of need, and never moves what it has; taking pages out neither allocates nor frees.

use crate::pages::Pfn;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// Page numbers of a chunk: a page of them.
const CHUNK: usize = 1024;

#[derive(Default)]
pub(crate) struct PageList {
    /// Chunks of equal capacity; those after the one in use are empty.
    chunks: Vec<Vec<Pfn>>,
    len: usize,
}

impl PageList {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes room for `more` pages.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        while self.chunks.len() * CHUNK < self.len + more {
            self.chunks.try_reserve(1)?;
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK)?;
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// Adds a page, for which there is room.
    pub(crate) fn push(&mut self, page: Pfn) {
        self.chunks[self.len / CHUNK].push(page);
        self.len += 1;
    }

    /// Takes the page that was added last. Frees nothing: the heap may be in the middle of asking for it.
    pub(crate) fn pop(&mut self) -> Option<Pfn> {
        self.len = self.len.checked_sub(1)?;
        self.chunks[self.len / CHUNK].pop()
    }

    /// Frees chunks, except for one after the one in use.
    pub(crate) fn trim(&mut self) {
        self.chunks.truncate(self.len / CHUNK + 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_last_first_across_chunks() {
        let mut list = PageList::default();
        for _ in 0..2 {
            for number in 0..5000 {
                list.reserve(1).unwrap();
                list.push(Pfn::new(number));
            }
            assert_eq!(list.len(), 5000);
            for number in (0..5000).rev() {
                assert_eq!(list.pop(), Some(Pfn::new(number)));
            }
            assert_eq!(list.pop(), None);
        }
    }

    #[test]
    fn trimming_frees_all_but_one_spare_chunk() {
        let mut list = PageList::default();
        list.reserve(10 * CHUNK).unwrap();
        (0..10 * CHUNK).for_each(|number| list.push(Pfn::new(number as u32)));
        (0..9 * CHUNK).for_each(|_| assert!(list.pop().is_some()));
        assert_eq!(list.chunks.len(), 10);
        list.trim();
        assert_eq!(list.chunks.len(), 3);
        assert_eq!(list.len(), CHUNK);
    }
}
