//! The shell's commands. Each writes to a string; an error is one line.

use crate::balloon::KernelBalloon;
use crate::mm::frames::FRAMES;
use crate::mm::heap;
use crate::platform::power::{self, Ending};
use crate::{System, files, task, trap};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use pvops::patch;
use pvops::{site, time};

const HELP: &str = "\
help               this list
pvops [OP]         every operation: sites, how they were patched, bytes before and after; with OP every site of it;
                   how often each hypercall was made
mem                frames, heap, memory map
mem hog MIB        takes so much memory, as far as it goes, and gives it back
irq                interrupts by vector
dev                devices and their drivers; how PCI's configuration space is accessed
blk [N]            disks, or disk N
blk read SECTOR [N]                 shows a sector of disk N, or of disk 0
blk zero|discard SECTOR COUNT [N]   clears sectors, or gives them up
net                network card, address, counters
balloon            target, size and counters of the balloon
balloon PAGES      sets the target, where no host does
ls [PATH]          a directory: / has the initrd's files and, as disk0, disk1 and so on, the disks' file systems
cat PATH           a file's text
sum PATH           size and CRC-32 of a file
uptime             time since boot, and how much of it the CPU slept
checks             the kernel's checks of itself
panic [fault|stack]  fails on purpose, by a panic, a page fault or a stack overflow: shows the report
poweroff           switches the machine off
";

/// Bytes in hexadecimal, for people.
pub struct Bytes<'a>(pub &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char(' ')?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why a command did not do what it was asked for.
type Failed = String;

fn formatting(_: fmt::Error) -> Failed {
    "cannot format".to_string()
}

/// Runs one line.
///
/// # Errors
/// One line for the user.
pub(super) async fn run(system: &Rc<System>, line: &str, out: &mut String) -> Result<(), Failed> {
    let mut words = line.split_ascii_whitespace();
    let Some(command) = words.next() else { return Ok(()) };
    // Names may have spaces in them.
    let path = line.trim_ascii().strip_prefix(command).map(str::trim_ascii).filter(|path| !path.is_empty());
    match (command, words.next()) {
        ("help", _) => {
            out.push_str(HELP);
            Ok(())
        }
        ("pvops", op) => pvops(op, out),
        ("mem", Some("hog")) => hog(words.next(), out),
        ("mem", _) => mem(system, out).map_err(formatting),
        ("irq", _) => irq(out).map_err(formatting),
        ("dev", _) => dev(system, out).map_err(formatting),
        ("blk", Some("read")) => dump(system, words.next(), words.next(), out).await,
        ("blk", Some(what @ ("zero" | "discard"))) => {
            clear(system, what, [words.next(), words.next(), words.next()]).await
        }
        ("blk", which) => blk(system, which, out).await,
        ("net", _) => net(system, out).map_err(formatting),
        ("balloon", pages) => balloon(system, pages, out),
        ("ls", _) => ls(system, path.unwrap_or("/"), out),
        ("cat" | "sum", _) => {
            let path = path.ok_or_else(|| alloc::format!("{command}: which file?"))?;
            let bytes = files::read(system, path)?;
            if command == "cat" {
                out.push_str(&String::from_utf8_lossy(&bytes));
                return Ok(());
            }
            writeln!(out, "{:08x} {} {path}", crate::tour::crc32(&bytes), bytes.len()).map_err(formatting)
        }
        ("uptime", _) => uptime(system, out).map_err(formatting),
        ("checks", _) => {
            let failed = crate::checks::run();
            writeln!(out, "{failed} failed").map_err(formatting)
        }
        ("panic", Some("fault")) => {
            // SAFETY: nothing is mapped in the lower half, so this ends in the page fault that was asked for.
            unsafe { (0xdead_beef_usize as *mut u8).write_volatile(0) };
            Ok(())
        }
        ("panic", Some("stack")) => Err(alloc::format!("the stack is {} levels deep", overflow(0))),
        ("panic", None) => panic!("asked for in the shell"),
        ("poweroff", _) => {
            crate::println!("power off");
            power::end(Ending::Off)
        }
        _ => Err(alloc::format!("{command}: no such command; type help")),
    }
}

/// Calls itself until the stack ends in its guard page.
#[inline(never)]
fn overflow(level: u64) -> u64 {
    let frame = core::hint::black_box([level; 32]);
    if level == u64::MAX { level } else { overflow(level + 1).max(frame[0]) }
}

fn pvops(op: Option<&str>, out: &mut String) -> Result<(), Failed> {
    let patches = crate::patches();
    let print = |out: &mut String| -> fmt::Result {
        writeln!(out, "backend {}, {} sites", crate::world().backend().name, patches.sites())?;
        match op {
            None => {
                writeln!(out, "{:18} {:>5} {:9} {:23} after", "operation", "sites", "how", "before (first site)")?;
                for (op, summary) in patches.ops() {
                    let how = summary.kind.map_or("indirect", |kind| kind.name());
                    writeln!(
                        out,
                        "{:18} {:>5} {how:9} {} {}",
                        op.name(),
                        summary.sites,
                        Bytes(&summary.before),
                        Bytes(&summary.after)
                    )?;
                }
                for (number, name, count) in pvops::vmm::hypercalls() {
                    writeln!(out, "hypercall {number:>2} {name:18} {count:>9}")?;
                }
            }
            Some(name) => {
                for site in site::all().iter().filter(|site| site.op().is_some_and(|op| op.name() == name)) {
                    let (function, offset) = trap::symbols().find(site.address()).unwrap_or(("?", 0));
                    writeln!(out, "{:#x} {} {function} + {offset:#x}", site.address(), Bytes(&patch::bytes(site)))?;
                }
            }
        }
        Ok(())
    };
    if let Some(name) = op
        && !pvops::Op::all().any(|op| op.name() == name)
    {
        return Err(alloc::format!("{name}: no such operation"));
    }
    print(out).map_err(formatting)
}

fn mem(system: &System, out: &mut String) -> fmt::Result {
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
        Ok(archive) => writeln!(out, "initrd: {} bytes, {} files", archive.len(), archive.count())?,
        Err(error) => writeln!(out, "initrd: {error}")?,
    }
    for range in &system.ram {
        writeln!(out, "ram {:#012x} .. {:#012x} {:>8} KiB", range.start, range.end, range.len() >> 10)?;
    }
    Ok(())
}

fn hog(mib: Option<&str>, out: &mut String) -> Result<(), Failed> {
    const MIB: usize = 1 << 20;
    let wanted = number(mib, "number of MiB")?;
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for _ in 0..wanted {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(MIB).is_err() {
            break;
        }
        taken.push(piece);
    }
    writeln!(out, "took {} MiB of {wanted}", taken.len()).map_err(formatting)
}

fn irq(out: &mut String) -> fmt::Result {
    writeln!(out, "vector {:#04x} timer {}", pvops::event::TIMER_VECTOR, trap::irq::timer_count())?;
    for (vector, owner, count) in trap::irq::counts() {
        match owner.line {
            Some(line) => writeln!(out, "vector {vector:#04x} {} line {line}: {count}", owner.name)?,
            None => writeln!(out, "vector {vector:#04x} {} message: {count}", owner.name)?,
        }
    }
    writeln!(out, "between sti and hlt: {}", trap::irq::unprotected_halts())?;
    writeln!(out, "unexpected: {}", trap::irq::unexpected_count())
}

fn dev(system: &System, out: &mut String) -> fmt::Result {
    for device in &system.devices.list {
        writeln!(out, "{:8} {:28} {}", device.device_type.name(), device.location, device.state)?;
    }
    match crate::platform::pci::config::counts() {
        Some(counts) => writeln!(out, "pci: {counts}"),
        None => Ok(()),
    }
}

async fn blk(system: &System, which: Option<&str>, out: &mut String) -> Result<(), Failed> {
    if which.is_some() {
        disk(system, which)?;
    }
    let only: Option<usize> = which.and_then(|text| text.parse().ok());
    for (number, disk) in
        system.devices.disks.iter().enumerate().filter(|(number, _)| only.is_none_or(|only| only == *number))
    {
        let id = disk.id().await.unwrap_or_else(|error| alloc::format!("none: {error}"));
        let access = if disk.read_only() { "read-only" } else { "read-write" };
        let blocks = match disk.block_size() {
            512 => String::new(),
            size => alloc::format!(" in blocks of {size} bytes"),
        };
        writeln!(out, "disk {number}: {} sectors{blocks}, {access}, {}, id {id:?}", disk.capacity(), disk.abilities())
            .map_err(formatting)?;
        if let Some(notifications) = disk.notifications() {
            writeln!(out, "  {notifications} notifications").map_err(formatting)?;
        }
    }
    Ok(())
}

fn number(text: Option<&str>, what: &str) -> Result<u64, Failed> {
    let text = text.ok_or_else(|| alloc::format!("which {what}?"))?;
    text.parse().map_err(|_| alloc::format!("{text}: not a number"))
}

fn disk(system: &System, number_text: Option<&str>) -> Result<Rc<crate::disk::Disk>, Failed> {
    let index = number_text.map_or(Ok(0), |text| number(Some(text), "disk"))?;
    let found = usize::try_from(index).ok().and_then(|index| system.devices.disks.get(index));
    found.cloned().ok_or_else(|| alloc::format!("there is no disk {index}"))
}

async fn clear(system: &System, what: &str, [sector, count, which]: [Option<&str>; 3]) -> Result<(), Failed> {
    let (sector, count, disk) = (number(sector, "sector")?, number(count, "count")?, disk(system, which)?);
    let done = if what == "zero" { disk.write_zeroes(sector, count).await } else { disk.discard(sector, count).await };
    done.map_err(|error| error.to_string())
}

async fn dump(system: &System, sector: Option<&str>, which: Option<&str>, out: &mut String) -> Result<(), Failed> {
    let (sector, disk) = (number(sector, "sector")?, disk(system, which)?);
    let bytes = disk.read(sector, 512).await.map_err(|error| error.to_string())?;
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let text: String = chunk.iter().map(|&byte| if byte.is_ascii_graphic() { byte.into() } else { '.' }).collect();
        writeln!(out, "{:03x} {} {text}", line * 16, Bytes(chunk)).map_err(formatting)?;
    }
    Ok(())
}

fn net(system: &System, out: &mut String) -> fmt::Result {
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

fn balloon(system: &System, pages: Option<&str>, out: &mut String) -> Result<(), Failed> {
    let balloon = system.devices.balloon.as_ref().ok_or_else(|| "there is no balloon".to_string())?;
    if pages.is_some() {
        let target = u32::try_from(number(pages, "number of pages")?).map_err(|_| "too many pages".to_string())?;
        if !balloon.set_target(target) {
            return Err("the host sets the target here".into());
        }
    }
    balloon_state(balloon, out).map_err(formatting)
}

fn balloon_state(balloon: &KernelBalloon, out: &mut String) -> fmt::Result {
    writeln!(out, "target {} pages, actual {} pages, {:?}", balloon.target(), balloon.actual(), balloon.state())?;
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
    match pvops::mmu::reservation() {
        Some(pages) => writeln!(out, "the hypervisor counts {pages} pages"),
        None => Ok(()),
    }
}

fn ls(system: &System, path: &str, out: &mut String) -> Result<(), Failed> {
    for files::Entry { name, what } in files::list(system, path)? {
        match what {
            files::What::File(size) => writeln!(out, "{size:>10} {name}"),
            files::What::Directory => writeln!(out, "{:>10} {name}", "dir"),
            files::What::Link(target) => writeln!(out, "{:>10} {name} -> {target}", "link"),
            files::What::Special => writeln!(out, "{:>10} {name}", "special"),
        }
        .map_err(formatting)?;
    }
    Ok(())
}

fn uptime(system: &System, out: &mut String) -> fmt::Result {
    let up = time::now().saturating_sub(system.started);
    let idle = task::idle_time();
    let slept = time::tsc_scale().apply(idle.ticks);
    writeln!(
        out,
        "up {}.{:03} s, slept {} % in {} halts, clock {}",
        up / 1_000_000_000,
        up / 1_000_000 % 1000,
        slept.saturating_mul(100) / up.max(1),
        idle.halts,
        crate::time::sources()
    )
}
