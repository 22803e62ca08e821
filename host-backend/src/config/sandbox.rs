//! What a user says about the sandbox. Without a word it is on.

use std::path::PathBuf;

/// What a user says about the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether there is one.
    pub mode: Mode,
    /// User to become.
    pub user: Option<u32>,
    /// Group to become.
    pub group: Option<u32>,
    /// The new root directory.
    pub chroot: Option<PathBuf>,
    /// The folder of the cgroup to join.
    pub cgroup: Option<PathBuf>,
    /// Which namespaces to live in.
    pub namespaces: Namespaces,
    /// Whether to print what is in force.
    pub show: Show,
}

/// Whether there is a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// There is one.
    #[default]
    On,
    /// There is none.
    Off,
}

/// Which namespaces to live in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// Those of the parent.
    #[default]
    Parents,
    /// New ones.
    New,
}

/// Whether to print what is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// It is not.
    #[default]
    Nothing,
    /// On standard error, once it is on.
    All,
}
