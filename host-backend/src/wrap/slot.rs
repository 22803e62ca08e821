//! The registers of a slot with something around them: what the driver writes is changed before the transport sees it, what
//! it reads after.

use crate::devices::BusDevice;
use shared_abi::virtio::mmio::{CONFIG, Register};
use std::sync::Arc;

/// The registers inside the wrapper.
#[derive(Clone)]
pub struct Registers(Arc<dyn BusDevice>);

impl Registers {
    /// Those of this slot.
    pub fn new(slot: Arc<dyn BusDevice>) -> Self {
        Self(slot)
    }

    /// Reads a register.
    pub fn get(&self, register: Register) -> u32 {
        let mut data = [0; 4];
        self.0.read(register.offset(), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn put(&self, register: Register, value: u32) {
        self.0.write(register.offset(), &value.to_le_bytes());
    }

    /// The features that the device offers. Changes its selection.
    pub fn offered(&self) -> u64 {
        [1, 0].into_iter().fold(0, |features, half| {
            self.put(Register::DeviceFeaturesSel, half);
            features << 32 | u64::from(self.get(Register::DeviceFeatures))
        })
    }
}

/// What is around a slot. Each method does nothing unless it is implemented.
pub trait SlotWrapper: Send + Sync {
    /// What the driver sees of a register that reads `value`.
    fn read(&self, _register: Register, value: u32) -> u32 {
        value
    }

    /// The driver writes a register.
    fn write(&self, inner: &Registers, register: Register, value: u32) {
        inner.put(register, value);
    }

    /// The driver has read this from the configuration space.
    fn read_config(&self, _offset: usize, _data: &mut [u8]) {}

    /// After each access.
    fn after_access(&self) {}
}

/// A slot with something around it.
pub struct WrappedSlot<W> {
    inner: Registers,
    wrapper: W,
}

impl<W> WrappedSlot<W> {
    /// Puts `wrapper` around `inner`.
    pub fn around(inner: Registers, wrapper: W) -> Self {
        Self { inner, wrapper }
    }
}

impl<W: SlotWrapper> BusDevice for WrappedSlot<W> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.inner.0.read(offset, data);
        if offset >= CONFIG {
            self.wrapper.read_config((offset - CONFIG) as usize, data);
        } else if let (Some(register), Ok(data)) = (Register::at(offset), <&mut [u8; 4]>::try_from(data)) {
            *data = self.wrapper.read(register, u32::from_le_bytes(*data)).to_le_bytes();
        }
        self.wrapper.after_access();
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (Register::at(offset), data.try_into()) {
            (Some(register), Ok(data)) if offset < CONFIG => {
                self.wrapper.write(&self.inner, register, u32::from_le_bytes(data));
            }
            _ => self.inner.0.write(offset, data),
        }
        self.wrapper.after_access();
    }
}
