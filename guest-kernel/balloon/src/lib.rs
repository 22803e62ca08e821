//! The memory balloon driver (section 5.5) and its policy: pages go to the host and come back.
//!
//! Made by the kernel, which calls [`Balloon::poll`] when the device interrupts, from time to time while the target is not
//! met, and when memory was freed. Each call does a bounded amount of work. The kernel's allocator is behind
//! [`PageSource`]; its refusal to give a page is what keeps the kernel's reserve. The device is not trusted.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod pages;

pub use pages::{FreeBlock, PageSource, Pfn, Report, Statistics};

use frontends::device::{Device, Driver, InterruptSource};
use frontends::error::{InitError, Violation};
use frontends::memory::DmaPages;
use frontends::transport::Transport;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::InterruptStatus;

/// Where the balloon stands after a [`Balloon::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The device was stopped.
    Broken(Violation),
}

/// What the balloon did since it came up; all in pages of 4096 bytes but the last two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Given to the host.
    pub inflated: u64,
    /// Taken back.
    pub deflated: u64,
    /// Taken back because the kernel ran out of memory.
    pub released_on_oom: u64,
    /// Reported as free.
    pub reported: u64,
    /// Statistics that the host asked for.
    pub statistics_sent: u64,
    /// Times that a target could not be met.
    pub shortfalls: u64,
}

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Pages of one inflate or deflate request, at most 1024.
    pub batch: u16,
    /// Free blocks of one report.
    pub report_blocks: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { batch: 256, report_blocks: 16 }
    }
}

/// A memory balloon.
pub struct Balloon<T: Transport> {
    device: Device<T>,
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Balloon<T> {
    /// Brings a device up.
    pub fn new(transport: T, dma: &'static dyn DmaPages, settings: Settings) -> Result<Self, InitError> {
        todo!()
    }

    /// Does the next bounded piece of work: takes back what the device is done with, answers a request for statistics,
    /// sends one batch towards the target, reports free blocks. Kicks the device itself.
    pub fn poll<P: PageSource>(&mut self, pages: &mut P) -> State {
        todo!()
    }

    /// Out of memory: takes up to `count` pages back at once, if the host agreed to that. Never allocates. Returns how many
    /// are back already; under MUST_TELL_HOST they come with a later [`Balloon::poll`].
    pub fn release_on_oom<P: PageSource>(&mut self, pages: &mut P, count: u32) -> u32 {
        todo!()
    }

    /// Where the balloon stood after the last poll.
    pub fn state(&self) -> State {
        todo!()
    }

    /// Pages that the host wants.
    pub fn target(&self) -> u32 {
        todo!()
    }

    /// Pages that the balloon has.
    pub fn actual(&self) -> u32 {
        todo!()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        todo!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Driver for Balloon<T> {
    fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }
    fn features(&self) -> u64 {
        self.device.features()
    }
    fn interrupt(&mut self, source: InterruptSource) -> InterruptStatus {
        todo!()
    }
    fn enable_interrupts(&mut self) -> bool {
        todo!()
    }
    fn disable_interrupts(&mut self) {
        todo!()
    }
    fn kick(&mut self) {
        todo!()
    }
    fn broken(&self) -> Option<Violation> {
        self.device.broken()
    }
    fn notifications(&self) -> u64 {
        self.device.notifications()
    }
    fn leaked_pages(&self) -> usize {
        todo!()
    }
    fn shut_down(&mut self) {
        todo!()
    }
}
