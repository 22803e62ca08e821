//! MSI-X vectors of virtio devices: which events are mapped to them, and what comes by them.

use super::device::Target;
use super::pci_space::{table_size, with_queue_0};
use super::raw::wait_until;
use super::registers::Regs;
use super::rng::Rng;
use super::transport::{Bus, each};
use super::{Context, End, Verdict, equal, error, holds, skip};
use alloc::format;
use core::mem::offset_of;
use frontends::transport::Registers;
use frontends::transport::pci::Vectors;
use guest_kernel::devices::place::Place;
use guest_kernel::platform::registers::Window;
use guest_kernel::trap::irq;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::pci::{CommonConfig, NO_VECTOR};

const CONFIG: (&str, usize) = ("config_msix_vector", offset_of!(CommonConfig, config_msix_vector));
const QUEUE: (&str, usize) = ("queue_msix_vector", offset_of!(CommonConfig, queue_msix_vector));
/// How long an interrupt may take, and how long one is waited for that must not come.
const PATIENCE: u64 = 1_000_000_000;
const QUIET: u64 = 20_000_000;

/// Applies a check to the devices that have MSI-X, with queue 0 selected.
fn each_with_vectors(cx: &Context, check: fn(&Target, &Window) -> Verdict) -> Verdict {
    let mut any = false;
    each(cx, Bus::Pci, |_| Ok(()))?;
    for target in &cx.targets {
        if matches!(target.regs, Regs::Pci(_, Some(_))) {
            any = true;
            with_queue_0(target, |common| check(target, common)).map_err(|end| end.of(target.name()))?;
        }
    }
    if any { Ok(()) } else { Err(skip("no device has MSI-X")) }
}

/// Writes a vector and reads it back.
fn map(common: &Window, (name, at): (&str, usize), vector: u16, expected: u16) -> Verdict {
    common.write16(at, vector);
    equal(&format!("{name}, {vector:#x} written"), expected, common.read16(at))
}

pub fn are_none_at_first(cx: &Context) -> Verdict {
    each_with_vectors(cx, |_, common| {
        [CONFIG, QUEUE].into_iter().try_for_each(|(name, at)| equal(name, NO_VECTOR, common.read16(at)))
    })
}

pub fn read_back(cx: &Context) -> Verdict {
    each_with_vectors(cx, |_, common| {
        map(common, CONFIG, 0, 0)?;
        map(common, QUEUE, 1, 1)?;
        equal("config_msix_vector, read again", 0, common.read16(CONFIG.1))
    })
}

pub fn beyond_the_table_is_refused(cx: &Context) -> Verdict {
    each_with_vectors(cx, |_, common| map(common, QUEUE, 0x7fe, NO_VECTOR))
}

pub fn every_one_can_be_mapped(cx: &Context) -> Verdict {
    each_with_vectors(cx, |target, common| {
        (0..table_size(target)?)
            .try_for_each(|vector| [CONFIG, QUEUE].into_iter().try_for_each(|event| map(common, event, vector, vector)))
    })
}

pub fn can_be_unmapped(cx: &Context) -> Verdict {
    each_with_vectors(cx, |_, common| {
        map(common, CONFIG, 0, 0)?;
        map(common, QUEUE, 1, 1)?;
        [CONFIG, QUEUE].into_iter().try_for_each(|event| map(common, event, NO_VECTOR, NO_VECTOR))
    })
}

pub fn table_has_2_to_2048(cx: &Context) -> Verdict {
    each_with_vectors(cx, |target, _| {
        let size = table_size(target)?;
        holds((2..=0x800).contains(&size), "vectors", "2 to 2048", size)
    })
}

pub fn queue_without_one_stays_quiet(cx: &Context) -> Verdict {
    let target = cx.device(DeviceType::RNG)?;
    let quiet = with(target, |vectors| Vectors { first_queue: NO_VECTOR, ..vectors })?;
    stays_quiet(target, || once(&quiet))?;
    // The same with a vector: else the silence says nothing.
    interrupts(target, || once(target))
}

/// Has a buffer used.
fn once(target: &Target) -> Verdict {
    let mut rng = Rng::on(target, 0, 8)?;
    let buf = rng.dev.buffer(16)?;
    rng.fill(&buf)?;
    // Behind this, the reset would take an interrupt back that is late.
    wait_until(QUIET, || false);
    rng.dev.healthy()
}

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
fn count(target: &Target) -> u64 {
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
