//! Notifications in both directions: who asks for them and how, and what 65,536 requests do to that.

use super::device::Dev;
use super::raw::{Buf, Dir, Queue, link, wait_until};
use super::{Context, End, Verdict, advice, equal, fail, holds, skip, worst};
use alloc::format;
use shared_abi::virtio::ring::AVAIL_NO_INTERRUPT;
use shared_abi::virtio::{CommonFeatures, DeviceType};

/// How long an interrupt may take, and how long one is waited for that must not come.
const PATIENCE: u64 = 1_000_000_000;
const QUIET: u64 = 5_000_000;

/// An entropy device that interrupts, with one descriptor and one ring entry prepared for each place of its queue.
struct Source<'a> {
    dev: Dev<'a>,
    queue: Queue,
    _data: Buf,
}

impl<'a> Source<'a> {
    fn start(cx: &'a Context, features: CommonFeatures) -> Result<Self, End> {
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

    fn interrupts(&self) -> Result<u64, End> {
        self.dev.interrupts().ok_or_else(|| skip("the device cannot interrupt"))
    }

    /// Has one buffer used.
    fn once(&mut self) -> Verdict {
        self.queue.republish(1);
        self.queue.notify(&self.dev);
        self.queue.skip(1)
    }

    /// Waits until there were more interrupts than `before`, and acknowledges.
    fn interrupted(&self, before: u64) -> Result<bool, End> {
        self.interrupts()?;
        let came = wait_until(PATIENCE, || self.dev.interrupts() != Some(before));
        self.dev.take_interrupt();
        Ok(came)
    }

    /// Fails if there are interrupts.
    fn quiet(&self, before: u64) -> Verdict {
        wait_until(QUIET, || self.dev.interrupts() != Some(before));
        let saw = self.interrupts()?;
        self.dev.take_interrupt();
        equal("interrupts", 0, saw - before)
    }
}

pub fn no_interrupt_is_followed(cx: &Context) -> Verdict {
    let mut source = Source::start(cx, CommonFeatures::empty())?;
    source.queue.set_flags(AVAIL_NO_INTERRUPT);
    let before = source.interrupts()?;
    (0..10).try_for_each(|_| source.once())?;
    source.quiet(before)
}

/// Requests one at a time; each must interrupt.
fn each_interrupts(source: &mut Source<'_>, count: u16, prepare: impl Fn(&Queue)) -> Verdict {
    for n in 0..count {
        let before = source.interrupts()?;
        prepare(&source.queue);
        source.once()?;
        holds(source.interrupted(before)?, &format!("interrupts of request {n}"), "one within 1 s", "none")?;
    }
    Ok(())
}

pub fn interrupt_without_the_flag(cx: &Context) -> Verdict {
    each_interrupts(&mut Source::start(cx, CommonFeatures::empty())?, 10, |_| ())
}

pub fn event_index_asks(cx: &Context) -> Verdict {
    let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
    each_interrupts(&mut source, 10, |queue| queue.set_used_event(queue.seen()))
}

pub fn event_index_overrules_the_flag(cx: &Context) -> Verdict {
    let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
    source.queue.set_flags(AVAIL_NO_INTERRUPT);
    each_interrupts(&mut source, 5, |queue| queue.set_used_event(queue.seen()))
}

/// The first one is a check of its own: a device may not know yet which index it told the driver last.
pub fn event_index_holds_the_first_back(cx: &Context) -> Verdict {
    let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
    source.queue.set_used_event(0x4000);
    let before = source.interrupts()?;
    source.once()?;
    source.quiet(before)
}

/// Has one buffer used, with an interrupt.
fn warm_up(source: &mut Source<'_>) -> Verdict {
    each_interrupts(source, 1, |queue| queue.set_used_event(queue.seen()))
}

pub fn event_index_holds_back(cx: &Context) -> Verdict {
    let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
    warm_up(&mut source)?;
    source.queue.set_used_event(0x4000);
    let before = source.interrupts()?;
    (0..10).try_for_each(|_| source.once())?;
    source.quiet(before)
}

pub fn event_index_in_the_middle(cx: &Context) -> Verdict {
    const MIDDLE: u16 = 5;
    let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
    warm_up(&mut source)?;
    source.queue.set_used_event(MIDDLE);
    // One that was not asked for is advice, one that is missing is not.
    let mut more = Ok(());
    for n in 1..9 {
        let before = source.interrupts()?;
        source.once()?;
        if n == MIDDLE {
            holds(source.interrupted(before)?, "interrupts of the fifth request", "one within 1 s", "none")?;
        } else {
            more = worst(more, advice(source.quiet(before)));
        }
    }
    more
}

pub fn idle_device_asks(cx: &Context) -> Verdict {
    let mut source = Source::start(cx, CommonFeatures::empty())?;
    source.once()?;
    let asks = wait_until(PATIENCE, || source.queue.used_flags() == 0);
    holds(asks, "used flags of an idle device", 0, source.queue.used_flags())
}

pub fn idle_device_moves_avail_event(cx: &Context) -> Verdict {
    let mut source = Source::start(cx, CommonFeatures::EVENT_IDX)?;
    for _ in 0..3 {
        source.once()?;
        let next = source.queue.next();
        let moved = wait_until(PATIENCE, || source.queue.avail_event() == next);
        holds(moved, "avail_event of an idle device", next, source.queue.avail_event())?;
    }
    Ok(())
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
    // The lowest batch that is watched: from there on, until behind the wrap.
    let watched = 65_536_u32.saturating_sub(100 * u32::from(batch));
    let mut done = 0;
    while done < REQUESTS {
        let watch = events && done >= watched;
        let last = source.queue.seen().wrapping_add(batch - 1);
        if watch {
            // One that nobody waited for, as QEMU's first one, keeps a line that signals by a level up.
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
        if watch && source.dev.interrupts().is_some() && !source.interrupted(before)? {
            let what = format!("interrupts at used index {}", source.queue.used_index());
            return Err(fail(&what, "one within 1 s", "none"));
        }
        equal("used index", done as u16, source.queue.used_index())?;
    }
    source.dev.healthy()
}
