//! The registers of a slot with a bug: what the driver writes is changed before the transport sees it, what it reads after.

use super::Bug;
use crate::devices::BusDevice;
use crate::virtio::mmio::MmioTransport;
use shared_abi::virtio::mmio::{CONFIG, InterruptStatus, Register};
use shared_abi::virtio::{CommonFeatures, DeviceType, Status};
use std::sync::{Arc, Mutex, PoisonError};

/// A slot with a bug.
pub struct FaultySlot {
    bug: Bug,
    inner: Arc<MmioTransport>,
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
    pub fn new(bug: Bug, inner: Arc<MmioTransport>) -> Self {
        let mut slot = Self { bug, inner, offered: 0, written: Mutex::new(Written::NOTHING) };
        for half in [1, 0] {
            slot.put(Register::DeviceFeaturesSel, half);
            slot.offered = slot.offered << 32 | u64::from(slot.get(Register::DeviceFeatures));
        }
        slot
    }

    fn get(&self, register: Register) -> u32 {
        let mut data = [0; 4];
        self.inner.read(register.offset(), &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&self, register: Register, value: u32) {
        self.inner.write(register.offset(), &value.to_le_bytes());
    }

    fn read_register(&self, register: Register, value: u32) -> u32 {
        let shown = || self.written.lock().unwrap_or_else(PoisonError::into_inner).shown;
        match register {
            Register::ConfigGeneration if self.bug == Bug::ConfigGenerationStuck => 0,
            // There is no driver yet.
            Register::DeviceFeatures
                if self.bug == Bug::StrictDriver && !self.inner.status().contains(Status::DRIVER) =>
            {
                0
            }
            Register::Status => value | u32::from(shown().bits()),
            _ => value,
        }
    }

    fn write_register(&self, register: Register, value: u32) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match register {
            Register::Status => return self.write_status(&mut written, value),
            Register::DriverFeaturesSel => written.driver_features_sel = value,
            Register::DriverFeatures => {
                let half = if written.driver_features_sel == 0 { 0 } else { 32 };
                written.driver_features &= !(u64::from(u32::MAX) << half);
                written.driver_features |= u64::from(value) << half;
            }
            Register::QueueSel => written.queue_sel = value,
            _ => {}
        }
        self.put(register, value);
    }

    fn write_status(&self, written: &mut Written, value: u32) {
        let before = self.inner.status() | written.shown;
        if value == 0 {
            self.put(Register::Status, 0);
            *written = Written::NOTHING;
            if self.bug == Bug::FaultOutlivesReset && self.inner.fault().is_some() {
                written.shown = Status::DEVICE_NEEDS_RESET;
            }
            return;
        }
        let new = Status::from_bits_truncate(value as u8) - before;
        if self.bug == Bug::StrictDriver {
            if is_out_of_step(before, value) {
                return;
            }
            if new.contains(Status::DRIVER_OK) && self.lacks_queues(written.queue_sel) {
                written.shown |= Status::DEVICE_NEEDS_RESET;
            }
        }
        if self.bug == Bug::FeaturesOkAlways && new.contains(Status::FEATURES_OK) {
            self.accept_what_is_offered(written);
        }
        if !written.shown.contains(Status::DEVICE_NEEDS_RESET) {
            return self.put(Register::Status, value);
        }
        self.put(Register::Status, value & !u32::from(Status::DRIVER_OK.bits()));
        if new.contains(Status::DRIVER_OK) && self.inner.status().contains(Status::FEATURES_OK) {
            written.shown |= Status::DRIVER_OK;
            self.inner.signal().raise(InterruptStatus::CONFIG_CHANGE);
        }
    }

    /// Gives the transport features that it agrees to instead of those that the driver has accepted.
    fn accept_what_is_offered(&self, written: &Written) {
        let features = written.driver_features & self.offered | CommonFeatures::VERSION_1.bits();
        for half in [0, 1] {
            self.put(Register::DriverFeaturesSel, half);
            self.put(Register::DriverFeatures, (features >> (32 * half)) as u32);
        }
        self.put(Register::DriverFeaturesSel, written.driver_features_sel);
    }

    /// For [`Bug::StrictDriver`]: a queue is missing that every driver of the device sets up.
    fn lacks_queues(&self, queue_sel: u32) -> bool {
        let needed = match self.inner.device_type() {
            DeviceType::BALLOON => self.inner.queue_count() as u32,
            DeviceType::NET | DeviceType::CONSOLE => 2,
            _ => 1,
        };
        let lacks = (0..needed).any(|index| {
            self.put(Register::QueueSel, index);
            self.get(Register::QueueReady) == 0
        });
        self.put(Register::QueueSel, queue_sel);
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

impl BusDevice for FaultySlot {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.inner.read(offset, data);
        if offset < CONFIG
            && let (Some(register), Ok(data)) = (Register::at(offset), <&mut [u8; 4]>::try_from(data))
        {
            *data = self.read_register(register, u32::from_le_bytes(*data)).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (Register::at(offset), data.try_into()) {
            (Some(register), Ok(data)) if offset < CONFIG => self.write_register(register, u32::from_le_bytes(data)),
            _ => self.inner.write(offset, data),
        }
        if self.bug == Bug::FaultEndsHost && self.inner.fault().is_some() {
            std::process::abort();
        }
    }
}
