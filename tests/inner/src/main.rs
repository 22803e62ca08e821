//! The first process of the inner Linux: brings up what the host program needs, runs it, says how it ended and switches
//! the machine off. It runs from an initrd that the harness has packed, and trusts it.

mod control;
mod network;

use anyhow::{Context, Result};
use inner_init::{ARGUMENTS, ENDED, MODULES, RINGSIDE};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

fn main() {
    if std::process::id() != 1 {
        eprintln!("inner-init: this is the first process of a virtual machine, made for cargo xtask");
        std::process::exit(2);
    }
    match serve() {
        Ok(status) => println!("\n{ENDED}{status}"),
        Err(error) => println!("\ninner: {error:#}"),
    }
    // The serial line is slower than we are.
    thread::sleep(Duration::from_millis(200));
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    println!("inner: cannot switch off: {error}");
}

fn serve() -> Result<ExitStatus> {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("tmpfs", "/tmp")] {
        fs::create_dir_all(at).with_context(|| format!("cannot create {at}"))?;
        let mounted = mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>);
        mounted.with_context(|| format!("cannot mount {kind}"))?;
    }
    load_modules(&Path::new("/").join(MODULES))?;
    make_raw(&io::stdin()).context("the console")?;
    control::relay().context("the control line")?;
    network::relay().context("the network")?;
    let arguments = fs::read_to_string(Path::new("/").join(ARGUMENTS)).context("cannot read the arguments")?;
    let mut command = Command::new(Path::new("/").join(RINGSIDE));
    // Not the terminal itself: the host program leaves one alone that is not its own job's.
    command.args(arguments.lines()).stdin(Stdio::piped());
    let mut ringside = command.spawn().context("cannot start ringside")?;
    if let Some(mut input) = ringside.stdin.take() {
        thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut input));
    }
    ringside.wait().context("cannot wait for ringside")
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
