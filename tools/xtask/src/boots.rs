//! Boots of the image: what `run`, `test` and `bench` have in common.

use crate::artifacts::Artifacts;
use crate::workspace;
use anyhow::{Context, Result, bail};
pub(crate) use ringside_conform::command::interruption;
use ringside_tests::machine::{self, Access, Disk, Machine, Publish, run_folder};
use ringside_tests::testbed::Testbed;
use ringside_tests::tour::DiskKnowledge;
use ringside_tests::web;
use shared_abi::tour::WEB_PORT;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use tempfile::TempDir;

/// Memory of a guest by default.
pub(crate) const MEMORY: u64 = 128 << 20;

/// A machine, ready to start, and the files that are its own.
pub(crate) struct Boot {
    pub(crate) machine: Machine,
    pub(crate) disk: DiskKnowledge,
    /// Gone with this.
    _folder: TempDir,
}

/// What may differ from boot to boot.
pub(crate) struct Wishes<'a> {
    pub(crate) testbed: Testbed,
    pub(crate) cmdline: &'a str,
    pub(crate) memory: u64,
    pub(crate) cpus: u32,
    /// Instead of a copy of the sample disk.
    pub(crate) disk: Option<Disk>,
    /// Instead of a free port to the guest's web server.
    pub(crate) publish: Option<Publish>,
}

impl<'a> Wishes<'a> {
    /// A plain machine.
    pub(crate) fn new(testbed: Testbed, cmdline: &'a str) -> Self {
        Self { testbed, cmdline, memory: MEMORY, cpus: 1, disk: None, publish: None }
    }
}

/// Prepares a boot: its own copy of the sample disk, its own port, its own folder for sockets.
pub(crate) fn prepare(artifacts: &Artifacts, wishes: Wishes<'_>) -> Result<Boot> {
    if let Some(why) = artifacts.lacks(wishes.testbed) {
        bail!("{why}");
    }
    let folder = run_folder(&workspace::output()?)?;
    let (disk, knowledge) = match wishes.disk {
        Some(disk) => (disk, DiskKnowledge::Users),
        None => {
            let path = folder.path().join("disk.img");
            fs::copy(&artifacts.disk, &path).context("cannot copy the sample disk")?;
            let (file, original) = (artifacts.file.clone(), artifacts.disk.clone());
            (Disk { path, access: Access::ReadWrite }, DiskKnowledge::Sample { file, original })
        }
    };
    let publish = match wishes.publish {
        Some(publish) => {
            let port = publish.host;
            if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                bail!("cannot publish 127.0.0.1:{port}: {error}; choose another port");
            }
            publish
        }
        None => Publish { host: web::free_port()?, guest: WEB_PORT },
    };
    let machine = Machine {
        testbed: wishes.testbed,
        boot: machine::Boot::kernel(&artifacts.image),
        cmdline: wishes.cmdline.into(),
        memory: wishes.memory,
        cpus: wishes.cpus,
        disk,
        publish,
        more: Vec::new(),
        ringside: artifacts.ringside.clone(),
        inner: artifacts.inner.clone().ok(),
        xen: artifacts.xen.clone().ok(),
        folder: folder.path().into(),
    };
    Ok(Boot { machine, disk: knowledge, _folder: folder })
}
