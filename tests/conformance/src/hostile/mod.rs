//! What no driver should send: `hostile=NAME` on the command line sends one thing, reports what the device makes of it with a
//! verdict, and switches the machine off. `hostile=seeds:A..B` plays scripts instead.
//!
//! Each check runs in a virtual machine of its own, and its report has a [`Handling`](shared_abi::report::Handling): the
//! specification leaves open what a device makes of such a driver, so a device that has handled or rejected it passes, and
//! one that is wedged or has crashed does not. The clause is the one that the guest breaks, or whose room it uses.

#[cfg(feature = "guest")]
mod access;
mod machine;
mod requests;
mod rings;
#[cfg(feature = "guest")]
mod runner;
mod script;
mod setup;

use crate::catalogue::Check;
#[cfg(feature = "guest")]
pub use runner::{is_asked_for, start};
pub use script::SEEDED;

/// The group's name.
pub const GROUP: &str = "hostile";
/// The key on the kernel's command line: `hostile=NAME`, the name without its group.
pub const KEY: &str = "hostile";
/// `hostile=seeds:A..B` plays the scripts of these seeds under the name of [`SEEDED`].
pub const SEEDS: &str = "seeds:";

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] =
    &[rings::CHECKS, setup::CHECKS, requests::CHECKS, machine::CHECKS, script::CHECKS];
