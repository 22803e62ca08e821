//! The control socket: one JSON object per line in, one JSON object per line out.
//!
//! | request | answer |
//! |---|---|
//! | `{"command":"status"}` | `state`, `cpus`, `memory_mib`, `uptime_ms`, `devices` (name, type, status) |
//! | `{"command":"stats"}` | `exits` by cause, `serial`, `devices` with their counters, `uptime_ms` |
//! | `{"command":"balloon"}` | `target_pages`, `actual_pages`, `returned_pages`, `returned_total_pages`, `reported_total_pages`, `guest` |
//! | `{"command":"balloon","target_mib":N}` or `"target_pages":N` | the same, after setting the target |
//! | `{"command":"disk","disk":N,"bytes":N}` | nothing more; disk N (the first is 0) has that size now, and the guest is told |
//! | `{"command":"link","state":"down"}` (or `"up"`) | nothing more; the network cable is pulled or plugged in, and the guest is told |
//! | `{"command":"console"}` | `output`: what the virtio console has printed since it was last asked |
//! | `{"command":"console","input":"text"}` | the same, and `taken`: how many bytes of the input were typed |
//! | `{"command":"stop"}` | nothing more; the VM ends and its disks are flushed |
//!
//! Every answer has `"ok":true`, or `"ok":false` and `"error"` with one line of text. A page is 4096 bytes;
//! `returned_pages` are in the balloon and were given back to the system; `guest` holds the guest's own statistics, in
//! bytes. Asking for the balloon waits a little for the guest to give new ones. A disk that shrinks hides its end, and
//! shows it again when it grows; a file grows, a block device shows at most what it has. The console is that of
//! `--virtio-console control`; bytes that are no UTF-8 are shown as U+FFFD. A line has at most [`LINE_MAX`] bytes,
//! and [`CLIENTS_MAX`] clients may be connected at once; others are turned away.

use crate::devices::InputSink;
use crate::devices::output::Output;
use crate::stop::{Outcome, Stop};
use crate::virtio::balloon::BalloonHandle;
use crate::virtio::console::ConsoleInput;
use crate::virtio::{Cable, Change};
use event_manager::{EventOps, Events, MutEventSubscriber};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::epoll::EventSet;

/// The requests for `--help`.
pub const HELP: &str = r#"Control socket (--control): one JSON object per line in, one per line out, with "ok" and, if not ok, "error":
  {"command":"status"}                          state, size, devices
  {"command":"stats"}                           exits by cause, the devices' counters
  {"command":"balloon"}                         target and content of the balloon, the guest's statistics
  {"command":"balloon","target_mib":N}          set the target (or "target_pages":N)
  {"command":"disk","disk":N,"bytes":N}         resize disk N, the first is 0; what a smaller size hides stays in the image
  {"command":"link","state":"down"}             pull the network cable; "up" plugs it in
  {"command":"console"}                         "output": what --virtio-console control printed since last asked
  {"command":"console","input":"text"}          the same, and type; "taken" bytes of it were
  {"command":"stop"}                            end the VM, with its disks flushed"#;
/// Bytes of a request, at most.
pub const LINE_MAX: usize = 4096;
/// Clients at once, at most.
pub const CLIENTS_MAX: usize = 8;
/// How long the guest has to give new balloon statistics.
const STATS_PATIENCE: Duration = Duration::from_millis(100);
/// How long a client may take to read an answer.
const WRITE_PATIENCE: Duration = Duration::from_millis(500);
const PAGES_PER_MIB: u64 = 256;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("create control socket {}: it is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("create control socket {}: the file exists; remove it or choose another name", .0.display())]
    Exists(PathBuf),
    #[error("create control socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What the socket controls.
pub trait Controlled {
    /// The answer to `status`.
    fn status(&self) -> Value;
    /// The answer to `stats`.
    fn stats(&self) -> Value;
    /// The balloon, if there is one.
    fn balloon(&self) -> Option<&BalloonHandle>;
    /// The console that is read and typed to here, if there is one.
    fn console(&self) -> Option<&ControlConsole>;
    /// Changes the device of that name.
    ///
    /// # Errors
    /// One line that says why nothing changed.
    fn change(&self, device: &str, change: Change) -> Result<(), String>;
}

/// A console whose other end is the control socket.
pub struct ControlConsole {
    /// What it printed.
    pub output: Arc<Output>,
    /// Where it is typed to.
    pub input: Arc<ConsoleInput>,
}

/// A bound control socket. Its file goes when it goes.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds the socket.
    ///
    /// # Errors
    /// [`Error`]; an existing file is never touched.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { path: path.into(), source };
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse if UnixStream::connect(path).is_ok() => Error::InUse(path.into()),
            io::ErrorKind::AddrInUse => Error::Exists(path.into()),
            _ => failed(error),
        })?;
        let socket = Self { listener, path: path.into() };
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves the clients of a control socket on the main event loop.
pub struct ControlServer {
    socket: ControlSocket,
    clients: BTreeMap<RawFd, Client>,
    controlled: Arc<dyn Controlled>,
    stop: Arc<Stop>,
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
}

/// Whether a client stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    Leaves,
}

/// What is asked: each command with its own words, others are refused.
#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Status {},
    Stats {},
    Balloon { target_mib: Option<u64>, target_pages: Option<u64> },
    Disk { disk: usize, bytes: u64 },
    Link { state: Cable },
    Console { input: Option<String> },
    Stop {},
}

impl ControlServer {
    /// A server for what comes in at `socket`.
    pub fn new(socket: ControlSocket, controlled: Arc<dyn Controlled>, stop: Arc<Stop>) -> Self {
        Self { socket, clients: BTreeMap::new(), controlled, stop }
    }

    /// Answers one line.
    fn answer(&self, line: &[u8]) -> Value {
        match serde_json::from_slice(line).map_err(|error| format!("not a request: {error}")) {
            Ok(request) => self.execute(request),
            Err(error) => Err(error),
        }
        .map_or_else(|error| json!({"ok": false, "error": error}), ok)
    }

    fn execute(&self, request: Request) -> Result<Value, String> {
        let done = |()| json!({});
        match request {
            Request::Status {} => Ok(self.controlled.status()),
            Request::Stats {} => Ok(self.controlled.stats()),
            Request::Balloon { target_mib, target_pages } => self.balloon(target_mib, target_pages),
            Request::Disk { disk, bytes } => {
                self.controlled.change(&format!("block{disk}"), Change::Size(bytes)).map(done)
            }
            Request::Link { state } => self.controlled.change("net", Change::Cable(state)).map(done),
            Request::Console { input } => self.console(input.as_deref()),
            Request::Stop {} => {
                self.stop.request(Outcome::Stopped);
                Ok(json!({}))
            }
        }
    }

    fn balloon(&self, mib: Option<u64>, pages: Option<u64>) -> Result<Value, String> {
        let balloon = self.controlled.balloon().ok_or("the VM has no balloon; start it with --balloon")?;
        let pages = match (mib, pages) {
            (None, None) => return Ok(json!(balloon.fresh_numbers(STATS_PATIENCE))),
            (Some(_), Some(_)) => return Err("give target_mib or target_pages, not both".into()),
            (Some(mib), None) => mib.saturating_mul(PAGES_PER_MIB),
            (None, Some(pages)) => pages,
        };
        match u32::try_from(pages) {
            Ok(pages) if balloon.set_target(pages) => Ok(json!(balloon.numbers())),
            _ => Err(format!("a target of {pages} pages is more than the guest's {} pages", balloon.pages())),
        }
    }

    fn console(&self, input: Option<&str>) -> Result<Value, String> {
        let console = self.controlled.console();
        let console = console.ok_or("the VM has no such console; start it with --virtio-console control")?;
        let mut answer = json!({"output": String::from_utf8_lossy(&console.output.take())});
        if let Some(input) = input {
            answer["taken"] = console.input.input(input.as_bytes()).into();
        }
        Ok(answer)
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        while let Ok((stream, _)) = self.socket.listener.accept() {
            let usable = stream.set_nonblocking(true).is_ok() && stream.set_write_timeout(Some(WRITE_PATIENCE)).is_ok();
            if !usable || self.clients.len() == CLIENTS_MAX {
                let _ = (&stream).write_all(b"{\"ok\":false,\"error\":\"too many clients\"}\n");
                continue;
            }
            let fd = stream.as_raw_fd();
            if ops.add(Events::new_raw(fd, EventSet::IN)).is_ok() {
                self.clients.insert(fd, Client { stream, line: Vec::new() });
            }
        }
    }

    fn serve(&mut self, fd: RawFd) -> Verdict {
        let Some(mut client) = self.clients.remove(&fd) else { return Verdict::Leaves };
        let verdict = self.serve_client(&mut client);
        self.clients.insert(fd, client);
        verdict
    }

    fn serve_client(&self, client: &mut Client) -> Verdict {
        let mut buffer = [0; 1024];
        let n = match client.stream.read(&mut buffer) {
            Ok(0) => return Verdict::Leaves,
            Ok(n) => n,
            Err(error) if is_temporary(&error) => return Verdict::Stays,
            Err(_) => return Verdict::Leaves,
        };
        client.line.extend_from_slice(&buffer[..n]);
        while let Some(end) = client.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = client.line.drain(..=end).collect();
            if !line.trim_ascii().is_empty() && !reply(&client.stream, &self.answer(&line)) {
                return Verdict::Leaves;
            }
        }
        if client.line.len() > LINE_MAX {
            reply(&client.stream, &json!({"ok": false, "error": "the line is too long"}));
            return Verdict::Leaves;
        }
        Verdict::Stays
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn ok(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert("ok".into(), true.into());
    }
    value
}

/// Writes an answer. A client that does not read it is given up after a while.
fn reply(mut stream: &UnixStream, value: &Value) -> bool {
    let _ = stream.set_nonblocking(false);
    let done = stream.write_all(format!("{value}\n").as_bytes()).is_ok();
    done && stream.set_nonblocking(true).is_ok()
}

impl MutEventSubscriber for ControlServer {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(&self.socket.listener, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.socket.listener.as_raw_fd() {
            self.accept(ops);
        } else if self.serve(events.fd()) == Verdict::Leaves {
            let _ = ops.remove(Events::new_raw(events.fd(), EventSet::IN));
            self.clients.remove(&events.fd());
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
