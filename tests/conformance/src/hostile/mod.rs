//! The hostile guest: `hostile=NAME` on the command line sends one thing that no driver should, looks what the device makes of
//! it, reports that with a verdict, and switches the machine off. `hostile=seeds:A..B` plays scripts instead.
//!
//! Each shot (`trial.rs`) is followed by a well-formed request without a reset, one behind a reset, and one to another
//! device. The machine is ours alone, so an attack may ruin anything but the kernel's own memory: what a device is told
//! to write to is a buffer of the attack's, a ring, or no memory at all.

mod access;
mod machine;
mod requests;
mod rings;
mod script;
mod setup;
mod trial;

use super::{Context, End, GROUPS, same};
use alloc::string::{String, ToString};
use guest_kernel::cmdline::Cmdline;
use guest_kernel::console;
use guest_kernel::platform::power::{self, Ending};
use guest_kernel::start::Machine;
use shared_abi::checks::hostile::{CHECKS, GROUP, KEY, SEEDED, SEEDS};
use shared_abi::report::{Handling, Kind, Outcome};
use shared_abi::virtio::DeviceType;
use trial::Trial;

/// What a check sends, shot by shot.
type Attack = fn(&mut Trial<'_>) -> Result<(), End>;
/// A row: the name in the catalogue, the type of device, and the code.
type Row = (&'static str, DeviceType, Attack);

const ROWS: &[&[Row]] = &[rings::ROWS, setup::ROWS, requests::ROWS, machine::ROWS];

/// A row without code, or code without a row, does not build. Scripts have no row: they choose their device themselves.
const _: () = {
    let (mut at, mut group) = (0, 0);
    while group < ROWS.len() {
        let mut row = 0;
        while row < ROWS[group].len() {
            assert!(same(CHECKS[at].name, ROWS[group][row].0), "code and catalogue have the same order");
            (at, row) = (at + 1, row + 1);
        }
        group += 1;
    }
    assert!(same(CHECKS[at].name, SEEDED) && at + 1 == CHECKS.len(), "each check has code");
    let mut group = 0;
    while group < GROUPS.len() {
        assert!(!same(GROUPS[group].0[0].name, CHECKS[0].name), "hostile checks run alone");
        group += 1;
    }
};

/// What the command line asks for.
#[derive(Clone, Copy)]
pub(crate) struct Order(&'static str);

impl Order {
    /// From `hostile=NAME`.
    pub fn from_cmdline(cmdline: Cmdline) -> Option<Self> {
        cmdline.value(KEY).map(Self)
    }

    /// The scripts that are asked for: all of the catalogue's, or those of `seeds:A..B`.
    fn seeds(self) -> Option<(u64, u64)> {
        if SEEDED.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/')) == Some(self.0) {
            return Some((0, script::SEEDS_OF_THE_CHECK));
        }
        let (first, end) = self.0.strip_prefix(SEEDS)?.split_once("..")?;
        Some((first.parse().ok()?, end.parse().ok()?))
    }

    fn row(self) -> Option<&'static Row> {
        let named = |row: &&Row| row.0.split_once('/').is_some_and(|(_, name)| name == self.0);
        ROWS.iter().copied().flatten().find(named)
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
        let counts = match (order.seeds(), order.row()) {
            (Some((first, end)), _) => report(SEEDED, script::play(&cx, first, end)),
            (None, Some(row)) => report(row.0, attempt(&cx, row)),
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

/// A verdict and what it is founded on; or why there is none, or a bad one.
pub(crate) type Judged = Result<(Handling, String), (Handling, End)>;

fn attempt(cx: &Context, &(name, device_type, attack): &Row) -> Judged {
    let mut trial = Trial::open(cx, device_type).map_err(unjudged)?;
    announce(name);
    match attack(&mut trial) {
        Ok(()) => trial.conclude(),
        Err(end) => Err(trial.judge_failure(end)),
    }
}

/// An end before anything was sent.
pub(crate) fn unjudged(end: End) -> (Handling, End) {
    (Handling::Handled, end)
}

/// Says that from here on it may end badly: what is behind is the device's doing.
pub(crate) fn announce(name: &str) {
    console::report(Kind::Check, name, Outcome::Waiting, |line| Ok(line));
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
