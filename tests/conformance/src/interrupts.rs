//! Interrupts of a device: delivered, held back, none lost.

use super::clock::Quota;
use super::device::Dev;
use super::raw::wait_until;
use super::rng::Rng;
use super::{Context, End, Row, Verdict, equal, holds, lines, skip, smp};
use guest_kernel::devices::place::Place;
use guest_kernel::task;
use guest_kernel::trap::irq;
use pvops::{event, time};

pub const ROWS: &[Row] = &[
    ("irq/device-interrupts", |cx| none_is_lost(cx, Quota { wanted: 1, needed: 1, time: PATIENCE })),
    ("irq/none-is-lost", |cx| none_is_lost(cx, Quota { wanted: 100_000, needed: 500, time: 15 * PATIENCE })),
    ("irq/none-of-the-cpus-own-is-lost", none_of_the_cpus_own_is_lost),
    ("irq/not-more-than-used-buffers", not_more_than_used_buffers),
    ("irq/flag-holds-device-interrupts", |cx| flag(cx).map(drop)),
    ("irq/flag-delivers-what-waited", |cx| {
        let (rng, before) = flag(cx)?;
        came(&rng.dev, before)
    }),
    ("irq/mask-holds", |cx| masked(cx).map(drop)),
    ("irq/unmask-delivers-the-next", |cx| {
        let mut rng = masked(cx)?;
        rng.dev.take_interrupt();
        let before = count(&rng.dev)?;
        once(&mut rng)?;
        came(&rng.dev, before)
    }),
    ("irq/edge-line-interrupts-once", lines::edge_interrupts_once),
    ("irq/level-line-interrupts-until-acknowledged", lines::level_interrupts_until_acknowledged),
    ("irq/halt-ends-with-an-interrupt", halt_ends),
    ("irq/none-between-sti-and-hlt", none_between_sti_and_hlt),
    ("irq/config-vector-stays-quiet", config_vector_stays_quiet),
    ("irq/quiet-when-idle", quiet_when_idle),
    ("irq/none-that-nobody-asked-for", |_| equal("unexpected interrupts", 0, irq::unexpected_count())),
];

const PATIENCE: u64 = 1_000_000_000;

fn count(dev: &Dev<'_>) -> Result<u64, End> {
    dev.interrupts().ok_or_else(|| skip("the device cannot interrupt"))
}

fn once(rng: &mut Rng<'_>) -> Verdict {
    let buf = rng.dev.buffer(1)?;
    rng.fill(&buf).map(drop)
}

/// Fails unless there is an interrupt; acknowledges it.
fn came(dev: &Dev<'_>, before: u64) -> Verdict {
    let came = wait_until(PATIENCE, || dev.interrupts() != Some(before));
    dev.take_interrupt();
    holds(came, "interrupts of a used buffer", "one within 1 s", "none")
}

fn none_is_lost(cx: &Context, quota: Quota) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(1)?;
    quota.fill(cx, "buffers", || {
        let before = count(&rng.dev)?;
        rng.fill(&buf)?;
        let came = wait_until(PATIENCE, || rng.dev.interrupts() != Some(before));
        rng.dev.take_interrupt();
        holds(came, "interrupts of a used buffer", "one within 1 s", "none")
    })
}

fn none_of_the_cpus_own_is_lost(cx: &Context) -> Verdict {
    cx.has("the local APIC's interrupt command")?;
    let (event, vector) = smp::vector()?;
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
}

fn not_more_than_used_buffers(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(1)?;
    let before = count(&rng.dev)?;
    for n in 0..100 {
        rng.fill(&buf)?;
        wait_until(PATIENCE, || rng.dev.interrupts() > Some(before + n));
        rng.dev.take_interrupt();
    }
    let saw = count(&rng.dev)? - before;
    holds(saw <= 100, "interrupts of 100 used buffers", "100 or fewer", saw)
}

/// Has a buffer used with interrupts off; they are on again behind it.
fn flag(cx: &Context) -> Result<(Rng<'_>, u64), End> {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(1)?;
    let before = count(&rng.dev)?;
    time::set_timer(time::NEVER);
    let flags = pvops::irq::save();
    let head = rng.queue.chain(0, &[super::raw::link(&buf, super::raw::Dir::In)]);
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
    let (used, held) = (rng.queue.used_index(), count(&rng.dev)? - before);
    // SAFETY: the flags of a moment ago; no lock is held.
    unsafe { pvops::irq::restore(flags) };
    equal("used index", 1, used)?;
    equal("interrupts with interrupts off", 0, held)?;
    Ok((rng, before))
}

/// Has a buffer used with the line masked; it is unmasked again behind it.
fn masked(cx: &Context) -> Result<Rng<'_>, End> {
    let mut rng = Rng::start(cx, 0, 8)?;
    let Place::Mmio(slot, _) = &rng.dev.target.place else { return Err(skip("the device has no line")) };
    let line = slot.line;
    let before = count(&rng.dev)?;
    event::mask(line);
    let verdict = once(&mut rng);
    wait_until(5_000_000, || rng.dev.interrupts() != Some(before));
    let held = count(&rng.dev)? - before;
    rng.dev.take_interrupt();
    event::unmask(line);
    verdict?;
    equal("interrupts of a masked line", 0, held)?;
    // An edge that was remembered may come now.
    wait_until(1_000_000, || rng.dev.interrupts() != Some(before));
    Ok(rng)
}

fn halt_ends(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(1)?;
    count(&rng.dev)?;
    for n in 0..100u16 {
        let head = rng.queue.chain(0, &[super::raw::link(&buf, super::raw::Dir::In)]);
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
}

/// The trap path goes on behind the `hlt` of such an interrupt, or this would hang instead.
fn none_between_sti_and_hlt(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(1)?;
    count(&rng.dev)?;
    Quota { wanted: 10_000, needed: 500, time: 5 * PATIENCE }.fill(cx, "buffers", || {
        let used = rng.queue.used_index();
        let head = rng.queue.chain(0, &[super::raw::link(&buf, super::raw::Dir::In)]);
        rng.queue.send(&rng.dev, head);
        let came = task::block_until(PATIENCE, || rng.queue.used_index() != used);
        holds(came, "used buffers", "one within 1 s", "none")?;
        rng.queue.wait()?;
        rng.dev.take_interrupt();
        Ok(())
    })?;
    equal("interrupts between sti and hlt since boot", 0, irq::unprotected_halts())
}

fn config_vector_stays_quiet(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let Some(config) = rng.dev.target.interrupts.config_event() else {
        return Err(skip("the device has one line for everything"));
    };
    let before = irq::count_of(config);
    (0..10).try_for_each(|_| once(&mut rng))?;
    wait_until(2_000_000, || false);
    equal("interrupts of the configuration's vector", 0, irq::count_of(config) - before)
}

fn quiet_when_idle(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let before = count(&rng.dev)?;
    once(&mut rng)?;
    came(&rng.dev, before)?;
    let before = count(&rng.dev)?;
    wait_until(20_000_000, || rng.dev.interrupts() != Some(before));
    equal("interrupts", before, count(&rng.dev)?)
}
