//! A request of the inflate or the deflate queue: an array of page numbers, in DMA memory for the device and in private
//! memory for us.

use crate::pages::Pfn;
use alloc::vec::Vec;
use frontends::memory::{DmaBuffer, DmaPages};
use frontends::ring::{Ring, Segment};

/// Bytes of an entry.
const ENTRY: usize = size_of::<u32>();
/// Entries that are put together before they are copied.
const CHUNK: usize = 64;

/// One request at a time.
pub(crate) struct Batch {
    array: DmaBuffer,
    /// The pages on their way; those that the kernel uses again already are not listed.
    pub(crate) pages: Vec<Pfn>,
    /// How many pages the request has.
    pub(crate) count: u16,
    head: Option<u16>,
}

impl Batch {
    pub(crate) fn new(dma: &'static dyn DmaPages, capacity: usize) -> Option<Self> {
        let array = DmaBuffer::allocate_shared(dma, capacity * size_of::<u32>())?;
        Some(Self { array, pages: Vec::with_capacity(capacity), count: 0, head: None })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.array.capacity().min(self.pages.capacity() * size_of::<u32>()) / size_of::<u32>()
    }

    /// Whether the device has it.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.head.is_some()
    }

    /// Sends `pages`. False if the ring has no room.
    pub(crate) fn send(&mut self, ring: &mut Ring) -> bool {
        let len = self.pages.len() * size_of::<u32>();
        self.array.set_len(len);
        for (index, pages) in self.pages.chunks(CHUNK).enumerate() {
            let mut entries = [[0; ENTRY]; CHUNK];
            for (entry, page) in entries.iter_mut().zip(pages) {
                *entry = page.number().to_le_bytes();
            }
            self.array.copy_from(index * CHUNK * ENTRY, entries[..pages.len()].as_flattened());
        }
        self.count = self.pages.len() as u16;
        self.head = ring.push(&[Segment::readable(self.array.device_address(), len as u32)]);
        self.head.is_some()
    }

    /// Sends the same once more if the device has it, in a ring that was cleared.
    pub(crate) fn send_again(&mut self, ring: &mut Ring) {
        if self.head.is_some() {
            self.head = ring.push(&[Segment::readable(self.array.device_address(), self.array.len() as u32)]);
        }
    }

    /// Notes that the device returned a chain; true if it was this one.
    pub(crate) fn returned(&mut self, head: u16) -> bool {
        let ours = self.head == Some(head);
        if ours {
            self.head = None;
        }
        ours
    }

    /// Gives up the array, which the device may still read. The pages stay listed. Returns the pages of the array.
    pub(crate) fn abandon(&mut self, reset_confirmed: bool) -> usize {
        match self.head.take() {
            Some(_) if !reset_confirmed => self.array.leak(),
            _ => 0,
        }
    }
}
