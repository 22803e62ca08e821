//! What checks are made of: devices driven register by register, rings by hand, verdicts.

pub mod card;
pub mod changes;
mod context;
pub mod control_queue;
pub mod device;
pub mod disk;
pub mod kvm_features;
pub mod loopback;
mod own;
pub mod packed;
pub mod packet;
pub mod pci_space;
pub mod quota;
pub mod raw;
pub mod registers;
pub mod rng;
pub mod second_cpu;
pub mod transport;
pub mod trial;
pub mod vectors;
mod verdict;
pub mod xen;

pub(crate) use context::Context;
pub(crate) use own::own;
pub(crate) use verdict::{End, Verdict, advice, binding, equal, error, fail, holds, skip, worst};
