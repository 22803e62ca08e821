//! `cargo xtask bench pte` and `bench ops`: what operations cost in each world. The guest measures and reports; exits are
//! those to our host program, counted by it.

use crate::artifacts::{self, Artifacts};
use crate::boots::{self, Wishes};
use crate::options::Common;
use crate::{setup, ui};
use anyhow::{Context, Result, anyhow, bail};
use ringside_tests::console::Event;
use ringside_tests::disassembly;
use ringside_tests::machine::SerialLine;
use ringside_tests::running::Running;
use ringside_tests::testbed::Testbed;
use shared_abi::bench::{OPS, PTE, UPDATES, WORD};
use shared_abi::report::{self, Kind};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A boot that takes longer has failed.
const BOOT_MAX: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(100);
/// Hypercalls that a batch may cost.
const BATCH_MAX: u64 = 2;
/// A testbed for each world.
const WORLDS: [Testbed; 3] = [Testbed::Qemu, Testbed::Host, Testbed::XenPv];

/// A `@bench` line.
struct Line {
    name: String,
    fields: BTreeMap<&'static str, String>,
}

impl Line {
    fn text(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> Result<u64> {
        self.text(key).parse().with_context(|| format!("{}: {key}={:?} is no number", self.name, self.text(key)))
    }
}

/// `cargo xtask bench pte`.
pub(crate) fn pte(common: &Common) -> Result<ExitCode> {
    let bench = Bench::prepare(common)?;
    ui::say(&format!("{UPDATES} page-table updates, one by one and in a batch; ticks are medians"));
    let mut rows = vec![["testbed", "world", "how", "hypercalls", "limit", "ticks", ""].map(str::to_owned).to_vec()];
    let mut within = true;
    for testbed in bench.testbeds() {
        let (lines, _) = bench.run(testbed, &format!("{WORD}={PTE}"))?;
        if lines.len() != 2 {
            bail!("{testbed}: the guest reported {} measurements instead of 2", lines.len());
        }
        for line in &lines {
            let (hypercalls, batch) = (line.number("hypercalls")?, line.name == "batch");
            let good = !batch || hypercalls <= BATCH_MAX;
            within &= good;
            rows.push(vec![
                testbed.name().into(),
                line.text("world").into(),
                line.name.clone(),
                hypercalls.to_string(),
                if batch { BATCH_MAX.to_string() } else { String::new() },
                line.text("ticks").into(),
                if good { "ok" } else { "ABOVE" }.into(),
            ]);
        }
    }
    ui::table(&rows);
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask bench ops`.
pub(crate) fn operations(common: &Common) -> Result<ExitCode> {
    let bench = Bench::prepare(common)?;
    ui::say("every operation: instructions at its site, hypercalls and exits to our host program each, ticks each");
    let head = ["operation", "testbed", "world", "how", "instructions", "hypercalls", "exits", "ticks"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for testbed in bench.testbeds() {
        let (lines, _) = bench.run(testbed, &format!("{WORD}={OPS}"))?;
        // What a machine exits for that measures nothing.
        let idle = if testbed == Testbed::Host { bench.run(testbed, &format!("{WORD}={OPS}:none"))?.1 } else { None };
        for line in &lines {
            let repeats = line.number("repeats")?;
            let exits = match idle {
                Some(idle) => {
                    let alone = bench.run(testbed, &format!("{WORD}={OPS}:{}", line.name))?.1;
                    let more = alone.unwrap_or(0).saturating_sub(idle);
                    // A report more costs some exits of its own, far fewer than one each.
                    (more / (repeats * line.number("runs")?)).to_string()
                }
                None => "-".into(),
            };
            rows.push(vec![
                line.name.clone(),
                testbed.name().into(),
                line.text("world").into(),
                line.text("how").into(),
                disassembly::instructions(&bytes(line.text("code"))?).to_string(),
                each(line.number("hypercalls")?, repeats),
                exits,
                (line.number("ticks")? / repeats).to_string(),
            ]);
        }
    }
    rows[1..].sort_by_key(|row| row[0].clone());
    ui::table(&rows);
    Ok(ExitCode::SUCCESS)
}

/// A count for each of many, rounded to a tenth.
fn each(count: u64, of: u64) -> String {
    let tenths = (count * 10 + of / 2) / of.max(1);
    if tenths.is_multiple_of(10) { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs
        .map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| anyhow!("{hex:?} are no bytes"))
}

struct Bench<'a> {
    common: &'a Common,
    artifacts: Artifacts,
    interrupted: std::sync::Arc<AtomicBool>,
}

impl<'a> Bench<'a> {
    fn prepare(common: &'a Common) -> Result<Self> {
        let setup = setup::ensure(common)?;
        let mut artifacts = artifacts::build(&setup)?;
        WORLDS.into_iter().try_for_each(|testbed| artifacts.complete_for(testbed))?;
        Ok(Self { common, artifacts, interrupted: boots::interruption()? })
    }

    /// The worlds that can be booted here.
    fn testbeds(&self) -> impl Iterator<Item = Testbed> {
        WORLDS.into_iter().filter(|&testbed| {
            let lacks = self.artifacts.lacks(testbed).map(str::to_owned);
            let why = lacks.or_else(|| testbed.available(self.common.kvm()).err().map(|why| format!("{why:#}")));
            why.inspect(|why| ui::warn(&format!("{testbed} skipped, because {why}"))).is_none()
        })
    }

    /// Boots with words on the command line; what the guest measured, and the exits that our host counted.
    fn run(&self, testbed: Testbed, words: &str) -> Result<(Vec<Line>, Option<u64>)> {
        let boot = boots::prepare(&self.artifacts, Wishes::new(testbed, words))?;
        boot.machine.prepare()?;
        let mut command = boot.machine.command(SerialLine::Captured);
        if testbed == Testbed::Host {
            command.args(["--stats", "json"]);
        }
        let mut running = Running::spawn(command)?;
        let (mut lines, deadline) = (Vec::new(), Instant::now() + BOOT_MAX);
        loop {
            match running.console.next(TICK) {
                Event::Line(line) => lines.extend(measurement(&line)),
                Event::Closed => break,
                Event::Quiet => {}
            }
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if Instant::now() >= deadline {
                bail!("{testbed}: the guest did not end within {} s", BOOT_MAX.as_secs());
            }
        }
        let status = running.wait(BOOT_MAX)?;
        let said = running.stderr();
        if !status.success() {
            bail!("{testbed} ended with {status}: {}", said.trim());
        }
        Ok((lines, (testbed == Testbed::Host).then(|| exits(&said)).transpose()?))
    }
}

fn measurement(line: &str) -> Option<Line> {
    const KEYS: [&str; 7] = ["world", "how", "code", "hypercalls", "ticks", "repeats", "runs"];
    let report = report::parse(line).ok()??;
    let fields =
        KEYS.into_iter().filter_map(|key| Some((key, report.field(key)?.to_string()))).collect::<BTreeMap<_, _>>();
    (report.kind == Kind::Bench).then(|| Line { name: report.name.to_string(), fields })
}

/// All exits that ringside counted.
fn exits(stats: &str) -> Result<u64> {
    let json =
        stats.lines().find(|line| line.starts_with('{')).ok_or_else(|| anyhow!("ringside printed no statistics"))?;
    let stats: serde_json::Value = serde_json::from_str(json)?;
    let exits = stats["exits"].as_object().ok_or_else(|| anyhow!("the statistics have no exits"))?;
    Ok(exits.values().filter_map(serde_json::Value::as_u64).sum())
}
