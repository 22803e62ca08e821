//! The guest's side of a run: `conform` on the command line runs the checks instead of a tour or a shell, reports each as one
//! line, and switches the machine off. `conform=mmio/*,queue/indirect*` runs some of them.
//!
//! The kernel's own drivers are not started: the checks drive the devices themselves, by what is in `support`. Each starts and
//! ends with a reset, and waits with bounds, so that none takes later ones down.

use crate::catalogue::Run;
use crate::level::Level;
use crate::pattern::matches;
use crate::support::{Context, End};
use crate::{GROUPS, WITHOUT};
use guest_kernel::cmdline::Cmdline;
use guest_kernel::console::report;
use guest_kernel::platform::power::{self, Ending};
use guest_kernel::start::Machine;
use shared_abi::report::{Kind, Outcome};

/// Which checks to run: patterns with `*` for any number of characters.
#[derive(Clone, Copy)]
pub(crate) struct Filter {
    with: &'static str,
    without: &'static str,
}

impl Filter {
    const ALL: Self = Self { with: "*", without: "" };

    /// From `conform` or `conform=PATTERN[,PATTERN...]`, and `without=PATTERN[,PATTERN...]`.
    pub fn from_cmdline(cmdline: Cmdline) -> Option<Self> {
        let all = cmdline.has("conform").then_some("*");
        let without = cmdline.value(WITHOUT).unwrap_or("");
        cmdline.value("conform").or(all).map(|with| Self { with, without })
    }

    fn takes(self, name: &str) -> bool {
        let any = |patterns: &str| patterns.split(',').any(|pattern| matches(pattern, name));
        any(self.with) && !any(self.without)
    }
}

/// How many ended how.
#[derive(Default)]
struct Counts {
    ran: u32,
    failed: u32,
    advice: u32,
    skipped: u32,
    errors: u32,
}

/// Whether the command line asks for checks.
pub fn is_asked_for(machine: &Machine) -> bool {
    Filter::from_cmdline(machine.cmdline).is_some()
}

/// Runs the checks that the command line asks for, or all, and switches the machine off.
pub fn start(machine: Machine) -> ! {
    let (found, cmdline) = (machine.found, machine.cmdline);
    machine.run_alone(async move {
        guest_kernel::time::refine().await;
        run(Context::new(found, cmdline), Filter::from_cmdline(cmdline).unwrap_or(Filter::ALL));
        power::end(Ending::Off)
    })
}

fn run(mut cx: Context, filter: Filter) {
    let mut counts = Counts::default();
    for check in GROUPS.iter().copied().flatten().copied().flatten().filter(|check| filter.takes(check.name)) {
        // Those of the group `hostile` run alone.
        let Run::Check(code) = check.run else { continue };
        cx.name = check.name;
        counts.ran += 1;
        let (outcome, what, expected, saw) = match code(&cx) {
            Ok(()) => (Outcome::Success, None, None, None),
            Err(End::Skip(why)) => (Outcome::Skip, Some(why), None, None),
            Err(End::Error(why)) => (Outcome::Error, Some(why), None, None),
            Err(End::Fail { level, what, expected, saw }) => {
                let bound = check.level == Level::Must && level == Level::Must;
                (if bound { Outcome::Failure } else { Outcome::Advice }, Some(what), Some(expected), Some(saw))
            }
        };
        match outcome {
            Outcome::Skip => counts.skipped += 1,
            Outcome::Error => counts.errors += 1,
            Outcome::Failure => counts.failed += 1,
            Outcome::Advice => counts.advice += 1,
            Outcome::Success | Outcome::Waiting => {}
        }
        let did = cx.did.take();
        report(Kind::Check, check.name, outcome, |mut line| {
            for (key, value) in [("why", what), ("expected", expected), ("saw", saw), ("did", did)] {
                if let Some(value) = value {
                    line = line.field(key, value)?;
                }
            }
            Ok(line)
        });
    }
    let Counts { ran, failed, advice, skipped, errors } = counts;
    report(Kind::Boot, "conform", Outcome::Success, |line| {
        let line = line.field("ran", ran)?.field("failed", failed)?.field("advice", advice)?;
        line.field("skipped", skipped)?.field("errors", errors)
    });
}
