//! A line's trigger mode at the I/O APIC. Which lines signal by level and which by edges, the MADT says; an ISA interrupt
//! that it does not mention signals by edges (ACPI 6.5, 5.2.12.5 "Interrupt Source Override Structure").
//!
//! The serial port raises its line in loop-back mode: a byte that is sent is received, and the line stays up until it is
//! read. Nothing is printed meanwhile. A level is also what a PCI device without MSI-X holds until its ISR is read.

use super::loopback::{self, HELD_FOR, Judged, Looped, Shown};
use super::pci::Pin;
use super::raw::wait_until;
use super::rng::Rng;
use super::{Context, End, Verdict, equal, error, holds, skip};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guest_kernel::platform::acpi;
use guest_kernel::task::Event;
use guest_kernel::trap::irq;
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
/// Does no harm to the lines of a console that hears it, where the port has no loop-back mode.
const SENT: u8 = b'\n';
/// The ISA interrupt of the first serial port.
const COM1_IRQ: u8 = 4;
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
fn looped(trigger: Trigger, handler: fn(), check: impl FnOnce() -> Shown) -> Result<Shown, End> {
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
    let shown = bound.map_err(|_| error("the line cannot be routed")).map(|()| check());
    event::mask(COM1_GSI);
    while get(LINE_STATUS) & RECEIVED != 0 {
        get(DATA);
    }
    set(MODEM_CONTROL, CONNECTED);
    // SAFETY: the console's own vector, as it was bound at boot.
    let back = unsafe { event::bind(COM1_GSI, console, mode(COM1_IRQ).1) };
    event::unmask(COM1_GSI);
    irq::set_handler(event, None);
    back.map_err(|_| error("the console's line cannot be routed back"))?;
    shown
}

/// How the MADT says that an ISA interrupt signals; without one, as on the ISA bus.
fn mode(irq: u8) -> (u32, Trigger) {
    acpi::routing().map_or((irq.into(), Trigger::Edge), |routing| routing.isa(irq))
}

/// The port behind [`looped`].
struct Port;

impl Looped for Port {
    fn send(&self) {
        set(DATA, SENT);
    }

    fn has_received(&self) -> bool {
        get(LINE_STATUS) & RECEIVED != 0
    }

    fn take(&self) {
        get(DATA);
    }

    fn interrupts(&self) -> u64 {
        COUNT.load(SeqCst)
    }

    fn wait_for(&self, interrupts: u64) {
        wait_until(1_000_000_000, || self.interrupts() >= interrupts);
    }

    fn linger(&self) {
        let end = time::now() + 10_000_000;
        wait_until(10_000_000, || time::now() > end);
    }
}

fn verdict(shown: Shown) -> Verdict {
    match shown {
        Shown::Right => Ok(()),
        Shown::Silent => Err(skip("the serial port does not interrupt in loop-back mode")),
        Shown::Interrupts { expected, saw } => equal("interrupts", expected, saw),
        Shown::Waiting { expected } => equal("bytes received and not read", u8::from(expected), u8::from(!expected)),
    }
}

pub fn edge_interrupts_once(cx: &Context) -> Verdict {
    cx.has("the serial port")?;
    if loopback::judged(COM1_GSI, mode(COM1_IRQ)) != Judged::Edge {
        return Err(skip("the MADT does not say that IRQ 4 signals by edges"));
    }
    verdict(looped(Trigger::Edge, only_count, || loopback::edge_round(&Port))?)
}

pub fn level_interrupts_until_acknowledged(cx: &Context) -> Verdict {
    cx.has("the serial port")?;
    if cx.found.board_slots.is_some() {
        return Err(skip("the board's lines signal by edges"));
    }
    if let Judged::Level(trigger) = loopback::judged(COM1_GSI, mode(COM1_IRQ)) {
        let shown = looped(trigger, read_at_last, || loopback::level_round(&Port))?;
        if shown != Shown::Silent {
            return verdict(shown);
        }
    }
    pin_interrupts_until_acknowledged(cx)
}

/// Its handler cannot be given the device.
static PIN: Once<Pin> = Once::new();

fn acknowledge_at_last() {
    if COUNT.fetch_add(1, SeqCst) + 1 >= HELD_FOR
        && let Some(pin) = PIN.get()
    {
        pin.acknowledge();
    }
}

fn held() -> Verdict {
    Port.wait_for(HELD_FOR);
    let saw = Port.interrupts();
    holds(saw >= HELD_FOR, "interrupts of a line that is held", format_args!("{HELD_FOR} or more"), saw)
}

/// The entropy device by its pin, whose ISA interrupt the MADT says to signal by level.
fn pin_interrupts_until_acknowledged(cx: &Context) -> Verdict {
    let rng = Rng::start(cx, 0, 8)?;
    let pin = Pin::of(rng.dev.target)?;
    drop(rng);
    let (line, trigger) = mode(pin.irq);
    if !loopback::is_level(trigger) {
        return Err(skip(format_args!("the MADT does not say that IRQ {} signals by level", pin.irq)));
    }
    if irq::counts().any(|(_, owner, _)| owner.line == Some(line)) {
        return Err(skip(format_args!("line {line} has another owner")));
    }
    let pin = PIN.call_once(|| pin);
    let (event, vector) = vector()?;
    irq::set_handler(event, Some(acknowledge_at_last));
    // SAFETY: the vector has a handler.
    let bound = unsafe { event::bind(line, vector, trigger) };
    COUNT.store(0, SeqCst);
    let verdict = bound.map_err(|_| error("the line cannot be routed")).and_then(|()| {
        pin.alone(|| {
            let mut rng = Rng::start(cx, 0, 8)?;
            event::unmask(line);
            let buf = rng.dev.buffer(1)?;
            rng.fill(&buf)?;
            let verdict = held();
            event::mask(line);
            verdict
        })
    });
    event::mask(line);
    irq::set_handler(event, None);
    verdict
}
