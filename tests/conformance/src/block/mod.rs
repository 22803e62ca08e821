//! The block device.

mod configuration;
mod errors;
mod queues;
mod ranges;
mod requests;

use crate::catalogue::Check;

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] =
    &[configuration::CHECKS, requests::CHECKS, errors::CHECKS, ranges::CHECKS, queues::CHECKS];
