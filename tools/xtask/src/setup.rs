//! `cargo xtask setup`, and the first step of every other command: looks for what is missing and installs only that,
//! saying what and why.

use crate::options::Common;
use crate::toolchain::{self, Toolchain};
use crate::{packages, ui};
use anyhow::Result;
use ringside_tests::firmware::OVMF;
use ringside_tests::testbed::{QEMU, find_program};
use std::path::Path;
use std::process::ExitCode;

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
        if let Err(error) = packages::install(common.installing(), &wanted) {
            ui::warn(&format!("{error:#}"));
        }
    }
    let missing = NEEDS.iter().filter(|need| !need.is_met()).map(|need| need.package).collect();
    Ok(Setup { toolchain: toolchain::ensure(common)?, missing })
}
