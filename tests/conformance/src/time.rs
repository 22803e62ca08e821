//! The kernel's clock.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use crate::support::own;

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![Check {
    name: "time/never-goes-back",
    rule: "The kernel's clock never goes back",
    clause: "Ringside guest-kernel/pvops/src/time.rs",
    method: "Read it 200 times",
    expectation: "Each reading is at least the one before",
    run: own,
},];
