//! Interrupts.

mod device;
mod lines;

use crate::catalogue::Check;

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] = &[device::CHECKS, lines::CHECKS];
