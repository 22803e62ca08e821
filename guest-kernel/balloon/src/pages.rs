//! The kernel's page allocator, as the balloon sees it.
//!
//! The kernel implements [`PageSource`] and passes it to each call, so the balloon holds no lock of the allocator.

/// Number of a page of 4096 bytes of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(u32);

impl Pfn {
    /// The page with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its address.
    pub const fn address(self) -> u64 {
        self.0 as u64 * 4096
    }
}

/// Free pages that lie together, less than 4 GiB, and stay allocated while they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeBlock {
    /// The first.
    pub first: Pfn,
    /// How many.
    pub pages: u32,
}

/// What the host may ask for; in bytes, but for the counts. `None` is left out of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// All of the kernel's memory.
    pub total: Option<u64>,
    /// Unused memory.
    pub free: Option<u64>,
    /// What an inflation could get.
    pub available: Option<u64>,
    /// Memory that only caches.
    pub caches: Option<u64>,
    /// Page faults that needed no I/O.
    pub minor_faults: Option<u64>,
    /// Page faults that needed I/O.
    pub major_faults: Option<u64>,
}

/// The kernel's page allocator.
pub trait PageSource {
    /// Gives a page to the balloon; `None` rather than touch the kernel's reserve.
    fn take_page(&mut self) -> Option<Pfn>;
    /// Takes a page of the balloon back. Its content is lost.
    fn return_page(&mut self, page: Pfn);
    /// How many pages `take_page` could give now. Asked before inflating and, after pages went back for want of memory,
    /// before the balloon grows again.
    fn spare_pages(&self) -> u32 {
        u32::MAX
    }
    /// Numbers for the host.
    fn statistics(&self) -> Statistics;
    /// Lends a free block that was not reported since it became free; `None` if there is none worth it, or rather than
    /// touch the reserve.
    fn take_free_block(&mut self) -> Option<FreeBlock> {
        None
    }
    /// Takes a lent block back: reported (its content is lost), or not.
    fn return_free_block(&mut self, block: FreeBlock, outcome: Report) {
        let _ = (block, outcome);
    }
}

/// What became of a lent block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The host knows that it is free.
    Reported,
    /// The host does not.
    NotReported,
}
