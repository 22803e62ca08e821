//! QEMU's `qemu-img`, for the disk formats that it knows best. It is given formats, never left to guess them, and paths that
//! cannot be read as something else.

use crate::{Error, size};
use serde::Deserialize;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

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
    /// What it made had more than so many bytes of content.
    Grew(u64),
}

impl Failure {
    /// As an error about a format and, unless qemu-img is missing, what `other` makes of it.
    pub(crate) fn about(self, format: &str, other: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Self::Missing => Error::NoQemuImg { format: format.into() },
            Self::System(error) => other(error),
            Self::Said(line) => other(io::Error::other(line)),
            Self::Grew(most) => {
                let most = size::display(most);
                other(io::Error::other(format!(
                    "its content grows to more than {most}; qemu-img convert makes a whole disk of it if it is trusted"
                )))
            }
        }
    }
}

/// Converts a disk, and reports progress from 0 to 1.
///
/// The result may have at most `most` bytes of content.
pub(crate) fn convert(
    from: (&str, &Path),
    to: (&str, &Path),
    most: u64,
    progress: &mut dyn FnMut(f64),
) -> Result<(), Failure> {
    let mut command = Command::new(PROGRAM);
    command.args(["convert", "-p", "-f", from.0, "-O", to.0]).arg(from.1).arg(to.1);
    let mut line = |line: &str| share(line).into_iter().for_each(&mut *progress);
    run(&mut command, Some((to.1, most)), &mut line).map(drop)
}

/// `    (12.34/100%)`, as `-p` says it.
fn share(line: &str) -> Option<f64> {
    let percent: f64 = line.trim().strip_prefix('(')?.split_once('/')?.0.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// The output of `qemu-img info` for a disk; it opens no other file that the disk names as its backing file.
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
    let output = run(Command::new(PROGRAM).args(["info", "--output=json", "-f", format]).arg(path), None, &mut |_| {})?;
    serde_json::from_slice(&output).map_err(|error| Failure::System(error.into()))
}

/// What it says on standard output, in all and, as it comes, up to each carriage return. It is ended when a file has more
/// content than it may have.
fn run(command: &mut Command, bound: Option<(&Path, u64)>, line: &mut dyn FnMut(&str)) -> Result<Vec<u8>, Failure> {
    const TICK: Duration = Duration::from_millis(50);
    /// Of what `stat` counts.
    const BLOCK: u64 = 512;
    // A file never fills up while only the other output is read.
    let mut errors = tempfile::tempfile().map_err(Failure::System)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone().map_err(Failure::System)?);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing,
        _ => Failure::System(error),
    })?;
    let (sender, parts) = channel();
    let output = child.stdout.take();
    let reader = thread::spawn(move || {
        for part in output.into_iter().flat_map(|output| BufReader::new(output).split(b'\r')) {
            // What cannot be read ends the output; the exit status shows the error.
            let Ok(part) = part else { break };
            if sender.send(part).is_err() {
                break;
            }
        }
    });
    let mut said = Vec::new();
    loop {
        match parts.recv_timeout(TICK) {
            Ok(part) => {
                line(&String::from_utf8_lossy(&part));
                said.extend(part);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let grown = bound.filter(|(path, most)| fs::metadata(path).is_ok_and(|file| file.blocks() * BLOCK > *most));
        if let Some((_, most)) = grown {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failure::Grew(most));
        }
    }
    let _ = reader.join();
    if child.wait().map_err(Failure::System)?.success() {
        return Ok(said);
    }
    let mut start = Vec::new();
    let read = errors.rewind().and_then(|()| errors.take(4096).read_to_end(&mut start));
    read.map_err(Failure::System)?;
    Err(Failure::Said(first_line(&start)))
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
    fn the_share_that_is_done_is_read_from_what_it_says() {
        assert_eq!(share("    (0.00/100%)"), Some(0.0));
        assert_eq!(share("    (25.00/100%)"), Some(0.25));
        for other in ["", "\n", "(x/100%)", "(101.00/100%)", "(nan/100%)", "12.00/100%"] {
            assert_eq!(share(other), None, "{other:?}");
        }
    }

    #[test]
    fn one_line_of_bounded_length_is_passed_on() {
        assert_eq!(first_line(b"qemu-img: no\x1b[2J\nmore\n"), "qemu-img: no?[2J");
        assert_eq!(first_line(&vec![b'x'; 5000]).len(), MESSAGE_MAX);
        assert_eq!(first_line(b""), "qemu-img does not say why");
    }
}
