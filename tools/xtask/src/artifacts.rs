//! `cargo xtask build`: the guest, the host, the image and the sample disk.

use crate::options::Common;
use crate::setup::{self, Setup};
use crate::toolchain::Toolchain;
use crate::{ui, workspace};
use anyhow::{Context, Result, bail};
use ringside_tests::sample::{self, ExpectedFile};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// What has been built.
#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    /// The kernel as it was linked, with symbols.
    pub(crate) kernel: PathBuf,
    /// The image for all testbeds.
    pub(crate) image: PathBuf,
    /// Our host program.
    pub(crate) ringside: PathBuf,
    /// The sample disk, never given to a guest itself.
    pub(crate) disk: PathBuf,
    /// The file on it that the tour reads.
    pub(crate) file: ExpectedFile,
}

/// `cargo xtask build`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let artifacts = build(&setup)?;
    for path in [&artifacts.image, &artifacts.ringside, &artifacts.disk] {
        println!("    {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds everything.
pub(crate) fn build(setup: &Setup) -> Result<Artifacts> {
    let kernel = build_kernel(setup.toolchain)?;
    let ringside = build_host()?;
    let output = workspace::output()?;
    let (image, disk) = (output.join("guest.elf"), output.join("sample.img"));
    mkimage::image::write(&kernel, "", None, &image).context("cannot make the image")?;
    let file = sample::write(&output.join("sample"), &disk).context("cannot make the sample disk")?;
    Ok(Artifacts { kernel, image, ringside, disk, file })
}

fn build_kernel(toolchain: Toolchain) -> Result<PathBuf> {
    ui::say(match toolchain {
        Toolchain::Installed => "building the guest",
        Toolchain::Debian => "building the guest with Debian's compiler",
    });
    let (mut command, kernel) = toolchain.kernel_build();
    succeed(&mut command, "the guest does not build")?;
    Ok(kernel)
}

fn build_host() -> Result<PathBuf> {
    ui::say("building the host");
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--package", "host-backend", "--bin", "ringside"]);
    succeed(&mut command, "the host does not build")?;
    Ok(workspace::target().join("release/ringside"))
}

/// Runs a command that shows its own progress.
pub(crate) fn succeed(command: &mut Command, otherwise: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{otherwise}");
    }
    Ok(())
}
