//! From a profile to a process: whether the machine has what it needs, its files, its command.

use crate::conform::echo::EchoPeer;
use crate::conform::fill::{Quoting, fill};
use crate::conform::logs::Logs;
use crate::conform::media;
use crate::conform::profile::{HOST_IN_TCG, KVM, Probe, Profile, RINGSIDE, Serial, VMX_OR_SVM};
use crate::inner::Inner;
use crate::machine::{Access, Boot, Disk, Machine, Publish};
use crate::readable::shown;
use crate::running::{Running, Stdio};
use crate::testbed::{KvmPolicy, QEMU, Testbed, check_kvm, check_vmx_or_svm, find_program};
use crate::web;
use crate::xen::Xen;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shared_abi::tour::WEB_PORT;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A program that can work here says so within this time.
const PROBE_MAX: Duration = Duration::from_secs(20);

/// Bytes of the second disk.
const SECOND_DISK: usize = 64 << 10;

/// What all runs have in common.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The guest.
    pub image: PathBuf,
    /// Copied for each run.
    pub disk: PathBuf,
    /// Our host program.
    pub ringside: PathBuf,
    /// Where the folders of the runs are made.
    pub base: PathBuf,
    /// What `/dev/kvm` is taken for.
    pub kvm: KvmPolicy,
    /// A tap device that the user has prepared.
    pub tap: Option<String>,
    /// The stock Linux of `host-kvm-in-tcg`, or why there is none.
    pub inner: std::result::Result<Inner, String>,
    /// The hypervisor of `{xen}`, or why there is none.
    pub xen: std::result::Result<Xen, String>,
    /// The folder of the loaders, for what firmware boots, or why there is none.
    pub loaders: std::result::Result<PathBuf, String>,
    /// Follows the testbeds while they run.
    pub progress: Progress,
}

/// What happens on a testbed while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A check has ended.
    Check {
        /// Checks that have ended so far.
        done: usize,
        /// The name of this one.
        last: &'a str,
    },
    /// A line of its console, without control characters.
    Line(&'a str),
}

/// Is called with the name of a testbed and what happens there.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Watch>>);

type Watch = dyn Fn(&str, Step<'_>) + Send + Sync;

impl Progress {
    /// Calls `watch` at each step.
    pub fn new(watch: impl Fn(&str, Step<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    pub(super) fn at(&self, testbed: &str, step: Step<'_>) {
        if let Some(watch) = &self.0 {
            watch(testbed, step);
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Progress").field(&self.0.is_some()).finish()
    }
}

/// Looks whether a profile can run here; its program.
///
/// # Errors
/// Why not: the end of "skipped, because".
pub fn available(profile: &Profile, setting: &Setting) -> Result<PathBuf> {
    let program = if profile.program == RINGSIDE {
        ensure!(setting.ringside.is_file(), "there is no {}", setting.ringside.display());
        setting.ringside.clone()
    } else if profile.program == HOST_IN_TCG {
        Testbed::HostInTcg.available(setting.kvm)?;
        setting.inner.as_ref().map_err(|why| anyhow!("{why}"))?;
        PathBuf::from(QEMU)
    } else if profile.program.contains('/') {
        let path = PathBuf::from(&profile.program);
        ensure!(path.is_file(), "there is no {}", path.display());
        path
    } else {
        find_program(&profile.program).ok_or_else(|| anyhow!("{} is not installed", profile.program))?
    };
    for need in &profile.needs {
        match need.as_str() {
            KVM => check_kvm(setting.kvm)?,
            VMX_OR_SVM => check_vmx_or_svm()?,
            program => ensure!(find_program(program).is_some(), "{program} is not installed"),
        }
    }
    if profile.uses("xen") {
        setting.xen.as_ref().map_err(|why| anyhow!("{why}"))?;
    }
    if media::KERNELS[1..].iter().any(|medium| profile.uses(medium)) {
        setting.loaders.as_ref().map_err(|why| anyhow!("there are no loaders: {why}"))?;
    }
    if profile.uses("tap") {
        ensure!(setting.tap.is_some(), "it wants a tap device, and there is no --tap");
    }
    if let Some(probe) = &profile.probe {
        attempt(&program, probe)?;
    }
    Ok(program)
}

/// Starts a program shortly.
fn attempt(program: &Path, probe: &Probe) -> Result<()> {
    let mut command = Command::new(program);
    command.args(&probe.args);
    let mut running = Running::spawn(command)?;
    // A program that has ended already cannot be typed to; its status shows why.
    let _ = running.write_input(&probe.input);
    let ended = running.wait(PROBE_MAX);
    let said = running.stderr();
    let said = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it does not say why");
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("{}: {} ({status})", probe.otherwise, shown(said)),
        Err(error) => bail!("{}: {error:#}", probe.otherwise),
    }
}

/// A command, ready to start, and where its serial line is.
#[derive(Debug)]
pub struct Prepared {
    /// The command.
    pub command: Command,
    /// The other end of the guest's Ethernet, for as long as the run lasts.
    pub echo_peer: Option<EchoPeer>,
    /// A pipe to read the serial line from instead of the standard output.
    pub pipe: Option<PathBuf>,
    /// What its standard input and output are.
    pub stdio: Stdio,
}

/// Makes the files of a run in its folder, and the command.
///
/// # Errors
/// When a file cannot be written, or a placeholder has no value.
pub fn prepare(
    profile: &Profile,
    setting: &Setting,
    program: &Path,
    folder: &Path,
    cmdline: &str,
    logs: &Logs,
) -> Result<Prepared> {
    if profile.program == HOST_IN_TCG {
        return prepare_inner(profile, setting, folder, cmdline, &[]);
    }
    let path = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| anyhow!("{path:?} is no UTF-8"));
    let (disk, serial) = (folder.join("disk.img"), folder.join("serial"));
    let (echo_peer, second_disk) = (folder.join("echo_peer"), folder.join("second.img"));
    let mut values = BTreeMap::from([
        ("image", path(&setting.image)?),
        ("cmdline", cmdline.to_owned()),
        ("disk", path(&disk)?),
        ("second_disk", path(&second_disk)?),
        ("memory_mib", profile.memory_mib.to_string()),
        ("cpus", profile.cpus.to_string()),
        ("echo_peer", path(&echo_peer)?),
        ("folder", path(folder)?),
        ("control", path(&folder.join("control"))?),
        ("serial", path(&serial)?),
        ("log", path(&logs.program())?),
        ("ringside", path(&setting.ringside)?),
    ]);
    if let Some(tap) = &setting.tap {
        values.insert("tap", tap.clone());
    }
    if let Ok(xen) = &setting.xen {
        values.insert("xen", path(&xen.file())?);
    }
    if profile.uses("port") {
        values.insert("port", web::free_port()?.to_string());
    }
    if profile.uses("disk") {
        fs::copy(&setting.disk, &disk).context("cannot copy the sample disk")?;
    }
    if profile.uses("second_disk") {
        fs::write(&second_disk, [0x5a; SECOND_DISK]).context("cannot write the second disk")?;
    }
    for (name, file) in media::KERNELS[1..].iter().map(|name| (*name, folder.join(name))) {
        if profile.uses(name) {
            media::make(
                name,
                media::Parts { image: &setting.image, loaders: setting.loaders.as_ref() },
                cmdline,
                &file,
            )?;
            values.insert(name, path(&file)?);
        }
    }
    if profile.uses("log") {
        // Some programs open it and do not make it.
        fs::write(logs.program(), "").context("cannot make the file for the program's log")?;
    }
    for file in &profile.files {
        let quoting = if file.name.ends_with(".json") { Quoting::Json } else { Quoting::Plain };
        let text = fill(&file.text, &values, quoting)?;
        fs::write(folder.join(&file.name), text).with_context(|| format!("cannot write {}", file.name))?;
    }
    let mut command = Command::new(program);
    for arg in &profile.args {
        command.arg(fill(arg, &values, Quoting::Plain)?);
    }
    let pipe = match profile.serial {
        Serial::Stdio | Serial::Pty => None,
        Serial::Pipe => {
            mkfifo(&serial, Mode::S_IRUSR | Mode::S_IWUSR).context("cannot make a pipe for the serial line")?;
            Some(serial)
        }
    };
    let echo_peer = if profile.uses("echo_peer") { Some(EchoPeer::start(&echo_peer)?) } else { None };
    let stdio = if profile.serial == Serial::Pty { Stdio::Terminal } else { Stdio::Pipes };
    Ok(Prepared { command, echo_peer, pipe, stdio })
}

/// For a profile whose host runs inside a stock Linux: one start of the Linux, in which the host runs for each command line.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_many(profile: &Profile, setting: &Setting, folder: &Path, cmdlines: &[String]) -> Result<Prepared> {
    prepare_inner(profile, setting, folder, "", cmdlines)
}

/// The same for our host inside a stock Linux.
fn prepare_inner(
    profile: &Profile,
    setting: &Setting,
    folder: &Path,
    cmdline: &str,
    runs: &[String],
) -> Result<Prepared> {
    let disk = folder.join("disk.img");
    fs::copy(&setting.disk, &disk).context("cannot copy the sample disk")?;
    let machine = Machine {
        testbed: Testbed::HostInTcg,
        boot: Boot::kernel(&setting.image),
        cmdline: cmdline.into(),
        memory: profile.memory_mib << 20,
        cpus: profile.cpus,
        disk: Disk { path: disk, access: Access::ReadWrite },
        publish: Publish { host: web::free_port()?, guest: WEB_PORT },
        more: profile.args.clone(),
        ringside: setting.ringside.clone(),
        inner: Some(setting.inner.clone().map_err(|why| anyhow!(why))?),
        xen: None,
        folder: folder.into(),
    };
    machine.prepare_runs(runs)?;
    let path = folder.join("echo_peer");
    let echo_peer = EchoPeer::start(&path)?;
    Ok(Prepared {
        command: machine.command_on_wire(&path),
        echo_peer: Some(echo_peer),
        pipe: None,
        stdio: Stdio::Pipes,
    })
}
