//! What the user sees: progress, verdicts and tables. Plain text where there is no terminal.

use anyhow::{Result, bail};
use console::{Alignment, Term, measure_text_width, pad_str, style};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Why nothing more is printed.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line. A reader that has gone, or a full disk, does not end what is being done: see [`printed`].
pub fn line(text: impl Display) {
    self::text(format_args!("{text}\n"));
}

/// The same without an end of the line.
pub fn text(text: impl Display) {
    if FAILED.get().is_some() {
        return;
    }
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.to_string().as_bytes()).and_then(|()| out.flush());
    if let Err(error) = printed {
        // Another thread may have been first.
        let _ = FAILED.set(error);
    }
}

/// Whether everything was printed. A reader that closes early, as `head` does, has had enough.
///
/// # Errors
/// When the output could not be written.
pub fn printed() -> Result<()> {
    match FAILED.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => bail!("cannot write to standard output: {error}"),
        _ => Ok(()),
    }
}

/// A message about what happens now.
pub fn say(text: &str) {
    line(format_args!("{} {text}", style("==>").cyan().bold()));
}

/// Progress of something that takes a while: a spinner on a terminal, else one line.
pub fn progress(text: &str) -> ProgressBar {
    if !Term::stderr().is_term() {
        line(format_args!("    {text}"));
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
        bar.set_style(style);
    }
    bar.set_prefix(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// How far the testbeds of a run are: a line for each that changes on a terminal, else one for all now and then.
#[derive(Debug)]
pub struct Checks {
    /// `None` without a terminal.
    bars: Option<MultiProgress>,
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: BTreeMap<String, (ProgressBar, String)>,
    printed: Instant,
}

impl Checks {
    /// None has begun. Each has so many checks.
    pub fn new(total: usize) -> Self {
        let bars = Term::stderr().is_term().then(MultiProgress::new);
        Self::on(bars, total)
    }

    fn on(bars: Option<MultiProgress>, total: usize) -> Self {
        Self { bars, total, state: Mutex::new(State { running: BTreeMap::new(), printed: Instant::now() }) }
    }

    /// A testbed has come so far.
    pub fn at(&self, testbed: &str, done: usize, last: &str) {
        /// Without a terminal: from line to line.
        const NOW_AND_THEN: Duration = Duration::from_secs(5);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (bar, text) = state.running.entry(testbed.to_owned()).or_insert_with(|| (self.bar(testbed), String::new()));
        bar.set_position(done as u64);
        bar.set_message(last.to_owned());
        *text = format!("{testbed} {done}/{}, {last}", self.total);
        if self.bars.is_none() && state.printed.elapsed() >= NOW_AND_THEN {
            state.printed = Instant::now();
            line(format_args!(
                "    {}",
                state.running.values().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ")
            ));
        }
    }

    fn bar(&self, testbed: &str) -> ProgressBar {
        let Some(bars) = &self.bars else { return ProgressBar::hidden() };
        let bar = bars.add(ProgressBar::new(self.total as u64));
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {pos}/{len} [{elapsed}] {wide_msg:.dim}") {
            bar.set_style(style);
        }
        bar.set_prefix(testbed.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// A testbed has ended.
    pub fn ended(&self, testbed: &str, text: &str) {
        let ended = self.state.lock().unwrap_or_else(PoisonError::into_inner).running.remove(testbed);
        if let Some((bar, _)) = ended {
            bar.finish_and_clear();
        }
        self.say(text);
    }

    /// Prints a line above those that change.
    pub fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| line(format_args!("{text}"))),
            None => line(format_args!("{text}")),
        }
    }
}

/// A text with its verdicts coloured on a terminal: a cell of the matrix, or a line of what went wrong.
pub fn verdict(text: &str) -> String {
    let coloured =
        |part: &str| match part.split_whitespace().find(|word| !word.bytes().all(|byte| byte.is_ascii_digit())) {
            Some("FAIL" | "ERROR" | "PROBLEM" | "FAILED" | "BROKEN:") => style(part).red().bold().to_string(),
            Some("advice") => style(part).yellow().to_string(),
            Some("known" | "skip") => style(part).dim().to_string(),
            Some("fixed?") => style(part).cyan().to_string(),
            Some("pass") => style(part).green().to_string(),
            _ => part.to_owned(),
        };
    text.split(", ").map(coloured).collect::<Vec<_>>().join(", ")
}

/// Prints rows in columns as wide as needed.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| pad_str(cell, *width, Alignment::Left, None)).collect();
        line(format_args!("  {}", cells.join("  ").trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    #[test]
    fn each_testbed_has_a_line_until_it_ends() {
        let term = InMemoryTerm::new(10, 60);
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(term.clone())));
        let checks = Checks::on(Some(bars), 537);
        checks.at("qemu", 12, "rng/two-answers-differ");
        checks.at("host", 3, "mmio/version-is-2");
        checks.at("qemu", 13, "rng/one-byte-is-answered");
        let shown = |part: &str| term.contents().contains(part);
        checks.state.lock().unwrap().running.values().for_each(|(bar, _)| bar.force_draw());
        assert!(shown("qemu 13/537") && shown("rng/one-byte") && shown("host 3/537"), "{}", term.contents());
        checks.ended("qemu", "");
        assert!(!shown("qemu") && shown("host"), "{}", term.contents());
    }
}
