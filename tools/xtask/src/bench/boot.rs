//! `cargo xtask bench boot`: guest instructions from entry to ready. They are counted, not timed.

use crate::boots::{self, Wishes};
use crate::options::Common;
use crate::{artifacts, setup, ui};
use anyhow::{Context, Result, anyhow, bail};
use ringside_tests::console::Event;
use ringside_tests::machine::{Machine, SerialLine};
use ringside_tests::running::Running;
use ringside_tests::testbed::{KvmPolicy, Testbed};
use shared_abi::report::{self, Kind, Outcome};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Guest instructions from entry to ready, at most.
const BOOT_INSTRUCTIONS: u64 = 2_000_000;
/// A boot that takes longer has failed.
const BOOT_MAX: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(100);

/// `cargo xtask bench boot`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let artifacts = artifacts::build(&setup)?;
    let interrupted = boots::interruption()?;
    ui::say("counting guest instructions from entry to ready: 128 MiB, one disk, one NIC, -icount shift=0");
    let mut rows = vec![["testbed", "instructions", "limit", ""].map(str::to_owned).to_vec()];
    let mut within = true;
    for testbed in [Testbed::Qemu, Testbed::QemuMicrovm] {
        testbed.available(KvmPolicy::Absent).with_context(|| format!("cannot boot on {testbed}"))?;
        let boot = boots::prepare(&artifacts, Wishes::new(testbed, ""))?;
        let counted = count(&boot.machine, &interrupted).with_context(|| format!("the boot on {testbed}"))?;
        let good = counted <= BOOT_INSTRUCTIONS;
        within &= good;
        let verdict = if good { "ok" } else { "ABOVE" };
        rows.push(vec![testbed.name().into(), counted.to_string(), BOOT_INSTRUCTIONS.to_string(), verdict.into()]);
    }
    ui::table(&rows);
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots and waits for the guest's count.
fn count(machine: &Machine, interrupted: &AtomicBool) -> Result<u64> {
    let mut command = machine.command(SerialLine::Captured);
    command.args(["-icount", "shift=0"]);
    let mut running = Running::spawn(command)?;
    let deadline = Instant::now() + BOOT_MAX;
    loop {
        match running.console.next(TICK) {
            Event::Line(line) => {
                let Ok(Some(report)) = report::parse(&line) else { continue };
                if (report.kind, report.name) != (Kind::Boot, "ready") {
                    continue;
                }
                if report.outcome != Outcome::Success {
                    bail!("the guest says {line:?}");
                }
                // With -icount shift=0 the time stamp counter counts instructions.
                let count = report.field("ticks").and_then(|value| value.number());
                return count.ok_or_else(|| anyhow!("the guest does not report its ticks: {line:?}"));
            }
            Event::Closed => bail!("the guest ended before it was ready: {}", running.stderr().trim()),
            Event::Quiet => {}
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if Instant::now() >= deadline {
            bail!("the guest was not ready within {} s", BOOT_MAX.as_secs());
        }
    }
}
