//! Free page reporting (section 5.5.6.8): free blocks are lent to the device, which may drop their memory, and go back
//! to the allocator when it returns them.

use crate::pages::{FreeBlock, PageSource, Report};
use alloc::vec::Vec;
use frontends::error::Violation;
use frontends::ring::{Ring, Segment};

pub(crate) struct Reporter {
    pub(crate) ring: Ring,
    /// The blocks that the device has, and the chain that lists them.
    lent: Vec<FreeBlock>,
    chain: Vec<Segment>,
}

impl Reporter {
    pub(crate) fn new(ring: Ring) -> Self {
        let blocks = ring.chain().into();
        Self { ring, lent: Vec::with_capacity(blocks), chain: Vec::with_capacity(blocks) }
    }

    /// Takes back what the device is done with. Returns the pages that were reported.
    pub(crate) fn take_back<P: PageSource>(&mut self, source: &mut P) -> Result<u64, Violation> {
        let mut pages = 0;
        if self.ring.pop()?.is_some() {
            for block in self.lent.drain(..) {
                pages += u64::from(block.pages);
                source.return_free_block(block, Report::Reported);
            }
        }
        Ok(pages)
    }

    /// Whether the device has blocks.
    pub(crate) fn is_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    /// Lends the next blocks, one chain at a time.
    pub(crate) fn lend<P: PageSource>(&mut self, source: &mut P) {
        if !self.lent.is_empty() {
            return;
        }
        self.chain.clear();
        let mut room = u32::MAX;
        while self.lent.len() < self.ring.chain().into() {
            let Some(block) = source.take_free_block() else { break };
            let len = block.pages.checked_mul(virtio_abi::balloon::PAGE_SIZE as u32);
            let Some((len, rest)) = len.and_then(|len| Some((len, room.checked_sub(len)?))) else {
                source.return_free_block(block, Report::NotReported);
                break;
            };
            room = rest;
            self.chain.push(Segment::writable(block.first.address(), len));
            self.lent.push(block);
        }
        if !self.lent.is_empty() && self.ring.push(&self.chain).is_none() {
            self.return_all(source);
        }
    }

    /// Lends the same blocks again, in a ring that was cleared.
    pub(crate) fn restart(&mut self) {
        if !self.lent.is_empty() {
            self.ring.push(&self.chain);
        }
    }

    /// Gives everything back unreported, after the device was reset.
    pub(crate) fn return_all<P: PageSource>(&mut self, source: &mut P) {
        for block in self.lent.drain(..) {
            source.return_free_block(block, Report::NotReported);
        }
    }

    /// Gives up what the device may still write to: the ring, and the lent blocks. Returns the pages.
    pub(crate) fn leak(&mut self) -> usize {
        self.ring.leak() + self.lent.drain(..).map(|block| block.pages as usize).sum::<usize>()
    }
}
