//! Runs one VM from its description to its end.
//!
//! Everything that the description names is opened and checked before anything is made, emptied or started, so that bad
//! input harms nothing: memory and kernel, outputs, disks, the network's peer, KVM, and only then the control socket and
//! the consoles' files. Then the helpers are started, the sandbox is put on, the threads are started in it, and the guest runs.

mod check;
mod devices;
mod ending;
mod events;
mod helpers;
mod image;
mod machine;
mod parts;
mod peer;
mod platform;
mod running;
mod stats;

pub use check::check;
pub use machine::Machine;

use crate::config::sandbox::{Mode, Show};
use crate::config::{Config, Console, LogFile};
use crate::devices::output::Output;
use crate::devices::reset::ResetLine;
use crate::sandbox::{self, Inherited, Sandbox, join_cgroup};
use crate::say;
use crate::status;
use crate::stop::{Outcome, Stop};
use crate::virtio::net::passt;
use crate::vmm::{self, loader, memory};
use events::{EventLoop, Signals};
use helpers::Helpers;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Why a VM was not started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Memory(#[from] memory::Error),
    #[error("load kernel {}: {source}", path.display())]
    Kernel { path: PathBuf, source: loader::Error },
    #[error("take the kernel out of {}: {source}", path.display())]
    Image { path: PathBuf, source: mkimage::Error },
    #[error("open disk {}: {source}", path.display())]
    Disk { path: PathBuf, source: crate::virtio::block::OpenError },
    #[error("{0}")]
    Control(#[from] crate::control::Error),
    #[error("{0}")]
    Passt(#[from] passt::Error),
    #[error("attach to tap interface {name}: {source}")]
    Tap { name: String, source: io::Error },
    #[error("connect to network peer {}: {source}", path.display())]
    Stream { path: PathBuf, source: io::Error },
    #[error("open {what} {}: {source}", path.display())]
    Output { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Kvm(#[from] vmm::kvm::Error),
    #[error("{0}")]
    Sandbox(#[from] sandbox::Error),
    #[error("{0}")]
    Lifecycle(#[from] vmm::lifecycle::Illegal),
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl Error {
    /// The exit status for it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Kvm(error) if error.is_absence() => status::NO_KVM,
            Self::Kvm(_) | Self::Lifecycle(_) | Self::Sandbox(_) | Self::System { .. } => status::VM_FAILURE,
            _ => status::BAD_INPUT,
        }
    }

    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    fn output(what: &'static str, log: &LogFile) -> impl FnOnce(io::Error) -> Self {
        let path = log.path.clone();
        move |source| Self::Output { what, path, source }
    }
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub outcome: Outcome,
    /// Disks that may have lost what the guest wrote, each with the reason.
    pub lost: Vec<String>,
}

/// Runs a VM until it ends, and says how.
///
/// # Errors
/// When it could not be started.
pub fn run(config: &Config) -> Result<Ended, Error> {
    let started = Instant::now();
    let inherited = Inherited::find().map_err(Error::system("find the descriptors that are open"))?;
    check::check(config)?;
    // Before anything is created: what a signal interrupts here is undone.
    let signals = Signals::block().map_err(Error::system("set up signals"))?;
    let stop = Arc::new(Stop::new().map_err(Error::system("create an event"))?);
    if let Some(cgroup) = &config.sandbox.cgroup {
        join_cgroup(cgroup)?;
    }
    let mut built = Machine::build(config, &stop, started)?;
    let (_helpers, modes) = Helpers::start(&mut built)?;
    let mut events = EventLoop::new(&built.machine, &stop, signals, modes)?;
    warn_of_rights(config);
    let sandbox = Sandbox::enter(&config.sandbox, inherited, built.kinds())?;
    let mut running = built.start(sandbox.clone())?;
    if let (Show::All, Some(report)) = (config.sandbox.show, sandbox.report()) {
        crate::log::error_text(&report.text());
    }
    if let Err(error) = running.run() {
        return Err(running.fail(error));
    }
    // Also a panic here must not keep the disks from their flush.
    if catch_unwind(AssertUnwindSafe(|| running.serve(&mut events))).is_err() {
        stop.request(Outcome::Failure("the main thread panicked".into()));
    }
    crate::terminal::restore();
    let outcome = stop.outcome().unwrap_or(Outcome::Stopped);
    events.start_ending();
    let lost = running.end(&mut || events.turn());
    Ok(Ended { outcome, lost })
}

/// Says which rights the user may not have meant to give.
fn warn_of_rights(config: &Config) {
    // SAFETY: geteuid cannot fail and touches no memory.
    let root = unsafe { libc::geteuid() } == 0;
    match config.sandbox.mode {
        Mode::Off => say!("WARNING: --no-sandbox: a guest that breaks out has all that this user has"),
        Mode::On if root && config.sandbox.user.is_none() => {
            say!("running as root; --uid and --gid give the sandbox a user of its own");
        }
        Mode::On => {}
    }
}

impl Ended {
    /// The exit status for it: whatever the reason, a lost flush is no success.
    pub fn status(&self) -> u8 {
        if self.lost.is_empty() { status::of(&self.outcome) } else { status::VM_FAILURE }
    }

    /// What was lost, as one line.
    pub fn loss(&self) -> Option<String> {
        loss(&self.lost)
    }
}

fn loss(lost: &[String]) -> Option<String> {
    let lost = lost.join(", ");
    (!lost.is_empty()).then(|| format!("not flushed, so that what the guest wrote may be lost: {lost}"))
}

/// The message about the end, if any.
pub fn farewell(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Stopped | Outcome::Signal(_) | Outcome::GuestExit(shared_abi::board::EXIT_OK) => None,
        Outcome::GuestExit(shared_abi::board::EXIT_PANIC) => Some("the guest panicked".into()),
        Outcome::GuestExit(code) => Some(format!("the guest ended with code {code}")),
        Outcome::GuestReset => Some("the guest reset its machine; --on-reset reboot starts it again instead".into()),
        Outcome::Failure(why) => Some(format!("the VM cannot go on: {why}")),
    }
}

/// Opens a console's other end, and neither makes nor empties a file.
fn open_output(console: &Console, rate: Option<u64>, reset: &Arc<ResetLine>) -> Result<Arc<Output>, Error> {
    let output = match console {
        Console::Stdio => Output::stdout().map_err(Error::system("open standard output"))?,
        Console::Control => Output::kept(),
        Console::File(log) => Output::file(log).map_err(Error::output("console output", log))?,
    };
    Ok(Arc::new(output.give_up_on(reset.clone()).at_rate(rate)))
}

/// Opens the file for the lies, and neither makes nor empties it.
fn open_lies(log: &LogFile, reset: &Arc<ResetLine>) -> Result<Arc<Output>, Error> {
    let output = Output::file(log).map_err(Error::output("the log of lies", log))?;
    Ok(Arc::new(output.give_up_on(reset.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_flush_is_no_success_however_the_vm_ended() {
        for outcome in [Outcome::Stopped, Outcome::GuestExit(0), Outcome::Signal(libc::SIGTERM)] {
            let good = Ended { outcome: outcome.clone(), lost: Vec::new() };
            assert_eq!((good.status(), good.loss()), (status::of(&outcome), None));
            let bad = Ended { outcome, lost: vec!["block1 (Input/output error)".into()] };
            assert_eq!(bad.status(), status::VM_FAILURE);
            assert!(bad.loss().is_some_and(|line| line.contains("block1 (Input/output error)")));
        }
    }
}
