//! A Unix socket whose exchanges end, whatever is at the other end: a listener that accepts nobody, a reader that never reads,
//! a writer that goes on drop by drop.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that fails everything after a deadline.
#[derive(Debug)]
pub(crate) struct Bounded {
    stream: UnixStream,
    deadline: Instant,
}

impl Bounded {
    /// Over a connection.
    pub(crate) fn new(stream: UnixStream, patience: Duration) -> Self {
        Self { stream, deadline: Instant::now() + patience }
    }

    /// Connects, once the other side listens and has room; what follows has to happen in the same time.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            match connect_now(path) {
                Ok(stream) => return Ok(Self { stream, deadline }),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// The next exchange may take so long.
    pub(crate) fn restart(&mut self, patience: Duration) {
        self.deadline = Instant::now() + patience;
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// Connects to a listener that has room for us.
///
/// # Errors
/// When there is none.
pub(crate) fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// What the system calls it when a timeout has passed.
fn named(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(named)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    const SHORT: Duration = Duration::from_millis(200);

    #[test]
    fn a_listener_that_accepts_nobody_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = connect_now(&path) {
            queued.push(stream);
        }
        assert!(!queued.is_empty());
        assert_eq!(Bounded::connect(&path, SHORT).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reader_that_never_reads_ends_a_write() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut bounded = Bounded::new(ours, SHORT);
        assert_eq!(bounded.write_all(&vec![0; 16 << 20]).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_writer_that_goes_on_drop_by_drop_ends_a_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let drops = thread::spawn(move || {
            while theirs.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut bounded = Bounded::new(ours, SHORT);
        assert_eq!(bounded.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::TimedOut);
        bounded.restart(SHORT);
        assert_eq!(bounded.read(&mut [0]).unwrap(), 1);
        drop(bounded);
        drops.join().unwrap();
    }
}
