//! What the user sees: messages, progress and tables. Plain text where there is no terminal.

use anyhow::{Context, Result, bail};
use console::style;
pub(crate) use ringside_conform::ui::{progress, say, table};
use ringside_tests::tour::{State, Step, Watcher};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// A message about something that the user may want to change.
pub(crate) fn warn(text: &str) {
    println!("{} {text}", style("note:").yellow().bold());
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

/// A word for a state, coloured on a terminal.
pub(crate) fn badge(state: State) -> String {
    match state {
        State::Passed => style("  ok     ").green().to_string(),
        State::Skipped => style("  skipped").yellow().to_string(),
        State::Failed => style("  FAILED ").red().bold().to_string(),
        State::Missing => style("  MISSING").red().bold().to_string(),
    }
}
