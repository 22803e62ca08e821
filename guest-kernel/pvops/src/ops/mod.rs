//! The operations as the kernel calls them, one file per group of the [table](crate::table). Each is a call site.

pub mod cpu;
pub mod event;
pub mod irq;
pub mod memory;
pub mod mmu;
pub mod smp;
pub mod time;
pub mod vmm;
