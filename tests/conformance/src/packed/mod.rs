//! The packed virtqueue, with the block and the entropy device to answer.

mod lists;
mod notifications;
mod ring;

use crate::catalogue::Check;

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] = &[ring::CHECKS, lists::CHECKS, notifications::CHECKS];
