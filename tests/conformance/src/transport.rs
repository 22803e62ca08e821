//! Checks that both transports have. Each takes one device; the groups apply it to all devices of their transport.

use super::device::{Dev, Target};
use super::raw::wait_until;
use super::registers::Regs;
use super::{Context, End, Verdict, equal, holds, skip};
use alloc::format;
use alloc::vec::Vec;
use shared_abi::virtio::{CommonFeatures, DeviceType, Status, blk, net};

/// A transport.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Mmio,
    Pci,
}

/// Applies a check to all devices of a transport; the first that fails is the verdict.
pub fn each(cx: &Context, bus: Bus, check: impl Fn(&Target) -> Verdict) -> Verdict {
    let mut targets = cx.targets.iter().filter(|target| bus == bus_of(target)).peekable();
    if targets.peek().is_none() {
        return Err(skip(match bus {
            Bus::Mmio => "there is no virtio-mmio device",
            Bus::Pci => "there is no modern virtio-pci device",
        }));
    }
    targets.try_for_each(|target| check(target).map_err(|end| named(target, end)))
}

fn bus_of(target: &Target) -> Bus {
    match target.regs {
        Regs::Mmio(_) => Bus::Mmio,
        Regs::Pci(..) => Bus::Pci,
    }
}

/// Adds the device to a failure.
fn named(target: &Target, end: End) -> End {
    match end {
        End::Fail { ref what, .. } if !what.contains(" at ") => end.of(target.name()),
        other => other,
    }
}

const ACKNOWLEDGE: u8 = Status::ACKNOWLEDGE.bits();
const DRIVER: u8 = ACKNOWLEDGE | Status::DRIVER.bits();
const FEATURES_OK: u8 = Status::FEATURES_OK.bits();
const FAILED: u8 = Status::FAILED.bits();
/// A queue that no device of ours has.
const MISSING: u32 = 900;

/// The rows of the common checks for a group, then its own.
#[macro_export]
macro_rules! transport_code {
    ($group:literal, $bus:expr; $($common:ident $name:literal),*; $($own_name:literal => $own:expr),* $(,)?) => {
        &[
            $((concat!($group, "/", $name), |cx| $crate::transport::each(cx, $bus, $crate::transport::$common)),)*
            $((concat!($group, "/", $own_name), $own),)*
        ]
    };
    ($group:literal, $bus:expr; $($own_name:literal => $own:expr),* $(,)?) => {
        $crate::transport_code!($group, $bus;
            reset_clears_status "reset-clears-status",
            reset_works_again_and_again "reset-works-again-and-again",
            status_keeps_what_is_written "status-keeps-what-is-written",
            failed_stays_until_reset "failed-stays-until-reset",
            version_1_is_offered "version-1-is-offered",
            features_are_stable "features-are-stable",
            feature_words_beyond_are_zero "feature-words-beyond-are-zero",
            features_come_with_what_they_require "features-come-with-what-they-require",
            features_ok_stays_for_all_offered "features-ok-stays-for-all-offered",
            features_ok_stays_for_the_least "features-ok-stays-for-the-least",
            features_ok_falls_for_a_bit_not_offered "features-ok-falls-for-a-bit-not-offered",
            features_ok_falls_without_version_1 "features-ok-falls-without-version-1",
            driver_ok_reads_back "driver-ok-reads-back",
            queue_size_is_valid "queue-size-is-valid",
            missing_queue_has_size_0 "missing-queue-has-size-0",
            far_queue_has_size_0 "queue-selectors-far-out-of-range-have-size-0",
            queue_is_not_ready_at_first "queue-is-not-ready-at-first",
            queue_ready_reads_back "queue-ready-reads-back",
            reset_takes_queues_back "reset-takes-queues-back",
            selectors_keep_queues_apart "selectors-keep-queues-apart",
            interrupt_status_is_0_at_first "interrupt-status-is-0-at-first",
            setup_does_not_interrupt "setup-does-not-interrupt",
            notify_of_a_missing_queue_is_harmless "notify-of-a-missing-queue-is-harmless",
            notify_of_an_empty_queue_is_harmless "notify-of-an-empty-queue-is-harmless",
            config_is_stable "config-is-stable",
            config_reads_alike_by_width "config-reads-alike-by-width",
            config_before_features_ok_is_readable "config-before-features-ok-is-readable";
            $($own_name => $own),*)
    };
}

/// A live device with queue 0 and nothing in it.
pub fn live(target: &Target) -> Result<(Dev<'_>, super::raw::Queue), End> {
    let dev = Dev::with_features(target, 0)?;
    let queue = dev.queue(0, 8)?;
    dev.start()?;
    Ok((dev, queue))
}

fn reset(target: &Target) -> Verdict {
    holds(target.reset(), "status after a reset", 0, target.regs.status())
}

pub fn reset_clears_status(target: &Target) -> Verdict {
    target.regs.set_status(ACKNOWLEDGE);
    target.regs.set_status(DRIVER);
    reset(target)
}

pub fn reset_works_again_and_again(target: &Target) -> Verdict {
    for _ in 0..50 {
        target.regs.set_status(ACKNOWLEDGE);
        reset(target)?;
    }
    Ok(())
}

pub fn status_keeps_what_is_written(target: &Target) -> Verdict {
    reset(target)?;
    for status in [ACKNOWLEDGE, DRIVER] {
        target.regs.set_status(status);
        equal("status", status, target.regs.status())?;
    }
    reset(target)
}

pub fn failed_stays_until_reset(target: &Target) -> Verdict {
    let _dev = Dev::new(target)?;
    target.regs.set_status(DRIVER | FAILED);
    let saw = target.regs.status();
    reset(target)?;
    equal("status", DRIVER | FAILED, saw)
}

pub fn version_1_is_offered(target: &Target) -> Verdict {
    let offered = Dev::new(target)?.offered;
    holds(offered & CommonFeatures::VERSION_1.bits() != 0, "features", "bit 32", format!("{offered:#x}"))
}

pub fn features_are_stable(target: &Target) -> Verdict {
    let dev = Dev::new(target)?;
    equal("features, read again", dev.offered, target.regs.features())?;
    let offered = dev.offered;
    drop(dev);
    equal("features after a reset", offered, Dev::new(target)?.offered)
}

pub fn feature_words_beyond_are_zero(target: &Target) -> Verdict {
    let _dev = Dev::new(target)?;
    for word in [100, u32::MAX] {
        equal(&format!("feature word {word:#x}"), 0, target.regs.feature_word(word))?;
    }
    Ok(())
}

/// What is left out: bits that change how queues are used or need other bits.
pub fn features_ok_stays_for_all_offered(target: &Target) -> Verdict {
    let left_out = CommonFeatures::RING_PACKED | CommonFeatures::NOTIFICATION_DATA | CommonFeatures::IN_ORDER;
    Dev::with_features(target, !left_out.bits()).map(drop)
}

pub fn features_ok_stays_for_the_least(target: &Target) -> Verdict {
    Dev::with_exactly(target, 0).map(drop)
}

/// What features of a card require: one of the bits of each set (5.1.3.1), as far as they have 64 bits.
const CARD_REQUIRES: &[(u32, &[u64])] = &[
    (7, &[GUEST_CSUM]),
    (8, &[GUEST_CSUM]),
    (9, &[GUEST_TSO]),
    (10, &[GUEST_CSUM]),
    (11, &[CSUM]),
    (12, &[CSUM]),
    (13, &[HOST_TSO]),
    (14, &[CSUM]),
    (18, &[CTRL_VQ]),
    (19, &[CTRL_VQ]),
    (21, &[CTRL_VQ]),
    (22, &[CTRL_VQ]),
    (23, &[CTRL_VQ]),
    (51, &[CTRL_VQ, RSS_OR_HASH_REPORT]),
    (52, &[CTRL_VQ]),
    (53, &[CTRL_VQ]),
    (54, &[GUEST_CSUM]),
    (55, &[GUEST_CSUM]),
    (56, &[CSUM]),
    (60, &[CTRL_VQ]),
    (61, &[HOST_TSO]),
];
const CSUM: u64 = net::Features::CSUM.bits();
const GUEST_CSUM: u64 = net::Features::GUEST_CSUM.bits();
const GUEST_TSO: u64 = net::Features::GUEST_TSO4.union(net::Features::GUEST_TSO6).bits();
const HOST_TSO: u64 = net::Features::HOST_TSO4.union(net::Features::HOST_TSO6).bits();
const CTRL_VQ: u64 = net::Features::CTRL_VQ.bits();
const RSS_OR_HASH_REPORT: u64 = 1 << 60 | 1 << 57;
/// The same of a disk: CONFIG_WCE comes with FLUSH (5.2.5.2).
const DISK_REQUIRES: &[(u32, &[u64])] = &[(11, &[blk::Features::FLUSH.bits()])];

pub fn features_come_with_what_they_require(target: &Target) -> Verdict {
    const SR_IOV: u64 = 1 << 37;
    let rules = match target.device_type {
        DeviceType::NET => CARD_REQUIRES,
        DeviceType::BLOCK => DISK_REQUIRES,
        _ => &[],
    };
    let offered = Dev::new(target)?.offered;
    if bus_of(target) == Bus::Mmio {
        equal("SR_IOV of a device that is not on PCI", 0, offered & SR_IOV)?;
    }
    for &(bit, sets) in rules.iter().filter(|(bit, _)| offered & 1 << bit != 0) {
        let missing = sets.iter().find(|&&set| offered & set == 0);
        let expected = format!("one of {:#x} beside bit {bit}", missing.copied().unwrap_or_default());
        holds(missing.is_none(), "offered features", expected, format!("{offered:#x}"))?;
    }
    Ok(())
}

pub fn features_ok_falls_for_a_bit_not_offered(target: &Target) -> Verdict {
    let dev = Dev::new(target)?;
    // Bits of device types, from the top: reserved ones could be special to a transport.
    let Some(bit) = (0..24).rev().find(|bit| dev.offered & 1 << bit == 0) else {
        return Err(skip("every bit is offered"));
    };
    dev.regs().set_features(CommonFeatures::VERSION_1.bits() | 1 << bit);
    if dev.regs().accepted_word(0).is_some_and(|word| word & 1 << bit == 0) {
        // 4.1.4.3.1: it may ignore such a bit and present 0, by which the driver knows what was accepted.
        return Ok(());
    }
    dev.regs().set_status(DRIVER | FEATURES_OK);
    equal(&format!("status with bit {bit} accepted, which was not offered"), DRIVER, dev.regs().status())
}

pub fn features_ok_falls_without_version_1(target: &Target) -> Verdict {
    let dev = Dev::new(target)?;
    dev.regs().set_features(0);
    dev.regs().set_status(DRIVER | FEATURES_OK);
    let saw = dev.regs().status();
    holds(saw & DRIVER == DRIVER, "status", "ACKNOWLEDGE and DRIVER", format!("{saw:#x}"))?;
    drop(dev);
    live(target).map(drop)
}

pub fn driver_ok_reads_back(target: &Target) -> Verdict {
    let (dev, _queue) = live(target)?;
    let all = DRIVER | FEATURES_OK | Status::DRIVER_OK.bits();
    equal("status", all, dev.regs().status())
}

pub fn queue_size_is_valid(target: &Target) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    dev.regs().select_queue(0);
    let size = dev.regs().queue_size_max();
    holds((1..=32768).contains(&size), "largest size of queue 0", "1 to 32768", size)
}

pub fn missing_queue_has_size_0(target: &Target) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    dev.regs().select_queue(MISSING);
    equal("size of queue 900", 0, dev.regs().queue_size_max())
}

pub fn far_queue_has_size_0(target: &Target) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    dev.regs().select_queue(0);
    dev.regs().select_queue(0xfff0);
    equal("size of queue 0xfff0", 0, dev.regs().queue_size_max())
}

pub fn queue_is_not_ready_at_first(target: &Target) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    for queue in 0..64 {
        dev.regs().select_queue(queue);
        if dev.regs().queue_size_max() == 0 {
            break;
        }
        equal(&format!("ready state of queue {queue}"), 0, dev.regs().queue_ready())?;
    }
    Ok(())
}

pub fn queue_ready_reads_back(target: &Target) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    dev.queue(0, 8).map(drop)
}

pub fn reset_takes_queues_back(target: &Target) -> Verdict {
    let taken_back = |when| {
        let _dev = Dev::new(target)?;
        target.regs.select_queue(0);
        equal(&format!("ready state of queue 0, set up and reset {when}"), 0, target.regs.queue_ready())
    };
    let early = {
        let dev = Dev::with_features(target, 0)?;
        dev.queue(0, 8)?;
        drop(dev);
        taken_back("before DRIVER_OK")
    };
    // A device that keeps it then is rid of it here.
    let (dev, queue) = live(target)?;
    drop((queue, dev));
    taken_back("after DRIVER_OK")?;
    early
}

pub fn selectors_keep_queues_apart(target: &Target) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    let _queue = dev.queue(0, 8)?;
    dev.regs().select_queue(1);
    if dev.regs().queue_size_max() != 0 {
        equal("ready state of queue 1", 0, dev.regs().queue_ready())?;
    }
    dev.regs().select_queue(0);
    equal("ready state of queue 0", 1, dev.regs().queue_ready())
}

pub fn interrupt_status_is_0_at_first(target: &Target) -> Verdict {
    let dev = Dev::new(target)?;
    equal("interrupt status", 0, dev.take_interrupt())
}

pub fn setup_does_not_interrupt(target: &Target) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    let _queue = dev.queue(0, 8)?;
    let before = dev.interrupts();
    wait_until(20_000_000, || false);
    equal("interrupts", before, dev.interrupts())?;
    equal("interrupt status", 0, dev.take_interrupt())
}

pub fn notify_of_a_missing_queue_is_harmless(target: &Target) -> Verdict {
    let (dev, queue) = live(target)?;
    dev.regs().notify(queue.notify_at, MISSING);
    still_live(&dev)
}

pub fn notify_of_an_empty_queue_is_harmless(target: &Target) -> Verdict {
    let (dev, queue) = live(target)?;
    for _ in 0..3 {
        queue.notify(&dev);
    }
    wait_until(5_000_000, || queue.used_index() != 0);
    equal("used index", 0, queue.used_index())?;
    still_live(&dev)
}

/// A device that nothing has harmed.
pub fn still_live(dev: &Dev<'_>) -> Verdict {
    dev.healthy()?;
    let all = DRIVER | FEATURES_OK | Status::DRIVER_OK.bits();
    equal("status", all, dev.regs().status())?;
    dev.regs().select_queue(0);
    equal("ready state of queue 0", 1, dev.regs().queue_ready())
}

/// Bytes of the configuration that a type of device has for certain.
fn config_len(target: &Target) -> usize {
    let known = match target.device_type {
        DeviceType::BLOCK => core::mem::offset_of!(blk::Config, num_queues),
        DeviceType::NET => core::mem::offset_of!(net::Config, status),
        DeviceType::BALLOON => 8,
        _ => 0,
    };
    known.min(target.regs.config_len()) & !3
}

fn config(target: &Target) -> (u32, Vec<u32>) {
    let generation = target.regs.config_generation();
    (generation, (0..config_len(target)).step_by(4).map(|at| target.regs.config_read(at, 4)).collect())
}

pub fn config_is_stable(target: &Target) -> Verdict {
    let _dev = Dev::with_features(target, 0)?;
    let (first, before) = config(target);
    let (second, after) = config(target);
    if first != second {
        return Err(skip("the configuration changed meanwhile"));
    }
    equal("configuration", before, after)
}

pub fn config_reads_alike_by_width(target: &Target) -> Verdict {
    let _dev = Dev::with_features(target, 0)?;
    let regs = &target.regs;
    for at in (0..config_len(target).min(8)).step_by(4) {
        let word = regs.config_read(at, 4);
        let bytes = (0..4).fold(0, |word, n| word | regs.config_read(at + n, 1) << (8 * n));
        let halves = regs.config_read(at, 2) | regs.config_read(at + 2, 2) << 16;
        equal(&format!("bytes of the configuration at {at}"), word, bytes)?;
        equal(&format!("halves of the configuration at {at}"), word, halves)?;
    }
    Ok(())
}

pub fn config_before_features_ok_is_readable(target: &Target) -> Verdict {
    let before = Dev::new(target).map(|_dev| config(target))?;
    let after = Dev::with_features(target, 0).map(|_dev| config(target))?;
    if before.0 != after.0 { Ok(()) } else { equal("configuration", before.1, after.1) }
}
