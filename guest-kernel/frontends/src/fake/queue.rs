//! The device's side of a split ring, honest by itself, with the raw writes that a liar needs.

use super::Memory;
use crate::ring::{Access, Segment, needs_notification};
use crate::transport::QueueLayout;
use alloc::vec::Vec;
use core::num::Wrapping;
use virtio_abi::CommonFeatures;
use virtio_abi::ring::{
    AVAIL_NO_INTERRUPT, Descriptor, DescriptorFlags, ENTRIES_OFFSET, INDEX_OFFSET, USED_NO_NOTIFY, UsedElement,
    avail_event_offset, used_event_offset,
};
use zerocopy::{FromBytes, IntoBytes};

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its head.
    pub head: u16,
    /// Its segments, those of an indirect table included.
    pub segments: Vec<Segment>,
    /// Whether they came from an indirect table.
    pub indirect: bool,
}

impl Chain {
    /// Bytes that the device may write.
    pub fn writable(&self) -> u32 {
        self.segments.iter().filter(|s| s.access == Access::DeviceWrites).map(|s| s.len).sum()
    }

    /// All that the device may read.
    pub fn read(&self, memory: &Memory) -> Vec<u8> {
        let readable = self.segments.iter().filter(|s| s.access == Access::DeviceReads);
        readable.flat_map(|s| memory.read(s.address, s.len as usize)).collect()
    }

    /// Writes from the start of what the device may write; returns how much fitted.
    pub fn write(&self, memory: &Memory, mut bytes: &[u8]) -> u32 {
        let before = bytes.len();
        for segment in self.segments.iter().filter(|s| s.access == Access::DeviceWrites) {
            let (now, later) = bytes.split_at(bytes.len().min(segment.len as usize));
            memory.write(segment.address, now);
            bytes = later;
        }
        (before - bytes.len()) as u32
    }
}

/// The device's side of a queue.
pub struct DeviceQueue {
    memory: &'static Memory,
    layout: QueueLayout,
    event_idx: bool,
    next_available: u16,
    /// Used entries so far.
    pub used_index: u16,
    signalled: u16,
}

impl DeviceQueue {
    pub(super) fn new(memory: &'static Memory, layout: QueueLayout, features: u64) -> Self {
        let event_idx = features & CommonFeatures::EVENT_IDX.bits() != 0;
        Self { memory, layout, event_idx, next_available: 0, used_index: 0, signalled: 0 }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Takes the next chain.
    pub fn next_chain(&mut self) -> Option<Chain> {
        let available = self.layout.available;
        if self.memory.read16(available + INDEX_OFFSET as u64) == self.next_available {
            return None;
        }
        let slot = self.next_available % self.layout.size;
        self.next_available = self.next_available.wrapping_add(1);
        let head = self.memory.read16(available + ENTRIES_OFFSET as u64 + 2 * u64::from(slot));
        let mut segments = Vec::new();
        let first = self.descriptor(self.layout.descriptors, head);
        let indirect = first.flags & DescriptorFlags::INDIRECT.bits() != 0;
        let (table, mut at, limit) = if indirect {
            (first.addr, 0, first.len / 16)
        } else {
            (self.layout.descriptors, head, self.size().into())
        };
        loop {
            let descriptor = self.descriptor(table, at);
            let flags = DescriptorFlags::from_bits_retain(descriptor.flags);
            let access =
                if flags.contains(DescriptorFlags::WRITE) { Access::DeviceWrites } else { Access::DeviceReads };
            segments.push(Segment { address: descriptor.addr, len: descriptor.len, access });
            if !flags.contains(DescriptorFlags::NEXT) {
                return Some(Chain { head, segments, indirect });
            }
            at = descriptor.next;
            assert!(u32::from(at) < limit && segments.len() < limit as usize, "the driver made a bad chain");
        }
    }

    /// Returns a chain.
    pub fn complete(&mut self, chain: &Chain, len: u32) {
        self.write_used(self.used_index, chain.head.into(), len);
        self.set_used_index(self.used_index.wrapping_add(1));
    }

    /// Writes an entry of the used ring, without moving the index.
    pub fn write_used(&mut self, index: u16, id: u32, len: u32) {
        let slot = u64::from(index % self.layout.size);
        let at = self.layout.used + ENTRIES_OFFSET as u64 + size_of::<UsedElement>() as u64 * slot;
        self.memory.write(at, UsedElement { id, len }.as_bytes());
    }

    /// Moves the used index.
    pub fn set_used_index(&mut self, index: u16) {
        self.used_index = index;
        self.memory.write(self.layout.used + INDEX_OFFSET as u64, &index.to_le_bytes());
    }

    /// Asks to be notified when the available index passes `index` (with EVENT_IDX).
    pub fn ask_for_notification_at(&mut self, index: u16) {
        self.memory.write(self.layout.used + avail_event_offset(self.size()) as u64, &index.to_le_bytes());
    }

    /// Asks to be notified of the next chain (with EVENT_IDX).
    pub fn ask_for_notification(&mut self) {
        self.ask_for_notification_at(self.next_available);
    }

    /// Asks for no notifications (without EVENT_IDX), or for them again.
    pub fn set_no_notify(&mut self, flags: u16) {
        debug_assert!(flags & !USED_NO_NOTIFY == 0);
        self.memory.write(self.layout.used, &flags.to_le_bytes());
    }

    /// Writes a byte to the descriptors or the available ring, which are the driver's.
    pub fn scribble(&self, at: usize, byte: u8) {
        let descriptors = size_of::<Descriptor>() * usize::from(self.size());
        let available = used_event_offset(self.size()) + size_of::<u16>();
        let at = at % (descriptors + available);
        let address = match at.checked_sub(descriptors) {
            Some(at) => self.layout.available + at as u64,
            None => self.layout.descriptors + at as u64,
        };
        self.memory.write(address, &[byte]);
    }

    /// Whether the driver wants an interrupt for what was used since the last call.
    pub fn interrupt_wanted(&mut self) -> bool {
        let old = core::mem::replace(&mut self.signalled, self.used_index);
        if self.event_idx {
            let event = self.memory.read16(self.layout.available + used_event_offset(self.size()) as u64);
            needs_notification(Wrapping(event), Wrapping(old), Wrapping(self.used_index))
        } else {
            old != self.used_index && self.memory.read16(self.layout.available) & AVAIL_NO_INTERRUPT == 0
        }
    }

    fn descriptor(&self, table: u64, at: u16) -> Descriptor {
        let bytes = self.memory.read(table + 16 * u64::from(at), 16);
        Descriptor::read_from_bytes(&bytes).unwrap()
    }
}
