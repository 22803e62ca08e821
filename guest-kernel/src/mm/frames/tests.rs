//! The frame allocator over a mapping of this process.

use crate::mm::BASE;
use crate::mm::Range;
use crate::mm::frames::{Frames, MAX_ORDER};
use proptest::prelude::*;
use vm_memory::MmapRegion;

const PAGE: u64 = 4096;
const MEMORY: u64 = 32 << 20;

/// An allocator over fresh memory with that RAM and those holes.
struct Fixture {
    frames: Frames,
    /// What `BASE` points to.
    _memory: MmapRegion,
}

fn fixture(ram: &[Range], reserved: &[Range]) -> Fixture {
    let memory = MmapRegion::<()>::new(MEMORY as usize).unwrap();
    BASE.set(memory.as_ptr() as usize);
    let mut frames = Frames::EMPTY;
    // SAFETY: the ranges are inside the mapping, which only the allocator uses.
    unsafe { frames.init(ram, reserved, u64::MAX) };
    Fixture { frames, _memory: memory }
}

fn range(start: u64, end: u64) -> Range {
    Range { start, end }
}

/// All frames that the allocator gives, one by one.
fn drain(frames: &mut Frames) -> Vec<u64> {
    std::iter::from_fn(|| frames.allocate(0)).collect()
}

#[test]
fn every_whole_page_of_ram_is_given_once_and_no_reserved_one() {
    // Odd ends, a hole inside, a hole across two pages, a hole at a start.
    let ram = [range(0, 0x9fc00), range(0x10_0000, MEMORY - 100)];
    let reserved = [range(0x20_0123, 0x30_0001), range(0x10_0000, 0x10_1000), range(0x50_0800, 0x50_1800)];
    let mut given = {
        let mut fixture = fixture(&ram, &reserved);
        assert_eq!(fixture.frames.counts().free, fixture.frames.counts().total);
        let given = drain(&mut fixture.frames);
        assert_eq!(given.len() as u64, fixture.frames.counts().total);
        given
    };
    given.sort_unstable();
    assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "no frame twice");
    let inside = |frame: u64, range: &Range| frame * PAGE >= range.start && (frame + 1) * PAGE <= range.end;
    let touches = |frame: u64, range: &Range| frame * PAGE < range.end && (frame + 1) * PAGE > range.start;
    assert!(given.iter().all(|&frame| frame > 0 && ram.iter().any(|range| inside(frame, range))));
    assert!(!given.iter().any(|&frame| reserved.iter().any(|range| touches(frame, range))));
    // Everything but the allocator's own bitmap.
    let usable = (1..MEMORY / PAGE)
        .filter(|&frame| ram.iter().any(|range| inside(frame, range)))
        .filter(|&frame| !reserved.iter().any(|range| touches(frame, range)))
        .count();
    assert!((usable - given.len()) <= 2, "{usable} pages, {} given", given.len());
}

#[test]
fn what_comes_back_is_whole_again() {
    let mut fixture = fixture(&[range(0, MEMORY)], &[]);
    let frames = &mut fixture.frames;
    let largest = |frames: &mut Frames| {
        let blocks: Vec<_> = std::iter::from_fn(|| frames.allocate(MAX_ORDER)).collect();
        blocks.iter().for_each(|&block| frames.free(block, MAX_ORDER));
        blocks.len()
    };
    let before = largest(frames);
    assert!(before >= 6);
    let mut given = drain(frames);
    assert_eq!(frames.allocate(0), None);
    given.reverse();
    given.iter().for_each(|&frame| frames.free(frame, 0));
    assert_eq!(largest(frames), before);
    assert_eq!(frames.counts().free, frames.counts().total);
}

#[test]
fn a_reported_block_is_not_lent_again_until_it_was_used() {
    let mut fixture = fixture(&[range(0, MEMORY)], &[]);
    let frames = &mut fixture.frames;
    let mut lent = Vec::new();
    while let Some(block) = frames.take_unreported(MAX_ORDER) {
        lent.push(block);
    }
    assert!(lent.len() >= 6);
    lent.iter().for_each(|&block| frames.take_back(block, MAX_ORDER, true));
    assert_eq!(frames.take_unreported(MAX_ORDER), None);
    let used = frames.allocate(MAX_ORDER).unwrap();
    frames.free(used, MAX_ORDER);
    assert_eq!(frames.take_unreported(MAX_ORDER), Some(used));
}

#[test]
fn reported_buddies_become_one_block_and_stay_reported() {
    let mut fixture = fixture(&[range(0, MEMORY)], &[]);
    let frames = &mut fixture.frames;
    let whole = frames.allocate(MAX_ORDER).unwrap();
    let rest = drain(frames);
    let half = MAX_ORDER - 1;
    let halves = [whole, whole + (1 << half)];
    // One after the other, with a used frame in between that keeps them apart when they are lent.
    halves.iter().for_each(|&block| frames.free(block, half));
    assert_eq!(frames.take_unreported(half), None, "free together, they are one block");
    let lent = frames.take_unreported(MAX_ORDER).unwrap();
    frames.take_back(lent, half, true);
    frames.take_back(lent + (1 << half), half, true);
    assert_eq!((frames.counts().lent, frames.counts().free), (0, 1 << MAX_ORDER));
    assert_eq!(frames.take_unreported(MAX_ORDER), None, "the host knows of both halves");
    assert_eq!(frames.allocate(MAX_ORDER), Some(whole), "and they are one block again");
    frames.free(whole, half);
    let used = frames.allocate(half).unwrap();
    assert_eq!(used, whole);
    // A half that the host does not know of makes the whole one that it does not know of.
    frames.free(halves[1], half);
    let lent = frames.take_unreported(half).unwrap();
    frames.take_back(lent, half, true);
    frames.free(used, half);
    assert_eq!(frames.take_unreported(MAX_ORDER), Some(whole));
    drop(rest);
}

#[test]
fn what_is_lent_counts_as_unused() {
    let mut fixture = fixture(&[range(0, MEMORY)], &[]);
    let frames = &mut fixture.frames;
    let before = frames.counts();
    let lent = frames.take_unreported(MAX_ORDER).unwrap();
    let now = frames.counts();
    assert_eq!((now.lent, now.free + now.lent, now.unused()), (1 << MAX_ORDER, before.free, before.unused()));
    frames.take_back(lent, MAX_ORDER, false);
    assert_eq!(frames.counts(), before);
    assert!(frames.take_unreported(MAX_ORDER).is_some(), "it was not reported");
}

#[test]
fn the_rest_of_a_reported_block_stays_reported() {
    // One block of the largest order, at its natural place, after the allocator's own page.
    const BLOCK: u64 = PAGE << MAX_ORDER;
    let mut fixture = fixture(&[range(PAGE, 2 * PAGE), range(BLOCK, 2 * BLOCK)], &[]);
    let frames = &mut fixture.frames;
    let whole = frames.take_unreported(MAX_ORDER).unwrap();
    frames.take_back(whole, MAX_ORDER, true);
    frames.allocate(MAX_ORDER - 1).unwrap();
    assert_eq!(frames.take_unreported(MAX_ORDER - 1), None, "the host knows of the other half as before");
}

proptest! {
    /// Any order of taking and giving back: blocks are aligned, disjoint, and all of them come back.
    #[test]
    fn blocks_are_aligned_disjoint_and_counted(steps in proptest::collection::vec((any::<bool>(), 0..=MAX_ORDER, any::<prop::sample::Index>()), 1..200)) {
        let mut fixture = fixture(&[range(0x3000, 0x9f000), range(0x10_0000, MEMORY)], &[range(0x20_0000, 0x33_0000)]);
        let frames = &mut fixture.frames;
        let all = frames.counts().free;
        let mut held: Vec<(u64, usize)> = Vec::new();
        for (take, order, index) in steps {
            if take {
                if let Some(block) = frames.allocate(order) {
                    prop_assert!(block.is_multiple_of(1 << order));
                    let end = block + (1 << order);
                    prop_assert!(held.iter().all(|&(other, order)| other >= end || other + (1 << order) <= block));
                    held.push((block, order));
                }
            } else if !held.is_empty() {
                let (block, order) = held.swap_remove(index.index(held.len()));
                frames.free(block, order);
            }
            let out: u64 = held.iter().map(|&(_, order)| 1 << order).sum();
            prop_assert_eq!(frames.counts().free + out, all);
        }
        for (block, order) in held {
            frames.free(block, order);
        }
        prop_assert_eq!(drain(frames).len() as u64, all);
    }
}
