//! Runs one attack.
//!
//! Each shot ([`trial`](crate::support::trial)) is followed by a well-formed request without a reset, one after a reset, and one
//! to another device. The machine is ours alone, so an attack may ruin anything but the kernel's own memory: what a device is
//! told to write to is a buffer of the attack's, a ring, or no memory at all.

use super::{CHECKS, GROUP, KEY, SEEDED, SEEDS, script};
use crate::catalogue::{Check, Run};
use crate::support::trial::{Judged, Trial, announce, unjudged};
use crate::support::{Context, End};
use alloc::string::ToString;
use guest_kernel::cmdline::Cmdline;
use guest_kernel::console;
use guest_kernel::platform::power::{self, Ending};
use guest_kernel::start::Machine;
use shared_abi::report::{Handling, Kind, Outcome};

/// What the command line asks for.
#[derive(Clone, Copy)]
pub(crate) struct Order(&'static str);

impl Order {
    /// From `hostile=NAME`.
    pub fn from_cmdline(cmdline: Cmdline) -> Option<Self> {
        cmdline.value(KEY).map(Self)
    }

    /// The scripts of `seeds:A..B`.
    fn seeds(self) -> Option<(u64, u64)> {
        let (first, end) = self.0.strip_prefix(SEEDS)?.split_once("..")?;
        Some((first.parse().ok()?, end.parse().ok()?))
    }

    fn check(self) -> Option<&'static Check> {
        let name =
            |check: &&Check| check.name.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/')) == Some(self.0);
        CHECKS.iter().copied().flatten().find(name)
    }
}

/// Whether the command line asks for a check of this group.
pub fn is_asked_for(machine: &Machine) -> bool {
    Order::from_cmdline(machine.cmdline).is_some()
}

/// Runs one check and switches the machine off.
pub fn start(machine: Machine) -> ! {
    let (found, cmdline) = (machine.found, machine.cmdline);
    let order = Order::from_cmdline(cmdline).unwrap_or(Order(""));
    machine.run_alone(async move {
        guest_kernel::time::refine().await;
        let cx = Context::new(found, cmdline);
        let counts = match (order.seeds(), order.check()) {
            (Some((first, end)), _) => report(SEEDED, script::play(&cx, first, end)),
            (None, Some(check)) => report(check.name, attempt(&cx, check)),
            (None, None) => {
                log::error!("{KEY}={}: there is no such check", order.0);
                (0, 0, 0, 0)
            }
        };
        let (ran, failed, skipped, errors) = counts;
        console::report(Kind::Boot, "conform", Outcome::Success, |line| {
            line.field("ran", ran)?.field("failed", failed)?.field("skipped", skipped)?.field("errors", errors)
        });
        power::end(Ending::Off)
    })
}

fn attempt(cx: &Context, check: &Check) -> Judged {
    let (device_type, attack) = match check.run {
        Run::Attack(device_type, attack) => (device_type, attack),
        Run::Scripts(seeds) => return script::play(cx, 0, seeds),
        Run::Check(run) => {
            return run(cx).map(|()| (Handling::Handled, check.expectation.to_string())).map_err(unjudged);
        }
    };
    let mut trial = Trial::open(cx, device_type).map_err(unjudged)?;
    announce(check.name);
    match attack(&mut trial) {
        Ok(()) => trial.conclude(),
        Err(end) => Err(trial.judge_failure(end)),
    }
}

fn report(name: &str, judged: Judged) -> (u32, u32, u32, u32) {
    let (outcome, verdict, why, expected, saw) = match judged {
        Ok((handling, saw)) => (Outcome::Success, Some(handling), None, None, Some(saw)),
        Err((_, End::Skip(why))) => (Outcome::Skip, None, Some(why), None, None),
        Err((_, End::Error(why))) => (Outcome::Error, None, Some(why), None, None),
        Err((handling, End::Fail { what, expected, saw, .. })) => {
            (Outcome::Failure, Some(handling), Some(what), Some(expected), Some(saw))
        }
    };
    console::report(Kind::Check, name, outcome, |mut line| {
        let verdict = verdict.map(|handling| handling.word().to_string());
        for (key, value) in [(Handling::FIELD, verdict), ("why", why), ("expected", expected), ("saw", saw)] {
            if let Some(value) = value {
                line = line.field(key, value)?;
            }
        }
        Ok(line)
    });
    let is = |wanted| u32::from(outcome == wanted);
    (1, is(Outcome::Failure), is(Outcome::Skip), is(Outcome::Error))
}
