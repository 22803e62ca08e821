//! The thread of a device: waits for notifications of the guest and for the device's own event source, so that no vCPU
//! does a device's work.

use super::Progress;
use super::mmio::{Awaited, MmioTransport};
use super::notifier::{Notifier, QueueEvent};
use super::pace::{NOTIFICATIONS_PER_SECOND, Pace};
use crate::event::{self, event};
use crate::rate::SystemClock;
use crate::stop::{PanicWatch, Stop};
use crate::sync::thread::{Builder, JoinHandle};
use crate::threads;
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

/// Event data that is no queue's number.
const WAKE: u32 = u32::MAX;
const SOURCE: u32 = u32::MAX - 1;
const TIMER: u32 = u32::MAX - 2;

/// A device's thread.
pub struct Worker {
    transport: Arc<MmioTransport>,
    thread: JoinHandle<()>,
}

/// Gives a device a thread of its own, which calls `enter` first. From then on notifications go there. If the thread panics,
/// `stop` ends the VM: the guest would wait forever.
///
/// # Errors
/// When the system gives no thread or no file descriptor.
pub fn start(
    transport: Arc<MmioTransport>,
    stop: Arc<Stop>,
    enter: impl FnOnce() + Send + 'static,
) -> io::Result<Worker> {
    transport.signal().limit_interrupts(SystemClock::shared());
    start_paced(transport, stop, NOTIFICATIONS_PER_SECOND, enter)
}

fn start_paced(
    transport: Arc<MmioTransport>,
    stop: Arc<Stop>,
    notifications: u64,
    enter: impl FnOnce() + Send + 'static,
) -> io::Result<Worker> {
    let queues = (0..transport.queue_count()).map(|_| QueueEvent::new()).collect::<Result<_, _>>()?;
    transport.attach(Notifier { queues, wake: event()? });
    threads::prepare();
    let mut manager = EventManager::new().map_err(|error| io::Error::other(error.to_string()))?;
    manager.add_subscriber(Subscriber::new(transport.clone(), TimerFd::new()?, notifications));
    let name = transport.name().to_owned();
    let device = transport.clone();
    let thread = Builder::new().name(name.clone()).stack_size(256 << 10).spawn(move || {
        let _watch = PanicWatch::new(stop, format!("the thread of {name}"));
        enter();
        while !device.is_left() {
            event::serve(&mut manager);
        }
    })?;
    Ok(Worker { transport, thread })
}

impl Worker {
    /// Asks the thread to end after the request it is working on.
    pub fn leave(&self) {
        self.transport.leave();
    }

    /// Whether the thread has ended. Interrupts the system call in which it may be.
    pub fn has_ended(&self) -> bool {
        threads::has_ended(&self.thread)
    }

    /// Resets the device as its driver would, and says whether it has let go of its request. If not, interrupts the system
    /// call in which it may be.
    pub fn has_reset(&self) -> bool {
        let done = self.transport.reset(Duration::ZERO);
        if !done {
            threads::interrupt(&self.thread);
        }
        done
    }

    /// The device's slot.
    pub fn transport(&self) -> &Arc<MmioTransport> {
        &self.transport
    }
}

struct Subscriber {
    transport: Arc<MmioTransport>,
    source: Option<(RawFd, EventSet)>,
    /// The source was left before it was exhausted.
    again: bool,
    timer: TimerFd,
    /// The time that it is set to.
    until: Option<Instant>,
    /// That time has come.
    expired: bool,
    /// How often it is woken up by notifications.
    pace: Pace,
    /// Queues that it does not listen to until that is due.
    muted: Vec<u32>,
}

impl Subscriber {
    fn new(transport: Arc<MmioTransport>, timer: TimerFd, notifications: u64) -> Self {
        let pace = Pace::new(notifications, SystemClock::shared());
        Self { transport, source: None, again: false, timer, until: None, expired: false, pace, muted: Vec::new() }
    }

    /// Serves a queue that was notified. If that happens too often, nobody listens to it until the timer.
    fn serve_queue(&mut self, index: u32, notifier: &Notifier, ops: &mut EventOps<'_>) {
        if self.pace.may() {
            return self.transport.process_notified(index as usize);
        }
        self.transport.counters().notifications_delayed.add(1);
        if let Some(event) = notifier.queues.get(index as usize)
            && ops.modify(Events::with_data(event, index, EventSet::empty())).is_ok()
        {
            self.muted.push(index);
        }
    }

    /// Listens to the queues again: their events are still signalled.
    fn unmute(&mut self, notifier: &Notifier, ops: &mut EventOps<'_>) {
        self.pace.forget();
        for index in self.muted.drain(..) {
            if let Some(event) = notifier.queues.get(index as usize) {
                let _ = ops.modify(Events::with_data(event, index, EventSet::IN));
            }
        }
    }

    /// Lets the device handle its source. A device may hold input that epoll does not see, so it says if there is more.
    fn serve_source(&mut self, events: EventSet) {
        if self.transport.process_event(events) == Progress::More {
            self.again = true;
            if let Some(notifier) = self.transport.notifier() {
                let _ = notifier.wake.write(1);
            }
        }
    }

    /// Waits for what the device wants to wait for now.
    fn follow(&mut self, ops: &mut EventOps<'_>) {
        let Awaited { source, until } = self.transport.awaited();
        self.follow_time(until.into_iter().chain(self.pace.due()).min());
        self.follow_source(source, ops);
    }

    /// Sets the timer, if it is not set like that. It costs a system call.
    fn follow_time(&mut self, wanted: Option<Instant>) {
        if wanted == self.until && !self.expired {
            return;
        }
        // A time of zero would be never.
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        // No time that there is can fail.
        let _ = self.timer.reset(wanted.map(left).unwrap_or_default(), None);
        self.until = wanted;
        self.expired = false;
    }

    fn follow_source(&mut self, wanted: Option<(RawFd, EventSet)>, ops: &mut EventOps<'_>) {
        if wanted == self.source {
            return;
        }
        match (self.source, wanted) {
            (Some((old, _)), Some((new, set))) if old == new => {
                let _ = ops.modify(Events::with_data_raw(new, SOURCE, set));
            }
            (old, new) => {
                if let Some((fd, set)) = old {
                    // A device may have closed it; then it is gone already.
                    let _ = ops.remove(Events::with_data_raw(fd, SOURCE, set));
                }
                if let Some((fd, set)) = new {
                    let _ = ops.add(Events::with_data_raw(fd, SOURCE, set));
                }
            }
        }
        self.source = wanted;
    }
}

impl MutEventSubscriber for Subscriber {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let Some(notifier) = self.transport.notifier() else { return };
        for (index, event) in notifier.queues.iter().enumerate() {
            let _ = ops.add(Events::with_data(event, index as u32, EventSet::IN));
        }
        let _ = ops.add(Events::with_data(&notifier.wake, WAKE, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.timer, TIMER, EventSet::IN));
        self.follow(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let transport = self.transport.clone();
        let Some(notifier) = transport.notifier() else { return };
        match events.data() {
            WAKE => {
                let _ = notifier.wake.read();
                if std::mem::take(&mut self.again) {
                    self.serve_source(EventSet::IN);
                }
            }
            SOURCE => self.serve_source(events.event_set()),
            TIMER => {
                // It stays readable until it is set again, so it need not be read.
                self.expired = true;
                self.unmute(notifier, ops);
                self.transport.process_timer();
            }
            index => self.serve_queue(index, notifier, ops),
        }
        self.follow(ops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::InputSink;
    use crate::devices::output::Output;
    use crate::virtio::console::Console;
    use crate::virtio::harness::{DATA, READ, Rig, WRITE};
    use crate::virtio::rng::Rng;
    use std::time::{Duration, Instant};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_worker_serves_queues_and_events_and_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let console = Console::new(Arc::new(Output::new(file.reopen().unwrap()))).unwrap();
        let input = console.input();
        let rig = Rig::new(console);
        let worker = start(rig.transport.clone(), Arc::new(Stop::new().unwrap()), || ()).unwrap();
        rig.start(u64::MAX);
        let until = |what: &dyn Fn() -> bool| {
            let deadline = soon();
            while !what() {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        rig.put(DATA, b"out");
        rig.request(1, &[(DATA, 3, READ)]);
        until(&|| rig.used_index(1) == 1);
        assert_eq!(std::fs::read(file.path()).unwrap(), b"out");
        rig.request(0, &[(DATA, 8, WRITE)]);
        input.input(b"in");
        until(&|| rig.used_index(0) == 1);
        assert_eq!(rig.get(DATA, 2), b"in");
        // One for each of the two requests; that the device checked its queues by itself at first does not count.
        assert_eq!(rig.transport.counters().notifications.get(), 2);
        worker.leave();
        until(&|| worker.has_ended());
    }

    #[test]
    fn notifications_that_come_too_often_are_handled_later() {
        let rig = Rig::new(Rng::new());
        // One at once, and then one every twentieth of a second.
        let worker = start_paced(rig.transport.clone(), Arc::new(Stop::new().unwrap()), 20, || ()).unwrap();
        rig.start(u64::MAX);
        for number in 1..=8 {
            rig.chain(0, 0, &[(DATA, 8, WRITE)]);
            rig.offer(0, 0);
            rig.kick(0);
            let deadline = soon();
            while rig.used_index(0) < number {
                assert!(Instant::now() < deadline, "request {number}");
                std::thread::yield_now();
            }
        }
        let counters = rig.transport.counters();
        assert!(counters.notifications_delayed.get() > 0);
        assert_eq!((counters.requests.get(), counters.notifications.get()), (8, 8), "none is lost");
        worker.leave();
        let deadline = soon();
        while !worker.has_ended() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
