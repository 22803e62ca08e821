//! Watches a hypervisor that may hang, crash, talk rubbish or flood: the bounds, and what a line of the guest says.

use crate::conform::outcome::{CheckResult, Outcome};
use crate::conform::start::Prepared;
use crate::console::{Console, Event};
use crate::readable::shown;
use crate::running::Running;
use anyhow::Result;
use shared_abi::report::{self, Report};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// A console that says more is ended.
pub const LINES_MAX: usize = 50_000;
/// The same in bytes.
pub const BYTES_MAX: usize = 16 << 20;
/// From the guest's last line to the end of the process.
pub(super) const END_MAX: Duration = Duration::from_secs(20);
/// From the end of the process to the last lines that it wrote.
pub(super) const LAST_LINES_MAX: Duration = Duration::from_secs(2);
/// How often we look whether we are to stop.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Console lines kept for the report of a failure.
pub(super) const TAIL: usize = 30;
/// A value's characters that are kept.
const VALUE_MAX: usize = 1000;

/// What of a run has come to its end, and since when.
#[derive(Default)]
pub(super) struct Since {
    last_line: Option<Instant>,
    end: Option<Instant>,
}

impl Since {
    /// How long ago the guest said its last line; zero before it.
    pub(super) fn last_line(&mut self, through: bool) -> Duration {
        if through { self.last_line.get_or_insert_with(Instant::now).elapsed() } else { Duration::ZERO }
    }

    /// The program is gone, and nothing that it left is still to be read. Another process may hold the console open, and
    /// go on printing: after the guest's last line that is no longer waited for.
    pub(super) fn left(&mut self, running: &mut Running, event: &Event, through: bool) -> bool {
        if !through && !matches!(event, Event::Quiet) {
            return false;
        }
        running.ended().is_some() && self.end.get_or_insert_with(Instant::now).elapsed() >= LAST_LINES_MAX
    }
}

/// Starts a program, lets `follow` read its serial line, and ends it; what it wrote to its error output.
///
/// # Errors
/// When it cannot be started.
pub(super) fn watch(prepared: Prepared, follow: impl FnOnce(&mut Running)) -> Result<String> {
    let Prepared { command, echo_peer: _echo_peer, pipe, stdio } = prepared;
    let mut running = Running::spawn_with(command, stdio)?;
    if let Some(pipe) = &pipe {
        let talk = std::mem::replace(&mut running.console, Console::new(Pipe::Closed(pipe.clone())));
        thread::spawn(move || drain(talk));
    }
    follow(&mut running);
    let stderr = running.stderr();
    if let Some(pipe) = &pipe {
        // The reader may still wait for the other end to open.
        drop(OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe));
    }
    Ok(stderr)
}

/// What a program prints apart from the serial line must be read, or it would block.
fn drain(mut talk: Console) {
    while talk.next(Duration::from_secs(60)) != Event::Closed {}
}

/// A named pipe; opening it waits for the writer, so that is done by the thread that reads.
enum Pipe {
    Closed(PathBuf),
    Open(File),
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Closed(path) = self {
            *self = Self::Open(File::open(path)?);
        }
        match self {
            Self::Open(file) => file.read(buffer),
            Self::Closed(_) => Ok(0),
        }
    }
}

/// What a line says about a check; `None` while it only says that it is about to begin.
pub(super) fn result_of(report: &Report<'_>) -> Option<CheckResult> {
    let outcome = match report.outcome {
        report::Outcome::Success => Outcome::Pass,
        report::Outcome::Skip => Outcome::Skip,
        report::Outcome::Advice => Outcome::Advice,
        report::Outcome::Failure => Outcome::Fail,
        report::Outcome::Error => Outcome::Error,
        report::Outcome::Waiting => return None,
    };
    let cut = |value: report::Value<'_>| value.to_string().chars().take(VALUE_MAX).collect();
    let evidence = report.fields().map(|(key, value)| (shown(key), cut(value))).collect();
    Some(CheckResult { name: report.name.to_owned(), outcome, evidence, reported: true, known: None })
}
