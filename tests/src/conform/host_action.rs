//! Host actions: carries out what a check requests on the serial line, in the way the profile says.
//! The actions are defined in `conformance::host_action`.

use crate::conform::http;
use crate::conform::profile::{ControlProtocol, HostActions};
use crate::control::{Control, Protocol};
use crate::socket::{self, Bounded};
use anyhow::{Context, Result, anyhow, bail};
use conformance::host_action::{HostAction, WORD, field};
use serde_json::{Value, json};
use shared_abi::report::Report;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The name of the socket of a console in `{folder}`, with QMP.
pub const CONSOLE: &str = "console";
/// How long a text may take from the guest to us.
const HEARING: Duration = Duration::from_secs(3);
/// Heard bytes that are kept.
const HEARD_MAX: usize = 64 << 10;
/// What is typed is taken in this time.
const TAKEN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);
/// From the request for statistics to the end of asking for them.
const POLLED: Duration = Duration::from_millis(100);

/// The word on the guest's command line that lists what a profile supports.
pub fn word(actions: &HostActions) -> String {
    format!("{WORD}={}", actions.can.join(","))
}

/// The control interface.
enum Host {
    /// One connection that carries JSON lines.
    Lines { protocol: Protocol, control: Option<Control> },
    /// One HTTP request per connection.
    Http { firecracker: bool, disk: PathBuf },
}

/// Carries out requests during a run.
pub struct Handler {
    can: Vec<HostAction>,
    socket: PathBuf,
    host: Host,
    /// The console's socket, where it has one of its own, and what was heard on the console.
    console: Option<PathBuf>,
    line: Option<Bounded>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Handler {
    /// For a machine whose sockets are in `folder`.
    pub fn new(actions: &HostActions, folder: &Path, memory: u64) -> Self {
        let lines = |protocol| Host::Lines { protocol, control: None };
        let http = |firecracker| Host::Http { firecracker, disk: folder.join("disk.img") };
        let (host, console) = match actions.protocol {
            ControlProtocol::Ringside => (lines(Protocol::Ringside), None),
            ControlProtocol::Qmp => (lines(Protocol::Qmp { memory }), Some(folder.join(CONSOLE))),
            ControlProtocol::Firecracker => (http(true), None),
            ControlProtocol::CloudHypervisor => (http(false), None),
        };
        let can = actions.can.iter().filter_map(|word| HostAction::able(word)).map(|(action, _)| action).collect();
        let socket = folder.join("control");
        Self { can, socket, host, console, line: None, heard: Arc::default() }
    }

    /// Begins to listen to the console. Call it once the machine runs: earlier output is lost.
    pub fn listen(&mut self) {
        let wanted = self.can.contains(&HostAction::Type) || self.can.contains(&HostAction::Echo);
        let (Some(path), None, true) = (&self.console, &self.line, wanted) else { return };
        // Without it the requests that need it fail, and say so.
        let Ok(line) = socket::connect_now(path) else { return };
        let Ok(mut reader) = line.try_clone() else { return };
        let heard = self.heard.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                keep(&heard, &buffer[..len]);
            }
        });
        self.line = Some(Bounded::new(line, TAKEN));
    }

    /// Does what the guest asks for.
    ///
    /// # Errors
    /// Why it cannot be done: no fault of the guest's.
    pub fn handle(&mut self, report: &Report<'_>) -> Result<()> {
        let action = HostAction::from_word(report.name).filter(|action| self.can.contains(action));
        let action = action.ok_or_else(|| anyhow!("the profile cannot do that"))?;
        let value = |key: &str| report.field(key).ok_or_else(|| anyhow!("the request has no {key}="));
        let number = |key: &str| value(key)?.number().ok_or_else(|| anyhow!("{key}= is no number"));
        if let Host::Http { firecracker, disk } = &self.host {
            let number = match action {
                HostAction::Balloon => number(field::PAGES)?,
                HostAction::Disk => number(field::SECTORS)?,
                _ => 0,
            };
            let requests = if *firecracker { firecracker_requests } else { cloud_hypervisor_requests };
            let requests = requests(action, number, disk)?;
            return requests
                .iter()
                .try_for_each(|(method, place, body)| http::request(&self.socket, method, place, body));
        }
        match action {
            HostAction::Balloon => self.control()?.set_balloon(number(field::PAGES)?),
            HostAction::Disk => self.control()?.set_disk(number(field::SECTORS)?.saturating_mul(512)),
            HostAction::Link => match value(field::STATE)?.raw() {
                field::UP => self.control()?.set_link(field::UP),
                field::DOWN => self.control()?.set_link(field::DOWN),
                other => bail!("no state of a link: {other}"),
            },
            HostAction::Statistics => self.control()?.ask_for_statistics(POLLED),
            HostAction::Announce => self.control()?.announce(),
            HostAction::Type => self.type_text(&value(field::TEXT)?.to_string()),
            HostAction::Echo => {
                let text = value(field::TEXT)?.to_string();
                // What was not heard is not typed: then the check fails, which is its business.
                if self.hear(&text)? { self.type_text(&text) } else { Ok(()) }
            }
        }
    }

    fn control(&mut self) -> Result<&mut Control> {
        let Host::Lines { protocol, control } = &mut self.host else { bail!("its socket has no such request") };
        if control.is_none() {
            *control = Some(Control::connect(&self.socket, *protocol)?);
        }
        control.as_mut().ok_or_else(|| anyhow!("no control socket"))
    }

    fn type_text(&mut self, text: &str) -> Result<()> {
        match (&self.console, &mut self.line) {
            (Some(_), Some(line)) => {
                line.restart(TAKEN);
                line.write_all(text.as_bytes()).context("cannot type on the console")
            }
            (Some(path), None) => bail!("there is no listener at {}", path.display()),
            (None, _) => {
                let heard = self.control()?.console(Some(text))?;
                keep(&self.heard, heard.as_bytes());
                Ok(())
            }
        }
    }

    /// Waits until the console has said something; forgets what it said up to there.
    fn hear(&mut self, text: &str) -> Result<bool> {
        if text.is_empty() {
            return Ok(true);
        }
        let deadline = Instant::now() + HEARING;
        loop {
            if self.console.is_none() {
                let more = self.control()?.console(None)?;
                keep(&self.heard, more.as_bytes());
            }
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = heard.windows(text.len()).position(|window| window == text.as_bytes()) {
                heard.drain(..at + text.len());
                return Ok(true);
            }
            drop(heard);
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(TICK);
        }
    }
}

/// Method, place and body.
type Request = (&'static str, &'static str, Value);

/// What Firecracker is asked for (its swagger file: `PATCH /balloon`, `/balloon/statistics`, `/drives/{drive_id}`).
fn firecracker_requests(action: HostAction, number: u64, disk: &Path) -> Result<Vec<Request>> {
    const PAGES_OF_A_MIB: u64 = 256;
    let interval = |seconds: u64| ("PATCH", "/balloon/statistics", json!({"stats_polling_interval_s": seconds}));
    match action {
        HostAction::Balloon if number.is_multiple_of(PAGES_OF_A_MIB) => {
            Ok(vec![("PATCH", "/balloon", json!({"amount_mib": number / PAGES_OF_A_MIB}))])
        }
        HostAction::Balloon => bail!("its balloon has whole MiB, not {number} pages"),
        HostAction::Statistics => Ok(vec![interval(1), interval(3600)]),
        HostAction::Disk => {
            // It looks at the file's size again when it is given the same file.
            let file = OpenOptions::new().write(true).open(disk).context("cannot open the disk")?;
            file.set_len(number.saturating_mul(512)).context("cannot resize the disk")?;
            Ok(vec![("PATCH", "/drives/disk", json!({"drive_id": "disk", "path_on_host": disk}))])
        }
        _ => bail!("Firecracker cannot do that"),
    }
}

/// What Cloud Hypervisor is asked for (its cloud-hypervisor.yaml: `/vm.resize`, `/vm.resize-disk`).
fn cloud_hypervisor_requests(action: HostAction, number: u64, _: &Path) -> Result<Vec<Request>> {
    match action {
        HostAction::Balloon => {
            Ok(vec![("PUT", "/api/v1/vm.resize", json!({"desired_balloon": number.saturating_mul(4096)}))])
        }
        HostAction::Disk => {
            let size = number.saturating_mul(512);
            Ok(vec![("PUT", "/api/v1/vm.resize-disk", json!({"id": "disk", "desired_size": size}))])
        }
        _ => bail!("Cloud Hypervisor cannot do that"),
    }
}

fn keep(heard: &Mutex<Vec<u8>>, bytes: &[u8]) {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    heard.extend(bytes);
    let too_many = heard.len().saturating_sub(HEARD_MAX);
    heard.drain(..too_many);
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_abi::report;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    fn actions(protocol: ControlProtocol, can: &[&str]) -> HostActions {
        HostActions { protocol, can: can.iter().map(|&word| word.into()).collect() }
    }

    fn handled(handler: &mut Handler, line: &str) -> Result<()> {
        handler.handle(&report::parse(line).unwrap().unwrap())
    }

    #[test]
    fn actions_become_http_requests_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("control")).unwrap();
        let server = thread::spawn(move || {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
            let mut asked = Vec::new();
            for answer in ["{}", "{}", r#"{"output":"so it is: heard","taken":0}"#, r#"{"output":"","taken":5}"#] {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                asked.push(line.trim().to_owned());
                reader.get_mut().write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
            asked
        });
        let can = actions(ControlProtocol::Ringside, &["disk", "link", "echo"]);
        assert_eq!(word(&can), "host_actions=disk,link,echo");
        let mut handler = Handler::new(&can, folder.path(), 1 << 20);
        handled(&mut handler, "@request disk waiting sectors=8").unwrap();
        handled(&mut handler, "@request link waiting state=down").unwrap();
        handled(&mut handler, "@request echo waiting text=heard").unwrap();
        for refused in [
            "@request balloon waiting pages=1",
            "@request moon waiting",
            "@request disk waiting",
            "@request link waiting state=x",
        ] {
            assert!(handled(&mut handler, refused).is_err(), "{refused}");
        }
        let asked = server.join().unwrap();
        for (request, part) in
            asked.iter().zip([r#""bytes":4096"#, r#""state":"down""#, "console", r#""input":"heard""#])
        {
            assert!(request.contains(part), "{request}");
        }
    }

    #[test]
    fn a_console_with_a_socket_is_heard_and_typed_to() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(CONSOLE)).unwrap();
        let mut handler = Handler::new(&actions(ControlProtocol::Qmp, &["type", "echo"]), folder.path(), 1 << 20);
        handler.listen();
        let mut guest = listener.accept().unwrap().0;
        guest.write_all(b"noise, then spoken").unwrap();
        handled(&mut handler, "@request echo waiting text=").unwrap();
        handled(&mut handler, "@request echo waiting text=spoken").unwrap();
        handled(&mut handler, "@request type waiting text=two%20words").unwrap();
        let mut got = [0; 15];
        guest.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"spokentwo words");
    }
}
