//! DMA memory of tests: one leaked arena whose device addresses are nothing like its pointers.

use super::iommu::Iommu;
use crate::memory::{Direction, DmaMapper, DmaPages, Mapping, PAGE_SIZE, RawPages};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU8, Ordering};
use std::alloc::{Layout, alloc};
use std::sync::Mutex;

/// Device address of the arena.
const BASE: u64 = 0x7_4000_0000;

#[repr(align(4096))]
struct Page([AtomicU8; PAGE_SIZE]);

/// An arena of pages. The driver reaches it by pointers, the test by device addresses.
pub struct Memory {
    pages: &'static [Page],
    used: Mutex<Used>,
    iommu: Option<Mutex<Iommu>>,
}

struct Used {
    map: Vec<bool>,
    allocations: usize,
    leaked: usize,
}

impl Memory {
    /// An arena of so many pages, full of 0xa5 as uncleared memory is. Leaked: it outlives every buffer.
    pub fn leaked(pages: usize) -> &'static Self {
        Self::new(pages, None)
    }

    /// An arena with a virtual IOMMU: buffers of requests have device addresses only while they are mapped, never the
    /// same ones twice, and only in the mapped direction. Any other access of the device panics.
    pub fn leaked_with_iommu(pages: usize) -> &'static Self {
        Self::new(pages, Some(Mutex::default()))
    }

    fn new(pages: usize, iommu: Option<Mutex<Iommu>>) -> &'static Self {
        let layout = Layout::array::<Page>(pages).expect("the arena fits");
        // SAFETY: the layout is not empty; all bytes are initialised before a reference to them is made.
        let arena = unsafe {
            let arena = NonNull::new(alloc(layout)).expect("there is memory for the arena");
            arena.write_bytes(0xa5, layout.size());
            slice::from_raw_parts(arena.as_ptr().cast(), pages)
        };
        let used = Mutex::new(Used { map: vec![false; pages], allocations: 0, leaked: 0 });
        Box::leak(Box::new(Self { pages: arena, used, iommu }))
    }

    /// Pages that are allocated now.
    pub fn allocated_pages(&self) -> usize {
        self.used.lock().unwrap().map.iter().filter(|used| **used).count()
    }

    /// Takes back what was leaked, so that the next test starts with a whole arena.
    ///
    /// # Safety
    /// No allocation of it is in use any more: what is still allocated was given up for good.
    pub unsafe fn reclaim(&self) {
        let mut used = self.used.lock().unwrap();
        used.map.fill(false);
        used.leaked = 0;
    }

    /// Pages that were given up for good.
    pub fn leaked_pages(&self) -> usize {
        self.used.lock().unwrap().leaked
    }

    /// Allocations made so far.
    pub fn allocations(&self) -> usize {
        self.used.lock().unwrap().allocations
    }

    /// Buffers that are mapped now (with an IOMMU).
    pub fn mappings(&self) -> usize {
        self.iommu.as_ref().map_or(0, |iommu| iommu.lock().unwrap().len())
    }

    /// Reads as the device does. `None` where it reaches nothing.
    pub fn try_read(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let start = self.locate(address, len, Direction::ToDevice)?;
        let end = start + len;
        Some((start..end).map(|at| self.byte(at).load(Ordering::Relaxed)).collect())
    }

    /// Reads as the device does.
    ///
    /// # Panics
    /// Outside the arena: the driver gave a wrong address.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        self.try_read(address, len).expect("the driver gave an address in DMA memory")
    }

    /// Writes as the device does.
    ///
    /// # Panics
    /// Outside the arena: the driver gave a wrong address.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let start = self.locate(address, bytes.len(), Direction::FromDevice);
        let start = start.expect("the driver gave an address in DMA memory");
        for (at, byte) in (start..).zip(bytes) {
            self.byte(at).store(*byte, Ordering::Relaxed);
        }
    }

    /// Reads two bytes.
    pub fn read16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().unwrap())
    }

    /// Where in the arena a device address is, if the device may access so many bytes there.
    fn locate(&self, address: u64, len: usize, access: Direction) -> Option<usize> {
        let address = match &self.iommu {
            Some(iommu) => {
                let target = iommu.lock().unwrap().translate(address, len, access);
                target.unwrap_or_else(|fault| panic!("{fault}"))
            }
            None => address,
        };
        let start = usize::try_from(address.checked_sub(BASE)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.pages.len() * PAGE_SIZE).then_some(start)
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        &self.pages[at / PAGE_SIZE].0[at % PAGE_SIZE]
    }
}

// SAFETY: the arena is never freed, its pages are aligned and initialised, and the map keeps each with one owner.
unsafe impl DmaPages for Memory {
    fn allocate(&self, count: usize) -> Option<RawPages> {
        let pages = self.allocate_data(count)?;
        if let Some(iommu) = &self.iommu {
            iommu.lock().unwrap().share(pages);
        }
        Some(pages)
    }

    unsafe fn free(&self, pages: RawPages) {
        if let Some(iommu) = &self.iommu {
            iommu.lock().unwrap().unshare(pages);
        }
        // SAFETY: per the contract; the pages are from `allocate_data`.
        unsafe { self.free_data(pages) }
    }

    fn note_leak(&self, pages: usize) {
        self.used.lock().unwrap().leaked += pages;
    }

    fn mapper(&self) -> Option<&dyn DmaMapper> {
        self.iommu.as_ref().map(|_| self as &dyn DmaMapper)
    }
}

// SAFETY: as for `DmaPages`; no bytes are moved.
unsafe impl DmaMapper for Memory {
    fn allocate_data(&self, count: usize) -> Option<RawPages> {
        let mut used = self.used.lock().unwrap();
        let first = used.map.windows(count).position(|window| window.iter().all(|used| !used))?;
        used.map[first..first + count].fill(true);
        used.allocations += 1;
        // The whole arena's provenance: a buffer spans pages.
        let address = NonNull::from(self.pages).cast::<u8>();
        // SAFETY: `first` is a page of the arena. The bytes are atomics, so they may be changed behind a shared
        // reference.
        let address = unsafe { address.add(first * PAGE_SIZE) };
        Some(RawPages { address, device_address: BASE + (first * PAGE_SIZE) as u64, count })
    }

    unsafe fn free_data(&self, pages: RawPages) {
        let first = ((pages.device_address - BASE) as usize) / PAGE_SIZE;
        let mut used = self.used.lock().unwrap();
        for page in &mut used.map[first..first + pages.count] {
            assert!(core::mem::replace(page, false), "a page was freed twice");
        }
    }

    unsafe fn map(&self, pages: RawPages, len: usize, direction: Direction) -> Option<u64> {
        self.iommu.as_ref().map(|iommu| iommu.lock().unwrap().map(pages, len, direction))
    }

    unsafe fn unmap(&self, mapping: &Mapping) {
        if let Some(iommu) = &self.iommu {
            iommu.lock().unwrap().unmap(mapping);
        }
    }
}
