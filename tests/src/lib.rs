//! The harness that boots images on testbeds and follows what the guest says.
//!
//! Used by `cargo xtask run`, `test`, `conform` and `bench`, and by the end-to-end tests of this crate. It trusts neither the guest
//! nor the hypervisor: every wait is bounded, every child process and every file is gone when it returns.

pub mod conform;
pub mod console;
pub mod control;
pub mod disassembly;
pub mod firmware;
pub mod generated;
pub mod inner;
pub mod machine;
mod package;
mod quoted;
pub mod readable;
pub mod ready;
pub mod running;
pub mod sample;
mod socket;
pub mod testbed;
pub mod tour;
pub mod web;
pub mod xen;
