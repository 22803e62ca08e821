//! Reset of one queue while its device lives, on every device that offers it.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::card::{BUFFER, Card, find_echo_peer},
    crate::support::device::{Dev, Target},
    crate::support::raw::{Dir, Queue, link, wait_until},
    crate::support::rng::Rng,
    crate::support::{Context, End, Verdict, equal, fail, holds, skip},
    code::*,
    shared_abi::virtio::net::{Features, RECEIVE_QUEUE},
    shared_abi::virtio::ring::INDEX_OFFSET,
    shared_abi::virtio::{CommonFeatures, Status},
};

const RESET: &str = "2.6.1.1.1 Device Requirements: Virtqueue Reset";
const ENABLE: &str = "2.6.1.2.1 Device Requirements: Virtqueue Re-enable";
const REGISTERS: &str = "4.1.4.3.1 Device Requirements: Common configuration structure layout; 4.2.2.1 Device Requirements: MMIO Device Register Layout";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "queue-reset/takes-the-queue-back",
        rule: "A queue that was reset is not enabled",
        clause: REGISTERS,
        method: "Reset queue 0 of a live device, wait for the reset register; then reset the device",
        expectation: "The reset register reads 0 before, behind and after the device's reset, the ready register \
            behind; the device is live",
        run: |cx| each(cx, takes_the_queue_back),
    },
    Check {
        name: "queue-reset/other-queues-stay",
        rule: "A queue is reset alone",
        clause: RESET,
        method: "Reset queue 0 of a device with two live queues, read the ready state of queue 1",
        expectation: "1",
        run: |cx| each(cx, other_queues_stay),
    },
    Check {
        name: "queue-reset/nothing-is-used-after-it",
        rule: "A device executes no requests of a queue that was reset",
        clause: RESET,
        method: "Reset the queue, offer a buffer in the old rings, notify, wait 20 ms",
        expectation: "The used index stays, no interrupt but that of the buffer before, no DEVICE_NEEDS_RESET",
        run: |cx| {
            let mut rng = rng(cx)?;
            let before = rng.dev.interrupts();
            let buf = rng.dev.buffer(16)?;
            rng.fill(&buf)?;
            reset(&rng.dev, 0)?;
            rng.queue.send(&rng.dev, 0);
            wait_until(QUIET, || rng.queue.used_index() != 1);
            equal("used index", 1, rng.queue.used_index())?;
            if let (Some(before), Some(after)) = (before, rng.dev.interrupts()) {
                // That of the first buffer may have come at any time.
                holds(after - before <= 1, "interrupts for one buffer", "at most 1", after - before)?;
            }
            rng.dev.healthy()
        },
    },
    Check {
        name: "queue-reset/requests-in-flight-end",
        rule: "A device executes no requests of a queue that was reset",
        clause: RESET,
        method: "Offer eight buffers, reset the queue at once; once the reset register reads 0, compare the used \
            ring with itself 20 ms later",
        expectation: "It does not change any more",
        run: |cx| {
            let mut rng = rng(cx)?;
            let buf = rng.dev.buffer(8 * 512)?;
            for n in 0..rng.queue.size.min(8) {
                rng.queue.chain(n, &[link(&buf.part(usize::from(n) * 512, 512), Dir::In)]);
                rng.queue.offer(n);
            }
            rng.queue.publish();
            rng.queue.notify(&rng.dev);
            reset(&rng.dev, 0)?;
            let before = rng.queue.used.bytes();
            wait_until(QUIET, || false);
            equal("used ring unchanged", true, before == rng.queue.used.bytes())?;
            rng.dev.healthy()
        },
    },
    Check {
        name: "queue-reset/starts-over-with-other-rings",
        rule: "A queue that was reset may be set up with other parameters",
        clause: ENABLE,
        method: "Three requests, a reset of the queue, other rings of another size, two requests",
        expectation: "Used index 2, from slot 0 on; the old rings do not change",
        run: |cx| {
            let mut rng = rng(cx)?;
            let buf = rng.dev.buffer(16)?;
            (0..3).try_for_each(|_| rng.fill(&buf).map(drop))?;
            reset(&rng.dev, 0)?;
            let new = rng.dev.queue(0, 4)?;
            let old = core::mem::replace(&mut rng.queue, new);
            let before = old.used.bytes();
            (0..2).try_for_each(|_| rng.fill(&buf).map(drop))?;
            equal("used index of the new ring", 2, rng.queue.used_index())?;
            equal("old used ring unchanged", true, before == old.used.bytes())?;
            rng.dev.healthy()
        },
    },
    Check {
        name: "queue-reset/works-again-and-again",
        rule: "A queue may be reset at any time",
        clause: RESET,
        method: "Ten times: reset the queue, set it up, have one buffer used",
        expectation: "Each is used",
        run: |cx| {
            let mut rng = rng(cx)?;
            let buf = rng.dev.buffer(16)?;
            for _ in 0..10 {
                reset(&rng.dev, 0)?;
                rng.queue = rng.dev.queue(0, 8)?;
                rng.fill(&buf)?;
            }
            rng.dev.healthy()
        },
    },
    Check {
        name: "queue-reset/receive-queue-goes-on",
        rule: "A queue that was reset may be enabled again while others are in use",
        clause: ENABLE,
        method: "Reset a card's receive queue with buffers in it, set it up anew, have a frame echoed",
        expectation: "The frame arrives in the new buffers, the old ones stay as they are",
        run: |cx| {
            find_echo_peer(cx)?;
            let mut card = Card::start_more(cx, Features::MAC, RING_RESET)?;
            let old = card.stock(BUFFER, 4)?;
            reset(&card.dev, RECEIVE_QUEUE)?;
            let (index, content) = (card.receive.used_index(), old.part(0, 64).bytes());
            let new = card.dev.queue(RECEIVE_QUEUE, 16)?;
            let ring = core::mem::replace(&mut card.receive, new).used;
            card.stock(BUFFER, 16)?;
            let frame = card.to_echo_peer(200);
            card.echo(&frame)?;
            equal("used index of the old ring", index, ring.read16(INDEX_OFFSET))?;
            equal("old buffers unchanged", true, content == old.part(0, 64).bytes())?;
            card.dev.healthy()
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const RING_RESET: CommonFeatures = CommonFeatures::RING_RESET;

    /// How long a queue may take to let go, and how long one is watched that must not do anything.
    pub const PATIENCE: u64 = 1_000_000_000;

    pub const QUIET: u64 = 20_000_000;

    /// Runs a check on every device that offers the feature.
    pub fn each(cx: &Context, check: fn(&Target) -> Verdict) -> Verdict {
        let mut tried = false;
        for target in &cx.targets {
            match check(target) {
                Err(End::Skip(_)) => {}
                other => {
                    other.map_err(|end| end.of(target.name()))?;
                    tried = true;
                }
            }
        }
        if tried { Ok(()) } else { Err(skip("no device offers RING_RESET")) }
    }

    /// A live device with its first queue.
    pub fn live(target: &Target) -> Result<(Dev<'_>, Queue), End> {
        let dev = Dev::with_features(target, RING_RESET.bits())?;
        dev.needs(RING_RESET)?;
        let queue = dev.queue(0, 8)?;
        Ok((dev, queue))
    }

    /// Resets a queue and waits until that is through.
    pub fn reset(dev: &Dev<'_>, queue: u16) -> Verdict {
        dev.regs().select_queue(queue.into());
        dev.regs().reset_queue();
        if !wait_until(PATIENCE, || dev.regs().queue_reset() == 0) {
            return Err(fail("the reset register", "0 within 1 s", dev.regs().queue_reset()));
        }
        equal("ready state after the reset", 0, dev.regs().queue_ready())
    }

    pub fn takes_the_queue_back(target: &Target) -> Verdict {
        let (dev, _queue) = live(target)?;
        dev.start()?;
        dev.regs().select_queue(0);
        equal("reset register of a live queue", 0, dev.regs().queue_reset())?;
        reset(&dev, 0)?;
        let all = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;
        equal("status", all.bits(), dev.regs().status())?;
        holds(target.reset(), "status after a reset", 0, dev.regs().status())?;
        target.regs.select_queue(0);
        equal("reset register after a device reset", 0, target.regs.queue_reset())
    }

    pub fn other_queues_stay(target: &Target) -> Verdict {
        let (dev, _queue) = live(target)?;
        dev.regs().select_queue(1);
        if dev.regs().queue_size_max() == 0 {
            return Err(skip("it has one queue"));
        }
        let _other = dev.queue(1, 8)?;
        dev.start()?;
        reset(&dev, 0)?;
        dev.regs().select_queue(1);
        equal("ready state of queue 1", 1, dev.regs().queue_ready())
    }

    pub fn rng(cx: &Context) -> Result<Rng<'_>, End> {
        let rng = Rng::start(cx, RING_RESET.bits(), 8)?;
        rng.dev.needs(RING_RESET)?;
        Ok(rng)
    }
}
