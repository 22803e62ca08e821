//! Xen's paravirtual interface: event channels, the timer, hypercalls; `tables` has memory, `faults` exceptions.
//!
//! Channels lead from the CPU to itself, so each check knows what was sent. All skip in other worlds.

mod faults;
mod tables;

use super::{Context, End, Row, Verdict, equal, error, holds, skip};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guest_kernel::task::Event;
use guest_kernel::trap::irq;
use pvops::detect::World;
use pvops::worlds::xen::event::{self, bind_ipi, close, is_pending, send, upcall_pending};
use pvops::worlds::xen::hypercall::{self, Refused};
use pvops::worlds::xen::{shared_info, vcpu_info};
use pvops::{smp, time};
use shared_abi::xen::{BindVirq, Call, OLDEST_VERSION, event as command, hypercall as number};
use spin::Once;
use volatile::map_field;

pub const ROWS: &[Row] = &[
    ("xen/version-is-not-too-old", |cx| {
        here(cx)?;
        let version = version();
        let (major, minor) = (version >> 16, version & 0xffff);
        cx.did(format_args!("Xen {major}.{minor}"));
        let fine = (major, minor) >= (OLDEST_VERSION.0.into(), OLDEST_VERSION.1.into());
        holds(fine, "version", format_args!("{OLDEST_VERSION:?} or newer"), format_args!("{major}.{minor}"))
    }),
    ("xen/event-sent-arrives", |cx| {
        with_channel(cx, |line| {
            event_sent(line)?;
            equal("events that arrived", 1, line.arrived())
        })
    }),
    ("xen/event-waits-for-the-upcall-mask", event_waits_for_the_upcall_mask),
    ("xen/event-waits-for-its-channel-mask", |cx| {
        with_channel(cx, |line| {
            event::mask_channel(line.channel);
            event_sent(line)?;
            equal("events on a masked channel", 0, line.arrived())?;
            holds(is_pending(line.channel), "pending bit of a masked channel", 1, 0)?;
            event::unmask_channel(line.channel);
            equal("events behind the unmasking", 1, line.arrived())
        })
    }),
    ("xen/event-waits-for-xens-unmask", |cx| {
        with_channel(cx, |line| {
            event::mask_channel(line.channel);
            event_sent(line)?;
            settled(event::unmask_by_xen(line.channel))?;
            equal("events behind Xen's unmasking", 1, line.arrived())
        })
    }),
    ("xen/events-while-masked-are-one", |cx| {
        with_channel(cx, |line| {
            event::mask_channel(line.channel);
            (0..3).try_for_each(|_| event_sent(line))?;
            event::unmask_channel(line.channel);
            equal("events of three that were sent while masked", 1, line.arrived())
        })
    }),
    ("xen/unmasking-loses-no-event", |cx| {
        const ROUNDS: u64 = 20_000;
        with_channel(cx, |line| {
            for round in 0..ROUNDS {
                event::mask_channel(line.channel);
                event_sent(line)?;
                event::unmask_channel(line.channel);
                equal("events of so many rounds", round + 1, line.arrived())?;
            }
            cx.did(format_args!("{ROUNDS} rounds"));
            Ok(())
        })
    }),
    ("xen/enabling-loses-no-event", |cx| {
        const ROUNDS: u64 = 20_000;
        with_channel(cx, |line| {
            for round in 0..ROUNDS {
                pvops::irq::disable();
                let sent = event_sent(line);
                interrupts_on();
                sent?;
                equal("events of so many rounds", round + 1, line.arrived())?;
            }
            cx.did(format_args!("{ROUNDS} rounds"));
            Ok(())
        })
    }),
    ("xen/upcall-does-not-nest", upcall_does_not_nest),
    ("xen/two-channels-both-arrive", two_channels_both_arrive),
    ("xen/channels-of-two-words-arrive", channels_of_two_words_arrive),
    ("xen/closed-channel-refuses", |cx| {
        here(cx)?;
        let line = Line::new()?;
        settled(close(line.channel))?;
        refused("send to a closed channel", send(line.channel), EINVAL)
    }),
    ("xen/channel-out-of-range-refuses", |cx| {
        here(cx)?;
        refused("send to channel 1000000", send(1_000_000), EINVAL)
    }),
    ("xen/virtual-interrupt-binds-once", |cx| {
        here(cx)?;
        let mut bind = BindVirq { virq: command::VIRQ_TIMER, cpu: 0, channel: 0 };
        // SAFETY: the structure of that command.
        let again = unsafe {
            hypercall::command(number::EVENT_CHANNEL_OP, command::BIND_VIRQ, "bind_virq", &mut bind).map(drop)
        };
        refused("the timer's interrupt, bound again", again, EEXIST)
    }),
    ("xen/block-returns-for-an-event", |cx| {
        with_channel(cx, |line| {
            for _ in 0..100 {
                let before = line.arrived();
                pvops::irq::disable();
                let sent = event_sent(line);
                // SAFETY: the handlers are set up, and no lock is held.
                unsafe { pvops::irq::halt() };
                sent?;
                equal("events behind the block", before + 1, line.arrived())?;
            }
            Ok(())
        })
    }),
    ("xen/disable-and-enable-cost-no-hypercall", disable_and_enable_cost_no_hypercall),
    ("xen/save-and-restore-cost-no-hypercall", |cx| {
        here(cx)?;
        let calls = counted(|| {
            for _ in 0..100_000 {
                let flags = pvops::irq::save();
                // SAFETY: the flags of a moment ago.
                unsafe { pvops::irq::restore(flags) };
            }
        });
        equal("hypercalls of 100000 pairs", 0, calls)
    }),
    ("xen/enabling-with-an-event-costs-one-hypercall", |cx| {
        with_channel(cx, |line| {
            pvops::irq::disable();
            let sent = event_sent(line);
            let calls = counted(interrupts_on);
            sent?;
            equal("hypercalls", 1, calls)
        })
    }),
    ("xen/timer-is-not-early", |cx| {
        here(cx)?;
        let mut latest = 0;
        for _ in 0..20 {
            let (deadline, fired) = timer(2_000_000)?;
            holds(fired >= deadline, "nanoseconds", format_args!("{deadline} or later"), fired)?;
            latest = latest.max(fired - deadline);
        }
        cx.did(format_args!("at most {latest} ns late"));
        Ok(())
    }),
    ("xen/timer-is-within-a-percent", |cx| {
        here(cx)?;
        const WAIT: u64 = 500_000_000;
        const MOST: u64 = WAIT / 100;
        // A machine that is busy with other things is late now and then.
        let mut least = u64::MAX;
        for _ in 0..5 {
            let (deadline, fired) = timer(WAIT)?;
            least = least.min(fired.saturating_sub(deadline));
            if least < MOST {
                break;
            }
        }
        cx.did(format_args!("{least} ns late"));
        holds(
            least < MOST,
            "nanoseconds that each of five timers of half a second is late",
            "fewer than 5000000",
            least,
        )
    }),
    ("xen/timer-in-the-past-fires", |cx| {
        here(cx)?;
        let before = irq::timer_count();
        time::set_timer(1);
        spin_until(1_000_000_000, || irq::timer_count() != before);
        equal("timer events", 1, irq::timer_count() - before)
    }),
    ("xen/timer-stops", |cx| {
        here(cx)?;
        let before = irq::timer_count();
        time::set_timer(time::now() + 50_000_000);
        time::set_timer(time::NEVER);
        spin(100_000_000);
        equal("timer events behind a timer that was stopped", 0, irq::timer_count() - before)
    }),
    ("xen/time-page-version-is-even", |cx| {
        here(cx)?;
        let info = vcpu_info();
        let page = map_field!(info.time);
        (0..2000).try_for_each(|_| equal("lowest bit of the version", 0, page.read().version & 1))?;
        holds(page.read().tsc_to_system_mul != 0, "multiplier", "not 0", 0)
    }),
    ("xen/wall-clock-is-set", |cx| {
        here(cx)?;
        // SAFETY: the shared page is mapped; Xen writes it.
        let [version, seconds, nanoseconds, _] = unsafe { (&raw const (*shared_info()).wall_clock).read_volatile() };
        equal("lowest bit of the version", 0, version & 1)?;
        holds(seconds > 1_577_836_800, "seconds since 1970", "behind 2020", seconds)?;
        holds(nanoseconds < 1_000_000_000, "nanoseconds", "below 1000000000", nanoseconds)
    }),
    ("xen/console-without-input-reads-nothing", |cx| {
        here(cx)?;
        equal("bytes", 0, pvops::vmm::read(&mut [0; 16]))
    }),
    ("xen/unknown-hypercall-refuses", |cx| {
        here(cx)?;
        // SAFETY: there is no such hypercall.
        equal("result of hypercall 63", ENOSYS, unsafe { hypercall::call2(63, 0, 0) })
    }),
    ("xen/unknown-command-refuses", |cx| {
        here(cx)?;
        // SAFETY: there is no such command.
        equal("result of sched_op 99", ENOSYS, unsafe { hypercall::call2(number::SCHED_OP, 99, 0) })
    }),
    ("xen/bad-pointer-is-an-error", |cx| {
        here(cx)?;
        // SAFETY: Xen refuses an address that is its own.
        let result = unsafe { hypercall::call2(number::EVENT_CHANNEL_OP, command::SEND.into(), 0xffff_8300_0000_0000) };
        equal("result with an address of Xen's", EFAULT, result)
    }),
    ("xen/multicall-goes-on-behind-a-failure", multicall_goes_on_behind_a_failure),
    ("xen/multicall-is-one-entry", |cx| {
        here(cx)?;
        let mut calls = [Call { number: number::XEN_VERSION.into(), ..Call::default() }; 64];
        // SAFETY: asking for the version has no effect.
        let entries = counted(|| unsafe { hypercall::multicall(&mut calls) }.is_ok());
        equal("hypercalls for 64 calls", 1, entries)?;
        calls.iter().try_for_each(|call| equal("result", i64::from(version()), call.result))
    }),
    ("xen/batch-is-like-single-updates", tables::batch_is_like_single_updates),
    ("xen/batch-of-512-costs-two-hypercalls-at-most", tables::batch_costs),
    ("xen/single-updates-cost-one-each", tables::singles_cost),
    ("xen/refused-update-leaves-the-table", tables::refused_update_leaves_the_table),
    ("xen/writable-mapping-of-a-table-refused", tables::writable_mapping_of_a_table_refused),
    ("xen/frame-of-another-refused", tables::frame_of_another_refused),
    ("xen/table-refuses-writes", tables::table_refuses_writes),
    ("xen/pinned-frame-stays-a-table", tables::pinned_frame_stays_a_table),
    ("xen/unpinned-frame-is-memory-again", tables::unpinned_frame_is_memory_again),
    ("xen/bad-table-is-not-pinned", tables::bad_table_is_not_pinned),
    ("xen/base-pointer-must-be-a-table", tables::base_pointer_must_be_a_table),
    ("xen/new-mapping-is-seen-at-once", tables::new_mapping_is_seen_at_once),
    ("xen/frame-lists-agree", tables::frame_lists_agree),
    ("xen/block-becomes-contiguous", tables::block_becomes_contiguous),
    ("xen/balloon-moves-the-reservation", tables::balloon_moves_the_reservation),
    ("xen/page-from-the-balloon-is-clean", tables::page_from_the_balloon_is_clean),
    ("xen/frame-comes-without-error-code", faults::without_error_code),
    ("xen/frame-comes-with-error-code", faults::with_error_code),
    ("xen/page-fault-tells-address-and-way", faults::page_fault),
    ("xen/frame-shows-the-upcall-mask", faults::shows_the_mask),
    ("xen/fault-inside-an-upcall-returns", faults::inside_an_upcall),
    ("xen/fault-keeps-registers", faults::keeps_registers),
];

const EFAULT: i64 = -14;
const EEXIST: i64 = -17;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;

fn here(cx: &Context) -> Verdict {
    if cx.found.world == World::Xen { Ok(()) } else { Err(skip("the kernel is no paravirtual guest of Xen")) }
}

fn version() -> u32 {
    // SAFETY: asking has no effect.
    unsafe { hypercall::call2(number::XEN_VERSION, 0, 0) as u32 }
}

/// Turns events on again, as checks are started with them on.
fn interrupts_on() {
    // SAFETY: the checks run in a task, where interrupts are on; no lock is held here.
    unsafe { pvops::irq::enable() };
}

/// Hypercalls that something costs.
fn counted<R>(what: impl FnOnce() -> R) -> u64 {
    let before = hypercall::total();
    what();
    hypercall::total() - before
}

fn settled<T>(result: Result<T, Refused>) -> Result<T, End> {
    result.map_err(error)
}

fn refused(what: &str, result: Result<(), Refused>, expected: i64) -> Verdict {
    equal(what, expected, result.err().map_or(0, |refused| refused.error))
}

/// A channel from this CPU to itself, and its vector.
struct Line {
    channel: u32,
    event: &'static Event,
    /// Events that had arrived when it was made.
    before: u64,
}

impl Line {
    /// On the first of two vectors.
    fn new() -> Result<Self, End> {
        Self::on(0)
    }

    fn on(index: usize) -> Result<Self, End> {
        static VECTORS: [Once<Option<(&'static Event, u8)>>; 2] = [const { Once::new() }; 2];
        let made = VECTORS[index].call_once(|| irq::bind_vector("conform").ok());
        let (event, vector) = made.ok_or_else(|| error("no vector is left"))?;
        // SAFETY: the vector has an event.
        let channel = settled(unsafe { bind_ipi(vector) })?;
        Ok(Self { channel, event, before: irq::count_of(event) })
    }

    fn arrived(&self) -> u64 {
        irq::count_of(self.event) - self.before
    }
}

fn event_sent(line: &Line) -> Verdict {
    settled(send(line.channel))
}

/// Makes a channel for `check` and closes it.
fn with_channel(cx: &Context, check: impl FnOnce(&Line) -> Verdict) -> Verdict {
    here(cx)?;
    let line = Line::new()?;
    let verdict = check(&line);
    settled(close(line.channel))?;
    verdict
}

fn event_waits_for_the_upcall_mask(cx: &Context) -> Verdict {
    with_channel(cx, |line| {
        pvops::irq::disable();
        let sent = event_sent(line);
        let (arrived, pending, upcall) = (line.arrived(), is_pending(line.channel), upcall_pending().load(SeqCst));
        interrupts_on();
        sent?;
        equal("events while masked", 0, arrived)?;
        holds(pending, "pending bit while masked", 1, 0)?;
        holds(upcall != 0, "pending upcall while masked", "not 0", upcall)?;
        equal("events behind the enabling", 1, line.arrived())?;
        holds(!is_pending(line.channel), "pending bit behind it", 0, 1)
    })
}

static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);
static AGAIN: AtomicU32 = AtomicU32::new(0);
static TARGET: AtomicU32 = AtomicU32::new(0);

/// Sends to its own channel from inside its handler, so often as [`AGAIN`] says.
fn send_again() {
    DEEPEST.fetch_max(DEPTH.fetch_add(1, SeqCst) + 1, SeqCst);
    if AGAIN.load(SeqCst) > 0 {
        AGAIN.fetch_sub(1, SeqCst);
        let _ = send(TARGET.load(SeqCst));
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn upcall_does_not_nest(cx: &Context) -> Verdict {
    with_channel(cx, |line| {
        TARGET.store(line.channel, SeqCst);
        AGAIN.store(100, SeqCst);
        DEEPEST.store(0, SeqCst);
        irq::set_handler(line.event, Some(send_again));
        let sent = event_sent(line);
        let arrived = line.arrived();
        irq::set_handler(line.event, None);
        sent?;
        equal("events of 101, each but the first sent by the handler before", 101, arrived)?;
        equal("handlers at once", 1, DEEPEST.load(SeqCst))
    })
}

fn two_channels_both_arrive(cx: &Context) -> Verdict {
    with_channel(cx, |first| {
        let second = Line::on(1)?;
        pvops::irq::disable();
        let sent = event_sent(first).and(event_sent(&second));
        interrupts_on();
        let (one, two) = (first.arrived(), second.arrived());
        settled(close(second.channel))?;
        sent?;
        equal("events on each channel", (1, 1), (one, two))
    })
}

fn channels_of_two_words_arrive(cx: &Context) -> Verdict {
    const CHANNELS: usize = 70;
    here(cx)?;
    let mut lines = alloc::vec::Vec::new();
    let made = (0..CHANNELS).try_for_each(|_| Line::new().map(|line| lines.push(line)));
    let before = lines.first().map_or(0, |line| irq::count_of(line.event));
    pvops::irq::disable();
    let sent = lines.iter().try_for_each(event_sent);
    interrupts_on();
    let arrived = lines.first().map_or(0, |line| irq::count_of(line.event)) - before;
    let highest = lines.iter().map(|line| line.channel).max().unwrap_or(0);
    lines.iter().try_for_each(|line| settled(close(line.channel)))?;
    made.and(sent)?;
    holds(highest >= 64, "number of the last channel", "64 or more", highest)?;
    equal("events on 70 channels", CHANNELS as u64, arrived)
}

fn disable_and_enable_cost_no_hypercall(cx: &Context) -> Verdict {
    const PAIRS: u64 = 1_000_000;
    here(cx)?;
    time::set_timer(time::NEVER);
    let calls = counted(|| {
        for _ in 0..PAIRS {
            pvops::irq::disable();
            interrupts_on();
        }
    });
    cx.did(format_args!("{PAIRS} pairs"));
    equal("hypercalls", 0, calls)
}

/// Waits without touching the timer; whether `done` came.
fn spin_until(nanoseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = time::now() + nanoseconds;
    loop {
        match (done(), time::now() < end) {
            (true, _) => return true,
            (false, false) => return false,
            (false, true) => smp::relax(),
        }
    }
}

fn spin(nanoseconds: u64) {
    spin_until(nanoseconds, || false);
}

/// Sets the timer; deadline, and when the event was seen.
fn timer(wait: u64) -> Result<(u64, u64), End> {
    time::set_timer(time::NEVER);
    let before = irq::timer_count();
    let deadline = time::now() + wait;
    time::set_timer(deadline);
    let came = spin_until(wait + 1_000_000_000, || irq::timer_count() != before);
    let fired = time::now();
    if came { Ok((deadline, fired)) } else { Err(error("the timer did not fire")) }
}

fn multicall_goes_on_behind_a_failure(cx: &Context) -> Verdict {
    here(cx)?;
    let ask = Call { number: number::XEN_VERSION.into(), ..Call::default() };
    let bad = Call { number: number::SCHED_OP.into(), arguments: [99, 0, 0, 0, 0, 0], ..Call::default() };
    let mut calls = [ask, bad, ask];
    // SAFETY: asking has no effect, and there is no such command.
    settled(unsafe { hypercall::multicall(&mut calls) })?;
    let version = i64::from(version());
    equal("results", [version, ENOSYS, version], calls.map(|call| call.result))
}
