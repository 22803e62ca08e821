//! The memory balloon driver (section 5.5) and its policy: pages go to the host and come back.
//!
//! Made by the kernel, which calls [`Balloon::poll`] when the device interrupts, from time to time while the target
//! is not met, and when memory was freed. Each call does a bounded amount of work. The kernel's allocator
//! implements [`PageSource`]; its refusal to give a page is what keeps the kernel's reserve. The device is not trusted: which
//! pages are in the balloon is known from private memory only, and a device that breaks a rule is reset and loses them.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod batch;
mod flow;
mod list;
mod pages;
mod policy;
mod report;
mod reservation;
mod statistics;

/// The drivers whose types the signatures here name: transports, DMA memory, errors.
pub use frontends;
pub use pages::{FreeBlock, PageSource, Pfn, Report, Statistics};
pub use policy::{RETRY, reserve};
pub use reservation::{Hypervisor, Reservation};

use batch::Batch;
use core::mem::offset_of;
use frontends::device::{Device, Driver};
use frontends::error::{InitError, Violation};
use frontends::memory::DmaPages;
use frontends::ring::Ring;
use frontends::transport::Transport;
use list::PageList;
use policy::Policy;
use virtio_abi::DeviceType;
use virtio_abi::balloon::{Config, Features, queues};

/// What we make use of.
const SUPPORTED: Features =
    Features::MUST_TELL_HOST.union(Features::STATS_VQ).union(Features::DEFLATE_ON_OOM).union(Features::REPORTING);
/// Page numbers in a page: the most that a request has, and blocks of a report.
const BATCH_MAX: u16 = 1024;

/// Where the balloon stands after a [`Balloon::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The balloon has what the host wants.
    Steady,
    /// Pages are on their way to the host: poll at the next interrupt.
    Inflating,
    /// Pages are on their way back: poll at the next interrupt.
    Deflating,
    /// The target cannot be met now, because the kernel has no page to spare. Poll again when memory was freed.
    Shortfall {
        /// Pages that the host wants.
        wanted: u32,
        /// Pages that the balloon has.
        got: u32,
    },
    /// The device was stopped. Polls give the pages back to the kernel until [`Balloon::actual`] is 0, unless the
    /// device did not confirm its reset.
    Broken(Violation),
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Steady => f.write_str("steady"),
            Self::Inflating => f.write_str("inflating"),
            Self::Deflating => f.write_str("deflating"),
            Self::Shortfall { wanted, got } => write!(f, "short: {got} of {wanted} pages is all that can be spared"),
            Self::Broken(violation) => write!(f, "stopped: {violation}"),
        }
    }
}

/// When to poll next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// As soon as others have had their turn: nothing announces the next step.
    Again,
    /// At the next interrupt or after a while.
    Wait,
    /// Never: the balloon has stopped, and there is nothing left to give back.
    End,
}

/// What the balloon did since it came up; in pages of 4096 bytes but for the last two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Given to the host.
    pub inflated: u64,
    /// Taken back, for whatever reason.
    pub deflated: u64,
    /// Taken back because the kernel ran out of memory.
    pub released_on_oom: u64,
    /// Reported as free.
    pub reported: u64,
    /// Statistics that were sent.
    pub statistics_sent: u64,
    /// Times that a target could not be met.
    pub shortfalls: u64,
}

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Pages of one inflate or deflate request, at most 1024.
    pub batch: u16,
    /// Free blocks of one report, at most 1024 and as many as the queue has entries.
    pub report_blocks: u16,
    /// Nanoseconds that an inflate or deflate request may take before the device is restarted; 0 for any time. A caller
    /// that sets it calls [`Balloon::check_time`] from time to time.
    pub patience: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { batch: 256, report_blocks: 16, patience: 0 }
    }
}

/// A memory balloon.
pub struct Balloon<T: Transport> {
    device: Device<T>,
    features: Features,
    inflate: Ring,
    deflate: Ring,
    statistics: Option<statistics::Reporter>,
    reports: Option<report::Reporter>,
    /// Pages on their way to the host, on their way back, and on their way back for want of memory.
    inflating: Batch,
    deflating: Batch,
    releasing: Batch,
    held: PageList,
    policy: Policy,
    state: State,
    counters: Counters,
    /// After an unconfirmed reset the host may still drop pages: they are lost.
    lost: u32,
    leaked_pages: usize,
    patience: u64,
    /// Since when the device has a request and has returned none.
    since: Option<u64>,
    /// Pages that answers were about, when the time was last checked.
    answered: u64,
}

impl<T: Transport> Balloon<T> {
    /// Brings a device up.
    pub fn new(transport: T, dma: &'static dyn DmaPages, settings: Settings) -> Result<Self, InitError> {
        let mut device = Device::begin(transport, DeviceType::BALLOON, SUPPORTED.bits())?;
        let features = Features::from_bits_truncate(device.features());
        let numbers = queues(Features::from_bits_truncate(device.offered()));
        let inflate = device.ring(numbers.inflate, 4, 1, dma)?;
        let deflate = device.ring(numbers.deflate, 4, 1, dma)?;
        let stats_ring = numbers.stats.map(|queue| device.ring(queue, 2, 1, dma)).transpose()?;
        let report_ring = |queue| {
            // A queue that is not there is refused below.
            let most = BATCH_MAX.min(device.largest_ring(queue)).max(1);
            let blocks = settings.report_blocks.clamp(1, most);
            device.ring(queue, blocks.next_power_of_two(), blocks, dma)
        };
        let report_ring = numbers.reporting.map(report_ring).transpose()?;
        let no_memory = InitError::NoMemory { what: "balloon requests" };
        let mut batch = || {
            let capacity = settings.batch.clamp(1, BATCH_MAX).into();
            Batch::new(dma, capacity).ok_or_else(|| device.give_up(no_memory))
        };
        let (inflating, deflating, releasing) = (batch()?, batch()?, batch()?);
        let statistics = match stats_ring {
            Some(ring) => {
                let buffer = statistics::Reporter::buffer(dma).ok_or_else(|| device.give_up(no_memory))?;
                Some(statistics::Reporter::new(ring, buffer))
            }
            None => None,
        };
        device.start();
        let mut this = Self {
            device,
            features,
            inflate,
            deflate,
            statistics,
            reports: report_ring.map(report::Reporter::new),
            inflating,
            deflating,
            releasing,
            held: PageList::default(),
            policy: Policy::default(),
            state: State::Steady,
            counters: Counters::default(),
            lost: 0,
            leaked_pages: 0,
            patience: settings.patience,
            since: None,
            answered: 0,
        };
        this.read_target();
        Ok(this)
    }

    /// Does the next bounded piece of work: takes back what the device is done with, answers a request for statistics,
    /// sends one batch towards the target, reports free blocks. Kicks the device itself.
    pub fn poll<P: PageSource>(&mut self, pages: &mut P) -> State {
        if self.device.is_live()
            && let Err(violation) = self.take_back(pages)
        {
            self.fail(violation);
        }
        self.state = match self.device.broken() {
            Some(violation) => {
                self.return_after_reset(pages);
                State::Broken(violation)
            }
            None => {
                let state = self.step(pages);
                if let Some(reports) = &mut self.reports {
                    reports.lend(pages);
                }
                self.kick();
                state
            }
        };
        self.state
    }

    /// Restarts a device that has had requests for too long without answering one. Call it after [`Balloon::poll`], with a time
    /// that only grows, in nanoseconds.
    pub fn check_time(&mut self, now: u64) {
        let batches = [&self.inflating, &self.deflating, &self.releasing];
        let lent = self.reports.as_ref().is_some_and(report::Reporter::is_lent);
        let asked = lent || batches.into_iter().any(Batch::is_in_flight);
        let answered = self.counters.inflated + self.counters.deflated + self.counters.reported;
        if core::mem::replace(&mut self.answered, answered) != answered {
            // It works, however long a row of requests takes.
            self.since = None;
        }
        if self.patience == 0 || !self.device.is_live() || !asked {
            self.since = None;
        } else if now.saturating_sub(*self.since.get_or_insert(now)) >= self.patience {
            self.since = None;
            self.fail(Violation::Timeout { milliseconds: self.patience / 1_000_000 });
        }
    }

    /// When to poll next. A stopped balloon is polled until all pages are back.
    pub fn next(&self) -> Next {
        let returns_pages = self.lost == 0 && (self.actual() > 0 || !self.inflating.pages.is_empty());
        match self.device.broken() {
            None => Next::Wait,
            Some(_) if returns_pages => Next::Again,
            Some(_) => Next::End,
        }
    }

    /// Out of memory: takes up to `count` pages back, at most one batch a call, if the host agreed to that. Neither
    /// allocates nor frees, so that the heap may call it. Returns how many are back already; under MUST_TELL_HOST
    /// they come with a later [`Balloon::poll`]. The balloon does not grow again before the kernel has that many
    /// pages to spare.
    pub fn release_on_oom<P: PageSource>(&mut self, pages: &mut P, count: u32) -> u32 {
        if self.device.broken().is_some() {
            return self.return_after_reset(pages);
        }
        if !self.device.is_live() || !self.features.contains(Features::DEFLATE_ON_OOM) {
            return 0;
        }
        if let Err(violation) = self.take_back_deflated(pages) {
            self.fail(violation);
            return 0;
        }
        if self.releasing.is_in_flight() || !self.deflate.has_room(1) {
            return 0;
        }
        let count = self.releasing.capacity().min(count as usize);
        self.releasing.pages.clear();
        self.releasing.pages.extend(core::iter::from_fn(|| self.held.pop()).take(count));
        let released = self.releasing.pages.len() as u32;
        if released == 0 || !self.releasing.send(&mut self.deflate) {
            return 0;
        }
        self.counters.released_on_oom += u64::from(released);
        self.policy.released(released);
        let back = if self.features.contains(Features::MUST_TELL_HOST) { 0 } else { self.give_back_released(pages) };
        self.kick();
        back
    }

    /// Out of memory: takes back what was lent to be reported and has been. Neither allocates nor frees, as
    /// [`release_on_oom`](Self::release_on_oom).
    pub fn take_back_reported<P: PageSource>(&mut self, pages: &mut P) {
        let Some(reports) = self.reports.as_mut().filter(|_| self.device.is_live()) else { return };
        match reports.take_back(pages) {
            Ok(reported) => self.counters.reported += reported,
            Err(violation) => self.stop(violation),
        }
    }

    /// Where the balloon stood after the last poll.
    pub fn state(&self) -> State {
        self.state
    }

    /// Pages that the host wants.
    pub fn target(&self) -> u32 {
        self.policy.target()
    }

    /// Pages that the balloon has: those that the host knows it has, and did not get wind of losing.
    pub fn actual(&self) -> u32 {
        let on_the_way_back = self.deflating.pages.len() + self.releasing.pages.len();
        (self.held.len() + on_the_way_back) as u32
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Pages of the kernel that are gone for good, because the device did not confirm its reset.
    pub fn lost_pages(&self) -> u32 {
        self.lost
    }

    fn tell_actual(&mut self) {
        self.device.write_config(offset_of!(Config, actual), self.actual());
    }

    fn read_target(&mut self) {
        match self.device.config(|fields| fields.u32(offset_of!(Config, num_pages))) {
            Ok(target) => self.policy.set_target(target),
            Err(error) => log::warn!("balloon: target stays: {error}"),
        }
    }

    /// Gives the pages back that a device without power over them has, a batch a call. Returns how many.
    fn return_after_reset<P: PageSource>(&mut self, pages: &mut P) -> u32 {
        if self.lost > 0 {
            return 0;
        }
        let mut returned = 0;
        let mut give_back = |page| {
            pages.return_page(page);
            returned += 1;
        };
        for batch in [&mut self.inflating, &mut self.deflating, &mut self.releasing] {
            batch.pages.drain(..).for_each(&mut give_back);
        }
        core::iter::from_fn(|| self.held.pop()).take(self.deflating.capacity()).for_each(&mut give_back);
        if let Some(reports) = &mut self.reports {
            reports.return_all(pages);
        }
        returned
    }
}

impl<T: Transport> Driver for Balloon<T> {
    type Transport = T;

    fn device(&self) -> &Device<T> {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device<T> {
        &mut self.device
    }

    /// The pages go back to the kernel with the next polls; a balloon that is dropped before keeps them from everyone.
    fn stop(&mut self, reason: Violation) {
        if self.device.broken().is_some() {
            return;
        }
        let confirmed = self.device.stop(reason);
        for batch in [&mut self.inflating, &mut self.deflating, &mut self.releasing] {
            self.leaked_pages += batch.abandon(confirmed);
        }
        if !confirmed {
            self.leaked_pages += self.inflate.leak() + self.deflate.leak();
            self.leaked_pages += self.statistics.as_mut().map_or(0, statistics::Reporter::leak);
            self.leaked_pages += self.reports.as_mut().map_or(0, report::Reporter::leak);
            self.lost = self.actual() + self.inflating.pages.len() as u32;
        }
    }

    /// Sends again what was on its way. The pages that the balloon has stay in it: telling a host twice of a page does no
    /// harm.
    fn restart(&mut self, _: Violation) -> Result<(), InitError> {
        self.device.ring_again(&mut self.inflate)?;
        self.device.ring_again(&mut self.deflate)?;
        if let Some(statistics) = &mut self.statistics {
            self.device.ring_again(&mut statistics.ring)?;
        }
        if let Some(reports) = &mut self.reports {
            self.device.ring_again(&mut reports.ring)?;
        }
        self.device.start();
        self.inflating.send_again(&mut self.inflate);
        self.deflating.send_again(&mut self.deflate);
        self.releasing.send_again(&mut self.deflate);
        if let Some(statistics) = &mut self.statistics {
            statistics.restart();
        }
        if let Some(reports) = &mut self.reports {
            reports.restart();
        }
        self.tell_actual();
        self.read_target();
        self.kick();
        Ok(())
    }

    /// Follows a new target; the next [`Balloon::poll`] acts on it.
    fn config_changed(&mut self) {
        self.read_target();
    }

    fn enable_interrupts(&mut self) -> bool {
        if !self.device.is_live() {
            return false;
        }
        let mut work = self.inflate.enable_interrupts() | self.deflate.enable_interrupts();
        work |= self.statistics.as_mut().is_some_and(|statistics| statistics.ring.enable_interrupts());
        work | self.reports.as_mut().is_some_and(|reports| reports.ring.enable_interrupts())
    }

    fn disable_interrupts(&mut self) {
        self.inflate.disable_interrupts();
        self.deflate.disable_interrupts();
        if let Some(statistics) = &mut self.statistics {
            statistics.ring.disable_interrupts();
        }
        if let Some(reports) = &mut self.reports {
            reports.ring.disable_interrupts();
        }
    }

    fn kick(&mut self) {
        self.device.kick(&mut self.inflate);
        self.device.kick(&mut self.deflate);
        if let Some(statistics) = &mut self.statistics {
            self.device.kick(&mut statistics.ring);
        }
        if let Some(reports) = &mut self.reports {
            self.device.kick(&mut reports.ring);
        }
    }

    fn leaked_pages(&self) -> usize {
        self.leaked_pages
    }
}

impl<T: Transport> Drop for Balloon<T> {
    fn drop(&mut self) {
        self.stop(Violation::ShutDown);
    }
}

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
