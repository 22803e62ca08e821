//! The control socket: the bytes are what up to ten clients do to the real server, whose VM is a fake.
//!
//! Requests come whole, in pieces, several at once, and clients close when they like. Whatever they do, a client that
//! stays gets one answer of one line for each request, in their order; the server holds no memory beyond its limits, comes to
//! rest, and removes its socket.

mod client;
mod fake;

use client::Client;
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use fake::Fake;
use host_backend::control::{Access, CLIENTS_MAX, ControlServer, ControlSocket};
use host_backend::stop::Stop;
use hostile_driver::Script;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Clients of a script, at most: more than may be connected.
const CLIENTS: usize = CLIENTS_MAX + 2;
/// Turns of the event loop in which something must have happened.
const TURNS: usize = 20_000;

/// Requests that a script can send whole; `%` becomes a number.
const REQUESTS: [&str; 14] = [
    r#"{"command":"disk","disk":%,"bytes":%}"#,
    r#"{"command":"status"}"#,
    r#"{"command":"stats"}"#,
    r#"{"command":"balloon"}"#,
    r#"{"command":"balloon","target_mib":%}"#,
    r#"{"command":"balloon","target_pages":%}"#,
    r#"{"command":"link","state":"down"}"#,
    r#"{"command":"console"}"#,
    r#"{"command":"console","input":"text %"}"#,
    r#"{"command":"pause"}"#,
    r#"{"command":"resume"}"#,
    r#"{"command":"stop"}"#,
    r#"{"command":"%"}"#,
    "",
];

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::from_bytes(bytes.to_vec());
    let mut world = World::new();
    while !script.ended() {
        world.step(&mut script);
    }
    world.conclude();
}

struct World {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    server: Rc<RefCell<ControlServer>>,
    fake: Arc<Fake>,
    stop: Arc<Stop>,
    clients: Vec<Client>,
    path: PathBuf,
    folder: tempfile::TempDir,
}

fn ready<T, E: std::fmt::Debug>(made: Result<T, E>) -> T {
    made.unwrap_or_else(|error| panic!("the system gives no socket: {error:?}"))
}

impl World {
    fn new() -> Self {
        let folder = ready(tempfile::tempdir());
        let path = folder.path().join("control");
        let stop = Arc::new(ready(Stop::new()));
        let fake = Arc::new(Fake::new());
        let socket = ready(ControlSocket::bind(&path, Access::Full));
        let server = ready(ControlServer::new(vec![socket], fake.clone(), stop.clone()));
        let server = Rc::new(RefCell::new(server));
        let mut manager = ready(EventManager::<Box<dyn MutEventSubscriber>>::new());
        manager.add_subscriber(Box::new(server.clone()));
        Self { manager, server, fake, stop, clients: Vec::new(), path, folder }
    }

    fn step(&mut self, script: &mut Script) {
        let choice = script.below(16);
        let which = script.byte();
        match choice {
            0 if self.clients.len() < CLIENTS => self.clients.push(Client::connect(&self.path)),
            1 => _ = self.turn(),
            2 => {
                let printed: Vec<u8> = (0..which).map(|_| script.byte()).collect();
                self.fake.print(&printed);
            }
            _ => {
                let clients = self.clients.len();
                let Some(client) = self.clients.get_mut(usize::from(which) % clients.max(1)) else { return };
                match choice {
                    3..7 => client.say(request(script).as_bytes()),
                    7 => client.say(&(0..script.byte()).map(|_| script.byte()).collect::<Vec<_>>()),
                    8 => client.say(b"\n"),
                    9 => client.say(&vec![b' '; usize::from(script.byte()) * 32]),
                    10..12 => _ = client.send(script.byte().into()),
                    12 => _ = client.send(usize::MAX),
                    13 => _ = client.receive(usize::from(script.byte()) * 16),
                    14 => client.shut(),
                    _ => client.close(),
                }
            }
        }
    }

    /// One turn of the event loop; whether there was anything to do.
    fn turn(&mut self) -> bool {
        ready(self.manager.run_with_timeout(0)) > 0
    }

    /// Serves until nothing moves any more.
    fn settle(&mut self) {
        let mut idle = 0;
        for _ in 0..TURNS {
            let served = self.turn();
            let moved = self.clients.iter_mut().any(|client| client.send(usize::MAX) + client.receive(usize::MAX) > 0);
            match (served, moved) {
                (false, false) => return,
                (true, false) => idle += 1,
                (_, true) => idle = 0,
            }
            // A request for each turn, of which every client may have as many as its socket holds.
            assert!(idle < TURNS / 2, "the server works for nobody");
        }
        panic!("the server does not come to rest");
    }

    /// After the script: everything is sent and answered, the VM ends if it was asked to, and the answers are compared.
    fn conclude(mut self) {
        self.settle();
        let ended = self.stop.requested();
        if ended {
            self.server.borrow_mut().finish(&Ok(()));
            self.clients.iter_mut().for_each(|client| _ = client.receive(usize::MAX));
        }
        self.clients.iter_mut().for_each(Client::shut);
        self.settle();
        let turned_away = self.clients.iter().filter(|client| client.was_turned_away()).count();
        assert!(turned_away == 0 || self.clients.len() > CLIENTS_MAX, "{turned_away} are too many clients");
        let stops = self.clients.iter().filter(|client| client.check(&self.fake)).count();
        assert!(stops == 0 || ended, "a client was told of an end that there was not");
        let Self { manager, server, clients, path, folder, .. } = self;
        drop((manager, server, clients));
        assert!(!path.exists(), "the socket is still there");
        drop(folder);
    }
}

/// One of [`REQUESTS`] with its numbers, and the end of the line.
fn request(script: &mut Script) -> String {
    let template = REQUESTS[script.below(REQUESTS.len() as u32) as usize];
    let mut text = String::new();
    for (index, part) in template.split('%').enumerate() {
        if index > 0 {
            let number = match script.below(4) {
                0 => script.word(),
                _ => script.byte().into(),
            };
            text += &number.to_string();
        }
        text += part;
    }
    text + "\n"
}
