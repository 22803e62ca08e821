//! The balloon of a hypervisor that takes and gives pages by itself, without a device: Xen's memory reservation.
//!
//! The kernel asks the hypervisor through [`Hypervisor`] and sets the target. Nothing is ever under way: a page is the
//! kernel's or the hypervisor's.

use crate::list::PageList;
use crate::pages::{PageSource, Pfn};
use crate::policy::{Policy, Step};
use crate::{Counters, Next, State};

/// Pages that change hands in one poll.
const BATCH: usize = 256;

/// Who takes pages and gives memory for them.
pub trait Hypervisor {
    /// Gives the memory of pages away, from the first on; returns of how many. The others stay as they are.
    fn give_back(&mut self, pages: &[Pfn]) -> usize;
    /// Gets memory for pages that have none, from the first on; returns for how many.
    fn populate(&mut self, pages: &[Pfn]) -> usize;
}

/// A memory balloon without a device.
pub struct Reservation {
    policy: Policy,
    held: PageList,
    state: State,
    counters: Counters,
}

impl Default for Reservation {
    fn default() -> Self {
        Self::new()
    }
}

impl Reservation {
    /// An empty balloon.
    pub fn new() -> Self {
        Self {
            policy: Policy::default(),
            held: PageList::default(),
            state: State::Steady,
            counters: Counters::default(),
        }
    }

    /// Sets how many pages the balloon is to have.
    pub fn set_target(&mut self, pages: u32) {
        self.policy.set_target(pages);
    }

    /// Moves at most a batch of pages towards the target.
    pub fn poll<P: PageSource, H: Hypervisor>(&mut self, pages: &mut P, hypervisor: &mut H) -> State {
        let before = self.state;
        self.state = match self.policy.step(self.held.len(), BATCH, pages) {
            Step::Rest => State::Steady,
            Step::Inflate(count) => match self.inflate(count, pages, hypervisor) {
                0 => self.shortfall(before),
                _ => State::Inflating,
            },
            Step::Deflate(count) => match self.deflate(count, pages, hypervisor) {
                0 => self.shortfall(before),
                _ => State::Deflating,
            },
        };
        self.state
    }

    /// Out of memory: takes up to `count` pages back, at most one batch a call; returns how many. Neither allocates nor
    /// frees. The balloon does not grow again before the kernel has that many pages to spare.
    pub fn release_on_oom<P: PageSource, H: Hypervisor>(
        &mut self,
        pages: &mut P,
        hypervisor: &mut H,
        count: u32,
    ) -> u32 {
        let released = self.deflate(BATCH.min(count as usize).min(self.held.len()), pages, hypervisor) as u32;
        self.counters.released_on_oom += u64::from(released);
        self.policy.released(released);
        released
    }

    /// Where the balloon stood after the last poll.
    pub fn state(&self) -> State {
        self.state
    }

    /// When to poll next.
    pub fn next(&self) -> Next {
        match self.state {
            State::Inflating | State::Deflating => Next::Again,
            State::Steady | State::Shortfall { .. } | State::Broken(_) => Next::Wait,
        }
    }

    /// Pages that the balloon is to have.
    pub fn target(&self) -> u32 {
        self.policy.target()
    }

    /// Pages that it has.
    pub fn actual(&self) -> u32 {
        self.held.len() as u32
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn inflate<P: PageSource, H: Hypervisor>(&mut self, count: usize, pages: &mut P, hypervisor: &mut H) -> usize {
        if count == 0 || self.held.reserve(count).is_err() {
            return 0;
        }
        let mut batch = [Pfn::new(0); BATCH];
        let taken = fill(&mut batch[..count], || pages.take_page());
        let given = hypervisor.give_back(&batch[..taken]).min(taken);
        batch[..given].iter().for_each(|&page| self.held.push(page));
        batch[given..taken].iter().for_each(|&page| pages.return_page(page));
        self.counters.inflated += given as u64;
        given
    }

    fn deflate<P: PageSource, H: Hypervisor>(&mut self, count: usize, pages: &mut P, hypervisor: &mut H) -> usize {
        let mut batch = [Pfn::new(0); BATCH];
        let wanted = fill(&mut batch[..count], || self.held.pop());
        let filled = hypervisor.populate(&batch[..wanted]).min(wanted);
        batch[..filled].iter().for_each(|&page| pages.return_page(page));
        batch[filled..wanted].iter().rev().for_each(|&page| self.held.push(page));
        self.counters.deflated += filled as u64;
        filled
    }

    fn shortfall(&mut self, before: State) -> State {
        let state = State::Shortfall { wanted: self.policy.target(), got: self.actual() };
        self.counters.shortfalls += u64::from(state != before);
        state
    }
}

/// Fills places from the first on; returns how many.
fn fill(places: &mut [Pfn], mut next: impl FnMut() -> Option<Pfn>) -> usize {
    places.iter_mut().map_while(|place| next().map(|page| *place = page)).count()
}
