//! The paravirtual operations: everything that a kernel does differently in different worlds, behind one table.
//!
//! [`table`] is the table, [`site`] the call sites, [`patch`] the patcher that rewrites them at boot, and each world
//! is a sibling file that fills the table ([`native`], [`kvm`]). The kernel calls the wrappers in [`irq`], [`cpu`],
//! [`mmu`], [`event`], [`time`] and [`smp`], and never asks where it runs. Instructions that every world executes alike
//! are in [`port`] and [`cpu`]. This crate is the only place with privileged instructions.
#![cfg_attr(not(test), no_std)]

mod apic;
pub mod cpu;
pub mod detect;
pub mod event;
pub mod irq;
pub mod kvm;
pub mod mmu;
pub mod native;
pub mod patch;
pub mod percpu;
pub mod port;
pub mod site;
pub mod smp;
mod startup;
pub mod table;
mod template;
pub mod time;

pub use detect::World;
pub use table::{Backend, Op, Ops};

#[cfg(test)]
mod tests;
