//! Which lines the conformance suite judges, and what it makes of serial ports that are not like QEMU's.

use crate::support::loopback::{HELD_FOR, Judged, Looped, Shown, edge_round, is_level, judged, level_round};
use pvops::event::Trigger;
use std::cell::Cell;

const COM1: u32 = 4;

#[test]
fn only_a_line_that_the_madt_says_to_signal_by_level_is_judged_as_one() {
    use Trigger::{Edge, EdgeLow, Level, LevelHigh};
    for (trigger, expected) in [
        (Edge, Judged::Edge),
        (EdgeLow, Judged::Neither),
        (Level, Judged::Level(Level)),
        (LevelHigh, Judged::Level(LevelHigh)),
    ] {
        assert_eq!(judged(COM1, (COM1, trigger)), expected);
        assert_eq!(judged(COM1, (20, trigger)), Judged::Neither, "the console is not there");
        assert_eq!(is_level(trigger), matches!(expected, Judged::Level(_)));
    }
}

/// How a UART and its line behave.
#[derive(Clone, Copy)]
enum Kind {
    /// The line interrupts as it comes up.
    Edge,
    /// It interrupts again and again while it is up, until the handler reads, after [`HELD_FOR`].
    Level,
    /// A real 16550 in a PC: in loop-back mode the gate between the port and its line is closed.
    GatedByOut2,
    /// What is sent leaves the machine.
    NoLoopBack,
    /// The line interrupts twice as it comes up.
    Bouncing,
    /// The line interrupts as it comes up and the byte is lost.
    Forgetful,
    /// By level, and the handler's read does not reach it.
    Stuck,
}

/// A UART with the handler of its line.
struct Uart {
    kind: Kind,
    received: Cell<bool>,
    interrupts: Cell<u64>,
}

impl Uart {
    fn new(kind: Kind) -> Self {
        Self { kind, received: Cell::new(false), interrupts: Cell::new(0) }
    }

    fn raise(&self, times: u64) {
        self.interrupts.set(self.interrupts.get() + times);
    }
}

impl Looped for Uart {
    fn send(&self) {
        self.received.set(!matches!(self.kind, Kind::NoLoopBack | Kind::Forgetful));
        match self.kind {
            Kind::Edge | Kind::Forgetful => self.raise(1),
            Kind::Bouncing => self.raise(2),
            Kind::Level => {
                self.raise(HELD_FOR);
                self.received.set(false);
            }
            Kind::Stuck => self.raise(1000),
            Kind::GatedByOut2 | Kind::NoLoopBack => {}
        }
    }

    fn has_received(&self) -> bool {
        self.received.get()
    }

    fn take(&self) {
        self.received.set(false);
    }

    fn interrupts(&self) -> u64 {
        self.interrupts.get()
    }

    fn wait_for(&self, _: u64) {}

    fn linger(&self) {}
}

#[test]
fn an_edge_that_is_right_passes_and_a_port_that_gates_its_interrupt_is_left_alone() {
    let shown = |kind| edge_round(&Uart::new(kind));
    assert_eq!(shown(Kind::Edge), Shown::Right);
    assert_eq!(shown(Kind::GatedByOut2), Shown::Silent);
    assert_eq!(shown(Kind::NoLoopBack), Shown::Silent);
    assert_eq!(shown(Kind::Bouncing), Shown::Interrupts { expected: 1, saw: 2 });
    assert_eq!(shown(Kind::Stuck), Shown::Interrupts { expected: 1, saw: 1000 });
    assert_eq!(shown(Kind::Forgetful), Shown::Waiting { expected: true });
}

#[test]
fn a_level_that_is_right_passes_and_a_port_that_gates_its_interrupt_is_left_alone() {
    let shown = |kind| level_round(&Uart::new(kind));
    assert_eq!(shown(Kind::Level), Shown::Right);
    assert_eq!(shown(Kind::GatedByOut2), Shown::Silent);
    assert_eq!(shown(Kind::NoLoopBack), Shown::Silent);
    assert_eq!(shown(Kind::Edge), Shown::Interrupts { expected: HELD_FOR, saw: 1 });
    assert_eq!(shown(Kind::Stuck), Shown::Waiting { expected: false });
}
