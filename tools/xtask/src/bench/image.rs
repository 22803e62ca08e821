//! `cargo xtask bench image`: our own time for a bootable disk of 64 MiB.

use crate::options::Common;
use crate::{artifacts, setup, ui, workspace};
use anyhow::{Context, Result};
use mkimage::bootable::{Format, Image};
use mkimage::loaders::Loaders;
use mkimage::output::Existing;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(1);
const RUNS: usize = 9;

/// `cargo xtask bench image`.
pub(crate) fn command(common: &Common) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let artifacts = artifacts::build(&setup)?;
    let output = workspace::output()?.join("bench.img");
    ui::say(&format!("making a disk of 64 MiB {RUNS} times, from reading the kernel as it was linked to the rename"));
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let started = Instant::now();
        let mut image = Image::read(&artifacts.kernel, "tour", None)?;
        image.loaders = Some(Loaders::read(&artifacts.loaders)?);
        image.size = Some(SIZE);
        image.write(Format::Disk, &output, Existing::Replace, &mut |_, _| {}).context("cannot make the disk")?;
        times.push(started.elapsed());
    }
    times.sort();
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let median = times[RUNS / 2];
    let verdict = if median < LIMIT { "ok" } else { "ABOVE" };
    ui::table(&[
        ["fastest", "median", "slowest", "limit", ""].map(str::to_owned).to_vec(),
        vec![
            milliseconds(times[0]),
            milliseconds(median),
            milliseconds(times[RUNS - 1]),
            milliseconds(LIMIT),
            verdict.into(),
        ],
    ]);
    Ok(if median < LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
