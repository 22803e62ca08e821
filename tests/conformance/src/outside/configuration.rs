//! Changes of the configuration: capacity, link and target, and how they are notified.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::host_action::{HostAction, field},
    crate::support::changes::{
        PATIENCE, SECTORS, balloon, both, card, set_capacity, set_link, set_target, started_balloon, started_card,
    },
    crate::support::device::{Dev, Target},
    crate::support::disk::{Answer, Disk},
    crate::support::raw::{Dir, Queue, link, wait_until},
    crate::support::registers::Regs,
    crate::support::vectors,
    crate::support::{Context, End, Verdict, advice, equal, holds, skip, worst},
    alloc::format,
    code::*,
    core::cell::Cell,
    frontends::transport::pci::Vectors,
    guest_kernel::trap::irq,
    shared_abi::virtio::blk::{self, RequestStatus, RequestType},
    shared_abi::virtio::mmio::InterruptStatus,
    shared_abi::virtio::pci::NO_VECTOR,
    shared_abi::virtio::{DeviceType, net},
};

const GENERATION: &str = "4.1.4.3.1 Device Requirements: Common configuration structure layout; 4.2.2.1 Device Requirements: MMIO Device Register Layout";
const NOTIFICATION: &str = "2.3 Notifications";
const STATUS: &str = "4.2.2 MMIO Device Register Layout; 4.1.4.5 ISR status capability";
const CAPACITY: &str = "5.2.5 Device Initialization";
const LINK: &str = "5.1.4 Device configuration layout";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "outside/generation-changes-with-the-configuration",
        rule: "The generation changes whenever two reads could see different configurations",
        clause: GENERATION,
        method: "Have the balloon's target, the disk's capacity, the link changed, one after the other",
        expectation: "Another generation where the field reads differently; over MMIO advice where a field is read \
            at once",
        run: |cx| {
            each_change(cx, |target, change| {
                let before = target.regs.config_generation();
                change()?;
                let saw = target.regs.config_generation();
                let what = format!("{}: generation", target.name());
                let verdict = holds(saw != before, &what, format_args!("not {before}"), saw);
                // 4.2.2.1 binds a device where a driver could see half of a change: of these fields, in the 64 bits of a capacity.
                let whole = matches!(target.regs, Regs::Mmio(_)) && target.device_type != DeviceType::BLOCK;
                if whole { advice(verdict) } else { verdict }
            })
        },
    },
    Check {
        name: "outside/configuration-change-interrupts",
        rule: "A change of the configuration is notified",
        clause: NOTIFICATION,
        method: "Have target, capacity and link changed, count the interrupts of each device that has some",
        expectation: "At least one for each",
        run: |cx| {
            let silent = Cell::new(true);
            each_change(cx, |target, change| {
                let Some(event) = target.interrupts.config_event().or(target.interrupts.queue_event()) else {
                    return Ok(());
                };
                silent.set(false);
                let before = irq::count_of(event);
                change()?;
                let came = wait_until(PATIENCE, || irq::count_of(event) != before);
                let verdict = holds(came, &format!("{}: interrupts within 5 s", target.name()), "1 or more", 0);
                // 5.2.6.2: a disk SHOULD signal a new capacity.
                if target.device_type == DeviceType::BLOCK { advice(verdict) } else { verdict }
            })?;
            if silent.get() { Err(skip("no device that can be changed can interrupt")) } else { Ok(()) }
        },
    },
    Check {
        name: "outside/interrupt-status-tells-a-configuration-change",
        rule: "Bit 1 of the interrupt status stands for a change of the configuration",
        clause: STATUS,
        method: "Have the balloon's target changed, where there is no MSI-X; acknowledge",
        expectation: "Bit 1 set; 0 after the acknowledgement",
        run: |cx| {
            with_pending_change(cx, |dev| {
                let status = dev.take_interrupt();
                let signalled = status & InterruptStatus::CONFIG_CHANGE.bits() != 0;
                holds(signalled, "interrupt status", "bit 1", format_args!("{status:#x}"))?;
                equal("interrupt status after the acknowledgement", 0, dev.take_interrupt())
            })
        },
    },
    Check {
        name: "outside/configuration-change-is-no-used-buffer",
        rule: "Bit 0 of the interrupt status stands for a used buffer",
        clause: STATUS,
        method: "Have the balloon's target changed, where there is no MSI-X",
        expectation: "Bit 0 clear: no queue has a buffer",
        run: |cx| {
            with_pending_change(cx, |dev| {
                equal("bit 0 of the interrupt status", 0, dev.take_interrupt() & InterruptStatus::USED_BUFFER.bits())
            })
        },
    },
    Check {
        name: "outside/reset-forgets-a-configuration-change",
        rule: "A reset takes pending interrupts back",
        clause: "2.4.1 Device Requirements: Device Reset",
        method: "Have the balloon's target changed, where there is no MSI-X; reset",
        expectation: "Interrupt status 0",
        run: |cx| {
            with_pending_change(cx, |dev| {
                holds(dev.target.reset(), "status after a reset", 0, dev.regs().status())?;
                equal("interrupt status", 0, dev.take_interrupt())
            })
        },
    },
    Check {
        name: "outside/change-without-a-vector-stays-quiet",
        rule: "A change of the configuration does not interrupt while config_msix_vector is NO_VECTOR",
        clause: "4.1.5.4.1 Device Requirements: Notification of Device Configuration Changes",
        method: "Have the balloon's target changed with NO_VECTOR, or the link where the balloon has no MSI-X, wait \
            20 ms; then with a vector",
        expectation: "No interrupt; then one",
        run: |cx| {
            // On the balloon, or on the card where the balloon has no MSI-X.
            let quiet = |device_type| {
                let target = cx.device(device_type)?;
                Ok((target, vectors::with(target, |vectors| Vectors { config: NO_VECTOR, ..vectors })?))
            };
            let of_the_balloon = cx.can_request(HostAction::Balloon).and_then(|()| quiet(DeviceType::BALLOON));
            match of_the_balloon {
                Ok((target, quiet)) => {
                    let dev = started_balloon(&quiet)?;
                    let checked = vectors::stays_quiet(target, || set_target(cx, target, 16));
                    drop(dev);
                    // The same with a vector: else the silence says nothing.
                    let _dev = started_balloon(target)?;
                    both(checked, vectors::interrupts(target, || set_target(cx, target, 0)))
                }
                Err(End::Skip(_)) => {
                    cx.can_request(HostAction::Link)?;
                    let (target, quiet) = quiet(DeviceType::NET)?;
                    let started = started_card(&quiet)?;
                    let checked = vectors::stays_quiet(target, || set_link(cx, target, field::DOWN));
                    drop(started);
                    let _started = started_card(target)?;
                    both(checked, vectors::interrupts(target, || set_link(cx, target, field::UP)))
                }
                Err(other) => Err(other),
            }
        },
    },
    Check {
        name: "outside/disk-shrinks",
        rule: "capacity is the disk's size, also when that changes",
        clause: CAPACITY,
        method: "Have 8 sectors taken from the disk, read the first of them",
        expectation: "capacity is less by 8; IOERR",
        run: |cx| {
            with_smaller_disk(cx, |disk, first| {
                let sector = disk.sectors(1)?;
                let Answer { status, .. } = disk.request(RequestType::IN, first, &[link(&sector, Dir::In)])?;
                advice(equal("status of a read past the end", RequestStatus::IOERR.0, status))
            })
        },
    },
    Check {
        name: "outside/disk-grows",
        rule: "A disk that grew can be used to its new end",
        clause: CAPACITY,
        method: "Have 8 sectors taken and given back, write and read them",
        expectation: "capacity as before; what was written",
        run: |cx| {
            with_smaller_disk(cx, |disk, first| {
                set_capacity(cx, disk.dev.target, first + SECTORS)?;
                let (out, back) = (disk.sectors(SECTORS as usize)?, disk.sectors(SECTORS as usize)?);
                out.pattern(0x42);
                disk.write(first, &out)?;
                disk.read(first, &back)?;
                equal("first byte that is not as written", None, back.differs(0x42))?;
                disk.dev.healthy()
            })
        },
    },
    Check {
        name: "outside/link-goes-down-and-up",
        rule: "status follows the link",
        clause: LINK,
        method: "Have the cable pulled and plugged in",
        expectation: "Bit 0 of status falls, then rises",
        run: |cx| with_pulled_cable(cx, |_, _| Ok(())),
    },
    Check {
        name: "outside/frames-are-taken-while-the-link-is-down",
        rule: "The transmit queue goes on without a link",
        clause: "5.1.9.2 Packet Transmission",
        method: "Have the cable pulled, send two frames, have it plugged in",
        expectation: "Both used, no DEVICE_NEEDS_RESET",
        run: |cx| with_pulled_cable(cx, send_two_frames),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Looks at a change of each live device that the host can change: the balloon, the disk, the card.
    pub fn each_change(cx: &Context, check: impl Fn(&Target, &dyn Fn() -> Verdict) -> Verdict) -> Verdict {
        let dev = balloon(cx)?;
        let checked = check(dev.target, &|| set_target(cx, dev.target, 16));
        let mut all = both(checked, set_target(cx, dev.target, 0));
        drop(dev);
        if cx.can_request(HostAction::Disk).is_ok() && cx.device(DeviceType::BLOCK).is_ok() {
            let mut disk = Disk::start(cx, 0, 16)?;
            let (target, capacity) = (disk.dev.target, disk.capacity);
            let before = disk.sectors(SECTORS as usize)?;
            disk.read(capacity - SECTORS, &before)?;
            let checked = check(target, &|| set_capacity(cx, target, capacity - SECTORS));
            let restored = set_capacity(cx, target, capacity).and_then(|()| disk.write(capacity - SECTORS, &before));
            all = worst(all, both(checked, restored));
        }
        match card(cx) {
            Ok((dev, _)) => {
                let checked = check(dev.target, &|| set_link(cx, dev.target, field::DOWN));
                worst(all, both(checked, set_link(cx, dev.target, field::UP)))
            }
            Err(End::Skip(_)) => all,
            Err(other) => worst(all, Err(other)),
        }
    }

    /// Looks at a balloon whose target has changed and whose interrupt was not acknowledged.
    pub fn with_pending_change(cx: &Context, check: impl FnOnce(&Dev<'_>) -> Verdict) -> Verdict {
        let dev = balloon(cx)?;
        if matches!(dev.regs(), Regs::Pci(_, Some(_))) {
            return Err(skip("with MSI-X the interrupt status says nothing"));
        }
        let checked = set_target(cx, dev.target, 16).and_then(|()| {
            // The status may come a moment after the field.
            wait_until(20_000_000, || false);
            check(&dev)
        });
        // The check may have reset it, and not every host notifies a device without a driver.
        drop(dev);
        let dev = balloon(cx)?;
        both(checked, set_target(cx, dev.target, 0))
    }

    /// Takes the last sectors from the disk, and gives them back with what was in them.
    pub fn with_smaller_disk(cx: &Context, check: impl FnOnce(&mut Disk<'_>, u64) -> Verdict) -> Verdict {
        cx.can_request(HostAction::Disk)?;
        let mut disk = Disk::start(cx, 0, 64)?;
        if disk.dev.offered & blk::Features::RO.bits() != 0 {
            return Err(skip("the disk is read-only"));
        }
        let capacity = disk.capacity;
        let Some(first) = capacity.checked_sub(SECTORS) else {
            return Err(skip(format_args!("the disk has only {capacity} sectors")));
        };
        let (before, target) = (disk.sectors(SECTORS as usize)?, disk.dev.target);
        disk.read(first, &before)?;
        let checked = set_capacity(cx, target, first).and_then(|()| check(&mut disk, first));
        both(checked, set_capacity(cx, target, capacity).and_then(|()| disk.write(first, &before)))
    }

    pub fn with_pulled_cable(cx: &Context, check: fn(&Dev<'_>, &mut Queue) -> Verdict) -> Verdict {
        let (dev, mut transmit) = card(cx)?;
        let checked = set_link(cx, dev.target, field::DOWN).and_then(|()| check(&dev, &mut transmit));
        both(checked, set_link(cx, dev.target, field::UP))
    }

    pub fn send_two_frames(dev: &Dev<'_>, transmit: &mut Queue) -> Verdict {
        const LEN: usize = size_of::<net::Header>() + 60;
        let frame = dev.buffer(LEN)?;
        frame.part(size_of::<net::Header>(), 12).fill(0xff);
        for _ in 0..2 {
            let head = transmit.chain(0, &[link(&frame, Dir::Out)]);
            transmit.send(dev, head);
            equal("used length", 0, transmit.wait()?.len)?;
        }
        dev.healthy()
    }
}
