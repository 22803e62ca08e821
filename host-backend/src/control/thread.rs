//! The thread on which clients are served: what they send is read where nothing else is done.

use super::ControlServer;
use crate::event::{EventFd, event};
use crate::stop::{PanicWatch, Stop};
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// How long the clients' last answers may take: more than [`super::FAREWELL_PATIENCE`].
const END_PATIENCE: Duration = Duration::from_secs(2);

/// A running server.
pub struct ControlThread {
    thread: JoinHandle<()>,
    result: Sender<Result<(), String>>,
    wake: Arc<EventFd>,
}

impl ControlThread {
    /// Serves on a thread of its own, which calls `enter` first. If the thread panics, the VM ends: nobody could end it
    /// otherwise.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(server: ControlServer, stop: Arc<Stop>, enter: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let wake = Arc::new(event()?);
        let (result, ended) = channel();
        let server = Arc::new(Mutex::new(server));
        let mut manager = EventManager::<Box<dyn MutEventSubscriber + Send>>::new()
            .map_err(|error| io::Error::other(error.to_string()))?;
        manager.add_subscriber(Box::new(server.clone()));
        manager.add_subscriber(Box::new(Wake(wake.clone())));
        let thread = std::thread::Builder::new().name("control".into()).stack_size(256 << 10).spawn(move || {
            let _watch = PanicWatch::new(stop, "the thread of the control socket");
            enter();
            serve(&mut manager, &server, &ended);
        })?;
        Ok(Self { thread, result, wake })
    }

    /// Sends the clients the result of the VM's end, and gives them a moment to read it.
    pub fn finish(self, result: Result<(), String>) {
        let _ = self.result.send(result);
        let _ = self.wake.write(1);
        let deadline = Instant::now() + END_PATIENCE;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn serve(
    manager: &mut EventManager<Box<dyn MutEventSubscriber + Send>>,
    server: &Mutex<ControlServer>,
    ended: &Receiver<Result<(), String>>,
) {
    loop {
        // It fails only when a signal interrupts it.
        let _ = manager.run();
        if let Ok(result) = ended.try_recv() {
            return server.lock().unwrap_or_else(PoisonError::into_inner).finish(&result);
        }
    }
}

/// Makes the loop look whether the VM has ended.
struct Wake(Arc<EventFd>);

impl MutEventSubscriber for Wake {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(&*self.0, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.0.read();
    }
}
