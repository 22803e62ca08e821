//! The shell's commands. Each writes to a string; an error is one line.

use super::show;
use crate::fs::files;
use crate::mm::frames::FRAMES;
use crate::mm::{heap, paging};
use crate::platform::power::{self, Ending};
use crate::system::System;
use crate::{console, trap};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// A command.
pub(super) struct Command {
    /// Its name.
    pub(super) name: &'static str,
    /// What may stand after the name, and what it does then.
    uses: &'static [(&'static str, &'static str)],
    /// Words that may stand after the name.
    pub(super) words: &'static [&'static str],
}

const fn command(
    name: &'static str,
    words: &'static [&'static str],
    uses: &'static [(&'static str, &'static str)],
) -> Command {
    Command { name, uses, words }
}

/// All of them, in the order of the list.
pub(super) const COMMANDS: &[Command] = &[
    command("help", &[], &[("[COMMAND]", "this list, or what a command does")]),
    command(
        "pvops",
        &[],
        &[
            ("", "every operation: sites, how they were patched, their code now; hypercalls by number"),
            ("OP", "its bytes before and after, and every site"),
        ],
    ),
    command(
        "mem",
        &["hog"],
        &[("", "frames, heap, memory map"), ("hog MIB", "takes so much memory, as far as it goes, and gives it back")],
    ),
    command("irq", &[], &[("", "interrupts by vector")]),
    command("dev", &[], &[("", "devices and their drivers; how PCI's configuration space is accessed")]),
    command(
        "blk",
        &["discard", "read", "zero"],
        &[
            ("[N]", "disks, or disk N"),
            ("read SECTOR [N]", "shows a sector of disk N, or of disk 0"),
            ("zero SECTOR COUNT [N]", "clears sectors"),
            ("discard SECTOR COUNT [N]", "gives sectors up"),
        ],
    ),
    command("net", &[], &[("", "network card, address, counters")]),
    command(
        "balloon",
        &[],
        &[("", "target, size and counters of the balloon"), ("PAGES", "sets the target, where no host does")],
    ),
    command(
        "ls",
        &[],
        &[("[PATH]", "a directory: / has the initrd's files and, as disk0, disk1 and so on, the disks' file systems")],
    ),
    command("cat", &[], &[("PATH", "a file's text")]),
    command("sum", &[], &[("PATH", "size and CRC-32 of a file")]),
    command("uptime", &[], &[("", "time since boot, and how much of it the CPU slept")]),
    command("checks", &[], &[("", "the kernel's checks of itself")]),
    command(
        "panic",
        &["fault", "lock", "stack", "twice"],
        &[
            ("", "fails on purpose, and shows the report"),
            ("fault", "the same by a page fault"),
            ("stack", "the same by a stack overflow"),
            ("twice", "the same while the machine is being ended"),
            ("lock NAME", "the same while a lock is held: console, frames, heap, tables, vectors"),
        ],
    ),
    command("poweroff", &[], &[("", "switches the machine off")]),
];

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
        ("help", which) => help(which, out),
        ("pvops", None) => show::operations(out).map_err(formatting),
        ("pvops", Some(name)) => {
            let op = pvops::Op::all().find(|op| op.name() == name);
            let op = op.ok_or_else(|| alloc::format!("{name}: no such operation"))?;
            show::sites(op, out).map_err(formatting)
        }
        ("mem", Some("hog")) => hog(words.next(), out),
        ("mem", None) => show::mem(system, out).map_err(formatting),
        ("irq", None) => show::irq(out).map_err(formatting),
        ("dev", None) => show::dev(system, out).map_err(formatting),
        ("blk", Some("read")) => dump(system, words.next(), words.next(), out).await,
        ("blk", Some(what @ ("zero" | "discard"))) => {
            clear(system, what, [words.next(), words.next(), words.next()]).await
        }
        ("blk", which) => blk(system, which, out).await,
        ("net", None) => show::net(system, out).map_err(formatting),
        ("balloon", pages) => balloon(system, pages, out),
        ("ls", _) => ls(system, path.unwrap_or("/"), out),
        ("cat" | "sum", _) => {
            let path = path.ok_or_else(|| alloc::format!("{command}: which file?"))?;
            let bytes = files::read(system.files(), path)?;
            if command == "cat" {
                out.push_str(&String::from_utf8_lossy(&bytes));
                return Ok(());
            }
            writeln!(out, "{:08x} {} {path}", crate::fs::crc32(&bytes), bytes.len()).map_err(formatting)
        }
        ("uptime", None) => show::uptime(system, out).map_err(formatting),
        ("checks", None) => {
            let failed = crate::checks::run();
            writeln!(out, "{failed} failed").map_err(formatting)
        }
        ("panic", how) => fail(how, words.next()),
        ("poweroff", None) => {
            crate::println!("power off");
            power::end(Ending::Off)
        }
        (known, Some(word)) if COMMANDS.iter().any(|command| command.name == known) => {
            Err(alloc::format!("{known}: {word}: no such thing; type help {known}"))
        }
        _ => Err(alloc::format!("{command}: no such command; type help")),
    }
}

fn help(which: Option<&str>, out: &mut String) -> Result<(), Failed> {
    if let Some(name) = which
        && !COMMANDS.iter().any(|command| command.name == name)
    {
        return Err(alloc::format!("{name}: no such command; type help"));
    }
    for command in COMMANDS.iter().filter(|command| which.is_none_or(|name| name == command.name)) {
        for (words, what) in command.uses {
            let usage = alloc::format!("{} {words}", command.name);
            writeln!(out, "{usage:29} {what}").map_err(formatting)?;
        }
    }
    Ok(())
}

/// Fails on purpose.
fn fail(how: Option<&str>, lock: Option<&str>) -> Result<(), Failed> {
    fn now() -> ! {
        panic!("asked for in the shell")
    }
    match (how, lock) {
        (None, _) => now(),
        (Some("fault"), _) => {
            // SAFETY: nothing is mapped in the lower half, so this ends in the page fault that was asked for.
            unsafe { (0xdead_beef_usize as *mut u8).write_volatile(0) };
            Ok(())
        }
        (Some("twice"), _) => power::end_with_a_fault(),
        (Some("stack"), _) => Err(alloc::format!("the stack is {} levels deep", overflow(0))),
        (Some("lock"), Some("console")) => console::hold(now),
        (Some("lock"), Some("frames")) => {
            let _frames = FRAMES.lock();
            now()
        }
        (Some("lock"), Some("heap")) => heap::hold(now),
        (Some("lock"), Some("tables")) => paging::hold(now),
        (Some("lock"), Some("vectors")) => trap::irq::hold(now),
        (Some("lock"), _) => Err("panic lock: console, frames, heap, tables or vectors?".into()),
        (Some(other), _) => Err(alloc::format!("panic: {other}: no such failure; type help panic")),
    }
}

/// Calls itself until the stack ends in its guard page.
#[inline(never)]
fn overflow(level: u64) -> u64 {
    let frame = core::hint::black_box([level; 32]);
    if level == u64::MAX { level } else { overflow(level + 1).max(frame[0]) }
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
        let (sectors, abilities) = (disk.capacity(), disk.abilities());
        writeln!(out, "disk {number}: {sectors} sectors{blocks}, {access}, {abilities}, id \"{id}\"")
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

fn disk(system: &System, number_text: Option<&str>) -> Result<Rc<crate::devices::disk::Disk>, Failed> {
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
        writeln!(out, "{:03x} {} {text}", line * 16, crate::patching::Bytes(chunk)).map_err(formatting)?;
    }
    Ok(())
}

fn balloon(system: &System, pages: Option<&str>, out: &mut String) -> Result<(), Failed> {
    let balloon = system.devices.balloon.as_ref().ok_or_else(|| "there is no balloon".to_string())?;
    if pages.is_some() {
        let target = u32::try_from(number(pages, "number of pages")?).map_err(|_| "too many pages".to_string())?;
        if !balloon.set_target(target) {
            return Err("the host sets the target here".into());
        }
    }
    show::balloon_state(balloon, out).map_err(formatting)
}

fn ls(system: &System, path: &str, out: &mut String) -> Result<(), Failed> {
    for files::Entry { name, what } in files::list(system.files(), path)? {
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
