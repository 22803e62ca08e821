//! QEMU's `qemu-img`, for the disk formats that it knows best. It is given formats, never left to guess them, and paths that
//! cannot be read as something else.

use crate::Error;
use serde::Deserialize;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = "qemu-img";
/// Characters of its messages that are passed on.
const MESSAGE_MAX: usize = 300;

/// Why it did not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is not installed.
    Missing,
    /// It could not be started.
    System(io::Error),
    /// The first line that it said.
    Said(String),
}

impl Failure {
    /// As an error about a format and, unless qemu-img is missing, what `other` makes of it.
    pub(crate) fn about(self, format: &str, other: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Self::Missing => Error::NoQemuImg { format: format.into() },
            Self::System(error) => other(error),
            Self::Said(line) => other(io::Error::other(line)),
        }
    }
}

/// Converts a disk.
pub(crate) fn convert(from: (&str, &Path), to: (&str, &Path)) -> Result<(), Failure> {
    run(Command::new(PROGRAM).args(["convert", "-f", from.0, "-O", to.0]).arg(from.1).arg(to.1)).map(drop)
}

/// What `qemu-img info` tells about a disk; it opens no other file that the disk names as its backing file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Info {
    /// Bytes of the disk inside.
    pub(crate) virtual_size: u64,
    /// The file where everything is that is not in this one.
    pub(crate) backing_filename: Option<String>,
    #[serde(default)]
    format_specific: Specific,
}

#[derive(Debug, Default, Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpecificData {
    data_file: Option<String>,
}

impl Info {
    /// A file that the data are in.
    pub(crate) fn data_file(&self) -> Option<&str> {
        self.format_specific.data.data_file.as_deref()
    }
}

/// Looks at a disk's metadata.
pub(crate) fn info(format: &str, path: &Path) -> Result<Info, Failure> {
    let told = run(Command::new(PROGRAM).args(["info", "--output=json", "-f", format]).arg(path))?;
    serde_json::from_slice(&told).map_err(|error| Failure::System(error.into()))
}

/// What it says on standard output.
fn run(command: &mut Command) -> Result<Vec<u8>, Failure> {
    let done = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing,
        _ => Failure::System(error),
    })?;
    if done.status.success() { Ok(done.stdout) } else { Err(Failure::Said(first_line(&done.stderr))) }
}

/// The first line, without what would not print and not longer than a line should be.
fn first_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let line = said.lines().next().filter(|line| !line.is_empty()).unwrap_or("qemu-img does not say why");
    line.chars().take(MESSAGE_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_bounded_length_is_passed_on() {
        assert_eq!(first_line(b"qemu-img: no\x1b[2J\nmore\n"), "qemu-img: no?[2J");
        assert_eq!(first_line(&vec![b'x'; 5000]).len(), MESSAGE_MAX);
        assert_eq!(first_line(b""), "qemu-img does not say why");
    }
}
