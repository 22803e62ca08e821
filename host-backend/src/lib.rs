//! The KVM host of the board in [`shared_abi::board`]: a virtual machine monitor as a library, and its program
//! `ringside`.
//!
//! [`run`] turns a [`config::Config`] into a running guest: [`vmm`] knows KVM, [`devices`] are the board's ports,
//! [`virtio`] are the devices on shared rings. A device sees guest memory, its queues and an
//! [`devices::InterruptLine`]; it doesn't know KVM. Everything that the guest writes is checked before it is used:
//! a misbehaving guest loses a request, a device or its VM, never the host.
//!
//! [`virtio::mmio::MmioTransport`] works without KVM, so a driver can be tested against the real devices in one process.
//! [`control`] describes the control socket.
//!

pub mod cli;
pub mod config;
pub mod control;
pub mod devices;
pub mod event;
#[cfg(any(test, feature = "test-faults"))]
pub mod faulty;
pub mod hostile;
pub mod keeper;
pub mod log;
mod mistake;
#[cfg(all(test, feature = "models"))]
mod models;
pub mod rate;
pub mod run;
pub mod sample;
pub mod sandbox;
pub mod status;
pub mod stop;
pub mod sync;
pub mod target;
pub mod terminal;
pub mod threads;
pub mod unix_socket;
pub mod virtio;
pub mod vmm;
pub mod wrap;
