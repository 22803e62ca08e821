//! A device with a bug: in its rings, in its configuration space, in its storage, or in how it takes a fault.

use super::Bug;
use super::engine::FaultyEngine;
use super::ring::FaultyRing;
use crate::virtio::block::Engine;
use crate::virtio::{ConfigSpace, Device, Fault, Io, Progress, VirtQueue};
use crate::wrap::{DeviceWrapper, WrappedDevice};
use shared_abi::virtio::balloon::Config;
use shared_abi::virtio::net::RECEIVE_QUEUE;
use shared_abi::virtio::{DeviceType, blk};
use std::mem::offset_of;
use std::sync::Arc;

/// A device with a bug.
pub type FaultyDevice = WrappedDevice<FaultAround>;

/// The bug of a device.
pub struct FaultAround {
    bug: Bug,
    storage: Option<FaultyEngine>,
}

impl FaultyDevice {
    /// This device with a bug.
    pub fn new(bug: Bug, inner: Box<dyn Device>) -> Self {
        Self::around(inner, FaultAround { bug, storage: None })
    }

    /// The disk that `build` makes of `engine`, with a bug in both.
    pub fn disk(bug: Bug, engine: Box<dyn Engine>, build: impl FnOnce(Box<dyn Engine>) -> Box<dyn Device>) -> Self {
        let storage = FaultyEngine::new(bug, engine);
        Self::around(build(Box::new(storage.clone())), FaultAround { bug, storage: Some(storage) })
    }
}

impl FaultAround {
    fn has_faulty_ring(&self, inner: &dyn Device, queue: usize) -> bool {
        match self.bug {
            Bug::MergeableCountWrong | Bug::DataValidUnasked => {
                inner.device_type() == DeviceType::NET && queue == usize::from(RECEIVE_QUEUE)
            }
            Bug::FailedReadCounted => inner.device_type() == DeviceType::BLOCK,
            Bug::UsedLengthTooLong
            | Bug::UsedIdWrong
            | Bug::UsedFlagsStray
            | Bug::InterruptLostWhenSuppressed
            | Bug::EventIndexAtWrap => true,
            _ => false,
        }
    }
}

impl DeviceWrapper for FaultAround {
    fn config(&self, inner: &dyn Device) -> Arc<dyn ConfigSpace> {
        match (self.bug, inner.device_type()) {
            (Bug::BalloonActualWrong, DeviceType::BALLOON) => Arc::new(OneTooMany(inner.config())),
            (Bug::PaddingNotZero, DeviceType::BLOCK) => {
                Arc::new(OneByte { inner: inner.config(), at: offset_of!(blk::Config, unused0), value: 0x80 })
            }
            _ => inner.config(),
        }
    }

    fn queue_started(&mut self, inner: &dyn Device, index: usize, queue: &mut VirtQueue) {
        if self.has_faulty_ring(inner, index) {
            queue.wrap_ring(|ring| Box::new(FaultyRing::new(self.bug, ring)));
        }
    }

    fn was_reset(&mut self) {
        if let Some(storage) = &self.storage {
            storage.lose();
        }
    }

    fn after_work(&mut self, result: Result<Progress, Fault>, _io: &mut Io<'_>) -> Result<Progress, Fault> {
        if result.is_err() && self.bug == Bug::FaultEndsHost {
            std::process::abort();
        }
        result
    }
}

/// A configuration space with one byte that reads as another.
struct OneByte {
    inner: Arc<dyn ConfigSpace>,
    at: usize,
    value: u8,
}

impl ConfigSpace for OneByte {
    fn read(&self, offset: usize, data: &mut [u8]) {
        self.inner.read(offset, data);
        if let Some(byte) = self.at.checked_sub(offset).and_then(|at| data.get_mut(at)) {
            *byte = self.value;
        }
    }

    fn write(&self, offset: usize, data: &[u8]) {
        self.inner.write(offset, data);
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
