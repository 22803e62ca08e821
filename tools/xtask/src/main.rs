//! `cargo xtask`: sets up what is needed, builds, boots, tests and measures. See `cargo xtask --help`.
//!
//! Writes nothing outside of the target directory but the packages and the compiler target that `setup` names.
//! Exit status 0: done; 1: a step failed, and was named; 2: the arguments are no good.

mod artifacts;
mod bench;
mod boots;
mod conform;
mod docs;
mod fuzz;
mod options;
mod packages;
mod reproduce;
mod run;
mod setup;
mod test;
mod toolchain;
mod ui;
mod workspace;

use clap::Parser;
use options::{BenchCommand, Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let common = cli.common;
    match cli.command {
        Command::Setup => setup::command(&common),
        Command::Build => artifacts::command(&common),
        Command::Run(options) => run::command(&common, &options),
        Command::Conform(options) => conform::command(&common, &options),
        Command::Dist => artifacts::dist(&common),
        Command::Docs => docs::command(&common),
        Command::Test(options) => test::command(&common, &options),
        Command::Fuzz(options) => fuzz::command(&common, &options),
        Command::Reproduce => reproduce::command(&common),
        Command::Bench { what: BenchCommand::Boot } => bench::boot::command(&common),
        Command::Bench { what: BenchCommand::Pte } => bench::ops::pte(&common),
        Command::Bench { what: BenchCommand::Ops } => bench::ops::operations(&common),
        Command::Bench { what: BenchCommand::Image } => bench::image::command(&common),
        Command::Bench { what: BenchCommand::Start } => bench::start::command(&common),
    }
}
