//! The heap's arena over memory of this process.

use crate::mm::PAGE_SIZE;
use crate::mm::arena::{Arena, Surplus};
use std::alloc::Layout;
use std::ptr::NonNull;
use vm_memory::MmapRegion;

const GROWTH: usize = 64 * PAGE_SIZE;

/// An arena that has grown to hold `pieces` of 1 MiB, and these.
fn filled(pieces: usize) -> (Arena, Vec<(NonNull<u8>, Layout)>, MmapRegion) {
    const MIB: usize = 1 << 20;
    let memory = MmapRegion::<()>::new((pieces + 1) * MIB).unwrap();
    let start = memory.as_ptr().addr().next_multiple_of(MIB);
    let layout = Layout::from_size_align(MIB, 1).unwrap();
    let mut arena = Arena::new();
    let taken = (0..pieces)
        .map(|piece| {
            for growth in (0..MIB).step_by(GROWTH) {
                // SAFETY: inside the mapping, each part once.
                unsafe { arena.add(start + piece * MIB + growth, GROWTH) };
            }
            // Blocks that were added one by one are one only after something in them was freed.
            let parts: Vec<_> =
                (0..MIB / GROWTH).map(|_| arena.alloc(Layout::from_size_align(GROWTH, 1).unwrap()).unwrap()).collect();
            // SAFETY: just allocated so.
            parts
                .into_iter()
                .for_each(|part| unsafe { arena.dealloc(part, Layout::from_size_align(GROWTH, 1).unwrap()) });
            (arena.alloc(layout).unwrap(), layout)
        })
        .collect();
    (arena, taken, memory)
}

#[test]
fn whole_free_pages_are_given_back_but_for_what_is_kept() {
    const KEEP: usize = 256 << 10;
    let (mut arena, taken, _memory) = filled(8);
    assert_eq!((arena.total(), arena.used()), (8 << 20, 8 << 20));
    assert_eq!(arena.surplus(0, 0), None, "all of it is in use");
    for (piece, layout) in taken {
        // SAFETY: allocated so.
        unsafe { arena.dealloc(piece, layout) };
    }
    let mut given = 0;
    while let Some(Surplus { start, order }) = arena.surplus(KEEP, 4) {
        assert!(start.is_multiple_of(PAGE_SIZE << order) && order >= 4);
        given += PAGE_SIZE << order;
    }
    assert_eq!((given, arena.total(), arena.used()), ((8 << 20) - KEEP, KEEP, 0));
    while arena.surplus(0, 0).is_some() {}
    assert_eq!(arena.total(), 0, "under pressure, everything");
}

#[test]
fn a_page_with_something_in_it_stays() {
    let (mut arena, taken, _memory) = filled(1);
    let small = Layout::new::<u64>();
    // SAFETY: allocated so.
    taken.into_iter().for_each(|(piece, layout)| unsafe { arena.dealloc(piece, layout) });
    let kept = arena.alloc(small).unwrap();
    let mut given = Vec::new();
    while let Some(surplus) = arena.surplus(0, 0) {
        given.push(surplus);
    }
    let holds = |surplus: &Surplus| {
        (surplus.start..surplus.start + (PAGE_SIZE << surplus.order)).contains(&kept.as_ptr().addr())
    };
    assert!(!given.iter().any(holds));
    assert_eq!(given.iter().map(|surplus| PAGE_SIZE << surplus.order).sum::<usize>(), (1 << 20) - PAGE_SIZE);
    assert_eq!((arena.total(), arena.used()), (PAGE_SIZE, 8));
    // SAFETY: allocated so.
    unsafe { arena.dealloc(kept, small) };
    assert!(arena.surplus(0, 0).is_some());
}
