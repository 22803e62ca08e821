//! Changes that the host makes at a check's request, and the devices that show them.

use super::device::{Dev, Target};
use super::raw::{Queue, wait_until};
use super::{Context, End, Verdict, fail, skip, worst};
use crate::host_action::{HostAction, field};
use alloc::format;
use core::fmt::Display;
use shared_abi::virtio::{DeviceType, net};

/// How long a host action may take.
pub const PATIENCE: u64 = 5_000_000_000;

/// Sectors that are taken from the disk.
pub const SECTORS: u64 = 8;

/// Requests a host action and waits until the device shows it.
pub fn make(
    cx: &Context,
    action: HostAction,
    value: (&str, &dyn Display),
    what: &str,
    read: &dyn Fn() -> u64,
    wanted: u64,
) -> Verdict {
    cx.can_request(action)?;
    if read() == wanted {
        // No request for what is there already: the host would act when the device has been reset.
        return Ok(());
    }
    cx.request(action, Some(value))?;
    if wait_until(PATIENCE, || read() == wanted) {
        return Ok(());
    }
    Err(fail(&format!("{what} within 5 s"), wanted, read()))
}

pub fn set_target(cx: &Context, target: &Target, pages: u32) -> Verdict {
    let pages = cx.pages(pages);
    let read = || target.regs.config_read(0, 4).into();
    make(cx, HostAction::Balloon, (field::PAGES, &pages), "num_pages", &read, pages.into())
}

pub fn set_capacity(cx: &Context, target: &Target, sectors: u64) -> Verdict {
    let read = || target.regs.config_read64(0);
    make(cx, HostAction::Disk, (field::SECTORS, &sectors), "capacity", &read, sectors)
}

pub fn set_link(cx: &Context, target: &Target, state: &'static str) -> Verdict {
    let read = || u64::from(target.regs.config_read(6, 2) as u16 & net::STATUS_LINK_UP);
    make(cx, HostAction::Link, (field::STATE, &state), "bit 0 of status", &read, (state == field::UP).into())
}

/// The verdict of a check, unless what came after it went wrong too.
pub fn both(check: Verdict, restored: Verdict) -> Verdict {
    worst(check, restored)
}

/// A live balloon device that no driver has used yet, target 0.
pub fn balloon(cx: &Context) -> Result<Dev<'_>, End> {
    cx.can_request(HostAction::Balloon)?;
    started_balloon(cx.device(DeviceType::BALLOON)?)
}

pub fn started_balloon(target: &Target) -> Result<Dev<'_>, End> {
    let dev = Dev::with_features(target, 0)?;
    for queue in 0..2 {
        dev.queue(queue, 16)?;
    }
    dev.start()?;
    Ok(dev)
}

/// A live network card that reports its link.
pub fn card(cx: &Context) -> Result<(Dev<'_>, Queue), End> {
    cx.can_request(HostAction::Link)?;
    started_card(cx.device(DeviceType::NET)?)
}

pub fn started_card(target: &Target) -> Result<(Dev<'_>, Queue), End> {
    let dev = Dev::with_features(target, net::Features::STATUS.bits())?;
    if !dev.has(net::Features::STATUS.bits()) {
        return Err(skip("the card does not offer STATUS"));
    }
    dev.queue(net::RECEIVE_QUEUE, 16)?;
    let transmit = dev.queue(net::TRANSMIT_QUEUE, 16)?;
    dev.start()?;
    Ok((dev, transmit))
}
