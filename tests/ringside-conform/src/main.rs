//! `ringside-conform`: runs the conformance suite on hypervisors, and needs nothing else. See
//! `ringside-conform --help`.
//!
//! Exit status 0: done, and nothing failed that is not a known defect; 1: something did, or a step failed and was named; 2: the
//! arguments are no good.

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Parser, Subcommand};
use mkimage::bootable::{Format, Image};
use mkimage::loaders::Loaders;
use mkimage::output::{self, Existing};
use ringside_conform::clauses::{self, ClausesOptions};
use ringside_conform::command::{self, Chosen, Outputs};
use ringside_conform::compare::{Change, Results};
use ringside_conform::options::SuiteOptions;
use ringside_conform::{parts, ui};
use ringside_tests::conform::start::{Progress, Setting};
use ringside_tests::conform::{catalogue, logs};
use ringside_tests::sample;
use ringside_tests::testbed::{KvmPolicy, find_program};
use signal_hook::consts::SIGXFSZ;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Finds what is broken in hypervisors: boots a guest on each, which checks what it sees against the specifications.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the checks on the hypervisors that are here, or on those that are named
    Run {
        #[command(flatten)]
        options: SuiteOptions,
        #[command(flatten)]
        parts: Parts,
    },
    /// List the checks with their rules
    List {
        /// Only those whose names match, as in 'block/*'; may be given several times
        #[arg(long, value_name = "GLOB")]
        only: Vec<String>,
    },
    /// Show what a check is about: its rule, its clause, how it is made and what it expects
    Show {
        /// Its name, as `list` has it
        name: String,
    },
    /// List the profiles that are inside; with a name, print that one, as a start for one of your own
    Profiles {
        /// A profile
        name: Option<String>,
    },
    /// Write the guest that the checks run in, to be booted by hand (word on the command line: conform, or conform=block/*)
    ExportImage {
        /// The file
        output: PathBuf,
        /// What the hypervisor boots
        #[arg(long, value_enum, default_value = "elf")]
        format: Format,
        /// The guest's command line, where the format has one
        #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
        cmdline: String,
        /// Replace a file that exists
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        parts: Parts,
    },
    /// Show how much of Virtio 1.4 the checks are about: its normative sections by chapter, with checks, tests or a reason
    Clauses {
        #[command(flatten)]
        options: ClausesOptions,
    },
    /// Compare the results of two runs (--json): which outcomes are others; status 1 if one is worse
    Compare {
        /// The results before
        before: PathBuf,
        /// The results now
        after: PathBuf,
    },
}

/// Parts that are inside, and can be others.
#[derive(Debug, Args)]
struct Parts {
    /// Another guest than the one inside
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Other loaders, for what firmware boots
    #[arg(long, value_name = "FOLDER")]
    loaders: Option<PathBuf>,
    /// Our host program, for the testbed host-kvm [default: ringside, where it is found]
    #[arg(long, value_name = "FILE")]
    ringside: Option<PathBuf>,
    /// Do as if there were no /dev/kvm
    #[arg(long)]
    no_kvm: bool,
}

fn main() -> ExitCode {
    // A file that may not grow further is an error of a write, and not our end. Without a handler it would be that.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    match dispatch(Cli::parse().command).and_then(|code| ui::printed().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringside-conform: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { options, parts } => return run(&options, &parts),
        Command::List { only } => Chosen::new(&only)?.list(),
        Command::Show { name } => show(&name)?,
        Command::Profiles { name } => profiles(name.as_deref())?,
        Command::ExportImage { output, format, cmdline, force, parts } => {
            export(&output, format, &cmdline, force, &parts)?;
        }
        Command::Clauses { options } => clauses::show(&options)?,
        Command::Compare { before, after } => return compare(&before, &after),
    }
    Ok(ExitCode::SUCCESS)
}

impl Parts {
    fn image(&self, folder: &Path) -> Result<PathBuf> {
        let Some(image) = &self.image else { return parts::image(folder) };
        ensure!(image.is_file(), "--image: there is no {}", image.display());
        Ok(image.clone())
    }

    fn loaders(&self, folder: &Path) -> Result<std::result::Result<PathBuf, String>> {
        let Some(loaders) = &self.loaders else { return parts::loaders(folder) };
        Loaders::read(loaders).context("--loaders")?;
        Ok(Ok(loaders.clone()))
    }
}

fn run(options: &SuiteOptions, parts: &Parts) -> Result<ExitCode> {
    let chosen = Chosen::new(&options.only)?;
    let columns = command::columns(parts::profiles(), options)?;
    let outputs = Outputs::create(options)?;
    // Kept where something went wrong: the logs are there.
    let folder = tempfile::Builder::new().prefix("ringside-conform-").tempdir().context("cannot make a folder")?;
    let disk = folder.path().join("sample.img");
    sample::write(&disk).context("cannot make the sample disk")?;
    let none = "this program has none inside; `cargo xtask conform` fetches one";
    let setting = Setting {
        image: parts.image(folder.path())?,
        disk,
        ringside: parts.ringside.clone().or_else(|| find_program("ringside")).unwrap_or_else(|| "ringside".into()),
        base: folder.path().into(),
        kvm: if parts.no_kvm { KvmPolicy::Absent } else { KvmPolicy::Use },
        tap: options.tap.clone(),
        inner: Err(none.into()),
        xen: Err(none.into()),
        loaders: parts.loaders(folder.path())?,
        progress: Progress::default(),
    };
    let interrupted = command::interruption()?;
    let result = command::run(options, &chosen, &columns, setting, outputs, &interrupted);
    let logged = folder.path().join(logs::FOLDER).exists();
    if logged && !matches!(result, Ok(code) if code == ExitCode::SUCCESS) {
        ui::line(format_args!("logs: {}", folder.keep().display()));
    }
    result
}

fn show(name: &str) -> Result<()> {
    let all = catalogue::all();
    let entry = all.iter().find(|entry| entry.name == name);
    let entry = entry.ok_or_else(|| anyhow!("there is no check {name}; list shows them"))?;
    ui::line(format_args!("{}\n", entry.name));
    let rows = [
        ("rule", &entry.rule),
        ("clause", &entry.clause),
        ("level", &entry.level),
        ("method", &entry.method),
        ("expects", &entry.expectation),
    ];
    ui::table(&rows.map(|(title, text)| vec![title.to_owned(), text.clone()]));
    Ok(())
}

fn profiles(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        let row = |(name, profile): ringside_tests::conform::profile::Named| {
            vec![name, profile.map_or_else(|error| error.to_string(), |profile| profile.title)]
        };
        ui::table(&parts::profiles().into_iter().map(row).collect::<Vec<_>>());
        return Ok(());
    };
    let text = parts::profile_text(name).ok_or_else(|| anyhow!("there is no profile {name}; profiles lists them"))?;
    ui::text(format_args!("{text}"));
    Ok(())
}

fn export(path: &Path, format: Format, cmdline: &str, force: bool, parts: &Parts) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let image = parts.image(folder.path())?;
    let existing = if force { Existing::Replace } else { Existing::Keep };
    if format == Format::Elf {
        ensure!(cmdline.is_empty(), "--cmdline: the hypervisor gives an ELF file its command line");
        output::check(path, &[])?;
        output::check_existing(path, existing)?;
        let bytes = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
        return Ok(output::write_bytes(path, &bytes)?);
    }
    let mut image = Image::read(&image, cmdline, None)?;
    let loaders = parts.loaders(folder.path())?.map_err(|why| anyhow!("there are no loaders: {why}"))?;
    image.loaders = Some(Loaders::read(&loaders)?);
    Ok(image.write(format, path, existing, &mut |_, _| {})?)
}

fn compare(before: &Path, after: &Path) -> Result<ExitCode> {
    let (before, after) = (Results::read(before)?, Results::read(after)?);
    if !before.has_catalogue_of(&after) {
        ui::line(format_args!("the two runs are of different versions of the suite"));
    }
    before.alone(&after).for_each(|testbed| ui::line(format_args!("{testbed}: in one of the two only")));
    let ended: Vec<_> = before.ran_before(&after).collect();
    ended
        .iter()
        .for_each(|(testbed, state, why)| ui::line(format_args!("{testbed}: ran before, is {state} now: {why}")));
    let changes = before.changes(&after);
    let row = |change: &Change| {
        vec![change.testbed.clone(), change.check.clone(), change.before.clone(), "->".into(), change.after.clone()]
    };
    ui::table(&changes.iter().map(row).collect::<Vec<_>>());
    let worse = changes.iter().filter(|change| change.is_worse()).count();
    ui::line(format_args!("{} outcomes are others, {worse} of them worse", changes.len()));
    let broken = ended.iter().any(|(_, state, _)| *state == "broken");
    Ok(if worse == 0 && !broken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
