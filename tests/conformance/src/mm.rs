//! The kernel's page tables protect it.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use crate::support::own;

const NEVER_BOTH: &str = "Ringside docs/patching.md, Never writable and executable";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "mm/nothing-is-writable-and-executable",
        rule: "No page of the image is both",
        clause: NEVER_BOTH,
        method: "Walk all of them in both mappings",
        expectation: "None is",
        run: own,
    },
    Check {
        name: "mm/text-refuses-writes",
        rule: "Text cannot be written",
        clause: NEVER_BOTH,
        method: "Write to it through both mappings",
        expectation: "Two page faults",
        run: own,
    },
    Check {
        name: "mm/patched-table-refuses-writes",
        rule: "The table cannot be written after patching",
        clause: NEVER_BOTH,
        method: "Write to it",
        expectation: "A page fault",
        run: own,
    },
    Check {
        name: "mm/stack-guard-is-not-mapped",
        rule: "A stack that overflows faults",
        clause: "Ringside guest-kernel/src/boot",
        method: "Look its guard page up",
        expectation: "Not mapped",
        run: own,
    },
];
