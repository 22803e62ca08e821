//! `cargo xtask run`: boots the image and shows the tour, or stays in the guest's shell.

use crate::artifacts::{self, Needs};
use crate::boots::{self, Boot, Wishes};
use crate::options::{Common, RunOptions};
use crate::{setup, ui};
use anyhow::{Context, Result, bail};
use ringside_tests::machine::{Access, SerialLine};
use ringside_tests::running;
use ringside_tests::testbed::{KvmPolicy, Testbed};
use ringside_tests::tour::{self, State, Verdict};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// `cargo xtask run`.
pub(crate) fn command(common: &Common, options: &RunOptions) -> Result<ExitCode> {
    let setup = setup::ensure(common)?;
    let testbed = choose(options.on, common.kvm())?;
    let mut artifacts = artifacts::build_some(&setup, Needs { host: testbed == Testbed::Host, ..Needs::GUEST })?;
    artifacts.complete_for(testbed)?;
    let cmdline = [if options.shell { "" } else { "tour" }, &options.cmdline].join(" ");
    let wishes = Wishes {
        memory: options.mem,
        cpus: options.cpus,
        disk: options.disk.clone(),
        publish: options.publish,
        ..Wishes::new(testbed, cmdline.trim())
    };
    let interrupted = boots::interruption()?;
    let boot = boots::prepare(&artifacts, wishes)?;
    ui::say(&format!("booting {} on {}", artifacts.image.display(), testbed.title()));
    if options.shell { stay_in_shell(&boot, &interrupted) } else { show_tour(&boot, &interrupted) }
}

/// The testbed asked for, or the first that works.
fn choose(asked: Option<Testbed>, kvm: KvmPolicy) -> Result<Testbed> {
    if let Some(testbed) = asked {
        testbed.available(kvm).with_context(|| format!("cannot boot on {testbed}"))?;
        return Ok(testbed);
    }
    let mut reasons: Vec<String> = Vec::new();
    for testbed in Testbed::ALL {
        match testbed.available(kvm) {
            Ok(()) => {
                reasons.iter().for_each(|reason| ui::warn(reason));
                return Ok(testbed);
            }
            Err(error) => reasons.push(format!("not on {testbed}: {error:#}")),
        }
    }
    bail!("nothing to boot on: {}", reasons.join("; "))
}

fn stay_in_shell(boot: &Boot, interrupted: &AtomicBool) -> Result<ExitCode> {
    let machine = &boot.machine;
    let publish = machine.publish;
    ui::say(&format!("the guest's port {} is at http://127.0.0.1:{}/", publish.guest, publish.host));
    ui::say(match machine.testbed {
        Testbed::Host => "poweroff in the shell ends the machine",
        Testbed::Qemu | Testbed::QemuMicrovm | Testbed::HostInTcg | Testbed::XenPv => {
            "poweroff in the shell ends the machine, and so does Ctrl-A x"
        }
    });
    machine.prepare()?;
    let mut command = machine.command(SerialLine::Terminal);
    running::end_with_parent(&mut command);
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if interrupted.load(Ordering::Relaxed) {
            running::stop(&mut child);
            bail!("interrupted");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn show_tour(boot: &Boot, interrupted: &AtomicBool) -> Result<ExitCode> {
    if boot.machine.disk.access == Access::ReadOnly {
        ui::warn(
            "your disk is read-only for the guest, so the tour writes no sectors; \",rw\" after its name changes that",
        );
    }
    let verdict = tour::run(&boot.machine, &boot.disk, &mut ui::Live, interrupted)?;
    summarize(boot.machine.testbed, &verdict);
    Ok(if verdict.succeeded() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summarize(testbed: Testbed, verdict: &Verdict) {
    println!();
    ui::say(&format!("the tour on {}", testbed.title()));
    for step in &verdict.steps {
        println!("{} {:<15} {}", ui::badge(step.state), step.name, step.detail);
    }
    for problem in &verdict.problems {
        println!("{} {problem}", ui::badge(State::Failed));
    }
    let passed = verdict.steps.iter().filter(|step| step.state == State::Passed).count();
    let total = verdict.steps.len();
    if verdict.succeeded() {
        return ui::say(&format!("{passed} of {total} steps passed"));
    }
    if !verdict.stderr.trim().is_empty() {
        println!("\nwhat the host side said:");
        verdict.stderr.lines().for_each(|line| println!("    {line}"));
    }
    eprintln!("xtask: {passed} of {total} steps passed; {}", verdict.complaint());
}
