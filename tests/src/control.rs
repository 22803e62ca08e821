//! The balloon from outside: ringside's control socket or QEMU's QMP. Both are JSON lines over a Unix socket.

use crate::socket::Bounded;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A request and its answer take at most this long.
const ANSWER: Duration = Duration::from_secs(10);
/// No answer is longer.
const ANSWER_MAX: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// The balloon as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balloon {
    /// 4 KiB pages that the guest has given.
    pub actual_pages: u64,
    /// 4 KiB pages that the host has given back to the system, where it says.
    pub returned_pages: Option<u64>,
}

/// A connection to the host side of a running machine.
#[derive(Debug)]
pub struct Control {
    reader: BufReader<Bounded>,
    protocol: Protocol,
}

/// What is spoken.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    /// Ringside's control socket.
    Ringside,
    /// QEMU's; with the bytes of memory that the guest has, for QMP counts what is left.
    Qmp {
        /// Bytes of memory without a balloon.
        memory: u64,
    },
}

impl Control {
    /// Connects, once the other side listens.
    ///
    /// # Errors
    /// When it does not within a few seconds.
    pub fn connect(socket: &Path, protocol: Protocol) -> Result<Self> {
        let stream = Bounded::connect(socket, ANSWER);
        Self::over(stream.with_context(|| format!("cannot connect to {}", socket.display()))?, protocol)
    }

    fn over(stream: Bounded, protocol: Protocol) -> Result<Self> {
        let mut control = Self { reader: BufReader::new(stream), protocol };
        if matches!(protocol, Protocol::Qmp { .. }) {
            let greeting = control.read()?;
            if greeting.get("QMP").is_none() {
                bail!("no QMP greeting but {greeting}");
            }
            control.ask(&json!({"execute": "qmp_capabilities"}))?;
        }
        Ok(control)
    }

    /// Sets the target of the balloon, in 4 KiB pages.
    ///
    /// # Errors
    /// What the other side says against it.
    pub fn set_balloon(&mut self, pages: u64) -> Result<()> {
        let request = match self.protocol {
            Protocol::Ringside => json!({"command": "balloon", "target_pages": pages}),
            Protocol::Qmp { memory } => {
                let left = memory
                    .checked_sub(pages.saturating_mul(PAGE))
                    .ok_or_else(|| anyhow!("{pages} pages are all the memory"))?;
                json!({"execute": "balloon", "arguments": {"value": left}})
            }
        };
        self.ask(&request).map(drop)
    }

    /// Sets the size of the first disk, in bytes.
    ///
    /// # Errors
    /// What the other side says against it.
    pub fn set_disk(&mut self, bytes: u64) -> Result<()> {
        let request = match self.protocol {
            Protocol::Ringside => json!({"command": "disk", "disk": 0, "bytes": bytes}),
            Protocol::Qmp { .. } => {
                json!({"execute": "block_resize", "arguments": {"device": "d0", "size": bytes}})
            }
        };
        self.ask(&request).map(drop)
    }

    /// Pulls the cable of the network card, or plugs it in: `down`, `up`.
    ///
    /// # Errors
    /// What the other side says against it.
    pub fn set_link(&mut self, state: &str) -> Result<()> {
        let request = match self.protocol {
            Protocol::Ringside => json!({"command": "link", "state": state}),
            Protocol::Qmp { .. } => {
                json!({"execute": "set_link", "arguments": {"name": "n0", "up": state == "up"}})
            }
        };
        self.ask(&request).map(drop)
    }

    /// Has the network cards asked to announce themselves.
    ///
    /// # Errors
    /// What the other side says against it; ringside has no such request.
    pub fn announce(&mut self) -> Result<()> {
        let Protocol::Qmp { .. } = self.protocol else { bail!("only QEMU can ask for an announcement") };
        let once = json!({"initial": 0, "max": 0, "rounds": 1, "step": 0});
        self.ask(&json!({"execute": "announce-self", "arguments": once})).map(drop)
    }

    /// Has QEMU's monitor execute a command, and returns what it says.
    ///
    /// # Errors
    /// What the other side says against it; ringside has no such monitor.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        let Protocol::Qmp { .. } = self.protocol else { bail!("only QEMU has a monitor") };
        let request = json!({"execute": "human-monitor-command", "arguments": {"command-line": command}});
        let answer = self.ask(&request)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Asks the guest for statistics of its balloon. To poll, call it repeatedly for `patience`.
    ///
    /// # Errors
    /// What the other side says against it.
    pub fn ask_for_statistics(&mut self, patience: Duration) -> Result<()> {
        let Protocol::Qmp { .. } = self.protocol else {
            return self.ask(&json!({"command": "balloon"})).map(drop);
        };
        let interval = |seconds: u64| json!({"execute": "qom-set", "arguments": {"path": "/machine/peripheral/b0", "property": "guest-stats-polling-interval", "value": seconds}});
        self.ask(&interval(1))?;
        thread::sleep(patience);
        // The guest has them and may have switched the machine off already.
        let _ = self.ask(&interval(0));
        Ok(())
    }

    /// What the virtio console has said, after typing `input` there. QMP has no console.
    ///
    /// # Errors
    /// What the other side says against it, or when not all was taken.
    pub fn console(&mut self, input: Option<&str>) -> Result<String> {
        let Protocol::Ringside = self.protocol else { bail!("QMP has no console") };
        let answer = self.ask(&json!({"command": "console", "input": input}))?;
        let taken = answer.get("taken").and_then(Value::as_u64).unwrap_or(0);
        if taken < input.map_or(0, str::len) as u64 {
            bail!("only {taken} bytes of the input were taken");
        }
        Ok(answer.get("output").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Reads the balloon.
    ///
    /// # Errors
    /// When the other side does not say.
    pub fn balloon(&mut self) -> Result<Balloon> {
        let number = |answer: &Value, key: &str| {
            answer.get(key).and_then(Value::as_u64).ok_or_else(|| anyhow!("no number {key:?} in {answer}"))
        };
        match self.protocol {
            Protocol::Ringside => {
                let answer = self.ask(&json!({"command": "balloon"}))?;
                let returned_pages = Some(number(&answer, "returned_pages")?);
                Ok(Balloon { actual_pages: number(&answer, "actual_pages")?, returned_pages })
            }
            Protocol::Qmp { memory } => {
                let answer = self.ask(&json!({"execute": "query-balloon"}))?;
                let given = memory.saturating_sub(number(&answer, "actual")?);
                Ok(Balloon { actual_pages: given / PAGE, returned_pages: None })
            }
        }
    }

    /// Reads the balloon until it has so many pages or `patience` ends; the last reading.
    ///
    /// # Errors
    /// Those of [`balloon`](Self::balloon).
    pub fn settled_balloon(&mut self, pages: u64, patience: Duration) -> Result<Balloon> {
        let deadline = Instant::now() + patience;
        loop {
            let balloon = self.balloon()?;
            if balloon.actual_pages == pages || Instant::now() >= deadline {
                return Ok(balloon);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        let mut line = request.to_string();
        line.push('\n');
        self.reader.get_mut().restart(ANSWER);
        self.reader.get_mut().write_all(line.as_bytes()).context("cannot write to the control socket")?;
        loop {
            let mut answer = self.read()?;
            // QMP sends events in between.
            if answer.get("event").is_some() {
                continue;
            }
            if let Some(error) = answer.get("error") {
                bail!("{request} was refused: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            return Ok(answer);
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let len = Read::by_ref(&mut self.reader).take(ANSWER_MAX).read_line(&mut line);
        if len.context("no answer on the control socket")? == 0 {
            bail!("the control socket was closed");
        }
        serde_json::from_str(&line).with_context(|| format!("no JSON on the control socket: {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn control(stream: UnixStream, protocol: Protocol) -> Result<Control> {
        Control::over(Bounded::new(stream, ANSWER), protocol)
    }

    /// Answers each line with the next of `answers`; returns what it was asked.
    fn serve(
        mut stream: UnixStream,
        first: &'static str,
        answers: Vec<&'static str>,
    ) -> thread::JoinHandle<Vec<Value>> {
        thread::spawn(move || {
            stream.write_all(first.as_bytes()).unwrap();
            let mut reader = BufReader::new(stream);
            let mut asked = Vec::new();
            for answer in answers {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                asked.push(serde_json::from_str(&line).unwrap());
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            asked
        })
    }

    #[test]
    fn qmp_counts_the_memory_left_and_its_events_are_skipped() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answers = vec![
            "{\"return\": {}}\n",
            "{\"event\": \"BALLOON_CHANGE\", \"data\": {\"actual\": 1}}\n{\"return\": {}}\n",
            "{\"return\": {\"actual\": 117440512}}\n",
        ];
        let server = serve(theirs, "{\"QMP\": {}}\n", answers);
        let mut control = control(ours, Protocol::Qmp { memory: 128 << 20 }).unwrap();
        control.set_balloon(4096).unwrap();
        assert_eq!(control.balloon().unwrap(), Balloon { actual_pages: 4096, returned_pages: None });
        let asked = server.join().unwrap();
        assert_eq!(asked[1]["arguments"]["value"], (128 << 20) - 4096 * 4096);
    }

    #[test]
    fn ringside_answers_in_pages_and_its_errors_are_passed_on() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answers = vec![
            "{\"target_pages\": 16, \"actual_pages\": 0, \"returned_pages\": 0}\n",
            "{\"target_pages\": 16, \"actual_pages\": 16, \"returned_pages\": 12}\n",
            "{\"error\": \"no balloon\"}\n",
        ];
        let server = serve(theirs, "", answers);
        let mut control = control(ours, Protocol::Ringside).unwrap();
        control.set_balloon(16).unwrap();
        assert_eq!(control.balloon().unwrap(), Balloon { actual_pages: 16, returned_pages: Some(12) });
        assert!(control.balloon().unwrap_err().to_string().contains("no balloon"));
        assert_eq!(server.join().unwrap()[0]["target_pages"], 16);
    }
}
