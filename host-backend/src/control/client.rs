//! A client of the control socket: its incomplete request, and the answers that it did not read yet. Nothing blocks, and both
//! are bounded: a client gets its next request executed once it has read the answer before.

use super::{Access, LINE_MAX};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// A connected client.
pub(super) struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    /// At most one answer.
    unsent: Vec<u8>,
    /// When it last read something that was waiting for it.
    moved: Instant,
    /// It sends no more.
    ended: bool,
    /// It asked for the VM's end and gets its answer then. What it sent after that stays unread: answers keep their order.
    pub(super) awaits_end: bool,
    /// What it may ask for.
    pub(super) access: Access,
}

/// What a client has to be served with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A request.
    Line(Vec<u8>),
    /// An answer before it is read on.
    TooLong,
    /// Nothing now.
    Nothing,
    /// It is gone.
    Gone,
}

impl Client {
    pub(super) fn new(stream: UnixStream, access: Access) -> Self {
        Self {
            stream,
            received: Vec::new(),
            unsent: Vec::new(),
            moved: Instant::now(),
            ended: false,
            awaits_end: false,
            access,
        }
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> EventSet {
        match (self.unsent.is_empty(), self.ended || self.awaits_end) {
            (false, _) => EventSet::OUT,
            (true, false) => EventSet::IN,
            // It waits for us.
            (true, true) => EventSet::empty(),
        }
    }

    /// Writes and reads what can be, and says what comes next.
    pub(super) fn turn(&mut self) -> Next {
        if self.send().is_err() {
            return Next::Gone;
        }
        if !self.unsent.is_empty() || self.awaits_end {
            return Next::Nothing;
        }
        if !self.has_line() && !self.ended && self.receive().is_err() {
            return Next::Gone;
        }
        match self.received.iter().position(|byte| *byte == b'\n') {
            Some(end) if end > LINE_MAX => Next::TooLong,
            Some(end) => Next::Line(self.received.drain(..=end).collect()),
            None if self.received.len() > LINE_MAX => Next::TooLong,
            None if self.ended => Next::Gone,
            None => Next::Nothing,
        }
    }

    /// Whether a request is there that is to be executed.
    pub(super) fn has_line(&self) -> bool {
        !self.awaits_end && self.received.contains(&b'\n')
    }

    /// Whether an answer waits for it to read on.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether it has left its answers unread for that long.
    pub(super) fn is_stuck(&self, patience: Duration) -> bool {
        !self.unsent.is_empty() && self.moved.elapsed() >= patience
    }

    /// Answers, as far as it reads now; false if it is gone.
    pub(super) fn answer(&mut self, value: &Value) -> bool {
        if self.unsent.is_empty() {
            self.moved = Instant::now();
        }
        self.unsent.extend_from_slice(format!("{value}\n").as_bytes());
        self.send().is_ok()
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.unsent.drain(..n);
                    self.moved = Instant::now();
                }
                Err(error) if is_temporary(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(n) => self.received.extend_from_slice(&buffer[..n]),
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
