//! The sandbox: what this process gives up once everything that it needs is open, and before the guest's first instruction. A
//! guest that takes over one of its threads finds the descriptors that are open, and nothing else.
//!
//! | layer | file | what it stops |
//! |---|---|---|
//! | descriptors | `descriptors` | what the parent left open |
//! | user, group, root directory, namespaces | `identity` | what another user owns; other mounts, networks, IPC |
//! | capabilities, no_new_privs | `identity` | root's privileges, here and in programs that are executed |
//! | Landlock | `landlock` | every file, device, TCP port and process, by whatever call |
//! | seccomp | `seccomp`, `table` | every call that is not in the table for this kind of thread |
//! | limits | `limits` | more descriptors, locked memory, priority; core files |
//!
//! The order is that of [`Layer::ALL`]. All layers but the last are inherited by the threads, which are started next. Each
//! thread puts on the filter of its [`Kind`] before it serves anything, the main thread last, and then the guest starts.

#[cfg(feature = "test-faults")]
mod compromised;
mod descriptors;
mod entrance;
mod hooks;
mod identity;
mod keeper;
mod landlock;
mod limits;
mod report;
mod seccomp;
mod table;

use crate::config::sandbox::{Mode, Options};
#[cfg(feature = "test-faults")]
pub use compromised::remember_log;
pub use descriptors::Inherited;
pub use entrance::Entrances;
pub use identity::join_cgroup;
pub use keeper::{Folder, enter as enter_keeper};
pub use report::Report;
use seccomp::Filters;
use serde_json::{Map, Value};
use std::io;
use std::sync::{Arc, OnceLock};
pub use table::{Arg, Is, Kind, Row, TABLE};

/// Why a layer is not on.
#[derive(Debug, thiserror::Error)]
#[error("sandbox: {what}: {source}")]
pub struct Error {
    /// What was to be done.
    pub what: String,
    /// What the system said.
    pub source: io::Error,
}

impl Error {
    fn at(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self { what, source }
    }

    /// Of the system call just made.
    fn last(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: io::Error::last_os_error() }
    }
}

/// The sandbox of this process.
pub struct Sandbox {
    filters: Option<Filters>,
    /// None with `--no-sandbox`.
    report: Option<Report>,
    limits: OnceLock<Map<String, Value>>,
}

/// The layers, in the order in which they are put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Descriptors of the parent are closed.
    Descriptors,
    /// Namespaces, root directory, group and user.
    Identity,
    /// No capabilities.
    Capabilities,
    /// No program that is executed has more privileges.
    NoNewPrivs,
    /// No access by name.
    Landlock,
    /// Filters for system calls.
    Seccomp,
    /// Resource limits, when all threads have what they need.
    Limits,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Descriptors,
        Self::Identity,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::Landlock,
        Self::Seccomp,
        Self::Limits,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Limits => "limits",
            Self::Identity => "identity",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

impl Sandbox {
    /// Puts all layers on this process that its threads inherit, and prepares the filters for threads of these kinds. There
    /// must be one thread yet.
    ///
    /// # Errors
    /// [`Error`]: what is on stays on.
    pub fn enter(options: &Options, inherited: Inherited, kinds: Kind) -> Result<Arc<Self>, Error> {
        let mut report = Report::default();
        if options.mode == Mode::Off {
            return Ok(Arc::new(Self { filters: None, report: None, limits: OnceLock::new() }));
        }
        hooks::prepare();
        seccomp::prepare_allocator();
        report.closed = report.put_on(Layer::Descriptors, || inherited.close())?.unwrap_or_default();
        report.identity = report.put_on(Layer::Identity, || identity::enter(options))?.unwrap_or_default();
        let none = report.put_on(Layer::Capabilities, || identity::keep_capabilities(&[]))?;
        report.capabilities = none.map(|()| 0);
        report.no_new_privs = report.put_on(Layer::NoNewPrivs, identity::no_new_privs)?.unwrap_or_default();
        report.landlock = report.put_on(Layer::Landlock, landlock::forbid_everything)?.unwrap_or_default();
        let filters = report.put_on(Layer::Seccomp, || Filters::new(kinds))?;
        report.filters = filters.as_ref().map(Filters::sizes).unwrap_or_default();
        Ok(Arc::new(Self { filters, report: Some(report), limits: OnceLock::new() }))
    }

    /// Lowers the limits, and puts its filter on the main thread, which can start no thread after it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn complete(&self) -> Result<(), Error> {
        if self.report.is_some() && !hooks::lacks(Layer::Limits) {
            let _ = self.limits.set(limits::lower()?);
        }
        self.filter(Kind::MAIN)
    }

    /// Puts the filter of that kind on the calling thread.
    ///
    /// # Errors
    /// [`Error`]: the thread has none.
    pub fn filter(&self, kind: Kind) -> Result<(), Error> {
        if let Some(filters) = &self.filters {
            filters.put_on(kind)?;
        }
        hooks::filtered(kind);
        Ok(())
    }

    /// What is in force.
    pub fn report(&self) -> Option<Report> {
        let mut report = self.report.clone()?;
        report.limits = self.limits.get().cloned().unwrap_or_default();
        Some(report)
    }
}
