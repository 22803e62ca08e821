//! The machine around the CPU: where virtio devices are, and how to switch it off.

pub mod mmio;
pub mod pci;
pub mod power;
pub mod registers;
