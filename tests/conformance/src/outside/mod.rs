//! What devices show when the host changes them. A check requests a change and waits until the device shows it; it leaves
//! the machine as it was, and waits for that too, so that no change comes in the middle of the next check.

mod balloon;
mod configuration;

use crate::catalogue::Check;

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] = &[configuration::CHECKS, balloon::CHECKS];
