//! The paravirtual operations: everything that a kernel does differently in different worlds, in one table.
//!
//! [`table`] is the table, [`site`] the call sites, [`patch`] the patcher that rewrites them at boot. Each of [`worlds`] fills the
//! table, and so can a world of yours ([`template!`]). The kernel calls the wrappers in [`ops`], and never asks where it runs; what each CPU has of its own is in
//! [`percpu`]. Instructions that every world executes alike are in [`port`] and [`cpu`]. This crate is the only place with
//! privileged instructions.
#![cfg_attr(not(test), no_std)]

pub mod detect;
pub mod ops;
pub mod patch;
pub mod percpu;
pub mod port;
pub mod scale;
pub mod site;
pub mod table;
pub mod template;
pub mod types;
pub mod worlds;

pub use detect::World;
pub use shared_abi;
pub use x86_64;

pub use ops::{cpu, event, irq, memory, mmu, smp, time, vmm};
pub use table::{Backend, Op, Ops};

/// The live table, which unpatched sites call through. Set once, by [`install`].
#[unsafe(link_section = ".data.ro_after_init")]
pub(crate) static mut LIVE: Ops = worlds::native::OPS;

/// Makes a world's table the live one.
///
/// # Safety
/// The world must be the one that the CPU is in, and no other CPU may be running.
pub unsafe fn install(backend: &Backend) {
    // SAFETY: single CPU per the contract; sites read the table one aligned word at a time.
    unsafe { (&raw mut LIVE).write(backend.ops) };
}

/// Hypercalls since the start: number, name and count of those that were made. Empty in a world without.
pub fn hypercalls() -> impl Iterator<Item = (u32, &'static str, u64)> {
    worlds::hypercalls()
}

/// Address of the live table.
pub fn live_table() -> usize {
    (&raw const LIVE).addr()
}

#[cfg(test)]
mod tests;

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
