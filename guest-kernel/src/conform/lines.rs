//! A line's trigger mode at the I/O APIC, by the serial port: in loop-back mode a byte that is sent is received, which
//! raises its line until the byte is read. Nothing is printed meanwhile.

use super::raw::wait_until;
use super::{End, Lab, Verdict, equal, error, holds, skip};
use crate::task::Event;
use crate::trap::irq;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use pvops::event::{self, Trigger};
use pvops::{port, time};
use shared_abi::board::{COM1_GSI, COM1_PORT};
use spin::Once;

const DATA: u16 = COM1_PORT;
const INTERRUPT_ENABLE: u16 = COM1_PORT + 1;
const MODEM_CONTROL: u16 = COM1_PORT + 4;
const LINE_STATUS: u16 = COM1_PORT + 5;
const RECEIVED: u8 = 1;
/// DTR, RTS and OUT2, as the console has them, and loop-back.
const CONNECTED: u8 = 0x0b;
const LOOP_BACK: u8 = 0x1b;
/// Interrupts behind which the handler reads the byte.
const HELD_FOR: u64 = 5;

static COUNT: AtomicU64 = AtomicU64::new(0);

fn get(register: u16) -> u8 {
    // SAFETY: the serial port touches no memory.
    unsafe { port::read_u8(register) }
}

fn set(register: u16, value: u8) {
    // SAFETY: as in `get`.
    unsafe { port::write_u8(register, value) };
}

fn only_count() {
    COUNT.fetch_add(1, SeqCst);
}

/// Leaves the line as it is a few times, then reads the byte.
fn read_at_last() {
    if COUNT.fetch_add(1, SeqCst) + 1 >= HELD_FOR {
        get(DATA);
    }
}

fn vector() -> Result<(&'static Event, u8), End> {
    static VECTOR: Once<Option<(&'static Event, u8)>> = Once::new();
    let made = VECTOR.call_once(|| irq::bind_vector("loop-back").ok());
    made.ok_or_else(|| error("no vector is left"))
}

/// Binds the serial port's line to a handler while `check` runs, in loop-back mode. The console's owner gets it back.
fn looped(trigger: Trigger, handler: fn(), check: impl FnOnce() -> Verdict) -> Verdict {
    let console = irq::counts().find(|(_, owner, _)| owner.line == Some(COM1_GSI));
    let Some((console, ..)) = console else { return Err(error("the console has no line")) };
    let (event, vector) = vector()?;
    irq::set_handler(event, Some(handler));
    event::mask(COM1_GSI);
    // What was typed would be taken for what is sent.
    while get(LINE_STATUS) & RECEIVED != 0 {
        get(DATA);
    }
    set(MODEM_CONTROL, LOOP_BACK);
    // SAFETY: the vector has a handler.
    let bound = unsafe { event::bind(COM1_GSI, vector, trigger) };
    event::unmask(COM1_GSI);
    set(INTERRUPT_ENABLE, RECEIVED);
    COUNT.store(0, SeqCst);
    let verdict = bound.map_err(|_| error("the line cannot be routed")).and_then(|()| check());
    event::mask(COM1_GSI);
    while get(LINE_STATUS) & RECEIVED != 0 {
        get(DATA);
    }
    set(MODEM_CONTROL, CONNECTED);
    // SAFETY: the console's own vector.
    let back = unsafe { event::bind(COM1_GSI, console, Trigger::Edge) };
    event::unmask(COM1_GSI);
    irq::set_handler(event, None);
    back.map_err(|_| error("the console's line cannot be routed back"))?;
    verdict
}

/// Waits for so many interrupts, then for more that must not come.
fn exactly(interrupts: u64) -> Verdict {
    wait_until(1_000_000_000, || COUNT.load(SeqCst) >= interrupts);
    let end = time::now() + 10_000_000;
    wait_until(10_000_000, || time::now() > end);
    equal("interrupts", interrupts, COUNT.load(SeqCst))
}

pub fn edge_interrupts_once(lab: &Lab) -> Verdict {
    lab.has("the serial port")?;
    looped(Trigger::Edge, only_count, || {
        for n in 1..=3 {
            set(DATA, b'e');
            exactly(n)?;
            holds(get(LINE_STATUS) & RECEIVED != 0, "bytes received", "one", "none")?;
            get(DATA);
        }
        Ok(())
    })
}

pub fn level_interrupts_until_acknowledged(lab: &Lab) -> Verdict {
    lab.has("the serial port")?;
    if lab.found.board_slots.is_some() {
        return Err(skip("the board's lines signal by edges"));
    }
    looped(Trigger::LevelHigh, read_at_last, || {
        set(DATA, b'l');
        exactly(HELD_FOR)?;
        equal("bytes received and not read", 0, get(LINE_STATUS) & RECEIVED)
    })
}
