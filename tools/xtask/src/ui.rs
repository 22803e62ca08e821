//! What the user sees: messages, progress and tables. Plain text where there is no terminal.

use anyhow::{Context, Result, bail};
use console::{Alignment, Term, measure_text_width, pad_str, style};
use indicatif::{ProgressBar, ProgressStyle};
use ringside_tests::tour::{State, Step, Watcher};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A message about what happens now.
pub(crate) fn say(text: &str) {
    println!("{} {text}", style("==>").cyan().bold());
}

/// A message about something that the user may want to change.
pub(crate) fn warn(text: &str) {
    println!("{} {text}", style("note:").yellow().bold());
}

/// Progress of something that takes a while: a spinner on a terminal, else one line.
pub(crate) fn progress(text: &str) -> ProgressBar {
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

/// Runs a command whose output is only of interest when it fails; its last line is shown as progress.
pub(crate) fn run_quietly(text: &str, command: &mut Command) -> Result<()> {
    const TAIL: usize = 15;
    let bar = progress(text);
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    // The command keeps its ends of the pipe until it is replaced: without this the reader would wait for ourselves.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        bar.set_message(line.clone());
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        tail.iter().for_each(|line| eprintln!("    {line}"));
        bail!("{name} ended with {status}");
    }
    Ok(())
}

/// Shows a tour live.
#[derive(Debug, Default)]
pub(crate) struct Live;

impl Watcher for Live {
    fn line(&mut self, line: &str) {
        println!("{} {}", style("  |").dim(), style(line).dim());
    }

    fn action(&mut self, text: &str) {
        println!("{} {text}", style("  >").cyan());
    }

    fn step(&mut self, step: &Step) {
        println!("{} {:<15} {}", badge(step.state), step.name, step.detail);
    }
}

/// How far the testbeds of a conformance run are: a line that changes on a terminal, else one now and then.
#[derive(Debug)]
pub(crate) struct Checks {
    bar: ProgressBar,
    state: Mutex<(BTreeMap<String, String>, Instant)>,
}

impl Checks {
    pub(crate) fn new() -> Self {
        let bar = if Term::stderr().is_term() { progress("running") } else { ProgressBar::hidden() };
        Self { bar, state: Mutex::new((BTreeMap::new(), Instant::now())) }
    }

    /// A testbed has come so far.
    pub(crate) fn at(&self, testbed: &str, done: usize, last: &str) {
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
    pub(crate) fn ended(&self, testbed: &str, text: &str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.remove(testbed);
        self.say(text);
    }

    /// Prints a line above the one that changes.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| println!("{text}"));
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A text with its verdicts coloured on a terminal: a cell of the matrix, or a line of what went wrong.
pub(crate) fn verdict(text: &str) -> String {
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

/// A word for a state, coloured on a terminal.
pub(crate) fn badge(state: State) -> String {
    match state {
        State::Passed => style("  ok     ").green().to_string(),
        State::Skipped => style("  skipped").yellow().to_string(),
        State::Failed => style("  FAILED ").red().bold().to_string(),
        State::Missing => style("  MISSING").red().bold().to_string(),
    }
}

/// Prints rows in columns as wide as needed.
pub(crate) fn table(rows: &[Vec<String>]) {
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
