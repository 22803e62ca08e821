//! What is kept of a run to analyse a failure: the exact command line of each machine, its console, its error
//! output and its own log. Each process of ours has a folder of its own for each testbed, so that two runs in one checkout
//! do not write into each other's files; folders of processes that have ended go with the next run.

use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Below the base of all runs.
/// In the base folder of runs.
pub const FOLDER: &str = "logs";

/// The files of one machine.
#[derive(Clone, Debug)]
pub struct Logs {
    folder: PathBuf,
    machine: String,
}

impl Logs {
    /// For the machine of a testbed that runs `what`: the checks, or the name of the one that it is started for.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(base: &Path, testbed: &str, what: &str) -> Result<Self> {
        let parent = base.join(FOLDER).join(testbed);
        let folder = parent.join(std::process::id().to_string());
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        forget_the_dead(&parent);
        Ok(Self { folder, machine: what.replace('/', "-") })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the program is to write its own log: `{log}`.
    pub fn program(&self) -> PathBuf {
        self.file("log")
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.machine))
    }

    /// Keeps what was seen. A disk that is full is no reason to lose the result.
    pub fn keep(&self, command: &str, console: &str, stderr: &str) {
        for (kind, text) in [("command", command), ("console", console), ("stderr", stderr)] {
            let _ = fs::write(self.file(kind), text);
        }
    }
}

/// Removes the folders of processes that run no more.
fn forget_the_dead(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().parse::<u32>();
        if id.is_ok_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A command as a shell takes it.
pub fn shell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=,:+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_makes_the_same_arguments_of_the_text() {
        let mut command = Command::new("printf");
        command.args([r"%s|", "plain", "two words", "it's", "$HOME `x` \\", "", "*", "a=b"]);
        let output = Command::new("sh").arg("-c").arg(shell(&command)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "plain|two words|it's|$HOME `x` \\||*|a=b|");
    }

    #[test]
    fn folders_of_the_living_stay_and_those_of_the_dead_go() {
        let base = tempfile::tempdir().unwrap();
        let bed = base.path().join("logs/bed");
        // No process has such a number (PID_MAX_LIMIT is 4,194,304), and process 1 always runs.
        for name in ["4194305", "1", "notes"] {
            fs::create_dir_all(bed.join(name)).unwrap();
        }
        let logs = Logs::new(base.path(), "bed", "hostile/x").unwrap();
        logs.keep("vmm --now", "line\n", "");
        let names = ["4194305", "1", "notes"].map(|name| bed.join(name).exists());
        assert_eq!(names, [false, true, true]);
        assert_eq!(fs::read_to_string(logs.folder().join("hostile-x.command")).unwrap(), "vmm --now");
        assert!(logs.program().starts_with(logs.folder()));
    }
}
