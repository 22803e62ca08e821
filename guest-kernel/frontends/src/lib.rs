//! Virtio drivers over shared rings: block, net, console and entropy, with their rings and transports.
//!
//! Called by the kernel, which gives them a [`transport::Transport`] and [`memory::DmaPages`] and nothing else: they
//! know no bus, no hypervisor and no privileged instruction, so the same code runs on the host against fakes.
//! They trust nothing that a device writes. What the driver needs to know about its rings it keeps in private memory;
//! a device that lies is reset, its requests fail, and the reason is kept ([`Driver::broken`]).
//!
//! All drivers can be polled, or awaited ([`Driver::poll_work`]). The kernel's loop for each is: an interrupt arrives, [`Driver::interrupt`],
//! [`Driver::disable_interrupts`], take completions until there are none, [`Driver::enable_interrupts`], and once more
//! from the start if that says that work arrived meanwhile.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake-device"))]
extern crate std;

pub mod block;
mod cells;
pub mod console;
pub mod device;
pub mod entropy;
pub mod error;
#[cfg(any(test, feature = "fake-device"))]
pub mod fake;
pub mod memory;
pub mod net;
pub mod ring;
pub mod transport;

/// Layouts and constants of the specification, which the signatures here name.
pub use virtio_abi as abi;
/// The crate that has the trait `Hal`, in the version that [`memory::HalPages`] takes.
#[cfg(feature = "virtio-drivers")]
pub use virtio_drivers;

pub use block::Block;
pub use console::Console;
pub use device::{Driver, InterruptSource};
pub use entropy::Entropy;
pub use error::{InitError, Violation};
pub use memory::{DmaBuffer, DmaMapper, DmaPages};
pub use net::Net;
pub use transport::Transport;

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
