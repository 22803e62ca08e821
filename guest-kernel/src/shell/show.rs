//! What the shell shows: one function for each command that only looks.

use crate::devices::balloon::KernelBalloon;
use crate::mm::frames::FRAMES;
use crate::mm::heap;
use crate::patching::{Bytes, mnemonics};
use crate::system::System;
use crate::{crash, task, trap};
use alloc::string::String;
use core::fmt::{self, Write};
use pvops::event::Line;
use pvops::patch;
use pvops::{Op, site, time};

/// Every operation, and how often each hypercall was made.
pub(super) fn operations(out: &mut String) -> fmt::Result {
    let patches = crate::patching::patches();
    writeln!(out, "backend {}, {} sites", crate::patching::world().backend().name, patches.sites())?;
    writeln!(out, "{:20} {:>5}  {:8}  code", "operation", "sites", "how")?;
    for (op, summary) in patches.ops() {
        let how = summary.kind.map_or("indirect", |kind| kind.name());
        writeln!(out, "{:20} {:>5}  {how:8}  {}", op.name(), summary.sites, mnemonics(op, summary.kind))?;
    }
    for (number, name, count) in pvops::hypercalls() {
        writeln!(out, "hypercall {number:>2} {name:18} {count:>9}")?;
    }
    Ok(())
}

/// One operation: its bytes before and after, and every site of it.
pub(super) fn sites(op: Op, out: &mut String) -> fmt::Result {
    if let Some((_, summary)) = crate::patching::patches().ops().find(|(found, _)| *found == op) {
        writeln!(out, "before  {}    call [{}]", Bytes(&summary.before), op.name())?;
        writeln!(out, "after   {}    {}", Bytes(&summary.after), mnemonics(op, summary.kind))?;
    }
    for site in site::all().iter().filter(|site| site.op() == Some(op)) {
        let (function, offset) = crash::symbols().find(site.address()).unwrap_or(("?", 0));
        writeln!(out, "{:#x} {} {function} + {offset:#x}", site.address(), Bytes(&patch::bytes(site)))?;
    }
    Ok(())
}

pub(super) fn mem(system: &System, out: &mut String) -> fmt::Result {
    let (frames, heap) = (FRAMES.lock().counts(), heap::usage());
    writeln!(out, "frames: {} KiB, {} KiB free", frames.total * 4, frames.free * 4)?;
    writeln!(
        out,
        "heap: {} KiB, {} KiB used, {} allocations since boot",
        heap.total >> 10,
        heap.used >> 10,
        heap.allocations
    )?;
    match crate::mm::dma::leaked_pages() {
        0 => {}
        pages => writeln!(out, "given up to devices that confirm no reset: {} KiB", pages * 4)?,
    }
    match &system.initrd {
        Ok(archive) => writeln!(out, "initrd: {} bytes, {} files", archive.size(), archive.count())?,
        Err(error) => writeln!(out, "initrd: {error}")?,
    }
    for range in &system.ram {
        writeln!(out, "ram {:#012x} .. {:#012x} {:>8} KiB", range.start, range.end, range.len() >> 10)?;
    }
    Ok(())
}

pub(super) fn irq(out: &mut String) -> fmt::Result {
    writeln!(out, "vector {:#04x} timer: {}", pvops::event::TIMER_VECTOR, trap::irq::timer_count())?;
    for (vector, owner, count) in trap::irq::counts() {
        match owner.line {
            Some(line) => writeln!(out, "vector {vector:#04x} {} {}: {count}", owner.name, Line(line))?,
            None => writeln!(out, "vector {vector:#04x} {} message: {count}", owner.name)?,
        }
    }
    writeln!(out, "between sti and hlt: {}", trap::irq::unprotected_halts())?;
    writeln!(out, "unexpected: {}", trap::irq::unexpected_count())
}

pub(super) fn dev(system: &System, out: &mut String) -> fmt::Result {
    for device in &system.devices.list {
        writeln!(out, "{:8} {:28} {}", device.device_type.name(), device.location, device.state)?;
    }
    match crate::platform::pci::config::counts() {
        Some(counts) => writeln!(out, "pci: {counts}"),
        None => Ok(()),
    }
}

pub(super) fn net(system: &System, out: &mut String) -> fmt::Result {
    let Some(card) = &system.devices.card else { return writeln!(out, "there is no network card") };
    let link = if card.link_up() { "up" } else { "down" };
    writeln!(out, "address {}, link {link}, MTU {}", Mac(card.mac()), card.mtu())?;
    match system.net.address.get() {
        Some(address) => writeln!(out, "ip {address}")?,
        None => writeln!(out, "ip none yet")?,
    }
    if let Some(router) = system.net.router.get() {
        writeln!(out, "router {router}")?;
    }
    writeln!(out, "pages served: {}", system.net.served.get())?;
    if let Some((counters, notifications)) = card.counters() {
        writeln!(
            out,
            "received {} frames, {} bytes; transmitted {} frames, {} bytes; dropped {}; {notifications} notifications",
            counters.received,
            counters.received_bytes,
            counters.transmitted,
            counters.transmitted_bytes,
            counters.dropped
        )?;
    }
    Ok(())
}

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

pub(super) fn balloon_state(balloon: &KernelBalloon, out: &mut String) -> fmt::Result {
    writeln!(out, "target {} pages, actual {} pages, {}", balloon.target(), balloon.actual(), balloon.state())?;
    let counters = balloon.counters();
    writeln!(
        out,
        "inflated {}, deflated {}, released on OOM {}, reported free {}, statistics sent {}, shortfalls {}",
        counters.inflated,
        counters.deflated,
        counters.released_on_oom,
        counters.reported,
        counters.statistics_sent,
        counters.shortfalls
    )?;
    match pvops::memory::reservation() {
        Some(pages) => writeln!(out, "the hypervisor counts {pages} pages"),
        None => Ok(()),
    }
}

pub(super) fn uptime(system: &System, out: &mut String) -> fmt::Result {
    let up = time::now().saturating_sub(system.started);
    let idle = task::idle_time();
    let slept = pvops::worlds::native::tsc::scale().apply(idle.ticks);
    writeln!(
        out,
        "up {}.{:03} s, slept {} % in {} halts, clock {}",
        up / 1_000_000_000,
        up / 1_000_000 % 1000,
        slept.saturating_mul(100) / up.max(1),
        idle.halts,
        crate::time::sources()
    )?;
    match pvops::worlds::pvclock::guest_stops() {
        0 => Ok(()),
        times => writeln!(out, "the host says that it stopped the machine {times} times"),
    }
}
