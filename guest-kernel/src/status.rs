//! The status page: world, patched operations, devices, memory, balloon, uptime, interrupts and counters. Browsers load it
//! anew every five seconds.

use crate::mm::frames::FRAMES;
use crate::platform::pci;
use crate::system::System;
use crate::task;
use crate::trap::irq;
use alloc::string::String;
use core::fmt::{self, Write};
use pvops::event::Line;

/// Renders it.
pub fn render(system: &System) -> String {
    let mut page = String::with_capacity(6 * 1024);
    // Writing to a string cannot fail.
    let _ = write(system, &mut page);
    page
}

fn write(system: &System, page: &mut String) -> fmt::Result {
    let found = &system.found;
    write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5><title>Ringside guest</title>\
         <style>body{{font:15px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}}\
         table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.2em .8em .2em 0;border-bottom:1px solid #ccc}}\
         code{{font-size:13px}}</style>\
         <h1>Ringside guest</h1>\
         <p>World <b>{}</b>, hypervisor {}, up {} s, clock {}.</p>",
        found.world.backend().name,
        found.hypervisor(),
        pvops::time::now().saturating_sub(system.started) / 1_000_000_000,
        crate::time::sources(),
    )?;
    let frames = FRAMES.lock().counts();
    write!(page, "<h2>Memory</h2><p>{} KiB, {} KiB free", frames.total * 4, frames.unused() * 4)?;
    if let Some(balloon) = &system.devices.balloon {
        write!(page, "; balloon {} KiB of {} KiB", balloon.actual() * 4, balloon.target() * 4)?;
    }
    page.push_str(".</p><h2>Devices</h2><table><tr><th>type<th>place<th>driver");
    for device in &system.devices.list {
        write!(page, "<tr><td>{}<td>{}<td>{}", device.device_type.name(), device.location, device.state)?;
    }
    page.push_str("</table><h2>Patched operations</h2><table><tr><th>operation<th>sites<th>how<th>code<th>bytes");
    for (op, summary) in crate::patching::patches().ops() {
        let how = summary.kind.map_or("indirect", |kind| kind.name());
        write!(
            page,
            "<tr><td>{}<td>{}<td>{how}<td><code>{}</code><td><code>{}</code>",
            op.name(),
            summary.sites,
            crate::patching::mnemonics(op, summary.kind),
            crate::patching::Bytes(&summary.after)
        )?;
    }
    page.push_str("</table>");
    counters(system, page)?;
    page.push_str("</html>\n");
    Ok(())
}

/// What happened so far: interrupts, waits, accesses that leave the guest, frames, hypercalls.
fn counters(system: &System, page: &mut String) -> fmt::Result {
    page.push_str("<h2>Interrupts</h2><table><tr><th>vector<th>owner<th>count");
    let timer = pvops::event::TIMER_VECTOR;
    write!(page, "<tr><td>{timer:#04x}<td>timer<td>{}", irq::timer_count())?;
    for (vector, owner, count) in irq::counts() {
        write!(page, "<tr><td>{vector:#04x}<td>{}", owner.name)?;
        if let Some(line) = owner.line {
            write!(page, ", {}", Line(line))?;
        }
        write!(page, "<td>{count}")?;
    }
    page.push_str("</table><h2>Counters</h2><table>");
    write!(page, "<tr><td>waits of the CPU<td>{}", task::idle_time().halts)?;
    write!(page, "<tr><td>interrupts ended without an exit<td>{}", pvops::worlds::kvm::ends_saved())?;
    if let Some(counts) = pci::config::counts() {
        write!(page, "<tr><td>PCI configuration space<td>{counts}")?;
    }
    for (number, disk) in system.devices.disks.iter().enumerate() {
        if let Some(notifications) = disk.notifications() {
            write!(page, "<tr><td>notifications to disk {number}<td>{notifications}")?;
        }
    }
    if let Some((counters, notifications)) = system.devices.card.as_ref().and_then(|card| card.counters()) {
        write!(
            page,
            "<tr><td>frames received<td>{} ({} bytes)<tr><td>frames transmitted<td>{} ({} bytes)\
             <tr><td>frames dropped<td>{}<tr><td>notifications to the network card<td>{notifications}",
            counters.received,
            counters.received_bytes,
            counters.transmitted,
            counters.transmitted_bytes,
            counters.dropped
        )?;
    }
    for (number, name, count) in pvops::hypercalls() {
        write!(page, "<tr><td>hypercall {number} {name}<td>{count}")?;
    }
    page.push_str("</table>");
    Ok(())
}
