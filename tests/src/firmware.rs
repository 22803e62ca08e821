//! Firmware that boots a disk in QEMU, and what a boot says on the serial line.

use crate::console::Event;
use crate::quoted::quoted;
use crate::running::Running;
use crate::testbed::QEMU;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// UEFI's code, of Debian's package ovmf.
pub const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its variables as they are in a new machine.
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Those of a machine.
const VARIABLES: &str = "variables.fd";

/// What starts a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// QEMU's own BIOS.
    SeaBios,
    /// UEFI.
    Ovmf,
}

impl Firmware {
    /// All of it.
    pub const ALL: [Self; 2] = [Self::SeaBios, Self::Ovmf];

    /// Whether it is here, and QEMU too.
    ///
    /// # Errors
    /// Why not.
    pub fn available(self) -> Result<()> {
        if crate::testbed::find_program(QEMU).is_none() {
            bail!("{QEMU} is not installed");
        }
        if self == Self::Ovmf && !Path::new(OVMF).exists() {
            bail!("there is no {OVMF} (package ovmf)");
        }
        Ok(())
    }

    /// QEMU's arguments for it, after [`prepare`](Self::prepare).
    pub fn arguments(self, folder: &Path) -> Vec<String> {
        if self == Self::SeaBios {
            return Vec::new();
        }
        let code = format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF}");
        let variables = format!("if=pflash,unit=1,format=raw,file={}", quoted(&folder.join(VARIABLES)));
        vec!["-drive".into(), code, "-drive".into(), variables]
    }

    /// Puts what it writes to into a folder.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn prepare(self, folder: &Path) -> Result<()> {
        if self == Self::Ovmf {
            fs::copy(OVMF_VARIABLES, folder.join(VARIABLES))
                .with_context(|| format!("cannot copy {OVMF_VARIABLES}"))?;
        }
        Ok(())
    }
}

/// How the medium is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A raw disk that the kernel has no driver for: it gets what the loader read.
    Disk,
    /// A raw disk on virtio, which firmware and kernel both read.
    VirtioDisk,
    /// A CD.
    Cd,
}

/// The command that boots a medium with nothing else but a serial line, and does not write to it; `folder` takes
/// firmware's variables.
///
/// # Errors
/// When these cannot be written.
pub fn command(firmware: Firmware, path: &Path, medium: Medium, memory_mib: u64, folder: &Path) -> Result<Command> {
    let mut command = Command::new(QEMU);
    command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio", "-m", &memory_mib.to_string()]);
    firmware.prepare(folder)?;
    command.args(firmware.arguments(folder));
    let kind = match medium {
        Medium::Disk => "media=disk,snapshot=on",
        Medium::VirtioDisk => "if=none,id=d0,snapshot=on",
        Medium::Cd => "media=cdrom,readonly=on",
    };
    if medium == Medium::VirtioDisk {
        command.args(["-device", "virtio-blk-pci,disable-legacy=on,drive=d0,bootindex=0"]);
    }
    command.args(["-drive", &format!("format=raw,{kind},file={}", quoted(path))]);
    Ok(command)
}

/// Everything on the serial line until the process ends.
///
/// # Errors
/// When it has not ended in time.
pub fn listen(command: Command, patience: Duration) -> Result<Vec<String>> {
    let mut running = Running::spawn(command)?;
    let deadline = Instant::now() + patience;
    let mut lines = Vec::new();
    while Instant::now() < deadline {
        match running.console.next(Duration::from_millis(100)) {
            Event::Line(line) => lines.push(line),
            Event::Quiet => {}
            Event::Closed => return Ok(lines),
        }
    }
    running.stop();
    bail!("it did not end within {} s; it said:\n{}", patience.as_secs(), lines.join("\n"))
}
