//! The split virtqueue, with the block and the entropy device to answer.

mod chains;
mod notifications;
mod used;

use crate::catalogue::Check;

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] = &[chains::CHECKS, used::CHECKS, notifications::CHECKS];
