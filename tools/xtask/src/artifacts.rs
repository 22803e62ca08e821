//! `cargo xtask build`: the guest, the host, the image and the sample disk.

use crate::options::Common;
use crate::setup::{self, Setup};
use crate::toolchain::{Bare, Toolchain};
use crate::workspace::Place;
use crate::{ui, workspace};
use anyhow::{Context, Result, bail};
use mkimage::bootable::{Format, Image};
use mkimage::loaders::{self, Loaders};
use mkimage::output::Existing;
use ringside_tests::inner::{Inner, Linux};
use ringside_tests::sample::{self, ExpectedFile};
use ringside_tests::testbed::{KvmPolicy, Testbed};
use ringside_tests::xen::Xen;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What has been built.
#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    /// The kernel as it was linked, with symbols.
    pub(crate) kernel: PathBuf,
    /// The image for all testbeds.
    pub(crate) image: PathBuf,
    /// The folder of the loaders for bootable disks.
    pub(crate) loaders: PathBuf,
    /// A disk that firmware boots, with the image, an empty command line and no initrd.
    pub(crate) boot_disk: PathBuf,
    /// Our host program.
    pub(crate) ringside: PathBuf,
    /// The sample disk, never given to a guest itself.
    pub(crate) disk: PathBuf,
    /// The file on it that the tour reads.
    pub(crate) file: ExpectedFile,
    /// The inner Linux of [`Testbed::HostInTcg`], or why it is absent.
    pub(crate) inner: std::result::Result<Inner, String>,
    /// The hypervisor of [`Testbed::XenPv`], or why it is absent.
    pub(crate) xen: std::result::Result<Xen, String>,
}

/// `cargo xtask build`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let artifacts = build(&setup)?;
    for path in [&artifacts.image, &artifacts.boot_disk, &artifacts.ringside, &artifacts.disk] {
        println!("    {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What is built in addition to the guest, its image and the sample disk. What was not needed is a path without a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Our host program.
    pub(crate) host: bool,
    /// The loaders for what firmware boots, and such a disk.
    pub(crate) loaders: bool,
    /// How the guest is built.
    pub(crate) guest: GuestBuild,
}

/// How the guest is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestBuild {
    /// As it is released: the same bytes everywhere.
    Release,
    /// Incrementally, in a target directory of its own: seconds after a change of one line, with the same optimization but
    /// in other pieces.
    Incremental,
}

impl Needs {
    /// The guest alone.
    pub(crate) const GUEST: Self = Self { host: false, loaders: false, guest: GuestBuild::Release };
    /// Everything.
    pub(crate) const ALL: Self = Self { host: true, loaders: true, guest: GuestBuild::Release };
}

/// Builds everything.
pub(crate) fn build(setup: &Setup) -> Result<Artifacts> {
    build_some(setup, Needs::ALL)
}

/// Builds the guest, and of the rest what is needed.
pub(crate) fn build_some(setup: &Setup, needs: Needs) -> Result<Artifacts> {
    let place = Place::here();
    let incremental = needs.guest == GuestBuild::Incremental && setup.toolchain == Toolchain::Installed;
    let kernel = if incremental {
        build_incrementally(&place)?
    } else {
        build_bare(setup.toolchain, &place, Bare::Kernel, "the guest")?
    };
    let loaders = loaders_folder(&place);
    if needs.loaders {
        build_loaders(setup.toolchain, &place)?;
    }
    let ringside = if needs.host { build_host()? } else { host_program() };
    let output = workspace::output()?;
    let disk = output.join("sample.img");
    let file = sample::write(&disk).context("cannot make the sample disk")?;
    let name = if incremental { "guest-incremental.elf" } else { "guest.elf" };
    let (image, boot_disk) = (output.join(name), output.join("ringside.img"));
    make_image(&kernel, &image)?;
    if needs.loaders {
        make_boot_disk(&image, &loaders, &boot_disk).context("cannot make the bootable disk")?;
    }
    let (inner, xen) = (Err("it was not built".into()), Err("it was not fetched".into()));
    Ok(Artifacts { kernel, image, loaders, boot_disk, ringside, disk, file, inner, xen })
}

impl Artifacts {
    /// Why a testbed lacks what it alone needs, after [`complete_for`](Self::complete_for).
    pub(crate) fn lacks(&self, testbed: Testbed) -> Option<&str> {
        match testbed {
            Testbed::HostInTcg => self.inner.as_ref().err().map(String::as_str),
            Testbed::XenPv => self.xen.as_ref().err().map(String::as_str),
            Testbed::Host | Testbed::Qemu | Testbed::QemuMicrovm => None,
        }
    }

    /// Adds what the testbed alone needs. What the system lacks is reported by the testbed's boots; what does not
    /// build is an error.
    pub(crate) fn complete_for(&mut self, testbed: Testbed) -> Result<()> {
        let available = || testbed.available(KvmPolicy::Use).and_then(|()| workspace::output());
        let mut say = |text: &str| ui::say(text);
        match testbed {
            Testbed::HostInTcg => {
                let linux = available().and_then(|output| {
                    Linux::fetch(&output.join("inner"), &mut say).context("cannot get a stock kernel")
                });
                self.inner = match linux {
                    Ok(linux) => Ok(build_inner(linux)?),
                    Err(error) => Err(format!("{error:#}")),
                };
            }
            Testbed::XenPv => {
                let xen = available()
                    .and_then(|output| Xen::fetch(&output.join("xen"), &mut say).context("cannot get a Xen"));
                self.xen = xen.map_err(|error| format!("{error:#}"));
            }
            Testbed::Host | Testbed::Qemu | Testbed::QemuMicrovm => {}
        }
        Ok(())
    }
}

/// What runs in the inner Linux, linked statically.
fn build_inner(linux: Linux) -> Result<Inner> {
    ui::say("building the host, linked statically");
    let (mut command, folder) = static_build("static", "host-backend", "ringside");
    command.args(["--package", "inner-init", "--bin", "inner-init"]);
    succeed(&mut command, "the host does not link statically")?;
    Ok(Inner { linux, init: folder.join("inner-init"), ringside: folder.join("ringside") })
}

/// The build of a static program, and the folder that it will be in.
fn static_build(name: &str, package: &str, program: &str) -> (Command, PathBuf) {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    // With a target directory of its own: the flags would rebuild everything in the usual one, again and again.
    let target_dir = workspace::target().join(name);
    let mut command = workspace::cargo();
    command.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_TARGET_DIR", &target_dir);
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    command.args(["build", "--release", "--target", TARGET, "--package", package, "--bin", program]);
    (command, target_dir.join(TARGET).join("release"))
}

/// What runs without an operating system.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The kernel as it was linked.
    pub(crate) kernel: PathBuf,
    /// The folder of the loaders.
    pub(crate) loaders: PathBuf,
}

/// Builds the example kernel.
pub(crate) fn build_example(toolchain: Toolchain) -> Result<PathBuf> {
    build_bare(toolchain, &Place::here(), Bare::Example, "the example kernel")
}

/// Builds it in a place.
pub(crate) fn build_guest(toolchain: Toolchain, place: &Place) -> Result<Guest> {
    let kernel = build_bare(toolchain, place, Bare::Kernel, "the guest")?;
    Ok(Guest { kernel, loaders: build_loaders(toolchain, place)? })
}

/// What mkimage makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    /// For all testbeds.
    pub(crate) image: PathBuf,
    /// For firmware.
    pub(crate) boot_disk: PathBuf,
}

/// Makes them, with an empty command line and no initrd.
pub(crate) fn make_images(kernel: &Path, loaders: &Path, output: &Path) -> Result<Images> {
    let (image, boot_disk) = (output.join("guest.elf"), output.join("ringside.img"));
    make_image(kernel, &image)?;
    make_boot_disk(&image, loaders, &boot_disk).context("cannot make the bootable disk")?;
    Ok(Images { image, boot_disk })
}

/// The guest for the loop of editing a check and looking at its result.
fn build_incrementally(place: &Place) -> Result<PathBuf> {
    ui::say("building the guest incrementally");
    let place = Place { target: place.target.join("incremental"), ..place.clone() };
    let (mut command, file) = Toolchain::Installed.build(&place, Bare::Kernel);
    command.env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true");
    succeed(&mut command, "the guest does not build")?;
    Ok(file)
}

fn make_image(kernel: &Path, image: &Path) -> Result<()> {
    mkimage::image::write(kernel, "", None, image).context("cannot make the image")
}

fn build_bare(toolchain: Toolchain, place: &Place, what: Bare, name: &str) -> Result<PathBuf> {
    ui::say(&match toolchain {
        Toolchain::Installed => format!("building {name}"),
        Toolchain::Debian => format!("building {name} with Debian's compiler"),
    });
    let (mut command, file) = toolchain.build(place, what);
    succeed(&mut command, &format!("{name} does not build"))?;
    Ok(file)
}

fn loaders_folder(place: &Place) -> PathBuf {
    place.target.join("release").join(loaders::FOLDER)
}

/// Builds the loaders and puts them next to the release build of `mkimage`, where that looks for them.
fn build_loaders(toolchain: Toolchain, place: &Place) -> Result<PathBuf> {
    let folder = loaders_folder(place);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (what, title, name) in [
        (Bare::BiosLoader, "the loader for BIOS", loaders::BIOS_FILE),
        (Bare::EfiLoader, "the loader for UEFI", loaders::EFI_FILE),
        (Bare::LinuxLoader, "the start of a bzImage", loaders::LINUX_FILE),
    ] {
        let file = build_bare(toolchain, place, what, title)?;
        // By a rename: another run may be reading the one that is there.
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        mkimage::output::write_bytes(&folder.join(name), &bytes)?;
    }
    Ok(folder)
}

fn make_boot_disk(kernel: &Path, loaders: &Path, output: &Path) -> Result<()> {
    let mut image = Image::read(kernel, "", None)?;
    image.loaders = Some(Loaders::read(loaders)?);
    Ok(image.write(Format::Disk, output, Existing::Replace, &mut |_, _| {})?)
}

fn build_host() -> Result<PathBuf> {
    ui::say("building the host");
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--package", "host-backend", "--bin", "ringside"]);
    succeed(&mut command, "the host does not build")?;
    Ok(host_program())
}

fn host_program() -> PathBuf {
    workspace::target().join("release/ringside")
}

/// Our host program with bugs that can be injected, for the proof that the conformance suite catches them; linked
/// statically, so that it also runs in the inner Linux.
pub(crate) fn build_host_with_bugs() -> Result<PathBuf> {
    ui::say("building the host with bugs to inject, for the proof that the suite catches them");
    let (mut command, folder) = static_build("bugs", "host-backend", "ringside");
    command.args(["--features", "test-faults"]);
    succeed(&mut command, "the host with bugs does not build")?;
    Ok(folder.join("ringside"))
}

/// `cargo xtask dist`.
pub(crate) fn dist(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let artifacts = build_some(&setup, Needs { loaders: true, ..Needs::GUEST })?;
    println!("    {}", build_suite(&artifacts)?.display());
    Ok(ExitCode::SUCCESS)
}

/// The conformance suite as one static program, with the guest, its loaders and the profiles inside.
pub(crate) fn build_suite(artifacts: &Artifacts) -> Result<PathBuf> {
    const PROGRAM: &str = "ringside-conform";
    ui::say("building the conformance suite as one program");
    let (mut command, folder) = static_build("static", PROGRAM, PROGRAM);
    command.env("RINGSIDE_CONFORM_IMAGE", &artifacts.image).env("RINGSIDE_CONFORM_LOADERS", &artifacts.loaders);
    succeed(&mut command, "the suite does not build")?;
    let dist = workspace::target().join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("cannot create {}", dist.display()))?;
    let program = dist.join(PROGRAM);
    // Removed first: the old one may be running.
    let _ = fs::remove_file(&program);
    fs::copy(folder.join(PROGRAM), &program).with_context(|| format!("cannot write {}", program.display()))?;
    Ok(program)
}

/// Runs a command that shows its own progress.
pub(crate) fn succeed(command: &mut Command, otherwise: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{otherwise}");
    }
    Ok(())
}
