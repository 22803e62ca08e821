//! Notifications in both directions: which the driver asks the device for, and which the device asks for.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    super::ring::code::Source,
    crate::support::packed::Place,
    crate::support::raw::wait_until,
    crate::support::{Context, End, Verdict, advice, equal, holds, worst},
    alloc::format,
    code::*,
    shared_abi::virtio::CommonFeatures,
    shared_abi::virtio::packed::{EVENTS_DESCRIPTOR, EVENTS_DISABLE, EVENTS_ENABLE, WRAP_COUNTER},
};

const EVENTS: &str = "2.8.10 Driver and Device Event Suppression";
const FORMAT: &str = "2.8.14 Event Suppression Structure Format";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "packed/enabled-events-interrupt",
        rule: "With RING_EVENT_FLAGS_ENABLE each used buffer is notified",
        clause: EVENTS,
        method: "Ten buffers, one at a time, in a ring of 4",
        expectation: "An interrupt for each",
        run: |cx| {
            let mut source = source(cx, CommonFeatures::empty())?;
            (0..10).try_for_each(|n| must_interrupt(&mut source, n))
        },
    },
    Check {
        name: "packed/disabled-events-are-quiet",
        rule: "With RING_EVENT_FLAGS_DISABLE the device does not interrupt",
        clause: EVENTS,
        method: "Ten buffers with events disabled, wait 5 ms; then one with events enabled",
        expectation: "No interrupt; then one",
        level: Should,
        run: |cx| {
            let mut source = source(cx, CommonFeatures::empty())?;
            source.ring.want(EVENTS_DISABLE, source.ring.seen);
            let before = source.dev.needed_interrupts()?;
            (0..10).try_for_each(|n| source.once(n % 4).map(drop))?;
            let held = source.dev.quiet(before);
            source.ring.want(EVENTS_ENABLE, source.ring.seen);
            worst(held, must_interrupt(&mut source, 0))
        },
    },
    Check {
        name: "packed/event-comes-for-its-descriptor",
        rule: "With RING_EVENT_FLAGS_DESC the device interrupts for the descriptor at the offset, with the wrap counter",
        clause: EVENTS,
        method: "With event index: eleven turns of a ring of 4, a buffer at a time; an interrupt is asked for the third buffer \
            of each five, wherever it lies",
        expectation: "An interrupt for that one; none for the others as recommended",
        run: |cx| event_for_a_descriptor(&mut source(cx, CommonFeatures::EVENT_IDX)?),
    },
    Check {
        name: "packed/device-event-is-well-formed",
        rule: "The device asks for notifications in one of three ways, for a descriptor with event index only",
        clause: FORMAT,
        method: "Five buffers in a ring of 4, without and with event index, a look at the device's structure after each",
        expectation: "Flags 0 or 1, or 2 with event index and an offset below 4; reserved bits 0",
        run: |cx| {
            let plain = well_formed(cx, CommonFeatures::empty());
            match well_formed(cx, CommonFeatures::EVENT_IDX) {
                Err(End::Skip(_)) => plain,
                other => worst(plain, other),
            }
        },
    },
    Check {
        name: "packed/idle-device-asks-for-notifications",
        rule: "An idle device wants to be notified of the next descriptor",
        clause: EVENTS,
        method: "A buffer without event index, wait until the device is idle; ten times",
        expectation: "Flags 0",
        level: Should,
        run: |cx| {
            let mut source = source(cx, CommonFeatures::empty())?;
            for n in 0..10 {
                source.once(n % 4)?;
                wait_until(PATIENCE, || source.ring.device_event().flags == EVENTS_ENABLE);
                equal("flags of an idle device", EVENTS_ENABLE, source.ring.device_event().flags)?;
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

    /// An entropy device that can interrupt, with a ring of 4.
    pub fn source(cx: &Context, features: CommonFeatures) -> Result<Source<'_>, End> {
        let source = Source::with(cx, 4, features)?;
        source.dev.start()?;
        source.dev.needed_interrupts()?;
        Ok(source)
    }

    /// Has a buffer used; it must interrupt.
    pub fn must_interrupt(source: &mut Source<'_>, n: u16) -> Verdict {
        let before = source.dev.needed_interrupts()?;
        source.once(n % 4)?;
        holds(source.dev.interrupted(before), &format!("interrupts of buffer {n}"), "one within 1 s", "none")
    }

    pub fn event_for_a_descriptor(source: &mut Source<'_>) -> Verdict {
        let size = source.ring.size;
        // The first after a reset may come whatever is asked for.
        must_interrupt(source, 0)?;
        let mut others = Ok(());
        for n in 0..11 * size {
            if n % 5 == 0 {
                let third: Place = source.ring.seen.after(2, size);
                source.ring.want(EVENTS_DESCRIPTOR, third);
            }
            if n % 5 == 2 {
                must_interrupt(source, n)?;
            } else {
                let before = source.dev.needed_interrupts()?;
                source.once(n % 4)?;
                others = worst(others, advice(source.dev.quiet(before)));
            }
        }
        others
    }

    pub fn well_formed(cx: &Context, features: CommonFeatures) -> Verdict {
        let mut source = Source::with(cx, 4, features)?;
        source.dev.start()?;
        for n in 0..5 {
            source.once(n % 4)?;
            let event = source.ring.device_event();
            let most = if features.contains(CommonFeatures::EVENT_IDX) { EVENTS_DESCRIPTOR } else { EVENTS_DISABLE };
            holds(event.flags <= most, "flags of the device", format_args!("at most {most}"), event.flags)?;
            if event.flags == EVENTS_DESCRIPTOR {
                let offset = event.descriptor & !WRAP_COUNTER;
                holds(offset < source.ring.size, "offset of the device", "below the ring's size", offset)?;
            }
        }
        Ok(())
    }
}
