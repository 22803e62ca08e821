//! What devices show when the host changes them. A check requests a change and waits until the device shows it; it leaves
//! the machine as it was, and waits for that too, so that no change comes in the middle of the next check.

use super::device::{Dev, Target};
use super::disk::{Answer, Disk};
use super::raw::{Dir, Queue, link, wait_until};
use super::registers::Regs;
use super::{Context, End, Row, Verdict, advice, equal, fail, holds, skip, vectors, worst};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use balloon::{Balloon, Settings, State};
use core::cell::Cell;
use core::fmt::Display;
use frontends::Driver;
use frontends::transport::pci::Vectors;
use frontends::transport::{MmioTransport, PciTransport};
use guest_kernel::devices::balloon::Source;
use guest_kernel::devices::place::AnyTransport;
use guest_kernel::trap::irq;
use shared_abi::host_action::{HostAction, field};
use shared_abi::virtio::balloon::{Features, queues, stat_tag};
use shared_abi::virtio::blk::{self, RequestStatus, RequestType};
use shared_abi::virtio::mmio::InterruptStatus;
use shared_abi::virtio::pci::NO_VECTOR;
use shared_abi::virtio::{DeviceType, net};

pub const ROWS: &[Row] = &[
    ("outside/generation-changes-with-the-configuration", generation_changes),
    ("outside/configuration-change-interrupts", change_interrupts),
    ("outside/interrupt-status-tells-a-configuration-change", |cx| {
        with_pending_change(cx, |dev| {
            let status = dev.take_interrupt();
            let told = status & InterruptStatus::CONFIG_CHANGE.bits() != 0;
            holds(told, "interrupt status", "bit 1", format_args!("{status:#x}"))?;
            equal("interrupt status behind the acknowledgement", 0, dev.take_interrupt())
        })
    }),
    ("outside/configuration-change-is-no-used-buffer", |cx| {
        with_pending_change(cx, |dev| {
            equal("bit 0 of the interrupt status", 0, dev.take_interrupt() & InterruptStatus::USED_BUFFER.bits())
        })
    }),
    ("outside/reset-forgets-a-configuration-change", |cx| {
        with_pending_change(cx, |dev| {
            holds(dev.target.reset(), "status after a reset", 0, dev.regs().status())?;
            equal("interrupt status", 0, dev.take_interrupt())
        })
    }),
    ("outside/change-without-a-vector-stays-quiet", change_without_a_vector_stays_quiet),
    ("outside/disk-shrinks", |cx| {
        with_smaller_disk(cx, |disk, first| {
            let sector = disk.sectors(1)?;
            let Answer { status, .. } = disk.request(RequestType::IN, first, &[link(&sector, Dir::In)])?;
            advice(equal("status of a read behind the end", RequestStatus::IOERR.0, status))
        })
    }),
    ("outside/disk-grows", disk_grows),
    ("outside/link-goes-down-and-up", |cx| with_pulled_cable(cx, |_, _| Ok(()))),
    ("outside/frames-are-taken-while-the-link-is-down", |cx| with_pulled_cable(cx, send_two_frames)),
    ("outside/balloon-target-is-told", |cx| {
        let dev = balloon(cx)?;
        [3, 700, 0].into_iter().try_for_each(|pages| set_target(cx, dev.target, pages))
    }),
    ("outside/balloon-target-moves-while-busy", target_moves),
    ("outside/statistics-wait-for-a-request", |cx| with_statistics(cx, &KNOWN, Asking::Never)),
    ("outside/statistics-buffer-comes-back", |cx| with_statistics(cx, &KNOWN, Asking::Twice)),
    ("outside/statistics-unknown-and-unordered-are-taken", |cx| {
        with_statistics(cx, &[UNKNOWN, stat_tag::TOTAL_MEMORY, stat_tag::FREE_MEMORY], Asking::Twice)
    }),
];

/// How long a host action may take.
const PATIENCE: u64 = 5_000_000_000;
/// Sectors that are taken from the disk.
const SECTORS: u64 = 8;

/// Requests a host action and waits until the device shows it.
fn make(
    cx: &Context,
    action: HostAction,
    value: (&str, &dyn Display),
    what: &str,
    read: &dyn Fn() -> u64,
    wanted: u64,
) -> Verdict {
    cx.can_request(action)?;
    if read() == wanted {
        // Nobody is asked for what is there: the device would be reset before somebody comes to do it.
        return Ok(());
    }
    cx.request(action, Some(value))?;
    if wait_until(PATIENCE, || read() == wanted) {
        return Ok(());
    }
    Err(fail(&format!("{what} within 5 s"), wanted, read()))
}

fn set_target(cx: &Context, target: &Target, pages: u32) -> Verdict {
    let pages = cx.pages(pages);
    let read = || target.regs.config_read(0, 4).into();
    make(cx, HostAction::Balloon, (field::PAGES, &pages), "num_pages", &read, pages.into())
}

fn set_capacity(cx: &Context, target: &Target, sectors: u64) -> Verdict {
    let read = || target.regs.config_read64(0);
    make(cx, HostAction::Disk, (field::SECTORS, &sectors), "capacity", &read, sectors)
}

fn set_link(cx: &Context, target: &Target, state: &'static str) -> Verdict {
    let read = || u64::from(target.regs.config_read(6, 2) as u16 & net::STATUS_LINK_UP);
    make(cx, HostAction::Link, (field::STATE, &state), "bit 0 of status", &read, (state == field::UP).into())
}

/// The verdict of a check, unless what came behind it went wrong too.
fn both(check: Verdict, restored: Verdict) -> Verdict {
    worst(check, restored)
}

/// A live balloon device without a driver behind it, target 0.
fn balloon(cx: &Context) -> Result<Dev<'_>, End> {
    cx.can_request(HostAction::Balloon)?;
    started_balloon(cx.device(DeviceType::BALLOON)?)
}

fn started_balloon(target: &Target) -> Result<Dev<'_>, End> {
    let dev = Dev::with_features(target, 0)?;
    for queue in 0..2 {
        dev.queue(queue, 16)?;
    }
    dev.start()?;
    Ok(dev)
}

/// On the balloon, or on the card where the balloon has no MSI-X.
fn change_without_a_vector_stays_quiet(cx: &Context) -> Verdict {
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
}

fn generation_changes(cx: &Context) -> Verdict {
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
}

fn change_interrupts(cx: &Context) -> Verdict {
    let silent = Cell::new(true);
    each_change(cx, |target, change| {
        let Some(event) = target.interrupts.config_event().or(target.interrupts.queue_event()) else { return Ok(()) };
        silent.set(false);
        let before = irq::count_of(event);
        change()?;
        let came = wait_until(PATIENCE, || irq::count_of(event) != before);
        let verdict = holds(came, &format!("{}: interrupts within 5 s", target.name()), "1 or more", 0);
        // 5.2.6.2: a disk SHOULD tell of another capacity.
        if target.device_type == DeviceType::BLOCK { advice(verdict) } else { verdict }
    })?;
    if silent.get() { Err(skip("no device that can be changed can interrupt")) } else { Ok(()) }
}

/// Looks at a change of each live device that somebody can change: the balloon, the disk, the card.
fn each_change(cx: &Context, check: impl Fn(&Target, &dyn Fn() -> Verdict) -> Verdict) -> Verdict {
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

/// Looks at a balloon whose target has changed and whose interrupt nobody has acknowledged.
fn with_pending_change(cx: &Context, check: impl FnOnce(&Dev<'_>) -> Verdict) -> Verdict {
    let dev = balloon(cx)?;
    if matches!(dev.regs(), Regs::Pci(_, Some(_))) {
        return Err(skip("with MSI-X the interrupt status says nothing"));
    }
    let checked = set_target(cx, dev.target, 16).and_then(|()| {
        // The status may come a moment behind the field.
        wait_until(20_000_000, || false);
        check(&dev)
    });
    // The check may have reset it, and not every host tells a device without a driver.
    drop(dev);
    let dev = balloon(cx)?;
    both(checked, set_target(cx, dev.target, 0))
}

/// Takes the last sectors from the disk, and gives them back with what was in them.
fn with_smaller_disk(cx: &Context, check: impl FnOnce(&mut Disk<'_>, u64) -> Verdict) -> Verdict {
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

fn disk_grows(cx: &Context) -> Verdict {
    with_smaller_disk(cx, |disk, first| {
        set_capacity(cx, disk.dev.target, first + SECTORS)?;
        let (out, back) = (disk.sectors(SECTORS as usize)?, disk.sectors(SECTORS as usize)?);
        out.pattern(0x42);
        disk.write(first, &out)?;
        disk.read(first, &back)?;
        equal("first byte that is not as written", None, back.differs(0x42))?;
        disk.dev.healthy()
    })
}

/// A live network card that tells its link.
fn card(cx: &Context) -> Result<(Dev<'_>, Queue), End> {
    cx.can_request(HostAction::Link)?;
    started_card(cx.device(DeviceType::NET)?)
}

fn started_card(target: &Target) -> Result<(Dev<'_>, Queue), End> {
    let dev = Dev::with_features(target, net::Features::STATUS.bits())?;
    if !dev.has(net::Features::STATUS.bits()) {
        return Err(skip("the card does not offer STATUS"));
    }
    dev.queue(net::RECEIVE_QUEUE, 16)?;
    let transmit = dev.queue(net::TRANSMIT_QUEUE, 16)?;
    dev.start()?;
    Ok((dev, transmit))
}

fn with_pulled_cable(cx: &Context, check: fn(&Dev<'_>, &mut Queue) -> Verdict) -> Verdict {
    let (dev, mut transmit) = card(cx)?;
    let checked = set_link(cx, dev.target, field::DOWN).and_then(|()| check(&dev, &mut transmit));
    both(checked, set_link(cx, dev.target, field::UP))
}

fn send_two_frames(dev: &Dev<'_>, transmit: &mut Queue) -> Verdict {
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

/// Our balloon driver on a device that the checks have mapped. It is polled, not interrupted.
fn driver(target: &Target) -> Result<Balloon<AnyTransport>, End> {
    let transport: Result<AnyTransport, _> = match &target.regs {
        Regs::Mmio(window) => MmioTransport::new(*window).map(|transport| Box::new(transport) as AnyTransport),
        Regs::Pci(windows, vectors) => PciTransport::new(windows.clone(), target.device_type, *vectors)
            .map(|transport| Box::new(transport) as AnyTransport),
    };
    let transport = transport.map_err(|error| super::error(error.to_string()))?;
    let settings = Settings { batch: 32, ..Settings::default() };
    let driver = Balloon::new(transport, &guest_kernel::mm::dma::DMA, settings);
    driver.map_err(|error| fail("our driver", "up", error.to_string()))
}

/// Where the target goes, and where the balloon is when it moves on.
fn moves(cx: &Context) -> [(u32, u32); 5] {
    [(900, 200), (40, 150), (600, 300), (80, 80), (0, 0)].map(|(pages, until)| {
        let most = cx.pages(pages);
        // On its way down the target stays below.
        let least = if most > pages && pages < until { most - cx.pages(1) } else { most };
        (least, if pages == until { most } else { until })
    })
}

fn target_moves(cx: &Context) -> Verdict {
    cx.can_request(HostAction::Balloon)?;
    let target = cx.device(DeviceType::BALLOON)?;
    // A reset, so that what an earlier check left is gone.
    drop(Dev::new(target)?);
    let mut driver = driver(target)?;
    let mut checked = Ok(());
    for (pages, until) in moves(cx) {
        // Nobody polls meanwhile: requests that are in flight stay there.
        checked = set_target(cx, target, pages).and_then(|()| {
            driver.config_changed();
            let before = driver.actual();
            let there = |actual: u32| if before < until { actual >= until } else { actual <= until };
            let came = wait_until(PATIENCE, || {
                let state = driver.poll(&mut Source);
                there(driver.actual()) && (until != pages || state == State::Steady)
            });
            let saw = format!("{} and {:?}", driver.actual(), driver.state());
            holds(came, &format!("pages in the balloon within 5 s, target {pages}"), until, saw)
        });
        if checked.is_err() {
            break;
        }
        if until == pages {
            checked = equal("actual", pages, target.regs.config_read(4, 4));
        }
    }
    let left = set_target(cx, target, 0);
    // Whatever happened, the kernel gets its pages back.
    driver.stop(frontends::error::Violation::ShutDown);
    let empty = wait_until(PATIENCE, || {
        driver.poll(&mut Source);
        driver.actual() == 0
    });
    drop(driver);
    both(checked, left)?;
    holds(empty, "pages given back by our driver", "all", "not all")
}

/// Whether statistics are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Never,
    Twice,
}

/// What is given: as many as make the buffer a multiple of 6 bytes, which 5.5.6.3.1 asks for.
const KNOWN: [u16; 3] = [stat_tag::FREE_MEMORY, stat_tag::TOTAL_MEMORY, stat_tag::AVAILABLE_MEMORY];
/// A tag that nobody has defined.
const UNKNOWN: u16 = 0x7a7a;

fn with_statistics(cx: &Context, tags: &[u16], asking: Asking) -> Verdict {
    const STAT: usize = 10;
    const VALUE: u64 = 64 << 20;
    let wanted = Features::STATS_VQ | Features::FREE_PAGE_HINT | Features::REPORTING;
    let dev = Dev::with_features(cx.device(DeviceType::BALLOON)?, wanted.bits())?;
    let Some(number) = queues(Features::from_bits_truncate(dev.features)).stats else {
        return Err(skip("the balloon does not offer STATS_VQ"));
    };
    for queue in 0..2 {
        dev.queue(queue, 16)?;
    }
    let mut queue = dev.queue(number, 16)?;
    dev.start()?;
    let buf = dev.buffer(tags.len() * STAT)?;
    for (at, tag) in tags.iter().enumerate() {
        buf.part(at * STAT, 2).put(&tag.to_le_bytes());
        buf.part(at * STAT + 2, 8).put(&VALUE.to_le_bytes());
    }
    let mut give = |asked: bool| {
        let head = queue.chain(0, &[link(&buf, Dir::Out)]);
        queue.send(&dev, head);
        if !asked {
            wait_until(50_000_000, || false);
            return equal("used index of the statistics queue", 0, queue.used_index());
        }
        cx.request(HostAction::Statistics, None)?;
        equal("used length", 0, queue.wait()?.len)?;
        dev.healthy()
    };
    match asking {
        Asking::Never => give(false),
        Asking::Twice => give(true).and_then(|()| give(true)),
    }
}
