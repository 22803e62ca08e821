//! The program's progress bar. It shows itself on a terminal when something takes longer than a second, whatever that is:
//! reading, composing, writing, or waiting for qemu-img.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mkimage::bootable::{Bytes, Step};
use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What takes less is over before anybody could read.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
const SPINNER: &str = "{spinner} {msg} {elapsed}";
const BAR: &str = "{msg} {bytes} of {total_bytes} [{wide_bar}] {bytes_per_sec}, {eta} left";

/// The bar, hidden at first; dropping it takes it away.
pub(crate) struct Bar {
    shown: ProgressBar,
    /// What it is about: a file's name.
    subject: String,
    step: Option<Step>,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Bar {
    /// A bar on standard error, if that is a terminal.
    pub(crate) fn start(doing: &str, subject: &dyn ToString) -> Self {
        let mut bar = Self::hidden(doing, subject);
        if io::stderr().is_terminal() {
            let (shown, started) = (bar.shown.clone(), Instant::now());
            let (stop, stopped) = mpsc::channel();
            let ticks = thread::spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    tick(&shown, started.elapsed(), ProgressDrawTarget::stderr);
                }
            });
            bar.ticker = Some((stop, ticks));
        }
        bar
    }

    fn hidden(doing: &str, subject: &dyn ToString) -> Self {
        let shown = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let bar = Self { shown, subject: subject.to_string(), step: None, ticker: None };
        bar.begin(doing, SPINNER);
        bar
    }

    /// Takes note of how far the work is.
    pub(crate) fn at(&mut self, step: Step, bytes: Bytes) {
        // Before a template that shows it.
        if bytes.total != 0 {
            self.shown.set_length(bytes.total);
        }
        if self.step.replace(step) != Some(step) {
            let doing = match step {
                Step::Composing => "composing",
                Step::Writing => "writing",
                Step::Converting => "converting",
            };
            self.begin(doing, if bytes.total == 0 { SPINNER } else { BAR });
        }
        if bytes.total != 0 {
            self.shown.set_position(bytes.done);
        }
    }

    fn begin(&self, doing: &str, template: &str) {
        // A new step has its own speed.
        self.shown.set_position(0);
        self.shown.reset_eta();
        self.shown.set_message(format!("{doing} {}", self.subject));
        // Both templates are known to be good: a test draws them.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.shown.set_style(style.progress_chars("=> "));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((stop, ticks)) = self.ticker.take() {
            drop(stop);
            // It cannot panic, and nothing could be done about it.
            let _ = ticks.join();
        }
        self.shown.finish_and_clear();
    }
}

/// Draws a bar again, if the work takes long enough to have one.
fn tick(shown: &ProgressBar, elapsed: Duration, terminal: impl FnOnce() -> ProgressDrawTarget) {
    if elapsed < PATIENCE {
        return;
    }
    if shown.is_hidden() {
        shown.set_draw_target(terminal());
    }
    shown.tick();
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    const MIB: u64 = 1 << 20;

    /// What is on a terminal of 100 columns, so long after the start.
    fn on(terminal: &InMemoryTerm, bar: &Bar, elapsed: u64) -> String {
        let target = || ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        tick(&bar.shown, Duration::from_millis(elapsed), target);
        terminal.contents()
    }

    #[test]
    fn what_is_over_within_a_second_shows_nothing() {
        let terminal = InMemoryTerm::new(5, 100);
        let mut bar = Bar::hidden("reading", &"kernel");
        assert_eq!(on(&terminal, &bar, 500), "");
        bar.at(Step::Writing, Bytes { done: 3 * MIB, total: 64 * MIB });
        assert_eq!(on(&terminal, &bar, 999), "");
    }

    #[test]
    fn every_step_shows_itself_after_a_second_and_what_it_is_about() {
        let terminal = InMemoryTerm::new(5, 100);
        let mut bar = Bar::hidden("reading", &"kernel.elf");
        let text = on(&terminal, &bar, 1000);
        assert!(text.contains(" reading kernel.elf 0s"), "{text:?}");
        bar.at(Step::Composing, Bytes::UNKNOWN);
        let text = on(&terminal, &bar, 1100);
        assert!(text.contains(" composing kernel.elf "), "{text:?}");
        for (step, doing) in [(Step::Writing, "writing"), (Step::Converting, "converting")] {
            for (done, more) in [(0, "0 B of 64.00 MiB ["), (16, "16.00 MiB of 64.00 MiB [===="), (64, "= ")] {
                bar.at(step, Bytes { done: done * MIB, total: 64 * MIB });
                let text = on(&terminal, &bar, 5000);
                assert!(text.starts_with(&format!("{doing} kernel.elf ")), "{text:?}");
                assert_eq!(text.lines().count(), 1, "{text:?}");
                assert!(text.contains(more.trim()) && text.contains("/s, ") && text.ends_with(" left"), "{text:?}");
            }
        }
    }

    #[test]
    fn the_end_takes_it_away() {
        let terminal = InMemoryTerm::new(5, 100);
        let mut bar = Bar::hidden("reading", &"kernel");
        bar.at(Step::Writing, Bytes { done: 1, total: 2 });
        assert_ne!(on(&terminal, &bar, 2000), "");
        drop(bar);
        assert_eq!(terminal.contents(), "");
    }
}
