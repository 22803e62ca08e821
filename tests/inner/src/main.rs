//! The first process of the inner Linux: brings up what the host program needs, runs it, says how it ended and switches
//! the machine off. It runs from an initrd that the harness has packed, and trusts it.

mod control;
mod network;

use anyhow::{Context, Result};
use inner_init::{ARGUMENTS, CONTROL, ENDED, MODULES, PEAK, RINGSIDE, RUN, RUN_SECONDS_MAX, RUNS, peak_memory};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    if std::process::id() != 1 {
        eprintln!("inner-init: this is the first process of a virtual machine, made for cargo xtask");
        std::process::exit(2);
    }
    if let Err(error) = serve() {
        println!("\ninner: {error:#}");
    }
    // The serial line is slower than we are.
    thread::sleep(Duration::from_millis(200));
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    println!("inner: cannot switch off: {error}");
}

fn serve() -> Result<()> {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("tmpfs", "/tmp")] {
        fs::create_dir_all(at).with_context(|| format!("cannot create {at}"))?;
        let mounted = mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>);
        mounted.with_context(|| format!("cannot mount {kind}"))?;
    }
    load_modules(&Path::new("/").join(MODULES))?;
    make_raw(&io::stdin()).context("the console")?;
    network::relay().context("the network")?;
    let arguments = fs::read_to_string(Path::new("/").join(ARGUMENTS)).context("cannot read the arguments")?;
    let arguments: Vec<&str> = arguments.lines().collect();
    match fs::read_to_string(Path::new("/").join(RUNS)) {
        Ok(runs) => runs.lines().try_for_each(|cmdline| run_one_of_many(&arguments, cmdline)),
        Err(_) => run(&arguments),
    }
}

/// Runs the host program for its user, who has the console and the control line.
fn run(arguments: &[&str]) -> Result<()> {
    control::relay().context("the control line")?;
    let mut command = ringside(arguments);
    // Not the terminal itself: the host program leaves one alone that is not its own job's.
    let mut ringside = command.stdin(Stdio::piped()).spawn().context("cannot start ringside")?;
    if let Some(mut input) = ringside.stdin.take() {
        thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut input));
    }
    let status = ringside.wait().context("cannot wait for ringside")?;
    println!("\n{ENDED}{status}");
    Ok(())
}

/// Runs it without a user, with a bound, and reports what it took.
fn run_one_of_many(arguments: &[&str], cmdline: &str) -> Result<()> {
    println!("\n{RUN}{cmdline}");
    // One that was killed does not remove it.
    let _ = fs::remove_file(CONTROL);
    let mut arguments = arguments.to_vec();
    if let Some(at) = arguments.iter().position(|argument| *argument == "--cmdline") {
        arguments[at + 1] = cmdline;
    }
    let mut child = ringside(&arguments).stdin(Stdio::null()).spawn().context("cannot start ringside")?;
    let deadline = Instant::now() + Duration::from_secs(RUN_SECONDS_MAX);
    let mut peak = None;
    let status = loop {
        peak = peak.or_else(|| peak_memory(&child));
        if let Some(status) = child.try_wait().context("cannot wait for ringside")? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().context("cannot end ringside")?;
        }
        thread::sleep(Duration::from_millis(5));
    };
    match peak {
        Some(peak) => println!("\n{PEAK}{peak}\n{ENDED}{status}"),
        None => println!("\n{ENDED}{status}"),
    }
    Ok(())
}

fn ringside(arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new("/").join(RINGSIDE));
    command.args(arguments);
    command
}

fn load_modules(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let file = File::open(&path)?;
        finit_module(&file, c"", ModuleInitFlags::empty())
            .with_context(|| format!("cannot load {}", path.display()))?;
    }
    Ok(())
}

/// Makes a serial line carry bytes as they are.
fn make_raw(line: &impl AsFd) -> nix::Result<()> {
    let mut settings = tcgetattr(line)?;
    cfmakeraw(&mut settings);
    tcsetattr(line, SetArg::TCSANOW, &settings)
}
