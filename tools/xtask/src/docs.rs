//! `cargo xtask docs`: has the test that compares what docs/ quotes of the guest write it instead.

use crate::options::Common;
use crate::workspace::{self, Place};
use crate::{artifacts, setup, ui};
use anyhow::Result;
use ringside_tests::ready;
use std::process::ExitCode;

/// `cargo xtask docs`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let guest = artifacts::build_guest(setup.toolchain, &Place::here())?;
    let mut command = workspace::cargo();
    command.args(["test", "--quiet", "--package", "ringside-tests", "--test", "guest", "documents"]);
    command.env(ready::KERNEL, &guest.kernel).env("RINGSIDE_WRITE_DOCS", "1");
    ui::run_quietly("writing what docs/ quotes of the guest", &mut command)?;
    Ok(ExitCode::SUCCESS)
}
