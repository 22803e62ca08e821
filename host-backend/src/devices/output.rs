//! Where a console's bytes go: a file or standard output, shared by the devices that print there, or our memory.
//!
//! Bytes go out at once and whole; a reader that is gone costs the guest its output and nothing else. A file has a bound,
//! and a guest that prints faster than its rate waits. In memory the last [`KEPT_MAX`] bytes are kept until a client takes
//! them.

mod log;
mod text;

use super::reset::ResetLine;
use crate::config::LogFile;
use crate::mistake::{Mistake, made};
use crate::rate::{BURST, Bucket};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use log::{Log, Named};
pub use log::{Rotate, rotate};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes kept for a later request.
pub const KEPT_MAX: usize = 64 << 10;

/// A sink for console bytes.
#[derive(Debug)]
pub struct Output {
    sink: Sink,
    reset: Option<Arc<ResetLine>>,
    rate: Option<Mutex<Bucket>>,
    /// Milliseconds that the guest has waited for its rate.
    throttled: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
}

/// When bytes may go out.
#[derive(PartialEq, Eq)]
enum Due {
    Now,
    Never,
}

#[derive(Debug)]
enum Sink {
    Stream(File),
    Log(Mutex<Log>),
    Kept(Mutex<VecDeque<u8>>),
}

impl Output {
    /// Bytes go to `file`.
    pub fn new(file: File) -> Self {
        Self::to(Sink::Stream(file))
    }

    /// Bytes stay here until they are taken.
    pub fn kept() -> Self {
        Self::to(Sink::Kept(Mutex::default()))
    }

    fn to(sink: Sink) -> Self {
        let (throttled, written, lost) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { sink, reset: None, rate: None, throttled, written, lost }
    }

    /// Takes what was kept, as text; bytes that are no UTF-8 become U+FFFD. A character whose end has not been printed yet
    /// stays for the next time.
    pub fn take_text(&self) -> String {
        match &self.sink {
            Sink::Stream(_) | Sink::Log(_) => String::new(),
            Sink::Kept(kept) if made(Mistake::OutputInTwoSteps) => {
                let mut copy = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
                kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
                text::take(&mut copy)
            }
            Sink::Kept(kept) => text::take(&mut kept.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Bytes go to standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn stdout() -> io::Result<Self> {
        Ok(Self::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    /// Bytes go to a file, which is made by [`make`](Self::make) and emptied by [`empty`](Self::empty): until then they are lost.
    ///
    /// # Errors
    /// When it could not be written to.
    pub fn file(config: &LogFile) -> io::Result<Self> {
        Ok(Self::to(match log::open(config)? {
            Named::Log(log) => Sink::Log(Mutex::new(log)),
            Named::Stream(file) => Sink::Stream(file),
        }))
    }

    /// Makes the file, if it is one that does not exist.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make(&self) -> io::Result<()> {
        self.log().map_or(Ok(()), |mut log| log.make())
    }

    /// Removes the file if [`make`](Self::make) has made it.
    pub fn unmake(&self) {
        if let Some(mut log) = self.log() {
            log.unmake();
        }
    }

    /// Has full files renamed by this, where [`rotate`] may not be used.
    pub fn rotate_by(&self, rotate: Rotate) {
        if let Some(mut log) = self.log() {
            log.rotate_by(rotate);
        }
    }

    /// Empties the file, if it is one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn empty(&self) -> io::Result<()> {
        self.log().map_or(Ok(()), |mut log| log.empty())
    }

    /// Whether bytes go to a file of bounded size.
    pub fn is_log(&self) -> bool {
        matches!(self.sink, Sink::Log(_))
    }

    fn log(&self) -> Option<MutexGuard<'_, Log>> {
        match &self.sink {
            Sink::Log(log) => Some(log.lock().unwrap_or_else(PoisonError::into_inner)),
            Sink::Stream(_) | Sink::Kept(_) => None,
        }
    }

    /// Bytes go to a new or emptied file of any size.
    ///
    /// # Errors
    /// Those of creating it.
    pub fn to_new_file(path: &Path) -> io::Result<Self> {
        File::create(path).map(Self::new)
    }

    /// Lets so many bytes out per second.
    #[must_use]
    pub fn at_rate(self, bytes_per_second: Option<u64>) -> Self {
        Self { rate: bytes_per_second.map(|rate| Mutex::new(Bucket::new(rate, BURST))), ..self }
    }

    /// Lets a request to stop the VM and the guest's reset end the waits for the rate and for a reader that does not read.
    pub fn give_up_on(mut self, reset: Arc<ResetLine>) -> Self {
        self.reset = Some(reset);
        self
    }

    /// Writes all of `bytes`, waiting for the reader and for the rate if it must.
    pub fn write(&self, bytes: &[u8]) {
        if self.wait_for_rate(bytes.len()) == Due::Never {
            self.lost.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            return;
        }
        match &self.sink {
            Sink::Stream(file) => self.write_to(file, bytes),
            Sink::Log(log) => {
                let done = log.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
                self.written.fetch_add(done as u64, Ordering::Relaxed);
                self.lost.fetch_add((bytes.len() - done) as u64, Ordering::Relaxed);
            }
            Sink::Kept(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(bytes);
                let too_many = text::boundary(&kept, KEPT_MAX);
                kept.drain(..too_many);
                self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.lost.fetch_add(too_many as u64, Ordering::Relaxed);
            }
        }
    }

    /// At the end of the VM what is left goes out at once. A reset must not wait for it, nor be a way around the rate, nor
    /// leave a debt to the next run: the bytes are dropped and not paid for.
    fn wait_for_rate(&self, bytes: usize) -> Due {
        const STEP: Duration = Duration::from_millis(10);
        let Some(rate) = &self.rate else { return Due::Now };
        let rate = || rate.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let wait = rate().take(bytes as u64, started);
        while started.elapsed() < wait && !self.is_interrupted() {
            thread::sleep((wait - started.elapsed().min(wait)).min(STEP));
        }
        let waited = started.elapsed().min(wait);
        self.throttled.fetch_add(waited.as_millis() as u64, Ordering::Relaxed);
        if waited < wait && self.reset.as_ref().is_some_and(|reset| reset.is_pending()) {
            rate().give_back(bytes as u64);
            return Due::Never;
        }
        Due::Now
    }

    fn is_interrupted(&self) -> bool {
        self.reset.as_ref().is_some_and(|reset| reset.interrupts())
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // What is written in many parts must not wait once for each.
                    if self.is_interrupted() {
                        break;
                    }
                    wait_for(file);
                }
                Err(_) => break,
            }
            if !bytes.is_empty() && self.is_interrupted() {
                break;
            }
        }
        self.lost.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Milliseconds that writers had to wait for the rate.
    pub fn throttled_ms(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Bytes not taken.
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
    use crate::config::OnReset;
    use crate::stop::{Outcome, Stop};
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn reset_line() -> (Arc<ResetLine>, Arc<Stop>) {
        let stop = Arc::new(Stop::new().unwrap());
        (Arc::new(ResetLine::new(OnReset::Reboot, stop.clone())), stop)
    }

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
        assert_eq!((output.take_text(), output.take_text()), ("hello".to_owned(), String::new()));
        output.write(&[1; 10]);
        output.write(&[2; KEPT_MAX - 3]);
        let kept = output.take_text();
        assert_eq!((kept.len(), &kept.as_bytes()[..4], output.lost()), (KEPT_MAX, &[1, 1, 1, 2][..], 7));
    }

    #[test]
    fn the_oldest_bytes_that_go_are_whole_characters() {
        let output = Output::kept();
        output.write("\u{1f388}".as_bytes());
        output.write(&[b'x'; KEPT_MAX - 3]);
        assert_eq!((output.take_text(), output.lost()), ("x".repeat(KEPT_MAX - 3), 4));
    }

    #[test]
    fn a_guest_that_prints_without_end_waits_for_its_rate_and_a_stop_ends_that() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (reset, stop) = reset_line();
        let output = Output::new(file.reopen().unwrap()).at_rate(Some(1000)).give_up_on(reset);
        output.write(&[b'x'; 1000]);
        assert_eq!(output.throttled_ms(), 0);
        output.write(&[b'x'; 50]);
        assert!((1..=50).contains(&output.throttled_ms()), "{}", output.throttled_ms());
        stop.request(Outcome::Stopped);
        // An hour's worth, which is not waited for.
        output.write(&[b'x'; 3_600_000]);
        assert_eq!((output.written(), output.lost()), (3_601_050, 0));
    }

    #[test]
    fn a_file_that_may_not_grow_costs_only_the_bytes() {
        let log = LogFile { path: "/dev/full".into(), size: 1 << 20, keep: 1 };
        let output = Output::file(&log).unwrap();
        output.make().and_then(|()| output.empty()).unwrap();
        output.write(b"hello");
        assert_eq!((output.written(), output.lost()), (0, 5));
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_reader_that_does_not_read() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (reset, stop) = reset_line();
        stop.request(Outcome::Stopped);
        let output = Output::new(File::from(std::os::fd::OwnedFd::from(ours))).give_up_on(reset);
        output.write(&vec![7; 3 << 20]);
        assert!(output.lost() > 0);
    }

    #[test]
    fn a_reset_ends_the_wait_for_the_rate_and_leaves_no_debt() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (reset, _stop) = reset_line();
        let output = Output::new(file.reopen().unwrap()).at_rate(Some(1000)).give_up_on(reset.clone());
        reset.pull();
        // An hour's worth.
        output.write(&[b'x'; 3_600_000]);
        assert_eq!((output.written(), output.lost(), output.throttled_ms()), (0, 3_600_000, 0));
        reset.is_done();
        output.write(&[b'x'; 500]);
        assert_eq!((output.written(), output.lost(), output.throttled_ms()), (500, 3_600_000, 0));
    }

    #[test]
    fn a_reset_ends_the_wait_for_a_reader_that_does_not_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (reset, _stop) = reset_line();
        let output = Output::new(File::from(std::os::fd::OwnedFd::from(ours))).give_up_on(reset.clone());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| output.write(&vec![7; 3 << 20]));
            // It has filled the socket, or is about to.
            theirs.read_exact(&mut [0; 1]).unwrap();
            reset.pull();
            writer.join().unwrap();
        });
        assert!(output.lost() > 0);
        assert_eq!(output.written() + output.lost(), 3 << 20);
    }
}
