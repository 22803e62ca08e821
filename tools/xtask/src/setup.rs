//! `cargo xtask setup`, and the first step of every other command: looks for what is missing and installs only that,
//! saying what and why.

use crate::options::{Common, Installing};
use crate::toolchain::{self, Toolchain};
use crate::ui;
use anyhow::{Result, bail};
use ringside_tests::firmware::OVMF;
use ringside_tests::testbed::{QEMU, find_program};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// A program that we run, the Debian package that has it, and what for.
struct Need {
    /// Its name, or the path of a file.
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

impl Need {
    fn is_met(&self) -> bool {
        if self.program.starts_with('/') {
            Path::new(self.program).exists()
        } else {
            find_program(self.program).is_some()
        }
    }
}

const NEEDS: [Need; 9] = [
    Need { program: QEMU, package: "qemu-system-x86", purpose: "booting where /dev/kvm does not work, and comparing" },
    Need { program: "passt", package: "passt", purpose: "the guest's network on our host, without privileges" },
    Need { program: "mcopy", package: "mtools", purpose: "a second opinion on the disks that mkimage makes" },
    Need { program: "fsck.fat", package: "dosfstools", purpose: "checking the file systems that mkimage makes" },
    Need { program: "sgdisk", package: "gdisk", purpose: "checking the partition tables that mkimage makes" },
    Need { program: "xorriso", package: "xorriso", purpose: "checking the ISO images that mkimage makes" },
    Need {
        program: "isoinfo",
        package: "genisoimage",
        purpose: "a second opinion on the ISO images that mkimage makes",
    },
    Need { program: "qemu-img", package: "qemu-utils", purpose: "disks in the formats of other hypervisors" },
    Need { program: OVMF, package: "ovmf", purpose: "booting disks with UEFI" },
];

/// What there is once setup is through.
pub(crate) struct Setup {
    /// Builds the guest.
    pub(crate) toolchain: Toolchain,
    /// Packages that could not be installed.
    pub(crate) missing: Vec<&'static str>,
}

/// `cargo xtask setup`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = ensure(common)?;
    if !setup.missing.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    ui::say("everything is installed");
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing. Testbeds may stay missing; the guest's compiler may not.
pub(crate) fn ensure(common: &Common) -> Result<Setup> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !need.is_met()).collect();
    if !missing.is_empty() {
        let wanted: Vec<(&str, &str)> = missing.iter().map(|need| (need.package, need.purpose)).collect();
        if let Err(error) = install_packages(common.installing(), &wanted) {
            ui::warn(&format!("{error:#}"));
        }
    }
    let missing = NEEDS.iter().filter(|need| !need.is_met()).map(|need| need.package).collect();
    Ok(Setup { toolchain: toolchain::ensure(common)?, missing })
}

/// Installs Debian packages, each with what it is needed for.
pub(crate) fn install_packages(installing: Installing, wanted: &[(&str, &str)]) -> Result<()> {
    let verb = if installing == Installing::Allowed { "installing" } else { "missing" };
    for (package, purpose) in wanted {
        ui::say(&format!("{verb} {package}: needed for {purpose}"));
    }
    let names: Vec<&str> = wanted.iter().map(|(package, _)| *package).collect();
    let by_hand = format!("to install by hand: sudo apt-get install --no-install-recommends {}", names.join(" "));
    if installing == Installing::ReportOnly {
        bail!("{by_hand}");
    }
    let Some(apt) = privileged_apt() else { bail!("{by_hand}") };
    let run = |text: &str, arguments: &[&str]| {
        let mut command = Command::new(apt[0]);
        command.args(&apt[1..]).args(arguments);
        ui::run_quietly(text, &mut command)
    };
    let update = run("apt-get update", &["update"]);
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&names);
    match run(&format!("apt-get install {}", names.join(" ")), &arguments) {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error:#}{}; {by_hand}", if update.is_err() { " (after a failed update)" } else { "" }),
    }
}

/// How to run apt-get as root without being asked for anything.
fn privileged_apt() -> Option<&'static [&'static str]> {
    find_program("apt-get")?;
    let answers = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.output().ok().filter(|output| output.status.success()).map(|output| output.stdout)
    };
    if answers("id", &["-u"])?.trim_ascii() == b"0" {
        return Some(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    }
    answers("sudo", &["-n", "true"])?;
    Some(&["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
}
