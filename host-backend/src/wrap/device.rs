//! A device with something around it.

use crate::virtio::{Change, Changed, ConfigSpace, Device, Fault, Flush, Io, Progress, VirtQueue};
use shared_abi::virtio::DeviceType;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;
use vmm_sys_util::epoll::EventSet;

/// What is around a device. Each method does nothing unless it is implemented.
pub trait DeviceWrapper: Send {
    /// What the driver finds as the configuration space.
    fn config(&self, inner: &dyn Device) -> Arc<dyn ConfigSpace> {
        inner.config()
    }

    /// The device has taken over a queue.
    fn queue_started(&mut self, _inner: &dyn Device, _index: usize, _queue: &mut VirtQueue) {}

    /// The device was reset.
    fn was_reset(&mut self) {}

    /// The device has forgotten a queue.
    fn queue_was_reset(&mut self, _index: usize) {}

    /// Before the device looks at a queue.
    ///
    /// # Errors
    /// A [`Fault`] that the device then has.
    fn before_queue(&mut self, _index: usize, _io: &mut Io<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// After the device has worked, with this result.
    ///
    /// # Errors
    /// A [`Fault`] that the device then has.
    fn after_work(&mut self, result: Result<Progress, Fault>, _io: &mut Io<'_>) -> Result<Progress, Fault> {
        result
    }
}

/// A device with something around it.
pub struct WrappedDevice<W> {
    inner: Box<dyn Device>,
    wrapper: W,
}

impl<W> WrappedDevice<W> {
    /// Puts `wrapper` around `inner`.
    pub fn around(inner: Box<dyn Device>, wrapper: W) -> Self {
        Self { inner, wrapper }
    }
}

impl<W: DeviceWrapper> Device for WrappedDevice<W> {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn features(&self) -> u64 {
        self.inner.features()
    }

    fn queue_count(&self) -> usize {
        self.inner.queue_count()
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.wrapper.config(self.inner.as_ref())
    }

    fn activate(&mut self, features: u64) {
        self.inner.activate(features);
    }

    fn reset(&mut self) {
        self.inner.reset();
        self.wrapper.was_reset();
    }

    fn start_queue(&mut self, index: usize, queue: &mut VirtQueue) {
        self.inner.start_queue(index, queue);
        self.wrapper.queue_started(self.inner.as_ref(), index, queue);
    }

    fn reset_queue(&mut self, index: usize) {
        self.inner.reset_queue(index);
        self.wrapper.queue_was_reset(index);
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        self.wrapper.before_queue(index, io)?;
        let result = self.inner.process_queue(index, io);
        self.wrapper.after_work(result, io)
    }

    fn event_source(&self) -> Option<(RawFd, EventSet)> {
        self.inner.event_source()
    }

    fn process_event(&mut self, events: EventSet, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let result = self.inner.process_event(events, io);
        self.wrapper.after_work(result, io)
    }

    fn wake_at(&self) -> Option<Instant> {
        self.inner.wake_at()
    }

    fn process_timer(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        let result = self.inner.process_timer(io);
        self.wrapper.after_work(result.map(|()| Progress::Done), io).map(drop)
    }

    fn change(&mut self, change: Change) -> Result<Changed, String> {
        self.inner.change(change)
    }

    fn show(&mut self) {
        self.inner.show();
    }

    fn flusher(&self) -> Option<Arc<dyn Flush>> {
        self.inner.flusher()
    }
}
