//! What the user sees: progress, verdicts and tables. Plain text where there is no terminal.

use console::{Alignment, Term, measure_text_width, pad_str, style};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A message about what happens now.
pub fn say(text: &str) {
    println!("{} {text}", style("==>").cyan().bold());
}

/// Progress of something that takes a while: a spinner on a terminal, else one line.
pub fn progress(text: &str) -> ProgressBar {
    if !Term::stderr().is_term() {
        println!("    {text}");
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

/// How far the testbeds of a conformance run are: a line that changes on a terminal, else one now and then.
#[derive(Debug)]
pub struct Checks {
    bar: ProgressBar,
    state: Mutex<(BTreeMap<String, String>, Instant)>,
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}

impl Checks {
    /// None has begun.
    pub fn new() -> Self {
        let bar = if Term::stderr().is_term() { progress("running") } else { ProgressBar::hidden() };
        Self { bar, state: Mutex::new((BTreeMap::new(), Instant::now())) }
    }

    /// A testbed has come so far.
    pub fn at(&self, testbed: &str, done: usize, last: &str) {
        /// Without a terminal: from line to line.
        const NOW_AND_THEN: Duration = Duration::from_secs(5);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.insert(testbed.to_owned(), format!("{testbed} {done}, {last}"));
        let text = state.0.values().cloned().collect::<Vec<_>>().join("; ");
        if !self.bar.is_hidden() {
            self.bar.set_message(text);
        } else if state.1.elapsed() >= NOW_AND_THEN {
            state.1 = Instant::now();
            println!("    {text}");
        }
    }

    /// A testbed has ended.
    pub fn ended(&self, testbed: &str, text: &str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.remove(testbed);
        self.say(text);
    }

    /// Prints a line above the one that changes.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| println!("{text}"));
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
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
        println!("  {}", cells.join("  ").trim_end());
    }
}
