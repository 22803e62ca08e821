//! A kernel whose devices reach one arena only: buffers of requests are copied to it and back.

use frontends::fake::Memory;
use frontends::memory::{Direction, DmaMapper, DmaPages, Mapping, PAGE_SIZE, RawPages};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;

/// What was done, in order and in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) maps: usize,
    pub(crate) unmaps: usize,
    /// Copies to the arena, and their bytes.
    pub(crate) copies_in: usize,
    pub(crate) bytes_in: usize,
    /// Copies out of it, and their bytes.
    pub(crate) copies_out: usize,
    pub(crate) bytes_out: usize,
}

pub(crate) struct Bounce {
    /// All that the device reaches.
    pub(crate) arena: &'static Memory,
    work: Mutex<Work>,
    /// Bounce buffers in use, by device address.
    live: Mutex<BTreeMap<u64, RawPages>>,
}

// SAFETY: pointers are only used as numbers to hand back.
unsafe impl Send for Bounce {}
// SAFETY: as above, and the maps are locked.
unsafe impl Sync for Bounce {}

impl Bounce {
    pub(crate) fn leaked(pages: usize) -> &'static Self {
        let arena = Memory::leaked(pages);
        Box::leak(Box::new(Self { arena, work: Mutex::default(), live: Mutex::default() }))
    }

    pub(crate) fn work(&self) -> Work {
        *self.work.lock().unwrap()
    }

    fn layout(count: usize) -> Layout {
        Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).unwrap()
    }
}

// SAFETY: the arena keeps the contract.
unsafe impl DmaPages for Bounce {
    fn allocate(&self, count: usize) -> Option<RawPages> {
        self.arena.allocate(count)
    }

    unsafe fn free(&self, pages: RawPages) {
        // SAFETY: from `allocate`, per the contract.
        unsafe { self.arena.free(pages) }
    }

    fn note_leak(&self, pages: usize) {
        self.arena.note_leak(pages);
    }

    fn mapper(&self) -> Option<&dyn DmaMapper> {
        Some(self)
    }
}

// SAFETY: data pages are heap memory of the right layout, initialised; the device reaches the arena only.
unsafe impl DmaMapper for Bounce {
    fn allocate_data(&self, count: usize) -> Option<RawPages> {
        // SAFETY: the layout is not empty.
        let address = NonNull::new(unsafe { alloc(Self::layout(count)) })?;
        // SAFETY: just allocated.
        unsafe { address.write_bytes(0x5a, count * PAGE_SIZE) };
        Some(RawPages { address, device_address: 0, count })
    }

    unsafe fn free_data(&self, pages: RawPages) {
        // SAFETY: from `allocate_data`, per the contract.
        unsafe { dealloc(pages.address.as_ptr(), Self::layout(pages.count)) }
    }

    unsafe fn map(&self, _: RawPages, len: usize, _: Direction) -> Option<u64> {
        let bounce = self.arena.allocate(len.div_ceil(PAGE_SIZE))?;
        self.live.lock().unwrap().insert(bounce.device_address, bounce);
        self.work.lock().unwrap().maps += 1;
        Some(bounce.device_address)
    }

    unsafe fn unmap(&self, mapping: &Mapping) {
        let bounce = self.live.lock().unwrap().remove(&mapping.device_address).expect("what is unmapped was mapped");
        self.arena.write(bounce.device_address, &vec![0xdd; bounce.count * PAGE_SIZE]);
        // SAFETY: just removed from the map: nothing uses it any more.
        unsafe { self.arena.free(bounce) };
        self.work.lock().unwrap().unmaps += 1;
    }

    unsafe fn sync_for_device(&self, mapping: &Mapping, range: Range<usize>) {
        let mut bytes = vec![0; range.len()];
        // SAFETY: the range is within the pages, which the driver does not write now.
        unsafe {
            mapping
                .pages
                .address
                .add(range.start)
                .copy_to_nonoverlapping(NonNull::from(&mut bytes[..]).cast(), range.len())
        };
        self.arena.write(mapping.device_address + range.start as u64, &bytes);
        let mut work = self.work.lock().unwrap();
        work.copies_in += 1;
        work.bytes_in += range.len();
    }

    unsafe fn sync_for_driver(&self, mapping: &Mapping, range: Range<usize>) {
        let bytes = self.arena.read(mapping.device_address + range.start as u64, range.len());
        // SAFETY: the range is within the pages, which the driver does not access now.
        unsafe {
            mapping
                .pages
                .address
                .add(range.start)
                .copy_from_nonoverlapping(NonNull::from(&bytes[..]).cast(), range.len())
        };
        let mut work = self.work.lock().unwrap();
        work.copies_out += 1;
        work.bytes_out += range.len();
    }
}
