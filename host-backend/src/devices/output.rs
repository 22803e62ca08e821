//! Where a console's bytes go: a file or standard output, shared by the devices that print there, or our memory.
//!
//! Bytes go out at once and whole; a reader that is gone costs the guest its output and nothing else. In memory the last
//! [`KEPT_MAX`] bytes are kept until somebody takes them.

use crate::stop::Stop;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept for somebody who asks later, at most.
pub const KEPT_MAX: usize = 64 << 10;

/// A sink for console bytes.
#[derive(Debug)]
pub struct Output {
    sink: Sink,
    stop: Option<Arc<Stop>>,
    written: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug)]
enum Sink {
    File(File),
    Kept(Mutex<VecDeque<u8>>),
}

impl Output {
    /// Bytes go to `file`.
    pub fn new(file: File) -> Self {
        Self::to(Sink::File(file))
    }

    /// Bytes stay here until they are taken.
    pub fn kept() -> Self {
        Self::to(Sink::Kept(Mutex::default()))
    }

    fn to(sink: Sink) -> Self {
        Self { sink, stop: None, written: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }

    /// Takes the bytes that were kept.
    pub fn take(&self) -> Vec<u8> {
        match &self.sink {
            Sink::File(_) => Vec::new(),
            Sink::Kept(bytes) => bytes.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect(),
        }
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
    pub fn write(&self, bytes: &[u8]) {
        match &self.sink {
            Sink::File(file) => self.write_to(file, bytes),
            Sink::Kept(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(bytes);
                let too_many = kept.len().saturating_sub(KEPT_MAX);
                kept.drain(..too_many);
                self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.lost.fetch_add(too_many as u64, Ordering::Relaxed);
            }
        }
    }

    fn write_to(&self, mut file: &File, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => break,
                Ok(n) => {
                    self.written.fetch_add(n as u64, Ordering::Relaxed);
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(file),
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
}

fn wait_for(file: &File) {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: `poll` is one valid pollfd for the call.
    unsafe { libc::poll(&raw mut poll, 1, 100) };
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
    fn kept_output_is_taken_once_and_its_oldest_bytes_go_first() {
        let output = Output::kept();
        output.write(b"hello");
        assert_eq!((output.take(), output.take()), (b"hello".to_vec(), Vec::new()));
        output.write(&[1; 10]);
        output.write(&[2; KEPT_MAX - 3]);
        let kept = output.take();
        assert_eq!((kept.len(), &kept[..4], output.lost()), (KEPT_MAX, &[1, 1, 1, 2][..], 7));
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
