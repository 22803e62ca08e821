//! The flow of pages: what comes back from the device, and the next batch towards the target.
//!
//! One request for each direction is on its way at a time, so a poll does a bounded amount of work and the order of
//! requests never matters.

use crate::pages::PageSource;
use crate::policy::Step;
use crate::{Balloon, State};
use frontends::error::Violation;
use frontends::transport::Transport;

impl<T: Transport> Balloon<T> {
    /// Takes what the device returned on any queue.
    pub(crate) fn take_back<P: PageSource>(&mut self, pages: &mut P) -> Result<(), Violation> {
        while let Some(used) = self.inflate.pop()? {
            self.since = None;
            if self.inflating.returned(used.head) {
                self.counters.inflated += self.inflating.pages.len() as u64;
                self.inflating.pages.drain(..).for_each(|page| self.held.push(page));
                self.tell_actual();
            }
        }
        self.take_back_deflated(pages)?;
        if let Some(statistics) = &mut self.statistics {
            let sent = statistics.answer(|| pages.statistics())?;
            self.counters.statistics_sent += u64::from(sent);
        }
        if let Some(reports) = &mut self.reports {
            self.counters.reported += reports.take_back(pages)?;
        }
        Ok(())
    }

    pub(crate) fn take_back_deflated<P: PageSource>(&mut self, pages: &mut P) -> Result<(), Violation> {
        while let Some(used) = self.deflate.pop()? {
            self.since = None;
            for batch in [&mut self.deflating, &mut self.releasing] {
                if batch.returned(used.head) {
                    self.counters.deflated += batch.pages.len() as u64;
                    batch.pages.drain(..).for_each(|page| pages.return_page(page));
                }
            }
            self.tell_actual();
        }
        Ok(())
    }

    /// Without MUST_TELL_HOST the pages may be used while the device hears of it.
    pub(crate) fn give_back_released<P: PageSource>(&mut self, pages: &mut P) -> u32 {
        let back = self.releasing.pages.len() as u32;
        self.counters.deflated += u64::from(back);
        self.releasing.pages.drain(..).for_each(|page| pages.return_page(page));
        self.tell_actual();
        back
    }

    /// Sends one batch towards the target, if none is on its way.
    pub(crate) fn step<P: PageSource>(&mut self, pages: &mut P) -> State {
        if self.inflating.is_in_flight() {
            return State::Inflating;
        }
        if self.deflating.is_in_flight() || self.releasing.is_in_flight() {
            return State::Deflating;
        }
        match self.policy.step(self.held.len(), self.inflating.capacity(), pages) {
            Step::Rest => State::Steady,
            Step::Inflate(count) => self.inflate(count, pages),
            Step::Deflate(count) => self.deflate(count),
        }
    }

    fn inflate<P: PageSource>(&mut self, count: usize, pages: &mut P) -> State {
        if self.held.reserve(count).is_ok() {
            self.inflating.pages.extend(core::iter::from_fn(|| pages.take_page()).take(count));
        }
        if self.inflating.pages.is_empty() {
            return self.shortfall();
        }
        if !self.inflating.send(&mut self.inflate) {
            self.inflating.pages.drain(..).for_each(|page| pages.return_page(page));
            return self.shortfall();
        }
        State::Inflating
    }

    fn deflate(&mut self, count: usize) -> State {
        self.deflating.pages.extend(core::iter::from_fn(|| self.held.pop()).take(count));
        self.held.trim();
        if !self.deflating.send(&mut self.deflate) {
            self.deflating.pages.drain(..).for_each(|page| self.held.push(page));
        }
        State::Deflating
    }

    fn shortfall(&mut self) -> State {
        let state = State::Shortfall { wanted: self.policy.target(), got: self.held.len() as u32 };
        if state != self.state {
            self.counters.shortfalls += 1;
        }
        state
    }
}
