//! What is common to checks of both transports: a bus, all of its devices, and one that is live.

use super::device::{Dev, Target};
use super::raw::Queue;
use super::registers::Regs;
use super::{Context, End, Verdict, equal, holds, skip};
use shared_abi::virtio::Status;

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

pub fn bus_of(target: &Target) -> Bus {
    match target.regs {
        Regs::Mmio(_) => Bus::Mmio,
        Regs::Pci(..) => Bus::Pci,
    }
}

/// Adds the device to a failure.
pub fn named(target: &Target, end: End) -> End {
    match end {
        End::Fail { ref what, .. } if !what.contains(" at ") => end.of(target.name()),
        other => other,
    }
}

pub const ACKNOWLEDGE: u8 = Status::ACKNOWLEDGE.bits();
pub const DRIVER: u8 = ACKNOWLEDGE | Status::DRIVER.bits();
pub const FEATURES_OK: u8 = Status::FEATURES_OK.bits();
pub const FAILED: u8 = Status::FAILED.bits();

/// A queue that no device of ours has.
pub const MISSING: u32 = 900;

/// A live device with queue 0 and nothing in it.
pub fn live(target: &Target) -> Result<(Dev<'_>, Queue), End> {
    let dev = Dev::with_features(target, 0)?;
    let queue = dev.queue(0, 8)?;
    dev.start()?;
    Ok((dev, queue))
}

pub fn reset(target: &Target) -> Verdict {
    holds(target.reset(), "status after a reset", 0, target.regs.status())
}

/// A device that nothing has harmed.
pub fn still_live(dev: &Dev<'_>) -> Verdict {
    dev.healthy()?;
    let all = DRIVER | FEATURES_OK | Status::DRIVER_OK.bits();
    equal("status", all, dev.regs().status())?;
    dev.regs().select_queue(0);
    equal("ready state of queue 0", 1, dev.regs().queue_ready())
}
