//! `cargo xtask bench`: measurements with limits.

pub(crate) mod boot;
mod memory;
pub(crate) mod ops;
pub(crate) mod start;
