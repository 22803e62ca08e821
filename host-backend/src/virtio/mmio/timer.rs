//! What a device does at a time and not after an event: it goes on when its rate limit has tokens
//! again, and raises an interrupt that came too soon after others.

use super::MmioTransport;
use crate::virtio::Progress;
use std::os::fd::RawFd;
use std::time::Instant;
use vmm_sys_util::epoll::EventSet;

/// What the worker waits for besides the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    /// A file descriptor outside the guest.
    pub source: Option<(RawFd, EventSet)>,
    /// A time.
    pub until: Option<Instant>,
}

impl MmioTransport {
    /// What the device waits for apart from the guest. Only its worker asks.
    pub fn awaited(&self) -> Awaited {
        let mut machinery = self.machinery();
        let live = self.apply(&mut machinery);
        let device = Some(&machinery.device).filter(|_| live);
        // Also a device that needs a reset has interrupts to deliver.
        let until = device.and_then(|device| device.wake_at()).into_iter().chain(self.signal.interrupt_due()).min();
        Awaited { source: device.and_then(|device| device.event_source()), until }
    }

    /// Delivers a delayed interrupt, and lets the device go on with what had to wait until now, on this thread.
    pub fn process_timer(&self) {
        self.signal.raise_due();
        self.work(|device, io| device.process_timer(io).map(|()| Progress::Done));
    }
}
