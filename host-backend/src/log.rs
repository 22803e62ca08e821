//! What `ringside` says on standard error and standard output: lines that never panic and never hold up the end of a VM.
//!
//! `eprintln!` panics when standard error is closed or full, and a panic on the way to a flush loses what the guest wrote.
//! Here a line that cannot be written is dropped, and so is one for which a reader makes no room within half a second.
//! How many lines there are is bounded while a guest runs ([`mod@lines`]).

pub mod lines;

use lines::{LineCounts, Lines};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a reader may take to make room.
const PATIENCE: Duration = Duration::from_millis(500);
/// A pipe that is writable takes this many bytes without blocking (PIPE_BUF).
const PART: usize = 4096;

/// Bytes of a line, at most.
const LINE_MAX: usize = 4096;

static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(|| Mutex::new(Lines::new()));

/// Writes one line to standard error, after the program's name, unless there are too many. The place in the program is the
/// kind of line.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::log::line(concat!(file!(), ":", line!()), format_args!($($arg)*)) };
}

/// See [`say!`](crate::say).
pub fn line(kind: &'static str, text: fmt::Arguments<'_>) {
    // The lock is not held while a reader is waited for.
    let admitted = lines().admit(kind, Instant::now());
    let Some(suppressed) = admitted else { return };
    report_suppressed(suppressed);
    let mut line = format!("ringside: {text}");
    line.truncate(line.floor_char_boundary(LINE_MAX - 1));
    // What cannot be said costs the line and nothing else.
    let _ = write(libc::STDERR_FILENO, format!("{line}\n").as_bytes());
}

/// From now on every line is written: no guest can cause any more.
pub fn lift_limit() {
    let suppressed = lines().lift();
    report_suppressed(suppressed);
}

/// How many lines were written and suppressed.
pub fn counts() -> LineCounts {
    lines().counts()
}

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report_suppressed(count: u64) {
    if count > 0 {
        // As in `line`.
        let _ =
            write(libc::STDERR_FILENO, format!("ringside: {count} lines were too many and are left out\n").as_bytes());
    }
}

/// Writes text to standard error as it is.
pub fn error_text(text: &str) {
    // As in `line`.
    let _ = write(libc::STDERR_FILENO, text.as_bytes());
}

/// Writes text to standard output as it is.
///
/// # Errors
/// Those of writing, also of a reader that does not read.
pub fn text(text: &str) -> io::Result<()> {
    write(libc::STDOUT_FILENO, text.as_bytes())
}

/// Has panics reported as one line, by the thread on which they happen, whatever RUST_BACKTRACE says: a backtrace reads files,
/// which a thread in its sandbox cannot.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let text = info.to_string().replace('\n', " ");
        say!("thread {}: {text}", thread.name().unwrap_or("unnamed"));
    }));
}

fn write(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        if !is_writable(fd, deadline.saturating_duration_since(Instant::now())) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let part = &bytes[..bytes.len().min(PART)];
        // SAFETY: `part` is valid for its length.
        let written = unsafe { libc::write(fd, part.as_ptr().cast(), part.len()) };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(_) => {
                let error = io::Error::last_os_error();
                if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Whether a write would return at once, if only with an error.
fn is_writable(fd: RawFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
        // SAFETY: `poll` is one valid pollfd for the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as libc::c_int) };
        if ready > 0 {
            return true;
        }
        let interrupted = ready < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if !interrupted || left.is_zero() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_full_device_and_a_closed_pipe_are_errors_and_no_panics() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write(full.as_raw_fd(), b"x").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(write(ours.as_raw_fd(), b"x").is_err());
        assert!(write(-1, b"x").is_err());
    }

    #[test]
    fn a_reader_that_does_not_read_costs_the_rest_of_the_text() {
        let (mut reader, writer) = pipe();
        let text = vec![b'x'; 1 << 20];
        assert_eq!(write(writer.as_raw_fd(), &text).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(!got.is_empty() && got.len() < text.len());
    }

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
    }
}
