//! The executor.

use crate::task::{Event, Executor};
use std::cell::Cell;
use std::rc::Rc;

static BUSY: Event = Event::new();

#[test]
fn task_that_never_has_to_wait_leaves_the_others_their_turns() {
    let (busy, other) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let mut executor = Executor::new();
    let counted = busy.clone();
    executor.spawn(async move {
        // As a device that has something again as soon as it was served.
        while counted.get() < 10_000 {
            BUSY.raise();
            BUSY.wait().await;
            counted.set(counted.get() + 1);
        }
    });
    let counted = other.clone();
    executor.spawn(async move {
        counted.set(counted.get() + 1);
    });
    executor.turn();
    assert_eq!(other.get(), 1, "the other task has had its turn");
    let first = busy.get();
    assert!((1..1000).contains(&first), "the busy task's turn ended after {first} waits");
    for turn in 2..=5 {
        executor.turn();
        assert_eq!(busy.get(), turn * first, "it goes on in the next turn");
    }
}
