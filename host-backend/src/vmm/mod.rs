//! What knows KVM: the VM and its memory, the kernel's loading, CPUID, the vCPUs, their states and their run loop. Devices are met only
//! through the buses of [`crate::devices`] and through interrupt lines and notification addresses.

pub mod cpuid;
pub mod exits;
pub mod gate;
pub mod kvm;
pub mod lifecycle;
pub mod loader;
pub mod memory;
pub mod vcpu;

pub use memory::GuestRam;
