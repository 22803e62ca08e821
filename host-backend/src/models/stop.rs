//! The VM's end: the first reason wins, everybody sees it, and the main loop wakes up.

use super::{finds, holds, holds_always};
use crate::event::{self, EventFd};
use crate::mistake::Mistake;
use crate::stop::{Outcome, Stop};
use crate::sync::thread;
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use std::sync::Arc;
use vmm_sys_util::epoll::EventSet;

/// Reads the stop's event, as the main loop does.
struct Woken(Arc<Stop>);

impl MutEventSubscriber for Woken {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        ops.add(Events::new(self.0.event(), EventSet::IN)).unwrap();
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = EventFd::read(self.0.event());
    }
}

/// The main loop: serves as long as `goes_on` says so.
pub(super) fn serve(stop: &Arc<Stop>, goes_on: impl Fn() -> bool) {
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(Woken(stop.clone()));
    while goes_on() {
        event::serve(&mut manager);
    }
}

fn main_loop_sees_the_reason() {
    let stop = Arc::new(Stop::new().unwrap());
    let of = stop.clone();
    let request = thread::spawn(move || of.request(Outcome::Stopped));
    serve(&stop, || !stop.requested());
    assert_eq!(stop.outcome(), Some(Outcome::Stopped));
    request.join().unwrap();
}

fn first_of_two_reasons_wins() {
    let stop = Arc::new(Stop::new().unwrap());
    let other = stop.clone();
    let thread = thread::spawn(move || {
        other.request(Outcome::GuestExit(1));
        other.outcome()
    });
    stop.request(Outcome::Stopped);
    let seen = stop.outcome();
    assert!(seen.is_some());
    assert_eq!(seen, thread.join().unwrap(), "both see the same reason");
    assert_eq!(seen, stop.outcome());
}

/// Two reasons, the main loop, and one that looks now and then, as a vCPU does between two exits.
fn everybody_sees_one_reason() {
    let stop = Arc::new(Stop::new().unwrap());
    let looks = |stop: Arc<Stop>| {
        move || {
            while !stop.requested() {
                thread::yield_now();
            }
            stop.outcome()
        }
    };
    let asks = |stop: Arc<Stop>, why: Outcome| {
        move || {
            stop.request(why);
            stop.outcome()
        }
    };
    let threads = [
        thread::spawn(looks(stop.clone())),
        thread::spawn(asks(stop.clone(), Outcome::GuestExit(1))),
        thread::spawn(asks(stop.clone(), Outcome::Signal(15))),
    ];
    serve(&stop, || !stop.requested());
    let seen = stop.outcome();
    assert!(seen.is_some());
    for thread in threads {
        assert_eq!(thread.join().unwrap(), seen);
    }
}

#[test]
fn main_loop_wakes_up_for_every_stop() {
    holds_always(main_loop_sees_the_reason);
}

#[test]
fn first_reason_wins_in_every_order() {
    holds_always(first_of_two_reasons_wins);
}

#[test]
fn vcpus_and_main_loop_see_the_same_reason() {
    holds(everybody_sees_one_reason);
}

#[test]
fn stop_that_wakes_nobody_is_found() {
    finds(Mistake::StopWakesNobody, main_loop_sees_the_reason);
}

#[test]
fn stop_before_its_reason_is_found() {
    finds(Mistake::StopBeforeReason, everybody_sees_one_reason);
}

#[test]
fn last_reason_that_wins_is_found() {
    finds(Mistake::LastReasonWins, first_of_two_reasons_wins);
}
