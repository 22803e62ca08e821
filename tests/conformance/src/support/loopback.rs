//! What the checks of a line's trigger mode make of a machine and of its serial port: plain logic, tested on the host with
//! UARTs that gate their interrupt, do not loop back, or sit on a line of the other kind.

use pvops::event::Trigger;

/// Interrupts after which the handler of a held line lets it fall.
pub const HELD_FOR: u64 = 5;

/// As what the serial port's line is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Each edge interrupts once.
    Edge,
    /// It interrupts while it is up.
    Level(Trigger),
    /// It arrives elsewhere, or the MADT says otherwise.
    Neither,
}

/// Whether the MADT says that a line signals by level.
pub const fn is_level(trigger: Trigger) -> bool {
    matches!(trigger, Trigger::Level | Trigger::LevelHigh)
}

/// What there is to judge, by the line at which the port's interrupt arrives and how that signals, and the line of the console.
pub fn judged(console: u32, arrives: (u32, Trigger)) -> Judged {
    match arrives {
        (line, _) if line != console => Judged::Neither,
        (_, Trigger::Edge) => Judged::Edge,
        (_, trigger) if is_level(trigger) => Judged::Level(trigger),
        _ => Judged::Neither,
    }
}

/// A serial port in loop-back mode whose line is bound to a handler that counts.
pub trait Looped {
    /// Sends a byte, which is received.
    fn send(&self);
    /// Whether a byte waits to be read.
    fn has_received(&self) -> bool;
    /// Reads it.
    fn take(&self);
    /// Interrupts since it was bound.
    fn interrupts(&self) -> u64;
    /// Waits until there were as many, for a second at most.
    fn wait_for(&self, interrupts: u64);
    /// Waits for more that must not come.
    fn linger(&self);
}

/// What a round showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// What the trigger mode asks for.
    Right,
    /// Nothing, for the port does not interrupt: the pin OUT2, which gates a PC's interrupt, is held back in loop-back mode
    /// on a real 16550. Others do not loop back.
    Silent,
    /// Another number of interrupts.
    Interrupts { expected: u64, saw: u64 },
    /// Another number of bytes that wait to be read.
    Waiting { expected: bool },
}

/// A byte that stays unread interrupts once: the handler only counts.
pub fn edge_round(port: &impl Looped) -> Shown {
    for n in 1..=3 {
        port.send();
        port.wait_for(n);
        if n == 1 && port.interrupts() == 0 {
            return Shown::Silent;
        }
        port.linger();
        if port.interrupts() != n {
            return Shown::Interrupts { expected: n, saw: port.interrupts() };
        }
        if !port.has_received() {
            return Shown::Waiting { expected: true };
        }
        port.take();
    }
    Shown::Right
}

/// A byte interrupts until it is read: the handler reads it at last.
pub fn level_round(port: &impl Looped) -> Shown {
    port.send();
    port.wait_for(1);
    if port.interrupts() == 0 {
        return Shown::Silent;
    }
    port.wait_for(HELD_FOR);
    if port.interrupts() < HELD_FOR {
        return Shown::Interrupts { expected: HELD_FOR, saw: port.interrupts() };
    }
    if port.has_received() { Shown::Waiting { expected: false } } else { Shown::Right }
}

#[cfg(test)]
mod tests;
