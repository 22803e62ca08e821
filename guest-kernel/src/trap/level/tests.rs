//! A line that signals by a level, between a device and the task that serves it, with the device's next answer at every point.

use crate::task::Event;
use crate::trap::level::Level;
use std::cell::Cell;

const LINE: u32 = 23;

/// A device, its line, an I/O APIC and the handler.
struct Machine {
    level: Level,
    event: Event,
    up: Cell<bool>,
    masked: Cell<bool>,
    interrupts: Cell<u32>,
    /// Steps until the device has something to say.
    steps: Cell<u32>,
}

impl Machine {
    fn new(steps: u32) -> Self {
        let machine = Self {
            level: Level::new(),
            event: Event::new(),
            up: Cell::new(false),
            masked: Cell::new(false),
            interrupts: Cell::new(0),
            steps: Cell::new(steps),
        };
        machine.level.set(LINE);
        machine
    }

    /// Between two instructions of the task: the device, then the interrupt of a line that is up.
    fn step(&self) {
        match self.steps.get() {
            0 => {}
            1 => {
                self.steps.set(0);
                self.up.set(true);
            }
            more => self.steps.set(more - 1),
        }
        while self.up.get() && !self.masked.get() {
            self.interrupts.set(self.interrupts.get() + 1);
            assert!(self.interrupts.get() < 10, "it interrupts without end");
            self.level.interrupt(|line| {
                assert_eq!(line, LINE);
                self.masked.set(true);
            });
            self.event.raise();
        }
    }

    /// What a task does when it looks, with or without an interrupt.
    fn serve(&self) {
        self.step();
        let (raised, line) = self.level.take(|| {
            let raised = self.event.take();
            self.step();
            raised
        });
        self.step();
        if raised {
            self.up.set(false);
        }
        self.step();
        if let Some(line) = line {
            assert_eq!(line.line(), LINE);
            self.masked.set(false);
        }
        self.step();
    }

    /// What a check does, which looks at the device whatever was raised.
    fn look(&self) {
        loop {
            self.step();
            let line = self.level.hold();
            self.step();
            self.up.set(false);
            self.step();
            if line.is_some() {
                self.masked.set(false);
            }
            self.step();
            if !self.level.is_masked() {
                break;
            }
        }
    }
}

#[test]
fn an_answer_interrupts_once_wherever_it_comes() {
    for steps in 1..=12 {
        for serve in [Machine::serve, Machine::look] {
            let machine = Machine::new(steps);
            // Twice for the answer, and once more, as a task that looks for another reason.
            (0..5).for_each(|_| serve(&machine));
            assert_eq!((machine.interrupts.get(), machine.up.get()), (1, false), "after {steps} steps");
            assert!(!machine.masked.get(), "the line interrupts no more, after {steps} steps");
        }
    }
}

#[test]
fn a_line_that_signals_by_edges_is_never_masked() {
    let (level, event) = (Level::new(), Event::new());
    level.interrupt(|_| panic!("it has no level"));
    event.raise();
    assert_eq!(level.take(|| event.take()), (true, None));
    assert_eq!((level.hold(), level.is_masked()), (None, false));
}
