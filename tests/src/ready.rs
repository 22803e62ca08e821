//! Machines for tests: put together of what `cargo xtask test` names in the environment, each with a folder and a copy of
//! the sample disk of its own.

use crate::machine::{Access, Boot, Disk, Machine, Publish, run_folder};
use crate::running::Running;
use crate::sample::{self, ExpectedFile};
use crate::testbed::{KvmPolicy, Testbed};
use crate::tour::{self, DiskKnowledge, Silent, Verdict};
use crate::web;
use crate::xen::Xen;
use anyhow::{Context, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

/// Names the kernel.
pub const KERNEL: &str = "RINGSIDE_KERNEL";
/// Names the folder of the loaders.
pub const LOADERS: &str = "RINGSIDE_LOADERS";
/// Names our host program.
pub const HOST: &str = "RINGSIDE_HOST";
/// Names the conformance suite as one program.
pub const SUITE: &str = "RINGSIDE_SUITE";
/// Names the example kernel.
pub const EXAMPLE: &str = "RINGSIDE_EXAMPLE";
/// Names the folder of a Xen.
pub const XEN: &str = "RINGSIDE_XEN";
/// Names our host program with bugs that can be injected.
pub const WITH_BUGS: &str = "RINGSIDE_WITH_BUGS";
/// Names the folder of a stock Linux.
pub const INNER_LINUX: &str = "RINGSIDE_INNER_LINUX";
/// Names the stock Linux's first process.
pub const INNER_INIT: &str = "RINGSIDE_INNER_INIT";
/// Set where the machine's KVM is not to be used.
pub const NO_KVM: &str = "RINGSIDE_NO_KVM";

/// A machine that can be started.
#[derive(Debug)]
pub struct Ready {
    /// The machine.
    pub machine: Machine,
    /// What is on its disk.
    pub disk: DiskKnowledge,
    /// Where its files are.
    pub folder: TempDir,
}

/// What a variable of the environment names; `None`, said, where it is not set.
pub fn named(variable: &str, test: &str) -> Option<PathBuf> {
    let value = env::var_os(variable).map(PathBuf::from);
    if value.is_none() {
        eprintln!("SKIPPED {test}: {variable} is not set; cargo xtask test does that where there is something to name");
    }
    value
}

/// What the machine's KVM is to be taken for.
pub fn kvm() -> KvmPolicy {
    if env::var_os(NO_KVM).is_some() { KvmPolicy::Absent } else { KvmPolicy::Use }
}

/// What machines are made of.
#[derive(Clone, Debug)]
pub struct Files {
    /// The image.
    pub image: PathBuf,
    /// The sample disk.
    pub sample: PathBuf,
    /// The file on it that the tour reads.
    pub file: ExpectedFile,
}

impl Files {
    /// Makes them of a kernel as it was linked.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(kernel: &Path, folder: &Path) -> Result<Self> {
        let (image, sample) = (folder.join("guest.elf"), folder.join("sample.img"));
        mkimage::image::write(kernel, "", None, &image)?;
        let file = sample::write(&sample)?;
        Ok(Self { image, sample, file })
    }
}

impl Ready {
    /// A machine with one CPU that boots the kernel; `None`, said, where there is nothing to boot or nothing to boot on.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(test: &str, testbed: Testbed, memory_mib: u64, cmdline: &str) -> Result<Option<Self>> {
        let Some(kernel) = named(KERNEL, test) else { return Ok(None) };
        if let Err(why) = testbed.available(kvm()) {
            eprintln!("SKIPPED {test}: {why:#}");
            return Ok(None);
        }
        let (mut ringside, mut xen) = (PathBuf::new(), None);
        match testbed {
            Testbed::Host => match named(HOST, test) {
                Some(program) => ringside = program,
                None => return Ok(None),
            },
            Testbed::XenPv => match named(XEN, test) {
                Some(folder) => xen = Some(Xen::at(&folder).context("the folder of Xen is not whole")?),
                None => return Ok(None),
            },
            _ => {}
        }
        let folder = run_folder(&env::temp_dir())?;
        let Files { image, sample: original, file } = Files::write(&kernel, folder.path())?;
        let path = folder.path().join("disk.img");
        copy(&original, &path)?;
        let machine = Machine {
            testbed,
            boot: Boot::kernel(image),
            cmdline: cmdline.into(),
            memory: memory_mib << 20,
            cpus: 1,
            disk: Disk { path, access: Access::ReadWrite },
            publish: Publish { host: web::free_port()?, guest: 80 },
            more: Vec::new(),
            ringside,
            inner: None,
            xen,
            folder: folder.path().into(),
        };
        Ok(Some(Self { machine, disk: DiskKnowledge::Sample { file, original }, folder }))
    }

    /// Gives it a copy of another disk, on which the sample's files are, too.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn take_disk(&mut self, disk: &Path) -> Result<()> {
        if let DiskKnowledge::Sample { original, .. } = &mut self.disk {
            *original = disk.into();
        }
        copy(disk, &self.machine.disk.path)
    }

    /// Follows a machine that runs through the tour.
    pub fn follow(&self, running: Running) -> Verdict {
        tour::follow(&self.machine, running, &self.disk, &mut Silent, &AtomicBool::new(false))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}
