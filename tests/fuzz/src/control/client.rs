//! A client of the control socket, and what it is owed: from what it sent follow the answers that it must get.

use super::fake::Fake;
use host_backend::control::LINE_MAX;
use host_backend::virtio::Change;
use serde::Deserialize;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// More answers than fit into the socket, and no client waits for itself.
const UNSENT_MAX: usize = 1 << 20;

pub(super) struct Client {
    /// `None` once it has closed.
    stream: Option<UnixStream>,
    unsent: Vec<u8>,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// It closed while answers were on their way.
    left: bool,
    shut: bool,
    ended: bool,
}

/// What a line is answered with.
#[derive(Debug)]
enum Owed {
    /// An answer like that of any request.
    Answer,
    /// This error, which names what was asked.
    Error(String),
    /// The connection ends with this error.
    TooLong,
    /// The end of the VM, and nothing after it.
    End,
}

/// The requests whose answers are known.
#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
enum Known {
    Disk { disk: usize, bytes: u64 },
    Stop {},
}

impl Client {
    pub(super) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
        let stream = stream.unwrap_or_else(|error| panic!("a client does not get through: {error}"));
        Self {
            stream: Some(stream),
            unsent: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            left: false,
            shut: false,
            ended: false,
        }
    }

    /// Has something to send.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        if !self.shut && self.unsent.len() + bytes.len() <= UNSENT_MAX {
            self.unsent.extend_from_slice(bytes);
        }
    }

    /// Sends so many bytes of it, as far as the socket takes them; how many it took.
    pub(super) fn send(&mut self, most: usize) -> usize {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.shut) else { return 0 };
        let part = &self.unsent[..self.unsent.len().min(most)];
        // A server that has ended the connection takes no more.
        let sent = if part.is_empty() { 0 } else { stream.write(part).unwrap_or(0) };
        self.sent.extend(self.unsent.drain(..sent));
        sent
    }

    /// Reads so many bytes, if they are there; how many were.
    pub(super) fn receive(&mut self, most: usize) -> usize {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) else { return 0 };
        let mut buffer = [0; 4096];
        let mut total = 0;
        while total < most {
            let part = (most - total).min(buffer.len());
            match stream.read(&mut buffer[..part]) {
                // One that was cut off with unread bytes is reset, after what was sent before.
                Ok(0) => self.ended = true,
                Ok(len) => {
                    self.received.extend_from_slice(&buffer[..len]);
                    total += len;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.ended = true,
            }
            break;
        }
        total
    }

    /// Sends no more.
    pub(super) fn shut(&mut self) {
        if let Some(stream) = &self.stream {
            // A connection that has ended need not be shut.
            let _ = stream.shutdown(Shutdown::Write);
            self.shut = true;
            self.unsent.clear();
        }
    }

    /// Leaves without reading what is left.
    pub(super) fn close(&mut self) {
        self.left |= self.stream.take().is_some();
    }

    /// Whether it was one too many.
    pub(super) fn was_turned_away(&self) -> bool {
        self.received.starts_with(b"{\"ok\":false,\"error\":\"too many clients\"}\n")
    }

    /// Compares what it got with what it is owed; whether it was told of the end of the VM.
    pub(super) fn check(&self, fake: &Fake) -> bool {
        if self.was_turned_away() {
            return false;
        }
        let owed = owed(&self.sent);
        let mut answers = self.received.split_inclusive(|byte| *byte == b'\n');
        let (mut got, mut told) = (0, false);
        for (what, line) in owed.iter().zip(answers.by_ref()) {
            if !line.ends_with(b"\n") {
                assert!(self.left, "half an answer");
                break;
            }
            check_answer(what, line);
            told |= matches!(what, Owed::End);
            got += 1;
        }
        assert!(answers.next().is_none() || self.left, "more answers than requests");
        assert!(got == owed.len() || self.left, "{got} answers to {} requests", owed.len());
        let changes = owed.iter().filter(|owed| matches!(owed, Owed::Error(_))).count();
        assert!(self.left || fake.changes() >= changes, "an answer without its change");
        told
    }
}

/// What is owed for these bytes.
fn owed(sent: &[u8]) -> Vec<Owed> {
    let mut owed = Vec::new();
    for line in sent.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n");
        if text.unwrap_or(line).len() > LINE_MAX {
            owed.push(Owed::TooLong);
            break;
        }
        let Some(text) = text.filter(|text| !text.trim_ascii().is_empty()) else { continue };
        match serde_json::from_slice(text) {
            Ok(Known::Stop {}) => {
                owed.push(Owed::End);
                break;
            }
            Ok(Known::Disk { disk, bytes }) => {
                owed.push(Owed::Error(Fake::answer(&format!("block{disk}"), Change::Size(bytes))));
            }
            Err(_) => owed.push(Owed::Answer),
        }
    }
    owed
}

fn check_answer(owed: &Owed, line: &[u8]) {
    let shown = String::from_utf8_lossy(line);
    let value: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let ok = value["ok"].as_bool().unwrap_or_else(|| panic!("neither ok nor not: {shown}"));
    let error = value["error"].as_str();
    assert_eq!(ok, error.is_none(), "{shown}");
    error.into_iter().for_each(crate::assert_one_line);
    match owed {
        Owed::Answer => {}
        Owed::Error(text) => assert_eq!(error, Some(text.as_str()), "the answer to another request"),
        Owed::TooLong => assert_eq!(error, Some("the line is too long")),
        Owed::End => assert!(ok && value.as_object().is_some_and(|object| object.len() == 1), "{shown}"),
    }
}
