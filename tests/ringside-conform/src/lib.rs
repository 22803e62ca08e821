//! The conformance suite as a command: what to run, how far it is, what came of it. The program `ringside-conform` has the
//! guest and the profiles inside; `cargo xtask conform` gives it those that it has just built.

pub mod clauses;
pub mod command;
pub mod compare;
pub mod options;
pub mod parts;
pub mod ui;
