//! The registers of a slot with a bug: what the driver writes is changed before the transport sees it, what it reads after.

use super::Bug;
use crate::virtio::mmio::MmioTransport;
use crate::wrap::{Registers, SlotWrapper, WrappedSlot};
use shared_abi::virtio::mmio::{InterruptStatus, Register};
use shared_abi::virtio::{CommonFeatures, DeviceType, Status};
use std::sync::{Arc, Mutex, PoisonError};

/// A slot with a bug.
pub type FaultySlot = WrappedSlot<FaultInRegisters>;

/// The bug of a slot.
pub struct FaultInRegisters {
    bug: Bug,
    transport: Arc<MmioTransport>,
    offered: u64,
    written: Mutex<Written>,
}

/// What the driver has written since the last reset.
struct Written {
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    /// Bits that the driver sees in the status, and that the transport does not have. While DEVICE_NEEDS_RESET is one, the
    /// transport does not get to see DRIVER_OK, so that its device leaves the queues alone.
    shown: Status,
}

impl Written {
    const NOTHING: Self = Self { driver_features_sel: 0, driver_features: 0, queue_sel: 0, shown: Status::empty() };
}

impl FaultySlot {
    /// This slot, which has no driver yet, with a bug.
    pub fn new(bug: Bug, transport: Arc<MmioTransport>) -> Self {
        let inner = Registers::new(transport.clone());
        let offered = inner.offered();
        Self::around(inner, FaultInRegisters { bug, transport, offered, written: Mutex::new(Written::NOTHING) })
    }
}

impl SlotWrapper for FaultInRegisters {
    fn read(&self, register: Register, value: u32) -> u32 {
        let shown = || self.written.lock().unwrap_or_else(PoisonError::into_inner).shown;
        match register {
            Register::ConfigGeneration if self.bug == Bug::ConfigGenerationStuck => 0,
            Register::MagicValue if self.bug == Bug::MagicWrong && self.transport.device_type() == DeviceType::RNG => {
                !value
            }
            Register::InterruptStatus if self.bug == Bug::InterruptStatusStray && value != 0 => value | 1 << 7,
            // There is no driver yet.
            Register::DeviceFeatures
                if self.bug == Bug::StrictDriver && !self.transport.status().contains(Status::DRIVER) =>
            {
                0
            }
            Register::Status => value | u32::from(shown().bits()),
            _ => value,
        }
    }

    fn write(&self, inner: &Registers, register: Register, value: u32) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match register {
            Register::Status => return self.write_status(inner, &mut written, value),
            Register::DriverFeaturesSel => written.driver_features_sel = value,
            Register::DriverFeatures => {
                let half = if written.driver_features_sel == 0 { 0 } else { 32 };
                written.driver_features &= !(u64::from(u32::MAX) << half);
                written.driver_features |= u64::from(value) << half;
            }
            Register::QueueSel => written.queue_sel = value,
            _ => {}
        }
        inner.put(register, value);
    }

    fn after_access(&self) {
        if self.bug == Bug::FaultEndsHost && self.transport.fault().is_some() {
            std::process::abort();
        }
    }
}

impl FaultInRegisters {
    fn write_status(&self, inner: &Registers, written: &mut Written, value: u32) {
        let before = self.transport.status() | written.shown;
        if value == 0 {
            inner.put(Register::Status, 0);
            *written = Written::NOTHING;
            if self.bug == Bug::FaultOutlivesReset && self.transport.fault().is_some() {
                written.shown = Status::DEVICE_NEEDS_RESET;
            }
            return;
        }
        let new = Status::from_bits_truncate(value as u8) - before;
        if self.bug == Bug::StrictDriver {
            if is_out_of_step(before, value) {
                return;
            }
            if new.contains(Status::DRIVER_OK) && self.lacks_queues(inner, written.queue_sel) {
                written.shown |= Status::DEVICE_NEEDS_RESET;
            }
        }
        if self.bug == Bug::FeaturesOkAlways && new.contains(Status::FEATURES_OK) {
            self.accept_what_is_offered(inner, written);
        }
        if !written.shown.contains(Status::DEVICE_NEEDS_RESET) {
            return inner.put(Register::Status, value);
        }
        inner.put(Register::Status, value & !u32::from(Status::DRIVER_OK.bits()));
        if new.contains(Status::DRIVER_OK) && self.transport.status().contains(Status::FEATURES_OK) {
            written.shown |= Status::DRIVER_OK;
            self.transport.signal().raise(InterruptStatus::CONFIG_CHANGE);
        }
    }

    /// Gives the transport features that it agrees to instead of those that the driver has accepted.
    fn accept_what_is_offered(&self, inner: &Registers, written: &Written) {
        let features = written.driver_features & self.offered | CommonFeatures::VERSION_1.bits();
        for half in [0, 1] {
            inner.put(Register::DriverFeaturesSel, half);
            inner.put(Register::DriverFeatures, (features >> (32 * half)) as u32);
        }
        inner.put(Register::DriverFeaturesSel, written.driver_features_sel);
    }

    /// For [`Bug::StrictDriver`]: a queue is missing that every driver of the device sets up.
    fn lacks_queues(&self, inner: &Registers, queue_sel: u32) -> bool {
        let needed = match self.transport.device_type() {
            DeviceType::BALLOON => self.transport.queue_count() as u32,
            DeviceType::NET | DeviceType::CONSOLE => 2,
            _ => 1,
        };
        let lacks = (0..needed).any(|index| {
            inner.put(Register::QueueSel, index);
            inner.get(Register::QueueReady) == 0
        });
        inner.put(Register::QueueSel, queue_sel);
        lacks
    }
}

/// For [`Bug::StrictDriver`]: the status is written as no step of 3.1.1 has it.
fn is_out_of_step(before: Status, value: u32) -> bool {
    let steps = [Status::ACKNOWLEDGE, Status::DRIVER, Status::FEATURES_OK, Status::DRIVER_OK];
    let reached = |step: usize| steps[..step].iter().fold(Status::empty(), |status, bit| status | *bit);
    let known = (0..steps.len()).any(|step| before == reached(step) && value == u32::from(reached(step + 1).bits()));
    let failed = value & u32::from(Status::FAILED.bits()) != 0 && before.contains(Status::DRIVER);
    !known && !failed && value != u32::from(before.bits())
}
