//! Wrappers around a part of the machine, put there when the machine is built: a [`Device`](crate::virtio::Device), and the
//! registers of a slot. Two use them: injected bugs (`faulty`), and devices that lie to any guest
//! ([`hostile`](crate::hostile)). A machine without either has no wrapper, so that it costs nothing.

mod device;
mod slot;

pub use device::{DeviceWrapper, WrappedDevice};
pub use slot::{Registers, SlotWrapper, WrappedSlot};
