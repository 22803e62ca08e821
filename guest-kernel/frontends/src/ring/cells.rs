//! Ring memory: cells that the device may change at any time.
//!
//! Used by the ring only. No reference is ever made to this memory; every access is one atomic load or store of a cell,
//! so a device that scribbles while we read gives us some value, never undefined behaviour.

use crate::memory::{DmaBuffer, DmaPages};
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use shared_abi::virtio::ring::{Descriptor, UsedElement};

/// DMA memory that is accessed cell by cell.
pub(super) struct Cells {
    memory: DmaBuffer,
}

impl Cells {
    pub(super) fn allocate(dma: &'static dyn DmaPages, len: usize) -> Option<Self> {
        Some(Self { memory: DmaBuffer::allocate(dma, len)? })
    }

    pub(super) fn device_address(&self) -> u64 {
        self.memory.device_address()
    }

    pub(super) fn leak(&mut self) -> usize {
        self.memory.leak()
    }

    /// A pointer to a cell, checked for bounds and alignment.
    fn cell<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.memory.len() && offset.is_multiple_of(size_of::<T>()));
        // SAFETY: the offset was just checked against the allocation.
        unsafe { self.memory.as_ptr().as_ptr().add(offset).cast() }
    }

    pub(super) fn load16(&self, offset: usize, ordering: Ordering) -> u16 {
        // SAFETY: `cell` gives a valid, aligned pointer into pages that live as long as self, and all accesses to them
        // are atomic.
        unsafe { AtomicU16::from_ptr(self.cell(offset)) }.load(ordering)
    }

    pub(super) fn store16(&self, offset: usize, value: u16, ordering: Ordering) {
        // SAFETY: as in `load16`.
        unsafe { AtomicU16::from_ptr(self.cell(offset)) }.store(value, ordering);
    }

    /// Writes a descriptor. It becomes visible to the device with the next release store.
    pub(super) fn write_descriptor(&self, offset: usize, descriptor: Descriptor) {
        let Descriptor { addr, len, flags, next } = descriptor;
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        // SAFETY: as in `load16`, for both halves.
        unsafe {
            AtomicU64::from_ptr(self.cell(offset)).store(addr, Ordering::Relaxed);
            AtomicU64::from_ptr(self.cell(offset + 8)).store(rest, Ordering::Relaxed);
        }
    }

    /// Reads an entry of the used ring: each field once.
    pub(super) fn read_used(&self, offset: usize) -> UsedElement {
        // SAFETY: as in `load16`; the entries are 8 bytes long in a ring that starts aligned to 4.
        unsafe {
            UsedElement {
                id: AtomicU32::from_ptr(self.cell(offset)).load(Ordering::Relaxed),
                len: AtomicU32::from_ptr(self.cell(offset + 4)).load(Ordering::Relaxed),
            }
        }
    }
}
