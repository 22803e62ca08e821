//! A device with other MSI-X vectors, and whether it interrupts.

use super::device::Target;
use super::raw::wait_until;
use super::registers::Regs;
use super::{End, Verdict, equal, error, skip};
use alloc::format;
use frontends::transport::pci::Vectors;
use guest_kernel::devices::place::Place;
use guest_kernel::trap::irq;

/// How long an interrupt may take, and how long one is waited for that must not come.
const PATIENCE: u64 = 1_000_000_000;
pub const QUIET: u64 = 20_000_000;

/// The same device with other vectors.
///
/// # Errors
/// Not applicable where it has no MSI-X.
pub fn with(target: &Target, change: impl FnOnce(Vectors) -> Vectors) -> Result<Target, End> {
    let (Place::Pci(function), Regs::Pci(windows, Some(vectors))) = (&target.place, &target.regs) else {
        return Err(skip(format!("the {} device has no MSI-X", target.device_type.name())));
    };
    Ok(Target {
        device_type: target.device_type,
        place: Place::Pci(*function),
        regs: Regs::Pci(windows.clone(), Some(change(*vectors))),
        interrupts: target.interrupts,
    })
}

/// All that a device can have sent so far.
pub fn count(target: &Target) -> u64 {
    let events = [target.interrupts.queue_event(), target.interrupts.config_event()];
    events.into_iter().flatten().map(irq::count_of).sum::<u64>() + irq::unexpected_count()
}

/// Fails if a device interrupts while something is done, or shortly after.
///
/// # Errors
/// Then, and those of what is done.
pub fn stays_quiet(target: &Target, act: impl FnOnce() -> Verdict) -> Verdict {
    let before = count(target);
    act()?;
    wait_until(QUIET, || count(target) != before);
    equal("interrupts without a vector", 0, count(target) - before)
}

/// Could not be tried if a device does not interrupt when something is done.
///
/// # Errors
/// Then, and those of what is done.
pub fn interrupts(target: &Target, act: impl FnOnce() -> Verdict) -> Verdict {
    let before = count(target);
    act()?;
    if wait_until(PATIENCE, || count(target) != before) {
        return Ok(());
    }
    Err(error("the device does not interrupt with a vector either"))
}
