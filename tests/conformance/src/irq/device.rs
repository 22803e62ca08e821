//! Interrupts of a device: delivered, held back, none lost.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::quota::Quota,
    crate::support::raw::wait_until,
    crate::support::rng::Rng,
    crate::support::second_cpu,
    crate::support::{Context, End, Verdict, equal, holds, skip},
    code::*,
    guest_kernel::devices::place::Place,
    guest_kernel::task,
    guest_kernel::trap::irq,
    pvops::{event, time},
};

const IO_APIC: &str = "82093AA I/O APIC data sheet, I/O Redirection Table Registers";
const IF: &str = "Intel SDM volume 3, Masking Maskable Hardware Interrupts";
const USED: &str = "2.7.7.2 Device Requirements: Used Buffer Notification Suppression";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "irq/device-interrupts",
        rule: "A device that used a buffer interrupts",
        clause: USED,
        method: "One buffer for the entropy device",
        expectation: "One interrupt within 1 s",
        run: |cx| none_is_lost(cx, Quota { wanted: 1, needed: 1, time: PATIENCE }),
    },
    Check {
        name: "irq/none-is-lost",
        rule: "No interrupt is lost",
        clause: USED,
        method: "100000 buffers, one at a time, each waiting for its interrupt; fewer on a machine that needs more \
            than 15 s, but 500",
        expectation: "An interrupt for each",
        run: |cx| none_is_lost(cx, Quota { wanted: 100_000, needed: 500, time: 15 * PATIENCE }),
    },
    Check {
        name: "irq/none-of-the-cpus-own-is-lost",
        rule: "No interrupt is lost, and none comes twice",
        clause: "Intel SDM volume 3, Issuing Interprocessor Interrupts",
        method: "100000 commands of the CPU to itself, one at a time; fewer on a machine that needs more than 6 s, \
            but 2000",
        expectation: "One interrupt for each",
        run: |cx| {
            cx.has("the local APIC's interrupt command")?;
            let (event, vector) = second_cpu::vector()?;
            let here = pvops::smp::cpu();
            let mut before = irq::count_of(event);
            Quota { wanted: 100_000, needed: 2000, time: 6 * PATIENCE }.fill(cx, "interrupts", || {
                // SAFETY: the vector has an event; this CPU runs.
                unsafe { pvops::smp::send_ipi(here, vector) };
                let came = wait_until(PATIENCE, || irq::count_of(event) != before);
                before += 1;
                let saw = irq::count_of(event);
                holds(came && saw == before, "interrupts of the vector since boot", before, saw)
            })
        },
    },
    Check {
        name: "irq/not-more-than-used-buffers",
        rule: "There is at most one interrupt for a used buffer",
        clause: USED,
        method: "100 buffers, one at a time",
        expectation: "At most 100 interrupts",
        level: Should,
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let buf = rng.dev.buffer(1)?;
            let before = rng.dev.needed_interrupts()?;
            for n in 0..100 {
                rng.fill(&buf)?;
                wait_until(PATIENCE, || rng.dev.interrupts() > Some(before + n));
                rng.dev.take_interrupt();
            }
            let saw = rng.dev.needed_interrupts()? - before;
            holds(saw <= 100, "interrupts of 100 used buffers", "100 or fewer", saw)
        },
    },
    Check {
        name: "irq/flag-holds-device-interrupts",
        rule: "With IF clear no interrupt is delivered",
        clause: IF,
        method: "Turn interrupts off, have a buffer used, wait 5 ms",
        expectation: "No interrupt is counted",
        run: |cx| flag(cx).map(drop),
    },
    Check {
        name: "irq/flag-delivers-what-waited",
        rule: "An interrupt that waited comes when IF is set",
        clause: IF,
        method: "The same, then turn interrupts on",
        expectation: "One interrupt within 1 s",
        run: |cx| {
            let (rng, before) = flag(cx)?;
            came(&rng.dev, before)
        },
    },
    Check {
        name: "irq/mask-holds",
        rule: "A masked line does not interrupt",
        clause: IO_APIC,
        method: "Mask the line, have a buffer used, wait 5 ms",
        expectation: "No interrupt is counted",
        run: |cx| masked(cx).map(drop),
    },
    Check {
        name: "irq/unmask-delivers-the-next",
        rule: "A line that is unmasked again interrupts",
        clause: IO_APIC,
        method: "Unmask, acknowledge, have a buffer used",
        expectation: "An interrupt within 1 s",
        run: |cx| {
            let mut rng = masked(cx)?;
            rng.dev.take_interrupt();
            let before = rng.dev.needed_interrupts()?;
            once(&mut rng)?;
            came(&rng.dev, before)
        },
    },
    Check {
        name: "irq/halt-ends-with-an-interrupt",
        rule: "An interrupt ends hlt",
        clause: "Intel SDM volume 2, HLT",
        method: "100 times: start a buffer, halt until it was used, with no timer",
        expectation: "It ends each time",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let buf = rng.dev.buffer(1)?;
            rng.dev.needed_interrupts()?;
            for n in 0..100u16 {
                let head = rng.queue.chain(0, &[crate::support::raw::link(&buf, crate::support::raw::Dir::In)]);
                let start = time::now();
                pvops::irq::disable();
                rng.queue.send(&rng.dev, head);
                // A second bounds the wait: who needs it has lost the interrupt.
                time::set_timer(start + PATIENCE);
                while rng.queue.used_index() == n && time::now() < start + PATIENCE {
                    // SAFETY: the handlers are set up; no lock is held.
                    unsafe { pvops::irq::halt() };
                    pvops::irq::disable();
                }
                // SAFETY: as above.
                unsafe { pvops::irq::enable() };
                time::set_timer(time::NEVER);
                let took = time::now() - start;
                holds(took < PATIENCE, "nanoseconds halted for one buffer", "fewer than 1000000000", took)?;
                rng.queue.wait()?;
                rng.dev.take_interrupt();
            }
            Ok(())
        },
    },
    Check {
        name: "irq/none-between-sti-and-hlt",
        rule: "No interrupt comes between sti and the instruction after it",
        clause: "Intel SDM volume 2, STI",
        method: "10000 buffers, halting after sti until each is used; fewer on a machine that needs more than 5 s, \
            but 500",
        expectation: "None has come with the hlt still to run, since boot",
        run: |cx| {
            // The trap path goes on after the `hlt` of such an interrupt, or this would hang instead.
            let mut rng = Rng::start(cx, 0, 8)?;
            let buf = rng.dev.buffer(1)?;
            rng.dev.needed_interrupts()?;
            Quota { wanted: 10_000, needed: 500, time: 5 * PATIENCE }.fill(cx, "buffers", || {
                let used = rng.queue.used_index();
                let head = rng.queue.chain(0, &[crate::support::raw::link(&buf, crate::support::raw::Dir::In)]);
                rng.queue.send(&rng.dev, head);
                let came = task::block_until(PATIENCE, || rng.queue.used_index() != used);
                holds(came, "used buffers", "one within 1 s", "none")?;
                rng.queue.wait()?;
                rng.dev.take_interrupt();
                Ok(())
            })?;
            equal("interrupts between sti and hlt since boot", 0, irq::unprotected_halts())
        },
    },
    Check {
        name: "irq/config-vector-stays-quiet",
        rule: "Used buffers interrupt by their own vector",
        clause: "4.1.5.3 Used Buffer Notifications",
        method: "Ten buffers; count the interrupts of the configuration's vector",
        expectation: "None",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let Some(config) = rng.dev.target.interrupts.config_event() else {
                return Err(skip("the device has one line for everything"));
            };
            let before = irq::count_of(config);
            (0..10).try_for_each(|_| once(&mut rng))?;
            wait_until(2_000_000, || false);
            equal("interrupts of the configuration's vector", 0, irq::count_of(config) - before)
        },
    },
    Check {
        name: "irq/quiet-when-idle",
        rule: "A device without work does not interrupt",
        clause: USED,
        method: "Wait 20 ms after an acknowledged interrupt",
        expectation: "No interrupt",
        level: Should,
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let before = rng.dev.needed_interrupts()?;
            once(&mut rng)?;
            came(&rng.dev, before)?;
            let before = rng.dev.needed_interrupts()?;
            wait_until(20_000_000, || rng.dev.interrupts() != Some(before));
            equal("interrupts", before, rng.dev.needed_interrupts()?)
        },
    },
    Check {
        name: "irq/none-that-nobody-asked-for",
        rule: "Only vectors that were programmed are raised",
        clause: "Intel SDM volume 3, Spurious Interrupt",
        method: "Count all others since boot",
        expectation: "0",
        run: |_| equal("unexpected interrupts", 0, irq::unexpected_count()),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const PATIENCE: u64 = 1_000_000_000;

    pub fn once(rng: &mut Rng<'_>) -> Verdict {
        let buf = rng.dev.buffer(1)?;
        rng.fill(&buf).map(drop)
    }

    /// Fails unless there is an interrupt; acknowledges it.
    pub fn came(dev: &Dev<'_>, before: u64) -> Verdict {
        holds(dev.interrupted(before), "interrupts of a used buffer", "one within 1 s", "none")
    }

    pub fn none_is_lost(cx: &Context, quota: Quota) -> Verdict {
        let mut rng = Rng::start(cx, 0, 8)?;
        let buf = rng.dev.buffer(1)?;
        quota.fill(cx, "buffers", || {
            let before = rng.dev.needed_interrupts()?;
            rng.fill(&buf)?;
            came(&rng.dev, before)
        })
    }

    /// Has a buffer used with interrupts off; they are on again after it.
    pub fn flag(cx: &Context) -> Result<(Rng<'_>, u64), End> {
        let mut rng = Rng::start(cx, 0, 8)?;
        let buf = rng.dev.buffer(1)?;
        let before = rng.dev.needed_interrupts()?;
        time::set_timer(time::NEVER);
        let flags = pvops::irq::save();
        let head = rng.queue.chain(0, &[crate::support::raw::link(&buf, crate::support::raw::Dir::In)]);
        rng.queue.send(&rng.dev, head);
        // Neither halted nor through `wait_until`: both would let interrupts in.
        let end = time::now() + PATIENCE;
        while rng.queue.used_index() == 0 && time::now() < end {
            pvops::smp::relax();
        }
        let quiet = time::now() + 5_000_000;
        while time::now() < quiet {
            pvops::smp::relax();
        }
        let (used, held) = (rng.queue.used_index(), rng.dev.needed_interrupts()? - before);
        // SAFETY: the flags of a moment ago; no lock is held.
        unsafe { pvops::irq::restore(flags) };
        equal("used index", 1, used)?;
        equal("interrupts with interrupts off", 0, held)?;
        Ok((rng, before))
    }

    /// Has a buffer used with the line masked; it is unmasked again after it.
    pub fn masked(cx: &Context) -> Result<Rng<'_>, End> {
        let mut rng = Rng::start(cx, 0, 8)?;
        let Place::Mmio(slot, _) = &rng.dev.target.place else { return Err(skip("the device has no line")) };
        let line = slot.line;
        let before = rng.dev.needed_interrupts()?;
        event::mask(line);
        let verdict = once(&mut rng);
        wait_until(5_000_000, || rng.dev.interrupts() != Some(before));
        let held = rng.dev.needed_interrupts()? - before;
        rng.dev.take_interrupt();
        event::unmask(line);
        verdict?;
        equal("interrupts of a masked line", 0, held)?;
        // An edge that was remembered may come now.
        wait_until(1_000_000, || rng.dev.interrupts() != Some(before));
        Ok(rng)
    }
}
