//! A device with a bug: in its rings, in its configuration space, in its storage, or in how it takes a fault.

use super::Bug;
use super::engine::FaultyEngine;
use super::ring::FaultyRing;
use crate::virtio::block::Engine;
use crate::virtio::{Change, Changed, ConfigSpace, Device, Fault, Flush, Io, Progress, VirtQueue};
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::balloon::Config;
use shared_abi::virtio::net::RECEIVE_QUEUE;
use std::mem::offset_of;
use std::os::fd::RawFd;
use std::sync::Arc;
use vmm_sys_util::epoll::EventSet;

/// A device with a bug.
pub struct FaultyDevice {
    bug: Bug,
    inner: Box<dyn Device>,
    storage: Option<FaultyEngine>,
}

impl FaultyDevice {
    /// This device with a bug.
    pub fn new(bug: Bug, inner: Box<dyn Device>) -> Self {
        Self { bug, inner, storage: None }
    }

    /// The disk that `build` makes of `engine`, with a bug in both.
    pub fn disk(bug: Bug, engine: Box<dyn Engine>, build: impl FnOnce(Box<dyn Engine>) -> Box<dyn Device>) -> Self {
        let storage = FaultyEngine::new(bug, engine);
        Self { bug, inner: build(Box::new(storage.clone())), storage: Some(storage) }
    }

    fn has_faulty_ring(&self, queue: usize) -> bool {
        match self.bug {
            Bug::MergeableCountWrong => {
                self.inner.device_type() == DeviceType::NET && queue == usize::from(RECEIVE_QUEUE)
            }
            Bug::FailedReadCounted => self.inner.device_type() == DeviceType::BLOCK,
            Bug::UsedLengthTooLong | Bug::UsedIdWrong | Bug::InterruptLostWhenSuppressed | Bug::EventIndexAtWrap => {
                true
            }
            _ => false,
        }
    }

    fn checked(&self, result: Result<Progress, Fault>) -> Result<Progress, Fault> {
        if result.is_err() && self.bug == Bug::FaultEndsHost {
            std::process::abort();
        }
        result
    }
}

impl Device for FaultyDevice {
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
        let config = self.inner.config();
        let wrong = self.bug == Bug::BalloonActualWrong && self.device_type() == DeviceType::BALLOON;
        if wrong { Arc::new(OneTooMany(config)) } else { config }
    }

    fn activate(&mut self, features: u64) {
        self.inner.activate(features);
    }

    fn reset(&mut self) {
        self.inner.reset();
        if let Some(storage) = &self.storage {
            storage.lose();
        }
    }

    fn start_queue(&mut self, index: usize, queue: &mut VirtQueue) {
        self.inner.start_queue(index, queue);
        if self.has_faulty_ring(index) {
            queue.wrap_ring(|ring| Box::new(FaultyRing::new(self.bug, ring)));
        }
    }

    fn reset_queue(&mut self, index: usize) {
        self.inner.reset_queue(index);
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let result = self.inner.process_queue(index, io);
        self.checked(result)
    }

    fn event_source(&self) -> Option<(RawFd, EventSet)> {
        self.inner.event_source()
    }

    fn process_event(&mut self, events: EventSet, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let result = self.inner.process_event(events, io);
        self.checked(result)
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

/// The configuration space of a balloon that counts one page too many.
struct OneTooMany(Arc<dyn ConfigSpace>);

impl ConfigSpace for OneTooMany {
    fn read(&self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        match <[u8; 4]>::try_from(data) {
            Ok(actual) if offset == offset_of!(Config, actual) => {
                self.0.write(offset, &u32::from_le_bytes(actual).wrapping_add(1).to_le_bytes());
            }
            _ => self.0.write(offset, data),
        }
    }
}
