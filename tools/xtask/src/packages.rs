//! Debian packages: installs them where that is allowed, and says how where not.

use crate::options::Installing;
use crate::ui;
use anyhow::{Result, bail};
use ringside_tests::testbed::find_program;
use std::process::{Command, Stdio};

/// Installs Debian packages, each with what it is needed for.
pub(crate) fn install(installing: Installing, wanted: &[(&str, &str)]) -> Result<()> {
    let verb = if installing == Installing::Allowed { "installing" } else { "missing" };
    for (package, purpose) in wanted {
        ui::say(&format!("{verb} {package}: needed for {purpose}"));
    }
    let names: Vec<&str> = wanted.iter().map(|(package, _)| *package).collect();
    let by_hand = format!("to install by hand: sudo apt-get install --no-install-recommends {}", names.join(" "));
    if installing == Installing::ReportOnly {
        bail!("{by_hand}");
    }
    let Some(apt) = privileged_apt() else { bail!("{by_hand}") };
    let run = |text: &str, arguments: &[&str]| {
        let mut command = Command::new(apt[0]);
        command.args(&apt[1..]).args(arguments);
        ui::run_quietly(text, &mut command)
    };
    let update = run("apt-get update", &["update"]);
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&names);
    match run(&format!("apt-get install {}", names.join(" ")), &arguments) {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error:#}{}; {by_hand}", if update.is_err() { " (after a failed update)" } else { "" }),
    }
}

/// How to run apt-get as root without being asked for anything.
fn privileged_apt() -> Option<&'static [&'static str]> {
    find_program("apt-get")?;
    let answers = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.output().ok().filter(|output| output.status.success()).map(|output| output.stdout)
    };
    if answers("id", &["-u"])?.trim_ascii() == b"0" {
        return Some(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    }
    answers("sudo", &["-n", "true"])?;
    Some(&["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
}
