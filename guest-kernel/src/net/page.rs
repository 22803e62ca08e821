//! The status page: world, patched operations, devices, memory, balloon, uptime.

use crate::System;
use crate::mm::frames::FRAMES;
use alloc::string::String;
use core::fmt::{self, Write};

/// Renders it.
pub(super) fn render(system: &System) -> String {
    let mut page = String::with_capacity(6 * 1024);
    // Writing to a string cannot fail.
    let _ = write(system, &mut page);
    page
}

fn write(system: &System, page: &mut String) -> fmt::Result {
    let found = &system.found;
    write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><title>Ringside guest</title>\
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
    write!(page, "<h2>Memory</h2><p>{} KiB, {} KiB free", frames.total * 4, frames.free * 4)?;
    if let Some(balloon) = &system.devices.balloon {
        write!(page, "; balloon {} KiB of {} KiB", balloon.actual() * 4, balloon.target() * 4)?;
    }
    page.push_str(".</p><h2>Devices</h2><table><tr><th>type<th>place<th>driver");
    for device in &system.devices.list {
        write!(page, "<tr><td>{}<td>{}<td>{}", device.device_type.name(), device.location, device.state)?;
    }
    page.push_str("</table><h2>Patched operations</h2><table><tr><th>operation<th>sites<th>how<th>before<th>after");
    for (op, summary) in crate::patches().ops() {
        let how = summary.kind.map_or("indirect", |kind| kind.name());
        write!(
            page,
            "<tr><td>{}<td>{}<td>{how}<td><code>{}</code><td><code>{}</code>",
            op.name(),
            summary.sites,
            crate::shell::Bytes(&summary.before),
            crate::shell::Bytes(&summary.after)
        )?;
    }
    page.push_str("</table></html>\n");
    Ok(())
}
