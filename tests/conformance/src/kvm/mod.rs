//! KVM's paravirtual interface.

mod clock;
mod eoi;
mod steal;

use crate::catalogue::Check;

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] = &[clock::CHECKS, eoi::CHECKS, steal::CHECKS];
