//! The gate with threads that are vCPUs but for the guest: they count, and sleep in a system call until a signal comes.

use super::*;
use crate::threads;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;

/// Long enough for any machine.
const AGES: Duration = Duration::from_secs(60);

struct Fake {
    gate: Gate,
    entries: AtomicU64,
    exits: AtomicU64,
}

impl Fake {
    fn new(vcpus: u32) -> Arc<Self> {
        threads::prepare();
        Arc::new(Self { gate: Gate::new(vcpus), entries: AtomicU64::new(0), exits: AtomicU64::new(0) })
    }

    /// A vCPU's loop, as [`crate::vmm::vcpu`] has it.
    fn start(self: &Arc<Self>, index: u32) -> thread::JoinHandle<()> {
        let fake = self.clone();
        thread::spawn(move || {
            let pass = fake.gate.admit(index).unwrap();
            while fake.gate.state() != State::Stopped {
                match pass.enter() {
                    Entry::Closed => pass.wait(|| true),
                    Entry::Open => {
                        fake.entries.fetch_add(1, Ordering::SeqCst);
                        // SAFETY: pause takes no arguments. A signal that came before it is sent again.
                        unsafe { libc::pause() };
                        pass.exit();
                        fake.exits.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        })
    }

    fn counts(&self) -> (u64, u64) {
        (self.entries.load(Ordering::SeqCst), self.exits.load(Ordering::SeqCst))
    }
}

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + AGES;
    while !what() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn paused_vcpus_are_out_of_the_guest_until_they_are_resumed() {
    let fake = Fake::new(3);
    let threads: Vec<_> = (0..3).map(|index| fake.start(index)).collect();
    assert_eq!(fake.counts(), (0, 0), "created vCPUs do not run");
    fake.gate.change(Event::Start).unwrap();
    until(|| fake.counts().0 == 3);
    for round in 1..=20 {
        fake.gate.pause_within(AGES, AGES).unwrap();
        let paused = fake.counts();
        assert_eq!(paused.0, paused.1, "round {round}: every entry has its exit");
        assert!(fake.gate.places.iter().all(|place| place.at() == At::Outside));
        assert_eq!(fake.gate.pause(), Err(PauseError::Illegal(Illegal { state: State::Paused, event: Event::Pause })));
        assert_eq!(fake.counts(), paused);
        fake.gate.change(Event::Resume).unwrap();
        until(|| fake.counts().0 >= paused.0 + 3);
    }
    fake.gate.pause_within(AGES, AGES).unwrap();
    fake.gate.change(Event::Stop).unwrap();
    until(|| threads.iter().all(thread::JoinHandle::is_finished));
}

#[test]
fn vcpu_without_a_thread_is_not_waited_for() {
    let gate = Gate::new(2);
    gate.change(Event::Start).unwrap();
    assert_eq!(gate.pause_within(AGES, AGES), Ok(()));
    let gate = Gate::new(1);
    gate.change(Event::Start).unwrap();
    let pass = gate.admit(0).unwrap();
    assert_eq!(pass.enter(), Entry::Open);
    // It ends in the middle of a request to pause: a reset or the end of the VM comes from its own exit.
    drop(pass);
    assert_eq!(gate.pause_within(AGES, AGES), Ok(()));
    assert!(gate.admit(1).is_none());
}

#[test]
fn vcpu_that_stays_in_the_guest_fails_the_pause_and_all_run_on() {
    let gate = Gate::new(2);
    gate.change(Event::Start).unwrap();
    let entered = gate.places.get(1).map(|place| place.set(At::Guest));
    assert!(entered.is_some());
    assert_eq!(gate.pause_within(Duration::ZERO, Duration::ZERO), Err(PauseError::Stuck(1)));
    assert_eq!((gate.state(), gate.open.load(Ordering::SeqCst)), (State::Running, true));
}

#[test]
fn exit_that_is_being_served_does_not_hold_up_the_pause_forever() {
    let gate = Gate::new(1);
    gate.change(Event::Start).unwrap();
    let pass = gate.admit(0).unwrap();
    assert_eq!(pass.enter(), Entry::Open);
    pass.exit();
    assert_eq!(gate.pause_within(AGES, Duration::ZERO), Ok(()));
    assert_eq!(pass.enter(), Entry::Closed, "once it is served, the vCPU stays outside");
}

#[test]
fn waiting_vcpu_that_is_to_end_leaves_at_the_next_change() {
    for event in [Event::Reset, Event::Stop] {
        let gate = Arc::new(Gate::new(1));
        gate.change(Event::Start).unwrap();
        gate.pause().unwrap();
        let goes_on = Arc::new(AtomicBool::new(true));
        let (asked, looks) = channel();
        let thread = thread::spawn({
            let (gate, goes_on) = (gate.clone(), goes_on.clone());
            move || {
                gate.admit(0).unwrap().wait(|| {
                    let _ = asked.send(());
                    goes_on.load(Ordering::SeqCst)
                });
            }
        });
        looks.recv().unwrap();
        goes_on.store(false, Ordering::SeqCst);
        if event == Event::Reset {
            gate.change(Event::Resume).unwrap();
        }
        gate.change(event).unwrap();
        until(|| thread.is_finished());
    }
}

#[test]
fn pause_waits_for_the_end_of_a_reset() {
    let fake = Fake::new(1);
    let thread = fake.start(0);
    let (asking, asked) = channel();
    let pause = {
        let fake = fake.clone();
        thread::spawn(move || {
            asking.send(()).unwrap();
            fake.gate.pause()
        })
    };
    asked.recv_timeout(AGES).unwrap();
    fake.gate.change(Event::Start).unwrap();
    pause.join().unwrap().unwrap();
    assert_eq!(fake.gate.state(), State::Paused);
    fake.gate.change(Event::Stop).unwrap();
    thread.join().unwrap();
}
