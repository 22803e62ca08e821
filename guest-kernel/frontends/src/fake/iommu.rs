//! A virtual IOMMU for the fake DMA memory: which addresses its device reaches, and how.

use crate::memory::{Direction, Mapping, PAGE_SIZE, RawPages};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

/// The first device address of a mapping; far from the arena.
const FIRST: u64 = 0x51_0000_0000;

/// Bytes that the device reaches.
struct Window {
    len: usize,
    direction: Direction,
    /// Where they are in the arena.
    target: u64,
}

/// Windows by device address.
pub(super) struct Iommu {
    windows: BTreeMap<u64, Window>,
    next: u64,
}

impl Default for Iommu {
    fn default() -> Self {
        Self { windows: BTreeMap::new(), next: FIRST }
    }
}

impl Iommu {
    /// Makes pages reachable at their own address.
    pub(super) fn share(&mut self, pages: RawPages) {
        let target = pages.device_address;
        self.windows.insert(target, Window { len: pages.count * PAGE_SIZE, direction: Direction::Both, target });
    }

    pub(super) fn unshare(&mut self, pages: RawPages) {
        self.windows.remove(&pages.device_address).expect("shared pages were shared");
    }

    /// Maps pages at addresses that were never used, with a gap after them.
    pub(super) fn map(&mut self, pages: RawPages, len: usize, direction: Direction) -> u64 {
        let address = self.next;
        self.next += ((pages.count + 1) * PAGE_SIZE) as u64;
        self.windows.insert(address, Window { len, direction, target: pages.device_address });
        address
    }

    pub(super) fn unmap(&mut self, mapping: &Mapping) {
        let window = self.windows.remove(&mapping.device_address).expect("only what was mapped is unmapped");
        assert_eq!((window.len, window.direction), (mapping.len, mapping.direction));
    }

    /// Mappings of buffers.
    pub(super) fn len(&self) -> usize {
        self.windows.range(FIRST..).count()
    }

    /// Where an access goes, or what the fault is.
    pub(super) fn translate(&self, address: u64, len: usize, access: Direction) -> Result<u64, String> {
        let hit = self.windows.range(..=address).next_back();
        let Some((start, window)) = hit.filter(|(start, window)| (address - *start) as usize + len <= window.len)
        else {
            return Err(format!("device fault: {len} bytes at {address:#x} are not mapped"));
        };
        let mapped = window.direction;
        if access.device_writes() && !mapped.device_writes() || access.device_reads() && !mapped.device_reads() {
            return Err(format!("device fault: {access:?} at {address:#x}, which is mapped {mapped:?}"));
        }
        Ok(window.target + (address - start))
    }
}
