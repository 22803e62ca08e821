//! Memory that the device may change at any time, accessed cell by cell.
//!
//! Used by the rings and by drivers whose requests carry small fields. No reference is ever made to this memory;
//! every access is one atomic load or store of a cell, so a device that scribbles while we read gives us some value,
//! never undefined behaviour.

use crate::memory::{DmaBuffer, DmaPages};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use virtio_abi::ring::{Descriptor, UsedElement};

/// DMA memory that is accessed cell by cell.
pub(crate) struct Cells {
    memory: DmaBuffer,
}

impl Cells {
    pub(crate) fn allocate(dma: &'static dyn DmaPages, len: usize) -> Option<Self> {
        Some(Self { memory: DmaBuffer::allocate_shared(dma, len)? })
    }

    pub(crate) fn device_address(&self) -> u64 {
        self.memory.device_address()
    }

    pub(crate) fn leak(&mut self) -> usize {
        self.memory.leak()
    }

    /// A pointer to a cell, checked for bounds and alignment.
    fn cell<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.memory.len() && offset.is_multiple_of(size_of::<T>()));
        // SAFETY: the offset was just checked against the allocation.
        unsafe { self.memory.as_ptr().as_ptr().add(offset).cast() }
    }

    pub(crate) fn load16(&self, offset: usize, ordering: Ordering) -> u16 {
        // SAFETY: `cell` gives a valid, aligned pointer into pages that live as long as self, and all accesses to them
        // are atomic.
        unsafe { AtomicU16::from_ptr(self.cell(offset)) }.load(ordering)
    }

    pub(crate) fn store16(&self, offset: usize, value: u16, ordering: Ordering) {
        // SAFETY: as in `load16`.
        unsafe { AtomicU16::from_ptr(self.cell(offset)) }.store(value, ordering);
    }

    pub(crate) fn load8(&self, offset: usize) -> u8 {
        // SAFETY: as in `load16`.
        unsafe { AtomicU8::from_ptr(self.cell(offset)) }.load(Ordering::Relaxed)
    }

    pub(crate) fn store8(&self, offset: usize, value: u8) {
        // SAFETY: as in `load16`.
        unsafe { AtomicU8::from_ptr(self.cell(offset)) }.store(value, Ordering::Relaxed);
    }

    pub(crate) fn store64(&self, offset: usize, value: u64) {
        // SAFETY: as in `load16`.
        unsafe { AtomicU64::from_ptr(self.cell(offset)) }.store(value, Ordering::Relaxed);
    }

    /// Writes a descriptor. It becomes visible to the device with the next release store.
    pub(crate) fn write_descriptor(&self, offset: usize, descriptor: Descriptor) {
        let Descriptor { addr, len, flags, next } = descriptor;
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.store64(offset, addr);
        self.store64(offset + 8, rest);
    }

    /// Reads an entry of the used ring: each field once.
    pub(crate) fn read_used(&self, offset: usize) -> UsedElement {
        // SAFETY: as in `load16`; the entries are 8 bytes long in a ring that starts aligned to 4.
        unsafe {
            UsedElement {
                id: AtomicU32::from_ptr(self.cell(offset)).load(Ordering::Relaxed),
                len: AtomicU32::from_ptr(self.cell(offset + 4)).load(Ordering::Relaxed),
            }
        }
    }
}
