//! Where things are.

use anyhow::{Context, Result};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |target| root().join(target))
}

/// Sources, and where what is built of them goes.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The root of the sources.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// Cargo's home, where the crates are.
    pub(crate) cargo_home: PathBuf,
}

impl Place {
    /// This workspace.
    pub(crate) fn here() -> Self {
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
        Self { root: root(), target: target(), cargo_home: cargo_home.unwrap_or_else(|| "/.cargo".into()) }
    }
}

/// The folder for what is made here: images, disks, logs.
pub(crate) fn output() -> Result<PathBuf> {
    let output = target().join("ringside");
    fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
    Ok(output)
}

/// The cargo that runs us, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    // Cargo describes our own package in the environment; our children must not see that.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}
