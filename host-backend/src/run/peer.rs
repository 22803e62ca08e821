//! The other end of the network card: its end is reported when it happens, also while the guest does not use the card.

use crate::config;
use crate::say;
use crate::stop::Stop;
use crate::virtio::net::passt::Passt;
use event_manager::{EventOps, Events, MutEventSubscriber};
use serde_json::{Value, json};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use vmm_sys_util::epoll::EventSet;

/// The peer of the network card.
pub(super) struct Peer {
    kind: &'static str,
    /// How it ended.
    ended: OnceLock<String>,
    /// Descriptor that becomes readable at its end, until a watch takes it.
    watched: Mutex<Option<OwnedFd>>,
    passt: Mutex<Option<Passt>>,
    stop: Arc<Stop>,
}

impl Peer {
    /// A peer whose end shows on `watched`, if it has one.
    pub(super) fn new(peer: &config::Peer, watched: Option<OwnedFd>, stop: Arc<Stop>) -> Self {
        let kind = match peer {
            config::Peer::Tap(_) => "tap",
            config::Peer::Passt => "passt",
            config::Peer::Stream(_) => "stream",
        };
        Self { kind, ended: OnceLock::new(), watched: Mutex::new(watched), passt: Mutex::default(), stop }
    }

    /// The peer is this passt, which ends with us.
    pub(super) fn attach(&self, passt: Passt) -> io::Result<()> {
        *lock(&self.watched) = Some(passt.watch()?);
        *lock(&self.passt) = Some(passt);
        Ok(())
    }

    /// Ends a passt, and with it the ports that it publishes.
    pub(super) fn end(&self) {
        lock(&self.passt).take();
    }

    /// For the control socket.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({"peer": self.kind, "state": if self.ended.get().is_some() { "gone" } else { "up" }});
        if let Some(ended) = self.ended.get() {
            status["reason"] = ended.as_str().into();
        }
        status
    }

    fn has_ended(&self) {
        // Once the VM ends, its peer is expected to go: we end a passt ourselves.
        if self.stop.requested() {
            return;
        }
        let how = lock(&self.passt).as_mut().and_then(Passt::ended_early);
        let how = how.map_or_else(|| "it closed the connection".into(), |status| status.to_string());
        // Who reads the message finds it in the status.
        if self.ended.set(how.clone()).is_ok() {
            say!("the network's peer ({}) is gone: {how}", self.kind);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a peer's end on the main event loop.
pub(super) struct Watch {
    peer: Arc<Peer>,
    watched: OwnedFd,
    events: EventSet,
}

impl Watch {
    /// A watch, if the peer's end can be watched.
    pub(super) fn new(peer: &Arc<Peer>) -> Option<Self> {
        let watched = lock(&peer.watched).take()?;
        // A process becomes readable at its end; a socket is readable whenever a frame comes, and hangs up at the end.
        let events = if peer.kind == "passt" { EventSet::IN } else { EventSet::READ_HANG_UP };
        Some(Self { peer: peer.clone(), watched, events })
    }
}

impl MutEventSubscriber for Watch {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(&self.watched, self.events));
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps<'_>) {
        self.peer.has_ended();
        let _ = ops.remove(Events::new(&self.watched, self.events));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::Outcome;
    use event_manager::{EventManager, SubscriberOps};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peer_that_goes_after_the_vm_was_asked_to_stop_raises_no_alarm() {
        for (outcome, state) in [(None, "gone"), (Some(Outcome::Stopped), "up")] {
            let stop = Arc::new(Stop::new().unwrap());
            let (ours, theirs) = UnixStream::pair().unwrap();
            let peer = Arc::new(Peer::new(&config::Peer::Passt, Some(ours.into()), stop.clone()));
            let mut manager = EventManager::<Watch>::new().unwrap();
            manager.add_subscriber(Watch::new(&peer).unwrap());
            if let Some(outcome) = outcome {
                stop.request(outcome);
            }
            drop(theirs);
            assert_eq!(manager.run_with_timeout(5000).unwrap(), 1);
            assert_eq!(peer.status()["state"], state);
            assert_eq!(manager.run_with_timeout(0).unwrap(), 0, "it is watched no more");
        }
    }
}
