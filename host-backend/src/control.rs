//! The control socket: one JSON object per line in, one JSON object per line out.
//!
//! | request | answer |
//! |---|---|
//! | `{"command":"status"}` | `state`, `cpus`, `memory_mib`, `uptime_ms`, `reboots`, `devices` (name, type, status, problems of the host with it), `network` (peer, state) |
//! | `{"command":"stats"}` | `exits` by cause, `serial`, `console`, `devices` with their counters, `log`, `control`, `sandbox_us` (how long each layer took to be put on), `uptime_ms` |
//! | `{"command":"balloon"}` | `target_pages`, `actual_pages`, `returned_pages`, `returned_total_pages`, `reported_total_pages`, `guest` |
//! | `{"command":"balloon","target_mib":N}` or `"target_pages":N` | the same, after setting the target |
//! | `{"command":"disk","disk":N,"bytes":N}` | nothing more; disk N (the first is 0) has that size now, and the guest is notified |
//! | `{"command":"link","state":"down"}` (or `"up"`) | nothing more; the network cable is pulled or plugged in, and the guest is notified |
//! | `{"command":"console"}` | `output`: what the virtio console has printed since it was last asked |
//! | `{"command":"console","input":"text"}` | the same, and `taken`: how many bytes of the input were typed |
//! | `{"command":"pause"}` | nothing more, once no vCPU runs the guest; an error if the VM is not running |
//! | `{"command":"resume"}` | nothing more; an error if the VM is not paused |
//! | `{"command":"stop"}` | nothing more, once the VM has ended and its disks are flushed; an error if a flush was lost. Requests that the client sends after it are not executed |
//!
//! The `state` is `running`, `paused`, `stopping`, or `created` for the moment in which a guest's reset makes new vCPUs.
//! Every answer has `"ok":true`, or `"ok":false` and `"error"` with one line of text. A page is 4096 bytes;
//! `returned_pages` are in the balloon and were given back to the system; `guest` holds the guest's own statistics, in
//! bytes. Asking for the balloon waits a little for the guest to give new ones. A disk that shrinks hides its end, and
//! shows it again when it grows; a file grows, a block device shows at most what it has. The console is that of
//! `--virtio-console control`; bytes that are no UTF-8 are shown as U+FFFD, and a character whose end is missing comes
//! with the next answer. A line has at most [`LINE_MAX`] bytes without its end, and [`CLIENTS_MAX`] clients may be
//! connected at once; others are turned away, unless one of those has not read its
//! answer for some seconds. Clients are processes of the user who runs the VM, or of root. A second socket is for monitoring:
//! its clients may also be of the group of the VM's process, and may ask for `status`, `stats` and the balloon's numbers.

mod client;
mod socket;
mod thread;

use crate::devices::InputSink;
use crate::devices::output::Output;
use crate::event::{EventFd, event};
use crate::stop::{Outcome, Stop};
use crate::virtio::balloon::BalloonHandle;
use crate::virtio::console::ConsoleInput;
use crate::virtio::{Cable, Change, Counter};
use client::{Client, Next};
use event_manager::{EventOps, Events, MutEventSubscriber};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
pub use socket::{Access, ControlSocket, Error};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use thread::ControlThread;
use vmm_sys_util::epoll::EventSet;

/// The requests for `--help`.
pub const HELP: &str = r#"Control socket (--control): one JSON object per line in, one per line out, with "ok" and, if not ok, "error":
  {"command":"status"}                          state, size, devices and their problems, the network's peer
  {"command":"stats"}                           exits by cause, the devices' counters
  {"command":"balloon"}                         target and content of the balloon, the guest's statistics
  {"command":"balloon","target_mib":N}          set the target (or "target_pages":N)
  {"command":"disk","disk":N,"bytes":N}         resize disk N, the first is 0; what a smaller size hides stays in the image
  {"command":"link","state":"down"}             pull the network cable; "up" plugs it in
  {"command":"console"}                         "output": what --virtio-console control printed since last asked
  {"command":"console","input":"text"}          the same, and type; "taken" bytes of it were
  {"command":"pause"}                           stop the guest; answered when no vCPU runs it any more. Devices go on
  {"command":"resume"}                          let the guest go on
  {"command":"stop"}                            end the VM; answered when its disks are flushed, or not"#;
/// Bytes of a request without the end of its line, at most.
pub const LINE_MAX: usize = 4096;
/// Clients at once, at most.
pub const CLIENTS_MAX: usize = 8;
/// Clients that are accepted in one turn of the loop; the others come in the next one.
const ACCEPTS_MAX: usize = 8;
/// How long the guest has to give new balloon statistics.
const STATS_PATIENCE: Duration = Duration::from_millis(100);
/// How long a client may take to read an answer before another one gets its place.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// How long clients have to read their last answers.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(500);
const PAGES_PER_MIB: u64 = 256;

/// What the socket controls.
pub trait Controlled: Send + Sync {
    /// The answer to `status`.
    fn status(&self) -> Value;
    /// The answer to `stats`.
    fn stats(&self) -> Value;
    /// The balloon, if there is one.
    fn balloon(&self) -> Option<&BalloonHandle>;
    /// The console that is read and typed to here, if there is one.
    fn console(&self) -> Option<&ControlConsole>;
    /// What the limits of the socket did.
    fn control_counts(&self) -> &ControlCounts;
    /// Pauses the guest; it runs no more when this returns.
    ///
    /// # Errors
    /// One line that says why it still runs, or cannot.
    fn pause(&self) -> Result<(), String>;
    /// Lets a paused guest go on.
    ///
    /// # Errors
    /// One line that says why nothing changed.
    fn resume(&self) -> Result<(), String>;
    /// Changes the device of that name.
    ///
    /// # Errors
    /// One line that says why nothing changed.
    fn change(&self, device: &str, change: Change) -> Result<(), String>;
}

/// How often a limit of the control socket took effect.
#[derive(Debug, Default, Serialize)]
pub struct ControlCounts {
    /// Clients turned away, since there were [`CLIENTS_MAX`].
    pub clients_refused: Counter,
    /// Clients that did not read their answers and lost their place to another one.
    pub clients_dismissed: Counter,
    /// Requests longer than [`LINE_MAX`].
    pub lines_too_long: Counter,
}

/// A console whose other end is the control socket.
pub struct ControlConsole {
    /// What it printed.
    pub output: Arc<Output>,
    /// Where it is typed to.
    pub input: Arc<ConsoleInput>,
}

/// Serves the clients of the control sockets on an event loop.
pub struct ControlServer {
    sockets: Vec<ControlSocket>,
    clients: BTreeMap<RawFd, Client>,
    controlled: Arc<dyn Controlled>,
    stop: Arc<Stop>,
    /// Readable while a request is there that was not executed yet.
    again: EventFd,
}

/// What to do for a client after a request.
enum Reply {
    Now(Value),
    /// When the VM has ended.
    AtEnd,
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
    Pause {},
    Resume {},
    Stop {},
}

impl ControlServer {
    /// A server for what comes in at `sockets`.
    ///
    /// # Errors
    /// When the system has no event file descriptor left.
    pub fn new(sockets: Vec<ControlSocket>, controlled: Arc<dyn Controlled>, stop: Arc<Stop>) -> io::Result<Self> {
        Ok(Self { sockets, clients: BTreeMap::new(), controlled, stop, again: event()? })
    }

    /// Tells those who asked for the VM's end how it went, and gives all clients a moment to read their answers.
    pub fn finish(&mut self, result: &Result<(), String>) {
        let answer = match result {
            Ok(()) => ok(json!({})),
            Err(error) => json!({"ok": false, "error": error}),
        };
        let deadline = Instant::now() + FAREWELL_PATIENCE;
        self.clients.retain(|_, client| !client.awaits_end || client.answer(&answer));
        while self.clients.values().any(Client::has_unsent) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            self.clients.retain(|_, client| client.has_unsent() && client.turn() != Next::Gone);
        }
    }

    /// Executes one line.
    fn reply(&self, line: &[u8], access: Access) -> Reply {
        let answer = match serde_json::from_slice(line) {
            Ok(request) if access == Access::Read && !reads(&request) => {
                Err("this socket is for monitoring: status, stats and balloon".into())
            }
            Ok(Request::Stop {}) => {
                self.stop.request(Outcome::Stopped);
                return Reply::AtEnd;
            }
            Ok(request) => self.execute(request),
            Err(error) => Err(format!("not a request: {error}")),
        };
        Reply::Now(answer.map_or_else(|error| json!({"ok": false, "error": error}), ok))
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
            Request::Pause {} => self.controlled.pause().map(done),
            Request::Resume {} => self.controlled.resume().map(done),
            Request::Stop {} => Ok(json!({})),
        }
    }

    fn balloon(&self, mib: Option<u64>, pages: Option<u64>) -> Result<Value, String> {
        let balloon = self.controlled.balloon().ok_or("the VM has no balloon; start it with --balloon")?;
        let (asked, unit, pages_each) = match (mib, pages) {
            (None, None) => {
                // The end of the VM waits for no client.
                let patience = if self.stop.requested() { Duration::ZERO } else { STATS_PATIENCE };
                return Ok(json!(balloon.fresh_numbers(patience)));
            }
            (Some(_), Some(_)) => return Err("give target_mib or target_pages, not both".into()),
            (Some(mib), None) => (mib, "MiB", PAGES_PER_MIB),
            (None, Some(pages)) => (pages, "pages", 1),
        };
        let pages = asked.checked_mul(pages_each).and_then(|pages| u32::try_from(pages).ok());
        if pages.is_some_and(|pages| balloon.set_target(pages)) {
            return Ok(json!(balloon.numbers()));
        }
        let most = u64::from(balloon.pages()) / pages_each;
        Err(format!("a target of {asked} {unit} is more than the guest has: at most {most} {unit}"))
    }

    fn console(&self, input: Option<&str>) -> Result<Value, String> {
        let console = self.controlled.console();
        let console = console.ok_or("the VM has no such console; start it with --virtio-console control")?;
        let mut answer = json!({"output": console.output.take_text()});
        if let Some(input) = input {
            answer["taken"] = console.input.input(input.as_bytes()).into();
        }
        Ok(answer)
    }

    fn accept(&mut self, socket: usize, ops: &mut EventOps<'_>) {
        for _ in 0..ACCEPTS_MAX {
            let mut stream = match self.sockets[socket].accept() {
                Ok(Some(stream)) => stream,
                // Not one of ours, or gone already.
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => break,
            };
            if self.clients.len() == CLIENTS_MAX {
                self.dismiss_stuck(ops);
            }
            if self.clients.len() == CLIENTS_MAX {
                self.controlled.control_counts().clients_refused.add(1);
                let _ = stream.write_all(b"{\"ok\":false,\"error\":\"too many clients\"}\n");
                continue;
            }
            let fd = stream.as_raw_fd();
            if ops.add(Events::new_raw(fd, EventSet::IN)).is_ok() {
                self.clients.insert(fd, Client::new(stream, self.sockets[socket].access()));
            }
        }
    }

    /// Makes room by a client that does not read its answer.
    fn dismiss_stuck(&mut self, ops: &mut EventOps<'_>) {
        let stuck = self.clients.iter().find(|(_, client)| client.is_stuck(READ_PATIENCE)).map(|(fd, _)| *fd);
        if let Some(fd) = stuck {
            self.controlled.control_counts().clients_dismissed.add(1);
            self.dismiss(fd, ops);
        }
    }

    fn dismiss(&mut self, fd: RawFd, ops: &mut EventOps<'_>) {
        let _ = ops.remove(Events::new_raw(fd, EventSet::empty()));
        self.clients.remove(&fd);
    }

    /// Executes at most one request of a client, so that signals and others get their turn.
    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) {
        let Some(mut client) = self.clients.remove(&fd) else { return };
        let before = client.interest();
        let stays = match client.turn() {
            Next::Gone => false,
            Next::Nothing => true,
            Next::TooLong => {
                self.controlled.control_counts().lines_too_long.add(1);
                client.answer(&json!({"ok": false, "error": "the line is too long"}));
                false
            }
            Next::Line(line) if line.trim_ascii().is_empty() => true,
            Next::Line(line) => match self.reply(&line, client.access) {
                Reply::Now(answer) => client.answer(&answer),
                Reply::AtEnd => {
                    client.awaits_end = true;
                    true
                }
            },
        };
        let (after, more) = (client.interest(), client.has_line() && !client.has_unsent());
        self.clients.insert(fd, client);
        if !stays {
            return self.dismiss(fd, ops);
        }
        if after != before {
            let _ = ops.modify(Events::new_raw(fd, after));
        }
        if more {
            // A full counter is readable too.
            let _ = self.again.write(1);
        }
    }
}

/// Whether a request changes nothing.
fn reads(request: &Request) -> bool {
    matches!(
        request,
        Request::Status {} | Request::Stats {} | Request::Balloon { target_mib: None, target_pages: None }
    )
}

fn ok(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert("ok".into(), true.into());
    }
    value
}

impl MutEventSubscriber for ControlServer {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for socket in &self.sockets {
            let _ = ops.add(Events::new(socket.listener(), EventSet::IN));
        }
        let _ = ops.add(Events::new(&self.again, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if let Some(socket) = self.sockets.iter().position(|socket| socket.listener().as_raw_fd() == events.fd()) {
            self.accept(socket, ops);
        } else if events.fd() == self.again.as_raw_fd() {
            let _ = self.again.read();
            let waiting: Vec<_> =
                self.clients.iter().filter(|(_, client)| client.has_line()).map(|(fd, _)| *fd).collect();
            waiting.into_iter().for_each(|fd| self.serve(fd, ops));
        } else {
            self.serve(events.fd(), ops);
            // A hang-up is reported on every poll; the client is gone.
            let hung_up = events.event_set().intersects(EventSet::HANG_UP | EventSet::ERROR);
            if hung_up && self.clients.get(&events.fd()).is_some_and(|client| client.interest() != EventSet::IN) {
                self.dismiss(events.fd(), ops);
            }
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
