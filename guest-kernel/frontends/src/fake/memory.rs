//! DMA memory of tests: one leaked arena whose device addresses are nothing like its pointers.

use crate::memory::{DmaPages, PAGE_SIZE, RawPages};
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
}

struct Used {
    map: Vec<bool>,
    allocations: usize,
    leaked: usize,
}

impl Memory {
    /// An arena of so many pages, full of 0xa5 as uncleared memory is. Leaked: it outlives every buffer.
    pub fn leaked(pages: usize) -> &'static Self {
        let layout = Layout::array::<Page>(pages).expect("the arena fits");
        // SAFETY: the layout is not empty; all bytes are initialised before a reference to them is made.
        let arena = unsafe {
            let arena = NonNull::new(alloc(layout)).expect("there is memory for the arena");
            arena.write_bytes(0xa5, layout.size());
            slice::from_raw_parts(arena.as_ptr().cast(), pages)
        };
        let used = Mutex::new(Used { map: vec![false; pages], allocations: 0, leaked: 0 });
        Box::leak(Box::new(Self { pages: arena, used }))
    }

    /// Pages that are allocated now.
    pub fn allocated_pages(&self) -> usize {
        self.used.lock().unwrap().map.iter().filter(|used| **used).count()
    }

    /// Takes back what was leaked, so that the next test starts with a whole arena.
    ///
    /// # Safety
    /// Nobody uses an allocation of it any more: what is still allocated was given up for good.
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

    /// Reads as the device does. `None` outside the arena.
    pub fn try_read(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let start = usize::try_from(address.checked_sub(BASE)?).ok()?;
        let end = start.checked_add(len).filter(|end| *end <= self.pages.len() * PAGE_SIZE)?;
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
        let start = (address - BASE) as usize;
        for (at, byte) in (start..).zip(bytes) {
            self.byte(at).store(*byte, Ordering::Relaxed);
        }
    }

    /// Reads two bytes.
    pub fn read16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().unwrap())
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        &self.pages[at / PAGE_SIZE].0[at % PAGE_SIZE]
    }
}

// SAFETY: the arena is never freed, its pages are aligned and initialised, and the map keeps each with one owner.
unsafe impl DmaPages for Memory {
    fn allocate(&self, count: usize) -> Option<RawPages> {
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

    unsafe fn free(&self, pages: RawPages) {
        let first = ((pages.device_address - BASE) as usize) / PAGE_SIZE;
        let mut used = self.used.lock().unwrap();
        for page in &mut used.map[first..first + pages.count] {
            assert!(core::mem::replace(page, false), "a page was freed twice");
        }
    }

    fn note_leak(&self, pages: usize) {
        self.used.lock().unwrap().leaked += pages;
    }
}
