//! The driver's side of a split virtqueue (section 2.7).
//!
//! Drivers push chains of segments and pop used ones. What the ring has to know later (which descriptors are free,
//! which heads are in flight, how much the device may have written) it keeps in private memory and never reads back
//! from the shared one; the four values that the device writes (its index, ids, lengths, and when it wants to be
//! notified) are each read once and checked, or harmless.
//!
//! ```text
//! push     descriptors, ring entry           store release available index
//! publish  fence                             load its event index or flags: notify?
//! pop      load acquire used index           load entry, check
//! enable   store our event index or flags    fence, load used index: missed anything?
//! ```

#[cfg(test)]
mod tests;

use crate::cells::Cells;
use crate::error::{InitError, Violation};
use crate::memory::{DmaPages, Loan, PAGE_SIZE};
use crate::transport::QueueLayout;
use alloc::vec;
use alloc::vec::Vec;
use core::num::Wrapping;
use core::sync::atomic::{Ordering, fence};
use virtio_abi::CommonFeatures;
use virtio_abi::ring::{
    AVAIL_NO_INTERRUPT, Descriptor, DescriptorFlags, ENTRIES_OFFSET, FLAGS_OFFSET, INDEX_OFFSET, MAX_SIZE,
    USED_NO_NOTIFY, UsedElement, avail_event_offset, available_len, descriptor_table_len, used_event_offset, used_len,
};

/// Bytes of a descriptor.
const DESCRIPTOR: usize = size_of::<Descriptor>();
/// Descriptors in a page: the longest indirect table.
const MAX_CHAIN: u16 = (PAGE_SIZE / DESCRIPTOR) as u16;

/// A buffer, or a part of one, as one descriptor describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Device address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Who accesses it.
    pub access: Access,
}

impl Segment {
    /// A segment that the device reads.
    pub const fn readable(address: u64, len: u32) -> Self {
        Self { address, len, access: Access::DeviceReads }
    }

    /// A segment that the device writes.
    pub const fn writable(address: u64, len: u32) -> Self {
        Self { address, len, access: Access::DeviceWrites }
    }
}

/// What the device may do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device reads.
    DeviceReads,
    /// The device writes.
    DeviceWrites,
}

/// A chain that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What `push` returned for it.
    pub head: u16,
    /// Bytes that the device says it wrote, never more than the writable segments have.
    pub len: u32,
}

/// What we know about a descriptor, in private memory.
#[derive(Clone, Copy, Default)]
struct Shadow {
    /// The next descriptor of the chain in flight, or of the free list.
    next: u16,
    /// Descriptors of the chain in flight that starts here; 0 if none does.
    count: u16,
    /// Bytes of that chain that the device may write, and that it may only read.
    writable: u32,
    readable: u32,
}

/// The driver's side of a split virtqueue.
pub struct Ring {
    queue: u16,
    size: u16,
    chain: u16,
    event_idx: bool,
    cells: Cells,
    /// Byte offsets in `cells`; the descriptor table is at 0.
    available: usize,
    used: usize,
    /// Indirect tables, one for each descriptor of the ring; empty without INDIRECT_DESC.
    tables: Vec<Cells>,
    shadows: Vec<Shadow>,
    free_head: u16,
    free_count: u16,
    in_flight: u16,
    /// The available index, and what it was at the last `publish`.
    next_available: Wrapping<u16>,
    published: Wrapping<u16>,
    /// The next used entry to take, and the used index as last read and checked.
    next_used: Wrapping<u16>,
    seen_used: Wrapping<u16>,
    miscounted: u64,
    /// How long the device has the memory, once it was shown.
    loan: Option<Loan>,
}

impl Ring {
    /// Makes a ring of `size` entries, a power of two, for chains of at most `chain` segments (or `size`, or as many as
    /// an indirect table in a page has, if that is less).
    pub fn new(
        queue: u16,
        size: u16,
        chain: u16,
        features: u64,
        dma: &'static dyn DmaPages,
    ) -> Result<Self, InitError> {
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(InitError::BadQueue { queue, size: size.into() });
        }
        let features = CommonFeatures::from_bits_retain(features);
        let chain = chain.clamp(1, size.min(MAX_CHAIN));
        let available = descriptor_table_len(size);
        let used = (available + available_len(size)).next_multiple_of(4);
        let no_memory = || InitError::NoMemory { what: "a ring" };
        let cells = Cells::allocate(dma, used + used_len(size)).ok_or_else(no_memory)?;
        let mut tables = Vec::new();
        if chain > 1 && features.contains(CommonFeatures::INDIRECT_DESC) {
            for _ in 0..size.div_ceil(MAX_CHAIN / chain) {
                tables.push(Cells::allocate(dma, PAGE_SIZE).ok_or_else(no_memory)?);
            }
        }
        let mut ring = Self {
            queue,
            size,
            chain,
            event_idx: features.contains(CommonFeatures::EVENT_IDX),
            cells,
            available,
            used,
            tables,
            shadows: vec![Shadow::default(); size.into()],
            free_head: 0,
            free_count: size,
            in_flight: 0,
            next_available: Wrapping(0),
            published: Wrapping(0),
            next_used: Wrapping(0),
            seen_used: Wrapping(0),
            miscounted: 0,
            loan: None,
        };
        ring.clear();
        Ok(ring)
    }

    /// Makes it empty, as new, for a device that was reset.
    pub(crate) fn clear(&mut self) {
        // Entries and descriptors need no clearing: none is read before its index says that it was written.
        for header in [self.available, self.used] {
            self.cells.store16(header + FLAGS_OFFSET, 0, Ordering::Relaxed);
            self.cells.store16(header + INDEX_OFFSET, 0, Ordering::Relaxed);
        }
        self.cells.store16(self.available + used_event_offset(self.size), 0, Ordering::Relaxed);
        self.cells.store16(self.used + avail_event_offset(self.size), 0, Ordering::Relaxed);
        for (next, shadow) in (1..).zip(&mut self.shadows) {
            *shadow = Shadow { next, ..Shadow::default() };
        }
        (self.free_head, self.free_count, self.in_flight) = (0, self.size, 0);
        (self.next_available, self.published) = (Wrapping(0), Wrapping(0));
        (self.next_used, self.seen_used) = (Wrapping(0), Wrapping(0));
    }

    /// The number of the queue.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Segments of the longest chain.
    pub fn chain(&self) -> u16 {
        self.chain
    }

    /// Where the device finds the ring.
    pub fn layout(&self) -> QueueLayout {
        let base = self.cells.device_address();
        QueueLayout {
            size: self.size,
            descriptors: base,
            available: base + self.available as u64,
            used: base + self.used as u64,
        }
    }

    /// Chains that the device has.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Whether `push` would take a chain of so many segments.
    pub fn has_room(&self, segments: usize) -> bool {
        segments > 0 && segments <= self.chain.into() && self.descriptors_for(segments) <= self.free_count.into()
    }

    /// The head that the next chain will have, if there is room for it.
    pub fn next_head(&self) -> u16 {
        self.free_head
    }

    /// Gives a chain to the device: first what it reads, then what it writes. Returns the head that names it, or
    /// `None` if there is no room. The device may take it at once, and must look for it after the next
    /// [`Ring::publish`].
    pub fn push(&mut self, segments: &[Segment]) -> Option<u16> {
        if !self.has_room(segments.len()) {
            return None;
        }
        let head = self.free_head;
        let count = self.descriptors_for(segments.len()) as u16;
        if segments.len() > 1 && count == 1 {
            self.write_indirect(head, segments);
        } else {
            self.write_direct(segments);
        }
        let shadow = &mut self.shadows[usize::from(head)];
        *shadow = Shadow { next: shadow.next, count, ..Shadow::default() };
        for segment in segments {
            let sum = match segment.access {
                Access::DeviceWrites => &mut shadow.writable,
                Access::DeviceReads => &mut shadow.readable,
            };
            *sum = sum.saturating_add(segment.len);
        }
        self.free_count -= count;
        self.in_flight += 1;

        let entry = self.available + ENTRIES_OFFSET + 2 * self.slot(self.next_available);
        self.cells.store16(entry, head, Ordering::Relaxed);
        self.next_available += 1;
        // Release: the descriptors and the entry are visible before the index that covers them.
        self.cells.store16(self.available + INDEX_OFFSET, self.next_available.0, Ordering::Release);
        Some(head)
    }

    /// Whether the device is to be notified of what was pushed since the last call.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_available);
        self.published = new;
        if old == new {
            return false;
        }
        // The device stores when it wants to be notified, then looks at our index again; we store our index, then look
        // at what it wants. With a full fence in between on both sides, at least one sees the other's store.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.cells.load16(self.used + avail_event_offset(self.size), Ordering::Relaxed);
            needs_notification(Wrapping(event), old, new)
        } else {
            self.cells.load16(self.used + FLAGS_OFFSET, Ordering::Relaxed) & USED_NO_NOTIFY == 0
        }
    }

    /// The next chain that the device is done with. After an error the ring is of no use any more.
    pub fn pop(&mut self) -> Result<Option<Used>, Violation> {
        let queue = self.queue;
        if self.next_used == self.seen_used {
            // Acquire: entries and buffer contents are read after the index that covers them.
            let index = Wrapping(self.cells.load16(self.used + INDEX_OFFSET, Ordering::Acquire));
            let advance = (index - self.next_used).0;
            if advance > self.in_flight {
                return Err(Violation::UsedIndexJump { queue, advance, in_flight: self.in_flight });
            }
            if advance == 0 {
                return Ok(None);
            }
            self.seen_used = index;
        }
        let entry = self.used + ENTRIES_OFFSET + size_of::<UsedElement>() * self.slot(self.next_used);
        let UsedElement { id, len } = self.cells.read_used(entry);
        if id >= self.size.into() {
            return Err(Violation::UsedIdOutOfRange { queue, id, size: self.size });
        }
        let head = id as u16;
        let Shadow { count, writable, readable, .. } = self.shadows[usize::from(head)];
        if count == 0 {
            return Err(Violation::UsedIdNotInFlight { queue, id });
        }
        if len > writable {
            // Devices in the field report what they moved, not what they wrote: the length of a sent frame, of a block
            // that was written. That is wrong and does no harm once cut; more than the whole chain is a lie in any
            // reading.
            if len > writable.saturating_add(readable) {
                return Err(Violation::UsedLengthTooLong { queue, id, len, writable });
            }
            if self.miscounted == 0 {
                log::warn!("queue {queue}: {len} bytes written to {writable}? cut, as the next such lengths will be");
            }
            self.miscounted += 1;
        }
        self.free(head, count);
        self.next_used += 1;
        Ok(Some(Used { head, len: len.min(writable) }))
    }

    /// Asks for an interrupt at the next used chain. True if there is one already: then no interrupt may come for it.
    pub fn enable_interrupts(&mut self) -> bool {
        if self.event_idx {
            let event = self.available + used_event_offset(self.size);
            self.cells.store16(event, self.next_used.0, Ordering::Relaxed);
        } else {
            self.cells.store16(self.available + FLAGS_OFFSET, 0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.next_used.0 != self.cells.load16(self.used + INDEX_OFFSET, Ordering::Relaxed)
    }

    /// Asks for no interrupts. The device may send one that is on its way, and with EVENT_IDX one in 65536 chains.
    pub fn disable_interrupts(&mut self) {
        if self.event_idx {
            // The index just before ours is the one that takes longest to come round.
            let event = self.available + used_event_offset(self.size);
            self.cells.store16(event, (self.next_used - Wrapping(1)).0, Ordering::Relaxed);
        } else {
            self.cells.store16(self.available + FLAGS_OFFSET, AVAIL_NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    /// Chains that came back with a length that counts what the device read.
    pub fn miscounted(&self) -> u64 {
        self.miscounted
    }

    /// Notes that the device is shown the ring, and for how long: until then dropping it frees nothing.
    pub(crate) fn lend(&mut self, loan: Loan) {
        self.loan = Some(loan);
    }

    /// Gives the ring's memory up for good, because the device may still use it. Returns the pages.
    pub fn leak(&mut self) -> usize {
        self.cells.leak() + self.tables.iter_mut().map(Cells::leak).sum::<usize>()
    }

    /// Descriptors of the ring that a chain takes.
    fn descriptors_for(&self, segments: usize) -> usize {
        if self.tables.is_empty() { segments } else { 1 }
    }

    fn slot(&self, index: Wrapping<u16>) -> usize {
        usize::from(index.0 & (self.size - 1))
    }

    /// Writes a chain into descriptors of the ring, from the head of the free list on, and takes them off it.
    fn write_direct(&mut self, segments: &[Segment]) {
        let mut at = self.free_head;
        for (index, segment) in segments.iter().enumerate() {
            let next = self.shadows[usize::from(at)].next;
            let link = if index + 1 < segments.len() { Some(next) } else { None };
            self.cells.write_descriptor(DESCRIPTOR * usize::from(at), descriptor(segment, link));
            at = next;
        }
        self.free_head = at;
    }

    /// Writes a chain into the head's own table, and one descriptor that points there.
    fn write_indirect(&mut self, head: u16, segments: &[Segment]) {
        let per_page = MAX_CHAIN / self.chain;
        let table = &self.tables[usize::from(head / per_page)];
        let base = DESCRIPTOR * usize::from(head % per_page * self.chain);
        for (index, segment) in (0..).zip(segments) {
            let link = if usize::from(index) + 1 < segments.len() { Some(index + 1) } else { None };
            table.write_descriptor(base + DESCRIPTOR * usize::from(index), descriptor(segment, link));
        }
        let indirect = Descriptor {
            addr: table.device_address() + base as u64,
            len: (DESCRIPTOR * segments.len()) as u32,
            flags: DescriptorFlags::INDIRECT.bits(),
            next: 0,
        };
        self.cells.write_descriptor(DESCRIPTOR * usize::from(head), indirect);
        self.free_head = self.shadows[usize::from(head)].next;
    }

    /// Puts a chain's descriptors back in front of the free list, by our own links.
    fn free(&mut self, head: u16, count: u16) {
        let mut tail = head;
        for _ in 1..count {
            tail = self.shadows[usize::from(tail)].next;
        }
        self.shadows[usize::from(tail)].next = self.free_head;
        self.shadows[usize::from(head)].count = 0;
        self.free_head = head;
        self.free_count += count;
        self.in_flight -= 1;
    }
}

impl Drop for Ring {
    /// A ring that its device may still use is leaked: the caller that drops it need not do so.
    fn drop(&mut self) {
        if self.loan.as_ref().is_some_and(|loan| !loan.is_over()) {
            self.leak();
        }
    }
}

/// Whether the step of an index from `old` to `new` passed `event` (section 2.7.10): the one place that decides about
/// notifications, in arithmetic that wraps.
pub fn needs_notification(event: Wrapping<u16>, old: Wrapping<u16>, new: Wrapping<u16>) -> bool {
    new - event - Wrapping(1) < new - old
}

fn descriptor(segment: &Segment, next: Option<u16>) -> Descriptor {
    let mut flags = DescriptorFlags::empty();
    flags.set(DescriptorFlags::WRITE, segment.access == Access::DeviceWrites);
    flags.set(DescriptorFlags::NEXT, next.is_some());
    Descriptor { addr: segment.address, len: segment.len, flags: flags.bits(), next: next.unwrap_or(0) }
}
