//! Where a console's bytes go: a file or standard output, shared by the devices that print there.
//!
//! Bytes go out at once and whole; a reader that is gone costs the guest its output and nothing else.

use crate::stop::Stop;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A sink for console bytes.
#[derive(Debug)]
pub struct Output {
    file: File,
    stop: Option<Arc<Stop>>,
    written: AtomicU64,
    lost: AtomicU64,
}

impl Output {
    /// Bytes go to `file`.
    pub fn new(file: File) -> Self {
        Self { file, stop: None, written: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }

    /// Bytes go to standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn stdout() -> io::Result<Self> {
        Ok(Self::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    /// Bytes go to a new or emptied file.
    ///
    /// # Errors
    /// Those of creating it.
    pub fn create(path: &Path) -> io::Result<Self> {
        File::create(path).map(Self::new)
    }

    /// Lets a request to stop the VM end the wait for a reader that does not read.
    pub fn give_up_on(mut self, stop: Arc<Stop>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Writes all of `bytes`, waiting for the reader if it must.
    pub fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match (&self.file).write(bytes) {
                Ok(0) => break,
                Ok(n) => {
                    self.written.fetch_add(n as u64, Ordering::Relaxed);
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                Err(_) => break,
            }
            if !bytes.is_empty() && self.stop.as_ref().is_some_and(|stop| stop.requested()) {
                break;
            }
        }
        self.lost.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes that nobody took.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn wait(&self) {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: `poll` is one valid pollfd for the call.
        unsafe { libc::poll(&raw mut poll, 1, 100) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_reader_that_is_gone_costs_only_the_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let output = Output::new(File::from(std::os::fd::OwnedFd::from(ours)));
        output.write(b"hello");
        assert_eq!((output.written(), output.lost()), (0, 5));
    }

    #[test]
    fn a_full_pipe_loses_nothing_when_the_reader_comes_back() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let output = Output::new(File::from(std::os::fd::OwnedFd::from(ours)));
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        let sent = vec![7; 3 << 20];
        output.write(&sent);
        drop(output);
        assert_eq!(reader.join().unwrap(), sent);
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_reader_that_does_not_read() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stop = Arc::new(Stop::new().unwrap());
        stop.request(crate::stop::Outcome::Stopped);
        let output = Output::new(File::from(std::os::fd::OwnedFd::from(ours))).give_up_on(stop);
        output.write(&vec![7; 3 << 20]);
        assert!(output.lost() > 0);
    }
}
