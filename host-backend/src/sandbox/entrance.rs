//! Waiting until all threads have put on their filters.

use super::{Error, Kind, Sandbox};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The threads that are started, each with a filter to put on.
pub struct Entrances {
    sandbox: Arc<Sandbox>,
    report: Sender<Result<(), Error>>,
    reports: Receiver<Result<(), Error>>,
    expected: usize,
}

impl Entrances {
    /// No thread yet.
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        let (report, reports) = channel();
        Self { sandbox, report, reports, expected: 0 }
    }

    /// What a thread of that kind calls before it does anything else.
    pub fn entrance(&mut self, kind: Kind) -> impl FnOnce() + Send + 'static {
        self.expected += 1;
        let (sandbox, report) = (self.sandbox.clone(), self.report.clone());
        move || {
            // The main thread may have given up.
            let _ = report.send(sandbox.filter(kind));
        }
    }

    /// Waits until all have entered.
    ///
    /// # Errors
    /// The first that could not.
    pub fn wait(self) -> Result<(), Error> {
        drop(self.report);
        for _ in 0..self.expected {
            let gone = || Error { what: "start the threads".into(), source: io::Error::other("one ended at once") };
            self.reports.recv().unwrap_or_else(|_| Err(gone()))?;
        }
        Ok(())
    }
}
