//! A line's trigger mode at the I/O APIC. Which lines signal by level and which by edges, the MADT says; an ISA interrupt
//! that it does not mention signals by edges (ACPI 6.5, 5.2.12.5 "Interrupt Source Override Structure").
//!
//! The serial port raises its line in loop-back mode: a byte that is sent is received, and the line stays up until it is
//! read. Nothing is printed meanwhile. A level is also what a PCI device without MSI-X holds until its ISR is read.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::loopback::{self, HELD_FOR, Judged, Looped, Shown},
    crate::support::pci_space::Pin,
    crate::support::raw::wait_until,
    crate::support::rng::Rng,
    crate::support::{Context, End, Verdict, equal, error, holds, skip},
    code::*,
    core::sync::atomic::{AtomicU64, Ordering::SeqCst},
    guest_kernel::platform::acpi,
    guest_kernel::task::Event,
    guest_kernel::trap::irq,
    pvops::event::{self, Trigger},
    pvops::{port, time},
    shared_abi::board::{COM1_GSI, COM1_PORT},
    spin::Once,
};

const IO_APIC: &str = "82093AA I/O APIC data sheet, I/O Redirection Table Registers";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "irq/edge-line-interrupts-once",
        rule: "A line that is edge triggered interrupts when it is raised, and not because it stays so",
        clause: IO_APIC,
        method: "Where the MADT does not say otherwise, bind the serial port's line by edges; receive a byte by \
            loop-back, leave it unread for 10 ms; three times",
        expectation: "One interrupt for each byte",
        run: |cx| {
            cx.has("the serial port")?;
            if loopback::judged(COM1_GSI, mode(COM1_IRQ)) != Judged::Edge {
                return Err(skip("the MADT does not say that IRQ 4 signals by edges"));
            }
            verdict(looped(Trigger::Edge, only_count, || loopback::edge_round(&Port))?)
        },
    },
    Check {
        name: "irq/level-line-interrupts-until-acknowledged",
        rule: "A line that is level triggered interrupts again after each end of interrupt while it is held",
        clause: IO_APIC,
        method: "A line that the MADT says to signal by level: the serial port's, with a byte received by loop-back, \
            or the entropy device's pin; let it fall in the handler of the fifth interrupt",
        expectation: "Five interrupts or more",
        run: |cx| {
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
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const DATA: u16 = COM1_PORT;

    pub const INTERRUPT_ENABLE: u16 = COM1_PORT + 1;

    pub const MODEM_CONTROL: u16 = COM1_PORT + 4;

    pub const LINE_STATUS: u16 = COM1_PORT + 5;

    pub const RECEIVED: u8 = 1;

    /// DTR, RTS and OUT2, as the console has them, and loop-back.
    pub const CONNECTED: u8 = 0x0b;

    pub const LOOP_BACK: u8 = 0x1b;

    /// Does no harm to the lines of a console that receives it, where the port has no loop-back mode.
    pub const SENT: u8 = b'\n';

    /// The ISA interrupt of the first serial port.
    pub const COM1_IRQ: u8 = 4;

    pub static COUNT: AtomicU64 = AtomicU64::new(0);

    pub fn get(register: u16) -> u8 {
        // SAFETY: the serial port touches no memory.
        unsafe { port::read_u8(register) }
    }

    pub fn set(register: u16, value: u8) {
        // SAFETY: as in `get`.
        unsafe { port::write_u8(register, value) };
    }

    pub fn only_count() {
        COUNT.fetch_add(1, SeqCst);
    }

    /// Leaves the line as it is a few times, then reads the byte.
    pub fn read_at_last() {
        if COUNT.fetch_add(1, SeqCst) + 1 >= HELD_FOR {
            get(DATA);
        }
    }

    pub fn vector() -> Result<(&'static Event, u8), End> {
        static VECTOR: Once<Option<(&'static Event, u8)>> = Once::new();
        let made = VECTOR.call_once(|| irq::bind_vector("loop-back").ok());
        made.ok_or_else(|| error("no vector is left"))
    }

    /// Binds the serial port's line to a handler while `check` runs, in loop-back mode. The console's owner gets it back.
    pub fn looped(trigger: Trigger, handler: fn(), check: impl FnOnce() -> Shown) -> Result<Shown, End> {
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
    pub fn mode(irq: u8) -> (u32, Trigger) {
        acpi::routing().map_or((irq.into(), Trigger::Edge), |routing| routing.isa(irq))
    }

    /// The port after [`looped`].
    pub struct Port;

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

    pub fn verdict(shown: Shown) -> Verdict {
        match shown {
            Shown::Right => Ok(()),
            Shown::Silent => Err(skip("the serial port does not interrupt in loop-back mode")),
            Shown::Interrupts { expected, saw } => equal("interrupts", expected, saw),
            Shown::Waiting { expected } => {
                equal("bytes received and not read", u8::from(expected), u8::from(!expected))
            }
        }
    }

    /// Its handler cannot be given the device.
    pub static PIN: Once<Pin> = Once::new();

    pub fn acknowledge_at_last() {
        if COUNT.fetch_add(1, SeqCst) + 1 >= HELD_FOR
            && let Some(pin) = PIN.get()
        {
            pin.acknowledge();
        }
    }

    pub fn held() -> Verdict {
        Port.wait_for(HELD_FOR);
        let saw = Port.interrupts();
        holds(saw >= HELD_FOR, "interrupts of a line that is held", format_args!("{HELD_FOR} or more"), saw)
    }

    /// The entropy device by its pin, whose ISA interrupt the MADT says to signal by level.
    pub fn pin_interrupts_until_acknowledged(cx: &Context) -> Verdict {
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
}
