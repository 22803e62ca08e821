//! Xen's paravirtual interface, as a guest sees it. The rules are those of Xen's public headers. All checks skip themselves in
//! other worlds.

mod calls;
mod events;
mod faults;
mod tables;

use crate::catalogue::Check;

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] = &[events::CHECKS, calls::CHECKS, tables::CHECKS, faults::CHECKS];
