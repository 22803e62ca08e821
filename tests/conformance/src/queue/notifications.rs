//! Notifications in both directions: who asks for them and how, and what 65,536 requests do to that.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::raw::{Buf, Dir, Queue, link, wait_until},
    crate::support::{Context, End, Verdict, advice, equal, fail, holds, worst},
    alloc::format,
    code::*,
    shared_abi::virtio::ring::AVAIL_NO_INTERRUPT,
    shared_abi::virtio::{CommonFeatures, DeviceType},
};

const AVAILABLE: &str = "2.7.6 The Virtqueue Available Ring";
const INTERRUPTS: &str = "2.7.7.2 Device Requirements: Used Buffer Notification Suppression";
const NOTIFICATIONS: &str = "2.7.10.2 Device Requirements: Available Buffer Notification Suppression";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "queue/index-wraps-at-65536",
        rule: "Ring indices wrap at 65536",
        clause: AVAILABLE,
        method: "66000 requests, in batches, without event index",
        expectation: "Each is used; the indices agree",
        run: |cx| wraps(cx, CommonFeatures::empty()),
    },
    Check {
        name: "queue/event-index-wraps-at-65536",
        rule: "Event indices wrap with the ring indices",
        clause: INTERRUPTS,
        method: "66000 requests, in batches, with event index, an interrupt asked for at the end of each of the last \
            hundred batches before and all after the wrap",
        expectation: "Each is used; no interrupt is missing",
        run: |cx| wraps(cx, CommonFeatures::EVENT_IDX),
    },
    Check {
        name: "queue/no-interrupt-is-followed",
        rule: "With NO_INTERRUPT set the device sends none",
        clause: INTERRUPTS,
        method: "Ten requests with the flag set, without event index, then wait 5 ms",
        expectation: "No interrupt",
        level: Should,
        run: |cx| {
            let mut source = Source::start(cx, CommonFeatures::empty())?;
            source.queue.set_flags(AVAIL_NO_INTERRUPT);
            let before = source.dev.needed_interrupts()?;
            (0..10).try_for_each(|_| source.once())?;
            source.dev.quiet(before)
        },
    },
    Check {
        name: "queue/interrupt-without-the-flag",
        rule: "Without NO_INTERRUPT the device sends one",
        clause: INTERRUPTS,
        method: "Ten requests, one at a time",
        expectation: "An interrupt for each",
        run: |cx| each_interrupts(&mut Source::start(cx, CommonFeatures::empty())?, 10, |_| ()),
    },
    Check {
        name: "queue/used-event-is-ignored-without-the-feature",
        rule: "Without EVENT_IDX the device ignores used_event",
        clause: INTERRUPTS,
        method: "Ten requests, one at a time, with a used_event that is a thousand further",
        expectation: "An interrupt for each",
        run: |cx| {
            each_interrupts(&mut Source::start(cx, CommonFeatures::empty())?, 10, |queue| {
                queue.set_used_event(queue.seen().wrapping_add(1000));
            })
        },
    },
    Check {
        name: "queue/event-index-asks-for-interrupts",
        rule: "The device interrupts when the used index passes used_event",
        clause: INTERRUPTS,
        method: "Ten requests, one at a time, used_event at each",
        expectation: "An interrupt for each",
        run: |cx| {
            let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
            each_interrupts(&mut source, 10, |queue| queue.set_used_event(queue.seen()))
        },
    },
    Check {
        name: "queue/event-index-holds-interrupts-back",
        rule: "The device does not interrupt before used_event",
        clause: INTERRUPTS,
        method: "One request that interrupts, ten with used_event far ahead, then wait 5 ms",
        expectation: "No further interrupt",
        level: Should,
        run: |cx| {
            let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
            warm_up(&mut source)?;
            source.queue.set_used_event(0x4000);
            let before = source.dev.needed_interrupts()?;
            (0..10).try_for_each(|_| source.once())?;
            source.dev.quiet(before)
        },
    },
    Check {
        name: "queue/event-index-holds-the-first-interrupt-back",
        rule: "The device does not interrupt before used_event",
        clause: INTERRUPTS,
        method: "The first request after a reset, used_event far ahead, then wait 5 ms",
        expectation: "No interrupt",
        level: Should,
        run: |cx| {
            // The first one is a check of its own: a device may not know yet which index it gave the driver last.
            let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
            source.queue.set_used_event(0x4000);
            let before = source.dev.needed_interrupts()?;
            source.once()?;
            source.dev.quiet(before)
        },
    },
    Check {
        name: "queue/event-index-in-the-middle",
        rule: "The device interrupts when the used index passes used_event",
        clause: INTERRUPTS,
        method: "One request that interrupts, eight one at a time, used_event at the fifth",
        expectation: "One interrupt, with the fifth; more are advice",
        run: |cx| {
            const MIDDLE: u16 = 5;
            let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
            warm_up(&mut source)?;
            source.queue.set_used_event(MIDDLE);
            // One that was not asked for is advice, one that is missing is not.
            let mut more = Ok(());
            for n in 1..9 {
                let before = source.dev.needed_interrupts()?;
                source.once()?;
                if n == MIDDLE {
                    holds(source.dev.interrupted(before), "interrupts of the fifth request", "one within 1 s", "none")?;
                } else {
                    more = worst(more, advice(source.dev.quiet(before)));
                }
            }
            more
        },
    },
    Check {
        name: "queue/event-index-overrules-the-flag",
        rule: "With event index the flag is ignored",
        clause: INTERRUPTS,
        method: "Five requests, one at a time, NO_INTERRUPT set and used_event at each",
        expectation: "An interrupt for each",
        run: |cx| {
            let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
            source.queue.set_flags(AVAIL_NO_INTERRUPT);
            each_interrupts(&mut source, 5, |queue| queue.set_used_event(queue.seen()))
        },
    },
    Check {
        name: "queue/idle-device-asks-for-notifications",
        rule: "Without NO_NOTIFY a device wants notifications",
        clause: NOTIFICATIONS,
        method: "A request without event index, wait until the device is idle",
        expectation: "Used flags 0",
        level: Should,
        run: |cx| {
            let mut source = Source::start(cx, CommonFeatures::empty())?;
            source.once()?;
            let asks = wait_until(PATIENCE, || source.queue.used_flags() == 0);
            holds(asks, "used flags of an idle device", 0, source.queue.used_flags())
        },
    },
    Check {
        name: "queue/used-flags-are-0-with-event-index",
        rule: "With event index the device's flags are 0",
        clause: NOTIFICATIONS,
        method: "Three requests with event index, a look at the flags after each",
        expectation: "0",
        run: |cx| {
            let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
            for _ in 0..3 {
                source.once()?;
                equal("used flags", 0, source.queue.used_flags())?;
            }
            Ok(())
        },
    },
    Check {
        name: "queue/idle-device-moves-avail-event",
        rule: "avail_event says when the device wants a notification",
        clause: NOTIFICATIONS,
        method: "Three requests with event index, wait until the device is idle, each time",
        expectation: "avail_event is the available index",
        level: Should,
        run: |cx| {
            let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
            for _ in 0..3 {
                source.once()?;
                let next = source.queue.next();
                let moved = wait_until(PATIENCE, || source.queue.avail_event() == next);
                holds(moved, "avail_event of an idle device", next, source.queue.avail_event())?;
            }
            Ok(())
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// How long a device may take to say what it wants.
    pub const PATIENCE: u64 = 1_000_000_000;

    /// An entropy device that interrupts, with one descriptor and one ring entry prepared for each place of its queue.
    pub struct Source<'a> {
        pub dev: Dev<'a>,
        pub queue: Queue,
        pub _data: Buf,
    }

    impl<'a> Source<'a> {
        pub fn start(cx: &'a Context, features: CommonFeatures) -> Result<Self, End> {
            let dev = Dev::with_features(cx.device(DeviceType::RNG)?, features.bits())?;
            dev.needs(features)?;
            let queue = dev.queue(0, 64)?;
            dev.start()?;
            let data = dev.buffer(queue.size.into())?;
            for place in 0..queue.size {
                queue.chain(place, &[link(&data.part(place.into(), 1), Dir::In)]);
            }
            // The entries stand in the ring for good: slot n holds head n.
            let entries = shared_abi::virtio::ring::ENTRIES_OFFSET;
            (0..queue.size).for_each(|slot| queue.available.write16(entries + 2 * usize::from(slot), slot));
            Ok(Self { dev, queue, _data: data })
        }

        /// Has one buffer used.
        pub fn once(&mut self) -> Verdict {
            self.queue.republish(1);
            self.queue.notify(&self.dev);
            self.queue.skip(1)
        }
    }

    /// Requests one at a time; each must interrupt.
    pub fn each_interrupts(source: &mut Source<'_>, count: u16, prepare: impl Fn(&Queue)) -> Verdict {
        for n in 0..count {
            let before = source.dev.needed_interrupts()?;
            prepare(&source.queue);
            source.once()?;
            holds(source.dev.interrupted(before), &format!("interrupts of request {n}"), "one within 1 s", "none")?;
        }
        Ok(())
    }

    /// Has one buffer used, with an interrupt.
    pub fn warm_up(source: &mut Source<'_>) -> Verdict {
        each_interrupts(source, 1, |queue| queue.set_used_event(queue.seen()))
    }

    /// More requests than an index can count. With the event index, an interrupt is asked for at the end of each batch near
    /// the wrap, so that one that is off by one there is missed.
    pub fn wraps(cx: &Context, features: CommonFeatures) -> Verdict {
        const REQUESTS: u32 = 66_000;
        let mut source = Source::start(cx, features)?;
        let batch = source.queue.size;
        let events = features.contains(CommonFeatures::EVENT_IDX);
        if !events {
            source.queue.set_flags(AVAIL_NO_INTERRUPT);
        }
        // The lowest batch that is watched: from there on, until after the wrap.
        let watched = 65_536_u32.saturating_sub(100 * u32::from(batch));
        let mut done = 0;
        while done < REQUESTS {
            let watch = events && done >= watched;
            let last = source.queue.seen().wrapping_add(batch - 1);
            if watch {
                // An unexpected one, as QEMU's first one, keeps a line that signals by a level up.
                source.dev.take_interrupt();
            }
            let before = source.dev.interrupts().unwrap_or(0);
            if events {
                // Half the range ahead of the ring: no interrupt.
                source.queue.set_used_event(if watch { last } else { last.wrapping_add(0x4000) });
            }
            source.queue.republish(batch);
            source.queue.notify(&source.dev);
            source.queue.skip(batch)?;
            done += u32::from(batch);
            if watch && source.dev.interrupts().is_some() && !source.dev.interrupted(before) {
                let what = format!("interrupts at used index {}", source.queue.used_index());
                return Err(fail(&what, "one within 1 s", "none"));
            }
            equal("used index", done as u16, source.queue.used_index())?;
        }
        source.dev.healthy()
    }
}
