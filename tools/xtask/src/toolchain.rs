//! The compiler for the guest. Two ways, never mixed: the installed toolchain with rustup's bare-metal target, or
//! Debian's packages with the core library built from source.

use crate::options::{Common, Installing, ToolchainChoice};
use crate::workspace::Place;
use crate::{packages, ui, workspace};
use anyhow::{Result, anyhow, bail};
use ringside_tests::testbed::find_program;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What is built for other targets than the one that we run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    /// The guest.
    Kernel,
    /// Its loader for disks that a BIOS boots.
    BiosLoader,
    /// Its loader for disks that UEFI boots.
    EfiLoader,
    /// The setup part of a bzImage.
    LinuxLoader,
    /// The example kernel.
    Example,
}

impl Bare {
    fn package(self) -> &'static str {
        match self {
            Self::Kernel => "guest-kernel-image",
            Self::BiosLoader => "loader-bios",
            Self::EfiLoader => "loader-efi",
            Self::LinuxLoader => "loader-linux",
            Self::Example => "example-kernel",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Kernel | Self::BiosLoader | Self::LinuxLoader | Self::Example => TARGETS[0],
            Self::EfiLoader => TARGETS[1],
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Kernel => "guest-kernel",
            Self::BiosLoader | Self::LinuxLoader | Self::Example => self.package(),
            Self::EfiLoader => "loader-efi.efi",
        }
    }
}

/// The targets of everything that runs without an operating system.
const TARGETS: [&str; 2] = ["x86_64-unknown-none", "x86_64-unknown-uefi"];

/// Debian's packages that belong together.
const DEBIAN_PACKAGES: [(&str, &str); 4] = [
    ("rustc-web", "building the guest without rustup's target: the compiler"),
    ("cargo-web", "building the guest without rustup's target: cargo"),
    ("rust-web-src", "building the guest without rustup's target: the source of the core library"),
    ("lld-22", "building the guest without rustup's target: the linker"),
];

/// What builds the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The toolchain that runs us.
    Installed,
    /// Debian's.
    Debian,
}

impl Toolchain {
    /// The command that builds it in a place, and the file that it makes.
    pub(crate) fn build(self, place: &Place, what: Bare) -> (Command, PathBuf) {
        let (mut command, target_dir) = match self {
            Self::Installed => (workspace::cargo(), place.target.clone()),
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").env("PATH", "/usr/bin:/bin");
                // The targets' own linker is called rust-lld, which Debian does not have under that name.
                command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "/usr/bin/ld.lld-22");
                command.env("CARGO_TARGET_X86_64_UNKNOWN_UEFI_LINKER", "/usr/bin/lld-link-22");
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
                (command, place.target.join("debian"))
            }
        };
        command.current_dir(&place.root).env("CARGO_HOME", &place.cargo_home).env("CARGO_TARGET_DIR", &target_dir);
        // These would take the place of the flags that link the kernel where it belongs.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_RUSTFLAGS");
        command.args(["build", "--release", "--package", what.package(), "--target", what.target()]);
        // Joined to the flags of .cargo/config.toml: the same bytes from every folder, wherever the crates are.
        let flags = [(&place.cargo_home, "/cargo"), (&place.root, "/ringside")]
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        command.arg("--config").arg(format!("target.{}.rustflags={flags:?}", what.target()));
        if self == Self::Debian {
            command.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
        }
        (command, target_dir.join(what.target()).join("release").join(what.file()))
    }
}

/// Finds a compiler for the guest, installing one if needed.
pub(crate) fn ensure(common: &Common) -> Result<Toolchain> {
    match common.toolchain {
        ToolchainChoice::Rustup => ensure_target(common.installing()).map(|()| Toolchain::Installed),
        ToolchainChoice::Debian => ensure_debian(common.installing()).map(|()| Toolchain::Debian),
        ToolchainChoice::Auto if has_targets() => Ok(Toolchain::Installed),
        ToolchainChoice::Auto if has_debian_packages() => Ok(Toolchain::Debian),
        ToolchainChoice::Auto => match ensure_target(common.installing()) {
            Ok(()) => Ok(Toolchain::Installed),
            Err(error) => {
                ui::warn(&format!("{error:#}; trying Debian's packages"));
                ensure_debian(common.installing()).map(|()| Toolchain::Debian)
            }
        },
    }
}

fn ensure_target(installing: Installing) -> Result<()> {
    if has_targets() {
        return Ok(());
    }
    let targets = TARGETS.join(" ");
    if installing == Installing::ReportOnly {
        bail!("a compiler target is missing; to install by hand: rustup target add {targets}");
    }
    let rustup = find_program("rustup").ok_or_else(|| anyhow!("there is no rustup to install {targets}"))?;
    ui::say(&format!(
        "installing {targets}: needed for building the guest and its loaders, which run without an operating system"
    ));
    let mut command = Command::new(rustup);
    command.current_dir(workspace::root()).args(["target", "add"]).args(TARGETS);
    ui::run_quietly("rustup target add", &mut command)?;
    if has_targets() { Ok(()) } else { bail!("rustup has installed {targets}, but the compiler does not find them") }
}

fn ensure_debian(installing: Installing) -> Result<()> {
    let missing: Vec<_> = DEBIAN_PACKAGES.into_iter().filter(|(package, _)| !is_installed(package)).collect();
    if missing.is_empty() { Ok(()) } else { packages::install(installing, &missing) }
}

/// Whether the installed compiler has core libraries for the targets.
fn has_targets() -> bool {
    TARGETS.into_iter().all(has_target)
}

fn has_target(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace::root()).args(["--print", "target-libdir", "--target", target]).stderr(Stdio::null());
    let Ok(output) = rustc.output() else { return false };
    let Ok(folder) = String::from_utf8(output.stdout) else { return false };
    let Ok(entries) = fs::read_dir(folder.trim()) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn has_debian_packages() -> bool {
    DEBIAN_PACKAGES.iter().all(|(package, _)| is_installed(package))
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"install ok installed")
}
