//! The conformance suite's outer half: which hypervisors there are (profiles), booting the suite on each, collecting what
//! the guest reports, and telling it as text, a page, JUnit and JSON.
//!
//! Called by `cargo xtask conform` and by tests. It trusts neither the profile (parsed strictly), nor the hypervisor (every
//! wait, line and byte is bounded), nor the guest's lines (broken ones are reported, control characters never shown).

pub mod agree;
pub mod catalogue;
pub mod fill;
mod follow;
pub mod host_action;
pub mod hostile;
pub mod html;
pub mod http;
pub mod junit;
pub mod ledger;
pub mod logs;
pub mod media;
pub mod outcome;

pub mod echo;
pub mod profile;
pub mod run;
pub mod start;
pub mod text;
pub mod version;
pub mod watch;

/// The word on the kernel's command line that runs the checks.
pub const WORD: &str = "conform";
