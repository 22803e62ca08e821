//! Taking pages back for want of memory uses no memory: the heap itself may ask for them.

mod host;

use balloon::{PageSource, Pfn, Settings, State, Statistics};
use frontends::device::{Driver, InterruptSource};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use virtio_abi::balloon::Features;

thread_local! {
    /// Uses of the heap by this thread, allocations and releases.
    static USES: Cell<usize> = const { Cell::new(0) };
}

struct CountingHeap;

// SAFETY: all work is the system allocator's.
unsafe impl GlobalAlloc for CountingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USES.with(|uses| uses.set(uses.get() + 1));
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USES.with(|uses| uses.set(uses.get() + 1));
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static HEAP: CountingHeap = CountingHeap;

/// An allocator that only counts.
struct Pages {
    free: u32,
}

impl PageSource for Pages {
    fn take_page(&mut self) -> Option<Pfn> {
        self.free = self.free.checked_sub(1)?;
        Some(Pfn::new(self.free))
    }

    fn return_page(&mut self, _: Pfn) {
        self.free += 1;
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}

#[test]
fn releasing_pages_neither_allocates_nor_frees() {
    let (mut balloon, mut host) = host::pair(Features::DEFLATE_ON_OOM, Settings::default());
    let mut pages = Pages { free: 10_000 };
    host.want(10_000);
    balloon.interrupt(InterruptSource::Config);
    while balloon.poll(&mut pages) != State::Steady {
        host.serve();
    }
    // Far enough for the list of pages to have whole chunks too many.
    let mut released = 0;
    for _ in 0..30 {
        let before = USES.get();
        let now = balloon.release_on_oom(&mut pages, 256);
        assert_eq!(USES.get(), before);
        released += now;
        host.serve();
    }
    assert_eq!((released, pages.free, balloon.actual()), (30 * 256, 30 * 256, 10_000 - 30 * 256));
}
