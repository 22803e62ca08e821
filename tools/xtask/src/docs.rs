//! `cargo xtask docs`: has the tests that compare what docs/ quotes of the guest and of the code write it instead.

use crate::options::Common;
use crate::{artifacts, setup, ui, workspace};
use anyhow::Result;
use ringside_tests::testbed::Testbed;
use ringside_tests::{generated, ready};
use std::process::ExitCode;

/// `cargo xtask docs`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let mut artifacts = artifacts::build(&setup)?;
    artifacts.complete_for(Testbed::XenPv)?;
    let mut command = workspace::cargo();
    command.args(["test", "--quiet", "--package", "ringside-tests", "--test", "guest", "--test", "documents", "--"]);
    command.args(["documents", "session", "lines_of_code"]);
    command.env(ready::KERNEL, &artifacts.kernel).env(ready::HOST, &artifacts.ringside).env(generated::WRITE, "1");
    if let Ok(xen) = &artifacts.xen {
        command.env(ready::XEN, xen.folder());
    }
    ui::run_quietly("writing what docs/ quotes of the guest and of the code", &mut command)?;
    Ok(ExitCode::SUCCESS)
}
