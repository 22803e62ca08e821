//! How far a balloon goes next: the same for a virtio device and for a hypervisor that is asked directly.

use crate::pages::PageSource;

/// The reserve of a kernel that has no reason for another one, in pages of 4 KiB: a sixteenth of its memory, at least
/// 4 MiB. [`PageSource::take_page`] gives nothing that would go below it.
pub const fn reserve(total: u64) -> u64 {
    let share = total / 16;
    if share > 1024 { share } else { 1024 }
}

/// Time between attempts at a target that could not be met, and between searches for free blocks, in nanoseconds.
pub const RETRY: u64 = 500_000_000;

/// What the host wants, and what keeps the balloon from growing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    target: u32,
    /// After pages went back for want of memory: spare pages that the kernel must have before the balloon grows.
    grow_at: u32,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The balloon has what the host wants.
    Rest,
    /// Give up to so many pages; 0 when the kernel has none to spare.
    Inflate(usize),
    /// Take so many back.
    Deflate(usize),
}

impl Policy {
    /// Pages that the host wants.
    pub(crate) fn target(&self) -> u32 {
        self.target
    }

    /// Takes the target that the host sets; a new one is a reason to try again.
    pub(crate) fn set_target(&mut self, target: u32) {
        if target != self.target {
            *self = Self { target, grow_at: 0 };
        }
    }

    /// Pages went back for want of memory.
    pub(crate) fn released(&mut self, pages: u32) {
        self.grow_at = self.grow_at.saturating_add(pages);
    }

    /// What to do with `held` pages in the balloon, at most `batch` at once.
    pub(crate) fn step<P: PageSource>(&mut self, held: usize, batch: usize, pages: &P) -> Step {
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        if self.target < held {
            return Step::Deflate(batch.min((held - self.target) as usize));
        }
        if self.target == held {
            return Step::Rest;
        }
        let spare = pages.spare_pages();
        if spare < self.grow_at || spare == 0 {
            return Step::Inflate(0);
        }
        self.grow_at = 0;
        Step::Inflate(batch.min((self.target - held).min(spare) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::reserve;

    #[test]
    fn a_sixteenth_stays_and_at_least_4_mib() {
        let mib = |mib: u64| mib << 20 >> 12;
        assert_eq!([0, 16, 64, 128, 1024].map(|total| reserve(mib(total))), [4, 4, 4, 8, 64].map(mib));
    }
}
