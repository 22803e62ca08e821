//! Tests of the control socket: every answer, and clients that misbehave.

use super::*;
use crate::virtio::balloon::Balloon;
use crate::vmm::GuestRam;
use event_manager::{EventManager, SubscriberOps};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use vm_memory::GuestAddress;

struct Fake(Option<BalloonHandle>, Option<ControlConsole>, ControlCounts);

impl Controlled for Fake {
    fn status(&self) -> Value {
        json!({"state": "running"})
    }
    fn stats(&self) -> Value {
        json!({"exits": {}, "control": self.2})
    }
    fn control_counts(&self) -> &ControlCounts {
        &self.2
    }
    fn balloon(&self) -> Option<&BalloonHandle> {
        self.0.as_ref()
    }
    fn console(&self) -> Option<&ControlConsole> {
        self.1.as_ref()
    }
    fn pause(&self) -> Result<(), String> {
        Ok(())
    }
    fn resume(&self) -> Result<(), String> {
        Err("cannot resume".into())
    }
    fn change(&self, device: &str, change: Change) -> Result<(), String> {
        Err(format!("{device}: {change:?}"))
    }
}

struct Server {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    served: Rc<RefCell<ControlServer>>,
    path: PathBuf,
    stop: Arc<Stop>,
    _folder: tempfile::TempDir,
}

fn server(balloon: Option<BalloonHandle>) -> Server {
    server_with(balloon, None)
}

fn server_with(balloon: Option<BalloonHandle>, console: Option<ControlConsole>) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let stop = Arc::new(Stop::new().unwrap());
    let socket = ControlSocket::bind(&path, Access::Full).unwrap();
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
    let fake = Fake(balloon, console, ControlCounts::default());
    let served = ControlServer::new(vec![socket], Arc::new(fake), stop.clone()).unwrap();
    let served = Rc::new(RefCell::new(served));
    manager.add_subscriber(Box::new(served.clone()));
    Server { manager, served, path, stop, _folder: folder }
}

impl Server {
    fn serve(&mut self) {
        while self.manager.run_with_timeout(20).unwrap() > 0 {}
    }

    fn connect(&mut self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        self.serve();
        BufReader::new(stream)
    }

    /// Sends bytes and returns one line of the answer, empty if the client was turned away.
    fn ask(&mut self, client: &mut BufReader<UnixStream>, bytes: &[u8]) -> Value {
        client.get_mut().write_all(bytes).unwrap();
        self.serve();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask_once(&mut self, line: &str) -> Value {
        let mut client = self.connect();
        self.ask(&mut client, format!("{line}\n").as_bytes())
    }
}

fn balloon() -> BalloonHandle {
    Balloon::new(&GuestRam::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()).unwrap().handle()
}

#[test]
fn requests_get_one_line_each() {
    let mut server = server(None);
    assert_eq!(server.ask_once(r#"{"command":"status"}"#), json!({"ok": true, "state": "running"}));
    assert_eq!(server.ask_once(r#"{"command":"stats"}"#)["exits"], json!({}));
    let mut client = server.connect();
    let two = b"{\"command\":\"status\"}\n{\"command\":\"none\"}\n";
    assert_eq!(server.ask(&mut client, two)["ok"], true);
    let mut second = String::new();
    client.read_line(&mut second).unwrap();
    assert!(second.contains("unknown variant `none`") && second.contains("`balloon`"), "{second}");
}

#[test]
fn every_request_that_the_help_shows_is_understood() {
    let requests =
        HELP.lines().filter_map(|line| line.trim().split_once("  ").filter(|(request, _)| request.starts_with('{')));
    let mut count = 0;
    for (request, _) in requests {
        let request = request.replace(":N", ":1");
        let parsed: Result<Request, _> = serde_json::from_str(&request);
        assert!(parsed.is_ok(), "{request}: {:?}", parsed.err());
        count += 1;
    }
    assert_eq!(count, 11);
}

#[test]
fn stop_ends_the_vm_and_is_answered_when_that_is_done() {
    let lost = Err("block0 was not flushed".to_owned());
    for (result, answer) in
        [(Ok(()), json!({"ok": true})), (lost, json!({"ok": false, "error": "block0 was not flushed"}))]
    {
        let mut server = server(None);
        let mut client = server.connect();
        client.get_mut().write_all(b"{\"command\":\"stop\"}\n").unwrap();
        server.serve();
        assert_eq!(server.stop.outcome(), Some(Outcome::Stopped));
        // Others are served meanwhile.
        assert_eq!(server.ask_once(r#"{"command":"status"}"#)["ok"], true);
        server.served.borrow_mut().finish(&result);
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), answer);
    }
}

#[test]
fn requests_after_a_stop_are_not_executed_and_its_answer_is_the_next() {
    let output = Arc::new(Output::kept());
    let device = crate::virtio::console::Console::new(output.clone()).unwrap();
    let mut server = server_with(None, Some(ControlConsole { output: output.clone(), input: device.input() }));
    output.write(b"untouched");
    let mut client = server.connect();
    let requests =
        b"{\"command\":\"status\"}\n{\"command\":\"stop\"}\n{\"command\":\"console\"}\n{\"command\":\"stop\"}\n";
    client.get_mut().write_all(requests).unwrap();
    let mut turns = 0;
    while server.manager.run_with_timeout(20).unwrap() > 0 {
        turns += 1;
        assert!(turns < 100, "the server spins on a request that it does not execute");
    }
    // It still sends, which wakes nobody.
    client.get_mut().write_all(b"{\"command\":\"console\"}\n").unwrap();
    assert_eq!(server.manager.run_with_timeout(20).unwrap(), 0);
    server.served.borrow_mut().finish(&Ok(()));
    let stop = server.stop.outcome();
    drop((server.manager, server.served));
    let mut all = String::new();
    // Unread requests make the end of the connection a reset, after what was sent before.
    let _ = client.read_to_string(&mut all);
    assert_eq!(stop, Some(Outcome::Stopped));
    assert_eq!(all, "{\"ok\":true,\"state\":\"running\"}\n{\"ok\":true}\n");
    assert_eq!(output.take_text(), "untouched");
}

#[test]
fn a_client_that_does_not_read_holds_up_no_other() {
    let output = Arc::new(Output::kept());
    let device = crate::virtio::console::Console::new(output.clone()).unwrap();
    let mut server = server_with(None, Some(ControlConsole { output: output.clone(), input: device.input() }));
    let mut slow = server.connect();
    let mut asked = 0;
    // Answers of 64 KiB until the socket is full, and as many requests again that must not be executed.
    for _ in 0..40 {
        output.write(&[b'x'; 60 << 10]);
        slow.get_mut().write_all(b"{\"command\":\"console\"}\n").unwrap();
        asked += 1;
        server.serve();
        assert_eq!(server.ask_once(r#"{"command":"status"}"#)["ok"], true);
    }
    assert!(!output.take_text().is_empty(), "the last requests were not executed");
    // Once it reads, it gets an answer for each.
    let mut got = 0;
    while got < asked {
        let mut line = String::new();
        while !line.ends_with('\n') {
            slow.get_mut().set_nonblocking(true).unwrap();
            let _ = slow.read_line(&mut line);
            server.serve();
        }
        assert!(line.contains("\"ok\":true"));
        got += 1;
    }
}

#[test]
fn requests_are_executed_one_per_turn() {
    let mut server = server(None);
    let mut client = server.connect();
    client.get_mut().write_all("{\"command\":\"status\"}\n".repeat(30).as_bytes()).unwrap();
    let mut turns = 0;
    while server.manager.run_with_timeout(20).unwrap() > 0 {
        turns += 1;
    }
    assert!(turns >= 30, "{turns} turns");
    for _ in 0..30 {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        assert!(line.contains("running"));
    }
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answers() {
    let mut server = server(None);
    let mut client = server.connect();
    client.get_mut().write_all(b"{\"command\":\"status\"}\n{\"command\":\"stats\"}\n").unwrap();
    client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    server.serve();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all.lines().count(), 2);
}

#[test]
fn the_balloon_is_set_and_read() {
    let mut server = server(Some(balloon()));
    assert_eq!(server.ask_once(r#"{"command":"balloon","target_mib":1}"#)["target_pages"], 256);
    assert_eq!(server.ask_once(r#"{"command":"balloon","target_pages":3}"#)["target_pages"], 3);
    let numbers = server.ask_once(r#"{"command":"balloon"}"#);
    assert_eq!((&numbers["target_pages"], &numbers["returned_pages"]), (&json!(3), &json!(0)));
}

#[test]
fn disks_and_the_cable_are_changed_by_their_devices() {
    let mut server = server(None);
    let error = |answer: Value| answer["error"].as_str().unwrap().to_owned();
    assert_eq!(error(server.ask_once(r#"{"command":"disk","disk":1,"bytes":4096}"#)), "block1: Size(4096)");
    assert_eq!(error(server.ask_once(r#"{"command":"link","state":"down"}"#)), "net: Cable(Down)");
}

#[test]
fn pause_and_resume_are_answered_by_what_is_controlled() {
    let mut server = server(None);
    assert_eq!(server.ask_once(r#"{"command":"pause"}"#), json!({"ok": true}));
    assert_eq!(server.ask_once(r#"{"command":"resume"}"#), json!({"ok": false, "error": "cannot resume"}));
    assert_eq!(server.ask_once(r#"{"command":"pause","now":true}"#)["ok"], false);
}

#[test]
fn the_console_is_read_and_typed_to() {
    let output = Arc::new(Output::kept());
    let device = crate::virtio::console::Console::new(output.clone()).unwrap();
    let mut with = server_with(None, Some(ControlConsole { output: output.clone(), input: device.input() }));
    output.write(b"login: ");
    let answer = with.ask_once(r#"{"command":"console","input":"root\n"}"#);
    assert_eq!((&answer["output"], &answer["taken"]), (&json!("login: "), &json!(5)));
    assert_eq!(with.ask_once(r#"{"command":"console"}"#), json!({"ok": true, "output": ""}));
    let none = server(None).ask_once(r#"{"command":"console"}"#);
    assert!(none["error"].as_str().unwrap().contains("--virtio-console control"));
}

#[test]
fn a_character_that_is_printed_in_two_parts_stays_whole() {
    let output = Arc::new(Output::kept());
    let device = crate::virtio::console::Console::new(output.clone()).unwrap();
    let mut server = server_with(None, Some(ControlConsole { output: output.clone(), input: device.input() }));
    let mut told = String::new();
    for byte in "a\u{e9}\u{20ac}\u{1f388}b".bytes() {
        output.write(&[byte]);
        told += server.ask_once(r#"{"command":"console"}"#)["output"].as_str().unwrap();
    }
    assert_eq!(told, "a\u{e9}\u{20ac}\u{1f388}b");
    // What is no UTF-8 is shown as such, once it is known to be none.
    output.write(b"x\xff\xe2\x82");
    assert_eq!(server.ask_once(r#"{"command":"console"}"#)["output"], "x\u{fffd}");
    output.write(b"y");
    assert_eq!(server.ask_once(r#"{"command":"console"}"#)["output"], "\u{fffd}y");
}

#[test]
fn a_balloon_target_that_is_too_large_is_refused_in_its_own_unit() {
    let mut server = server(Some(balloon()));
    for (request, words) in [
        (r#""target_mib":5"#, ["5 MiB", "at most 4 MiB"]),
        (r#""target_mib":18446744073709551615"#, ["18446744073709551615 MiB", "at most 4 MiB"]),
        (r#""target_pages":1025"#, ["1025 pages", "at most 1024 pages"]),
        (r#""target_pages":18446744073709551615"#, ["18446744073709551615 pages", "at most 1024 pages"]),
    ] {
        let answer = server.ask_once(&format!(r#"{{"command":"balloon",{request}}}"#));
        let error = answer["error"].as_str().unwrap();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn bad_requests_get_an_error() {
    let mut with = server(Some(balloon()));
    for bad in [
        r#"{"command":"balloon","target_mib":5}"#,
        r#"{"command":"balloon","target_mib":18446744073709551615}"#,
        r#"{"command":"balloon","target_mib":1,"target_pages":1}"#,
        r#"{"command":"balloon","target_mib":-1}"#,
        r#"{"command":"status","target_mib":1}"#,
        r#"{"command":"status","x":1}"#,
        r#"{"command":"disk","bytes":1}"#,
        r#"{"command":"link","state":"sideways"}"#,
        r#"{"command":7}"#,
        "[]",
        "hello",
        "\u{1f388}",
    ] {
        let answer = with.ask_once(bad);
        assert_eq!(answer["ok"], false, "{bad}");
        assert!(answer["error"].as_str().is_some_and(|text| !text.contains('\n')), "{answer}");
    }
    assert_eq!(server(None).ask_once(r#"{"command":"balloon"}"#)["ok"], false);
}

#[test]
fn an_endless_line_is_cut_off() {
    let mut server = server(None);
    let mut client = server.connect();
    let answer = server.ask(&mut client, &[b'x'; LINE_MAX + 1]);
    assert_eq!(answer["error"], "the line is too long");
    assert_eq!(server.ask_once(r#"{"command":"stats"}"#)["control"]["lines_too_long"], 1);
    let mut rest = Vec::new();
    assert_eq!(client.read_to_end(&mut rest).unwrap_or(0), 0);
}

#[test]
fn a_long_line_is_refused_also_when_its_end_has_come() {
    for (len, accepted) in [(LINE_MAX, true), (LINE_MAX + 1, false), (LINE_MAX + 900, false)] {
        let mut server = server(None);
        let mut client = server.connect();
        let mut line = br#"{"command":"stop"}"#.to_vec();
        line.resize(len, b' ');
        line.push(b'\n');
        // What may be a request yet is read first, so that the rest comes together with the end.
        let (first, rest) = line.split_at(LINE_MAX);
        client.get_mut().write_all(first).unwrap();
        server.serve();
        client.get_mut().write_all(rest).unwrap();
        server.serve();
        assert_eq!(server.stop.outcome().is_some(), accepted, "{len} bytes");
    }
}

#[test]
fn too_many_clients_are_turned_away_and_there_is_room_again() {
    let mut server = server(None);
    let clients: Vec<_> = (0..CLIENTS_MAX).map(|_| server.connect()).collect();
    let mut line = String::new();
    server.connect().read_line(&mut line).unwrap();
    assert!(line.contains("too many clients"));
    drop(clients);
    server.serve();
    assert_eq!(server.ask_once(r#"{"command":"status"}"#)["ok"], true);
    assert_eq!(server.ask_once(r#"{"command":"stats"}"#)["control"]["clients_refused"], 1);
}

#[test]
fn clients_that_keep_connecting_leave_turns_for_others() {
    let mut server = server(None);
    // As many as may wait, but for a few.
    let clients: Vec<_> = (0..ACCEPTS_MAX + 4).map(|_| UnixStream::connect(&server.path).unwrap()).collect();
    let refused = |server: &Server| server.served.borrow().controlled.control_counts().clients_refused.get();
    server.manager.run_with_timeout(20).unwrap();
    assert_eq!((refused(&server), server.served.borrow().clients.len()), (0, ACCEPTS_MAX));
    server.serve();
    assert_eq!((refused(&server), server.served.borrow().clients.len()), (4, CLIENTS_MAX));
    drop(clients);
}

#[test]
fn a_path_in_use_is_refused_and_left_alone() {
    let server = server(None);
    assert!(matches!(ControlSocket::bind(&server.path, Access::Full), Err(Error::InUse(_))));
    assert!(server.path.exists());
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(ControlSocket::bind(file.path(), Access::Full), Err(Error::Exists(_))));
    assert!(matches!(ControlSocket::bind(Path::new("/nonexistent/socket"), Access::Full), Err(Error::Io { .. })));
}

#[test]
fn the_socket_goes_with_the_server() {
    let server = server(None);
    let path = server.path.clone();
    drop((server.manager, server.served));
    assert!(!path.exists());
}
