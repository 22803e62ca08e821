//! Frames whose memory the hypervisor takes and gives. A frame that it has is mapped nowhere; its number stays the kernel's.

use super::{PAGE_SIZE, paging};
use balloon::{Hypervisor, Pfn};
use pvops::memory;

/// Frames that change hands at once.
const MOST: usize = 256;

/// The hypervisor, as the balloon asks it.
pub struct Reserve;

impl Hypervisor for Reserve {
    fn give_back(&mut self, pages: &[Pfn]) -> usize {
        moved(pages, |frames| {
            // SAFETY: the balloon has the frames from the allocator, so they are not in use.
            unsafe {
                paging::unmap_frames(frames);
                let given = memory::give_back(frames);
                paging::map_frames(&frames[given.min(frames.len())..]);
                given
            }
        })
    }

    fn populate(&mut self, pages: &[Pfn]) -> usize {
        moved(pages, |frames| {
            // SAFETY: the balloon gave these frames away.
            unsafe {
                let filled = memory::populate(frames).min(frames.len());
                paging::map_frames(&frames[..filled]);
                filled
            }
        })
    }
}

/// Hands frame numbers to `step` until it leaves some.
fn moved(pages: &[Pfn], mut step: impl FnMut(&[u64]) -> usize) -> usize {
    let mut done = 0;
    for chunk in pages.chunks(MOST) {
        let mut frames = [0; MOST];
        frames.iter_mut().zip(chunk).for_each(|(frame, page)| *frame = page.address() / PAGE_SIZE as u64);
        let moved = step(&frames[..chunk.len()]);
        done += moved;
        if moved < chunk.len() {
            break;
        }
    }
    done
}
