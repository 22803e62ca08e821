//! Xen's paravirtual interface: event channels, the timer, hypercalls; `tables` has memory, `faults` exceptions.
//!
//! Channels lead from the CPU to itself, so each check knows what was sent. All skip in other worlds.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::xen::{
        EEXIST, EINVAL, Line, counted, event_sent, here, interrupts_on, refused, settled, version, with_channel,
    },
    crate::support::{Context, Verdict, equal, holds},
    code::*,
    core::sync::atomic::{AtomicU32, Ordering::SeqCst},
    guest_kernel::trap::irq,
    pvops::time,
    pvops::worlds::xen::event::{self, close, is_pending, send, upcall_pending},
    pvops::worlds::xen::hypercall::{self},
    shared_abi::xen::{BindVirq, OLDEST_VERSION, event as command, hypercall as number},
};

const VERSION: &str = "Xen public/version.h, XENVER_version";
const EVENTS: &str = "Xen public/event_channel.h, event-channel operations";
const VCPU_INFO: &str = "Xen public/xen.h, struct vcpu_info";
const BLOCK: &str = "Xen public/sched.h, SCHEDOP_block";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "xen/version-is-not-too-old",
        rule: "Xen reports its version",
        clause: VERSION,
        method: "Ask for it",
        expectation: "4.0 or newer",
        run: |cx| {
            here(cx)?;
            let version = version();
            let (major, minor) = (version >> 16, version & 0xffff);
            cx.did(format_args!("Xen {major}.{minor}"));
            let fine = (major, minor) >= (OLDEST_VERSION.0.into(), OLDEST_VERSION.1.into());
            holds(fine, "version", format_args!("{OLDEST_VERSION:?} or newer"), format_args!("{major}.{minor}"))
        },
    },
    Check {
        name: "xen/event-sent-arrives",
        rule: "An event on an unmasked channel makes an upcall",
        clause: EVENTS,
        method: "Send to a channel from this CPU to itself",
        expectation: "Its handler has run once",
        run: |cx| {
            with_channel(cx, |line| {
                event_sent(line)?;
                equal("events that arrived", 1, line.arrived())
            })
        },
    },
    Check {
        name: "xen/event-waits-for-the-upcall-mask",
        rule: "With the upcall mask set no upcall is made, and the event stays pending",
        clause: VCPU_INFO,
        method: "Mask upcalls, send, look, unmask",
        expectation: "Pending bits while masked, the handler once after it",
        run: |cx| {
            with_channel(cx, |line| {
                pvops::irq::disable();
                let sent = event_sent(line);
                let (arrived, pending, upcall) =
                    (line.arrived(), is_pending(line.channel), upcall_pending().load(SeqCst));
                interrupts_on();
                sent?;
                equal("events while masked", 0, arrived)?;
                holds(pending, "pending bit while masked", 1, 0)?;
                holds(upcall != 0, "pending upcall while masked", "not 0", upcall)?;
                equal("events after the enabling", 1, line.arrived())?;
                holds(!is_pending(line.channel), "pending bit after it", 0, 1)
            })
        },
    },
    Check {
        name: "xen/event-waits-for-its-channel-mask",
        rule: "A masked channel makes no upcall, and its event stays pending",
        clause: EVENTS,
        method: "Mask the channel, send, look, unmask in the shared page",
        expectation: "The pending bit while masked, the handler once after it",
        run: |cx| {
            with_channel(cx, |line| {
                event::mask_channel(line.channel);
                event_sent(line)?;
                equal("events on a masked channel", 0, line.arrived())?;
                holds(is_pending(line.channel), "pending bit of a masked channel", 1, 0)?;
                event::unmask_channel(line.channel);
                equal("events after the unmasking", 1, line.arrived())
            })
        },
    },
    Check {
        name: "xen/event-waits-for-xens-unmask",
        rule: "EVTCHNOP_unmask delivers what is pending",
        clause: EVENTS,
        method: "Mask the channel, send, unmask by Xen's command",
        expectation: "The handler once",
        run: |cx| {
            with_channel(cx, |line| {
                event::mask_channel(line.channel);
                event_sent(line)?;
                settled(event::unmask_by_xen(line.channel))?;
                equal("events after Xen's unmasking", 1, line.arrived())
            })
        },
    },
    Check {
        name: "xen/events-while-masked-are-one",
        rule: "An event is a bit: sent again while pending, it is one",
        clause: EVENTS,
        method: "Mask the channel, send three times, unmask",
        expectation: "The handler once",
        run: |cx| {
            with_channel(cx, |line| {
                event::mask_channel(line.channel);
                (0..3).try_for_each(|_| event_sent(line))?;
                event::unmask_channel(line.channel);
                equal("events of three that were sent while masked", 1, line.arrived())
            })
        },
    },
    Check {
        name: "xen/unmasking-loses-no-event",
        rule: "No event is lost between mask and unmask of a channel",
        clause: EVENTS,
        method: "Mask, send, unmask, 20000 times",
        expectation: "The handler once each time",
        run: |cx| {
            loses_none(cx, |line| {
                event::mask_channel(line.channel);
                event_sent(line)?;
                event::unmask_channel(line.channel);
                Ok(())
            })
        },
    },
    Check {
        name: "xen/enabling-loses-no-event",
        rule: "No event is lost between setting and clearing of the upcall mask",
        clause: VCPU_INFO,
        method: "Mask upcalls, send, unmask, 20000 times",
        expectation: "The handler once each time",
        run: |cx| {
            loses_none(cx, |line| {
                pvops::irq::disable();
                let sent = event_sent(line);
                interrupts_on();
                sent
            })
        },
    },
    Check {
        name: "xen/upcall-does-not-nest",
        rule: "An upcall starts with upcalls masked",
        clause: "Xen public/callback.h, CALLBACKTYPE_event",
        method: "A handler sends to its own channel, 100 times",
        expectation: "101 calls, never two at once",
        run: |cx| {
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
        },
    },
    Check {
        name: "xen/two-channels-both-arrive",
        rule: "Events on several channels all arrive",
        clause: EVENTS,
        method: "Mask upcalls, send to two channels, unmask",
        expectation: "Each handler once",
        run: |cx| {
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
        },
    },
    Check {
        name: "xen/channels-of-two-words-arrive",
        rule: "The selector has a bit for every word of pending channels",
        clause: VCPU_INFO,
        method: "Bind 70 channels, mask upcalls, send to all, unmask",
        expectation: "70 events",
        run: |cx| {
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
        },
    },
    Check {
        name: "xen/closed-channel-refuses",
        rule: "A closed channel is none",
        clause: EVENTS,
        method: "Close a channel, send to it",
        expectation: "EINVAL",
        run: |cx| {
            here(cx)?;
            let line = Line::new()?;
            settled(close(line.channel))?;
            refused("send to a closed channel", send(line.channel), EINVAL)
        },
    },
    Check {
        name: "xen/channel-out-of-range-refuses",
        rule: "A channel has to exist",
        clause: EVENTS,
        method: "Send to channel 1000000",
        expectation: "EINVAL",
        run: |cx| {
            here(cx)?;
            refused("send to channel 1000000", send(1_000_000), EINVAL)
        },
    },
    Check {
        name: "xen/virtual-interrupt-binds-once",
        rule: "A virtual interrupt has one channel for each CPU",
        clause: EVENTS,
        method: "Bind the timer's again",
        expectation: "EEXIST",
        run: |cx| {
            here(cx)?;
            let mut bind = BindVirq { virq: command::VIRQ_TIMER, cpu: 0, channel: 0 };
            // SAFETY: the structure of that command.
            let again = unsafe {
                hypercall::command(number::EVENT_CHANNEL_OP, command::BIND_VIRQ, "bind_virq", &mut bind).map(drop)
            };
            refused("the timer's interrupt, bound again", again, EEXIST)
        },
    },
    Check {
        name: "xen/block-returns-for-an-event",
        rule: "SCHEDOP_block unmasks upcalls and does not miss an event that is pending",
        clause: BLOCK,
        method: "Mask upcalls, send, block, 100 times",
        expectation: "It returns, and the handler has run",
        run: |cx| {
            with_channel(cx, |line| {
                for _ in 0..100 {
                    let before = line.arrived();
                    pvops::irq::disable();
                    let sent = event_sent(line);
                    // SAFETY: the handlers are set up, and no lock is held.
                    unsafe { pvops::irq::halt() };
                    sent?;
                    equal("events after the block", before + 1, line.arrived())?;
                }
                Ok(())
            })
        },
    },
    Check {
        name: "xen/disable-and-enable-cost-no-hypercall",
        rule: "With nothing pending the upcall mask is memory",
        clause: VCPU_INFO,
        method: "A million pairs of irq.disable and irq.enable",
        expectation: "No hypercall is counted",
        run: |cx| {
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
        },
    },
    Check {
        name: "xen/save-and-restore-cost-no-hypercall",
        rule: "With nothing pending the upcall mask is memory",
        clause: VCPU_INFO,
        method: "100000 pairs of irq.save and irq.restore",
        expectation: "No hypercall is counted",
        run: |cx| {
            here(cx)?;
            let calls = counted(|| {
                for _ in 0..100_000 {
                    let flags = pvops::irq::save();
                    // SAFETY: the flags of a moment ago.
                    unsafe { pvops::irq::restore(flags) };
                }
            });
            equal("hypercalls of 100000 pairs", 0, calls)
        },
    },
    Check {
        name: "xen/enabling-with-an-event-costs-one-hypercall",
        rule: "Any hypercall delivers what is pending",
        clause: VCPU_INFO,
        method: "Mask upcalls, send, unmask",
        expectation: "One hypercall for the unmasking",
        run: |cx| {
            with_channel(cx, |line| {
                pvops::irq::disable();
                let sent = event_sent(line);
                let calls = counted(interrupts_on);
                sent?;
                equal("hypercalls", 1, calls)
            })
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub static DEPTH: AtomicU32 = AtomicU32::new(0);

    pub static DEEPEST: AtomicU32 = AtomicU32::new(0);

    pub static AGAIN: AtomicU32 = AtomicU32::new(0);

    pub static TARGET: AtomicU32 = AtomicU32::new(0);

    /// Sends an event by `send` 20,000 times; the handler must see each before the next.
    pub fn loses_none(cx: &Context, send: impl Fn(&Line) -> Verdict) -> Verdict {
        const ROUNDS: u64 = 20_000;
        with_channel(cx, |line| {
            for round in 0..ROUNDS {
                send(line)?;
                equal("events of so many rounds", round + 1, line.arrived())?;
            }
            cx.did(format_args!("{ROUNDS} rounds"));
            Ok(())
        })
    }

    /// Sends to its own channel from inside its handler, so often as [`AGAIN`] says.
    pub fn send_again() {
        DEEPEST.fetch_max(DEPTH.fetch_add(1, SeqCst) + 1, SeqCst);
        if AGAIN.load(SeqCst) > 0 {
            AGAIN.fetch_sub(1, SeqCst);
            let _ = send(TARGET.load(SeqCst));
        }
        DEPTH.fetch_sub(1, SeqCst);
    }
}
