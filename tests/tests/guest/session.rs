//! The picture of a session in README: recorded from real machines, and drawn as SVG. `cargo xtask docs` writes it.

use super::{Guest, PATIENCE, PROMPT, started};
use anstyle_svg::Term;
use ringside_tests::console::Event;
use ringside_tests::generated;
use ringside_tests::machine::Machine;
use ringside_tests::ready::Ready;
use ringside_tests::testbed::Testbed;
use std::fmt::Write;
use std::fs;
use std::time::Instant;

const PICTURE: &str = "docs/session.svg";
/// What the shell prints before a command.
const SHELL: &str = "ringside> ";
/// The first line of the boot log.
const FIRST: &str = "ringside 0.";
/// Starts of lines that are left out: the report protocol, Xen's own, counters too long for a picture, and what may come at
/// any time.
const HIDDEN: [&str; 5] = ["@", "(XEN)", "hypercalls: ", "pci: ", "net: "];
/// Starts of lines that differ between machines.
const OF_THE_MACHINE: [&str; 2] = ["cpu: ", "time: "];

/// Each machine with what is typed at it.
const SESSIONS: [(Testbed, &[&str]); 2] = [
    (Testbed::Host, &["pvops irq.disable", "pvops mmu.write_cr3", "pvops time.now", "dev"]),
    (Testbed::XenPv, &["pvops irq.disable", "pvops mmu.write_cr3", "pvops time.now"]),
];

#[test]
fn the_picture_of_a_session_shows_what_the_guest_prints() {
    let mut screen = String::new();
    for (testbed, commands) in SESSIONS {
        let Some(ready) = Ready::new("a recorded session", testbed, 64, "").unwrap() else { return };
        writeln!(screen, "\x1b[1m$ cargo xtask run --shell --on {}\x1b[0m", testbed.name()).unwrap();
        screen += &record(started(ready, Machine::start), commands);
    }
    let picture = Term::new().render_svg(&screen);
    let path = generated::path(PICTURE);
    if generated::is_written() {
        fs::write(&path, picture).unwrap();
    } else {
        let committed = fs::read_to_string(&path).unwrap();
        assert_eq!(comparable(&committed), comparable(&picture), "{PICTURE} is stale: run cargo xtask docs");
    }
}

/// What the guest prints from the first line of its boot log on, and what is typed, in colour.
fn record(mut guest: Guest, commands: &[&str]) -> String {
    let mut screen = String::new();
    screen += &shown(&lines_until(&mut guest, |line| line.contains(PROMPT)));
    for command in commands {
        guest.type_line(command);
        // An empty line: the shell answers it when the command has ended.
        guest.type_line("");
        let output = lines_until(&mut guest, |line| line.trim_end() == SHELL.trim_end());
        writeln!(screen, "{SHELL}\x1b[32m{command}\x1b[0m").unwrap();
        let output: Vec<String> = output.into_iter().filter(|line| !line.starts_with(SHELL.trim_end())).collect();
        screen += &shown(&output);
    }
    guest.type_line("poweroff");
    writeln!(screen, "{SHELL}\x1b[32mpoweroff\x1b[0m\n").unwrap();
    guest.end();
    screen
}

/// The lines up to the first that is the last. Before the boot log firmware and hypervisor have the console.
fn lines_until(guest: &mut Guest, is_last: impl Fn(&str) -> bool) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    loop {
        match guest.running.console.next(deadline.saturating_duration_since(Instant::now())) {
            Event::Line(line) if is_last(&line) => return lines,
            Event::Line(line) => {
                if line.contains(FIRST) {
                    lines.clear();
                }
                lines.push(line.trim_end().to_owned());
            }
            other => panic!("the guest did not answer: {other:?}, after {lines:?}"),
        }
    }
}

/// The lines without the hidden ones. Lists of sites are counted: they change with every build.
fn shown(lines: &[String]) -> String {
    let is_hidden = |line: &&String| line.is_empty() || HIDDEN.iter().any(|start| line.starts_with(start));
    let (sites, lines): (Vec<_>, Vec<_>) =
        lines.iter().filter(|line| !is_hidden(line)).partition(|line| line.starts_with("0xffff"));
    let mut screen: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
    if !sites.is_empty() {
        writeln!(screen, "\x1b[2m… {} sites\x1b[0m", sites.len()).unwrap();
    }
    screen
}

/// What of a picture has to be the same on every machine.
fn comparable(picture: &str) -> String {
    let lines = picture.lines().filter(|line| !OF_THE_MACHINE.iter().any(|start| line.contains(&format!(">{start}"))));
    lines.map(|line| without_numbers(line) + "\n").collect()
}

/// A text in which each word with a digit, and each pair of hexadecimal digits, is the same: addresses, counts and
/// frequencies differ between builds and machines.
fn without_numbers(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(if word == 0 { c.len_utf8() } else { word });
        let hexadecimal = piece.len() == 2 && piece.bytes().all(|c| c.is_ascii_hexdigit());
        out += if hexadecimal || piece.bytes().any(|c| c.is_ascii_digit()) { "#" } else { piece };
        rest = after;
    }
    out
}
