//! `cargo xtask bench`: measurements with limits.

pub(crate) mod boot;
pub(crate) mod image;
mod memory;
pub(crate) mod ops;
pub(crate) mod start;
