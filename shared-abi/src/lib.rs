//! What the guest and the host agree on: numbers, layouts and report lines, each stated once.
//!
//! No logic lives here beyond parsing and printing [`report`] lines. Every layout is `repr(C)` with its size and
//! offsets asserted at compile time.
//! [`virtio`] is a crate of its own, which others can take without the rest.
#![no_std]
#![forbid(unsafe_code)]

pub mod bench;
pub mod board;
pub mod bundle;
pub mod bzimage;
pub mod disk;
pub mod kvm;
pub mod pvh;
pub mod report;
pub mod tour;
pub mod xen;

pub use virtio_abi as virtio;
pub use virtio_abi::assert_layout;

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
