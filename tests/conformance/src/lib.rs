//! The conformance suite: `conform` on the command line runs the checks of `shared_abi::checks` instead of a tour or a
//! shell, reports each as one line, and switches the machine off. `conform=mmio/*,queue/indirect*` runs some of them.
//!
//! The kernel's own drivers are not started: the checks drive the devices themselves, in `device.rs` and `raw.rs`.
//! Each starts and ends with a reset, and waits with bounds, so that none takes later ones down.
#![cfg_attr(not(test), no_std)]
#![allow(unreachable_pub, reason = "only the image links it: `pub` marks the doors of its rooms")]

extern crate alloc;

mod block;
mod card;
mod chains;
mod clock;
mod console;
mod control;
mod device;
mod disk;
mod eoi;
mod frames;
pub mod hostile;
mod inflate;
mod interrupts;
mod kernel;
mod kvm;
mod kvm_features;
mod lines;
mod loopback;
mod mmio;
mod net;
mod offload;
mod outside;
mod packet;
mod pci;
mod pci_space;
mod queue;
mod queue_reset;
mod queues;
mod ranges;
mod raw;
mod registers;
mod rng;
mod smp;
mod steal;
mod suppress;
mod transport;
mod vectors;
mod xen;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::{Debug, Display};
use device::Target;
use guest_kernel::cmdline::Cmdline;
use guest_kernel::console::report;
use guest_kernel::devices::place::Places;
use guest_kernel::platform::power::{self, Ending};
use guest_kernel::start::Machine;
use pvops::detect::{Surroundings, World};
use shared_abi::checks::{self, Check, Level};
use shared_abi::host_action::{HostAction, WORD};
use shared_abi::report::{Kind, Outcome};
use shared_abi::virtio::DeviceType;

/// How a check ended, if not well.
pub(crate) enum End {
    /// It does not apply here.
    Skip(String),
    /// It could not be tried.
    Error(String),
    /// Something is not as the rule says; with [`Level::Should`] it is advice.
    Fail { level: Level, what: String, expected: String, saw: String },
}

impl End {
    /// The same, told of something in particular.
    pub fn of(self, name: impl Display) -> Self {
        match self {
            Self::Fail { level, what, expected, saw } => {
                Self::Fail { level, what: format!("{name}: {what}"), expected, saw }
            }
            other => other,
        }
    }
}

/// How a check ended.
pub(crate) type Verdict = Result<(), End>;
/// The code of a check.
type Run = fn(&Context) -> Verdict;
/// A row of a group's table: the name in the catalogue, and the code.
type Row = (&'static str, Run);

/// Not applicable.
pub(crate) fn skip(why: impl ToString) -> End {
    End::Skip(why.to_string())
}

/// Could not be tried.
pub(crate) fn error(why: impl ToString) -> End {
    End::Error(why.to_string())
}

/// Not as the rule says.
pub(crate) fn fail(what: &str, expected: impl Display, saw: impl Display) -> End {
    End::Fail { level: Level::Must, what: what.to_string(), expected: expected.to_string(), saw: saw.to_string() }
}

/// The first of two verdicts that is more than advice, else the first that is advice.
pub(crate) fn worst(first: Verdict, second: Verdict) -> Verdict {
    match (&first, &second) {
        (Ok(()), _) | (Err(End::Fail { level: Level::Should, .. }), Err(_)) => second,
        _ => first,
    }
}

/// A part of a check that the clause only recommends: what is wrong there is advice.
pub(crate) fn advice(verdict: Verdict) -> Verdict {
    verdict.map_err(|end| match end {
        End::Fail { what, expected, saw, .. } => End::Fail { level: Level::Should, what, expected, saw },
        other => other,
    })
}

/// Fails unless the two are equal.
pub(crate) fn equal<T: PartialEq + Debug>(what: &str, expected: T, saw: T) -> Verdict {
    if expected == saw { Ok(()) } else { Err(fail(what, format_args!("{expected:#x?}"), format_args!("{saw:#x?}"))) }
}

/// Fails unless it holds.
pub(crate) fn holds(holds: bool, what: &str, expected: impl Display, saw: impl Display) -> Verdict {
    if holds { Ok(()) } else { Err(fail(what, expected, saw)) }
}

/// What the checks find: devices, and what CPUID told.
pub(crate) struct Context {
    pub targets: Vec<Target>,
    pub found: Surroundings,
    /// What the harness can do, from the command line.
    host_actions: &'static str,
    /// The check that runs.
    pub name: &'static str,
    /// Whether an echo peer echoes frames, once that was tried.
    pub echo_peer: Cell<Option<bool>>,
    /// What it says of how it was done, for the evidence.
    did: RefCell<Option<String>>,
}

impl Context {
    fn new(found: Surroundings, cmdline: Cmdline) -> Self {
        let mut targets = Vec::new();
        for (device_type, place) in Places::find(&found, cmdline).modern {
            let location = place.location();
            match Target::open(device_type, place) {
                Ok(target) => targets.push(target),
                Err(why) => log::error!("{} at {location}: {why}", device_type.name()),
            }
        }
        // The checks that write take the first disk.
        targets.sort_by_key(disk::is_read_only);
        Self {
            targets,
            found,
            host_actions: cmdline.value(WORD).unwrap_or(""),
            name: "",
            echo_peer: Cell::new(None),
            did: RefCell::new(None),
        }
    }

    /// Whether the kernel has something of the machine that a paravirtual hypervisor keeps for itself.
    ///
    /// # Errors
    /// Not applicable where it has not.
    pub fn has(&self, what: &str) -> Verdict {
        match self.found.world {
            World::Native | World::Kvm => Ok(()),
            World::Xen => Err(skip(format!("{what}: Xen keeps it for itself"))),
        }
    }

    /// Says how much was done where that depends on the machine, and what was seen although it breaks no rule.
    pub fn did(&self, what: impl Display) {
        self.did.replace(Some(what.to_string()));
    }

    /// The first device of a type.
    ///
    /// # Errors
    /// Not applicable when there is none.
    pub fn device(&self, device_type: DeviceType) -> Result<&Target, End> {
        let found = self.targets.iter().find(|target| target.device_type == device_type);
        found.ok_or_else(|| skip(format!("there is no {} device", device_type.name())))
    }
}

impl Context {
    /// Whether the harness supports a host action.
    ///
    /// # Errors
    /// Not applicable when it would not.
    pub fn can_request(&self, action: HostAction) -> Verdict {
        self.step(action).map(drop)
    }

    /// The amount by which it can be changed.
    fn step(&self, action: HostAction) -> Result<u32, End> {
        let mut able = self.host_actions.split(',').filter_map(HostAction::able);
        let step = able.find_map(|(able, step)| (able == action).then_some(step));
        step.ok_or_else(|| skip(format!("the harness supports no host action {:?}", action.word())))
    }

    /// So many pages of the balloon's, or a few more where it moves by more than a page.
    pub fn pages(&self, pages: u32) -> u32 {
        pages.next_multiple_of(self.step(HostAction::Balloon).unwrap_or(1))
    }

    /// Asks the harness for a host action.
    ///
    /// # Errors
    /// Not applicable where the harness does not support it.
    pub fn request(&self, action: HostAction, field: Option<(&str, &dyn Display)>) -> Verdict {
        self.can_request(action)?;
        report(Kind::Request, action.word(), Outcome::Waiting, |line| match field {
            Some((key, value)) => line.field(key, value),
            None => Ok(line),
        });
        Ok(())
    }
}

/// The groups: the catalogue's rows and the code for them, in the same order.
const GROUPS: &[(&[Check], &[Row])] = &[
    (checks::mmio::CHECKS, mmio::ROWS),
    (checks::pci::CHECKS, pci::ROWS),
    (checks::queue::CHECKS, queue::ROWS),
    (checks::queue_reset::CHECKS, queue_reset::ROWS),
    (checks::block::CHECKS, block::ROWS),
    (checks::rng::CHECKS, rng::ROWS),
    (checks::net::NET, net::NET),
    (checks::frames::CHECKS, frames::ROWS),
    (checks::offload::CHECKS, offload::ROWS),
    (checks::control::CHECKS, control::ROWS),
    (checks::console::CHECKS, console::ROWS),
    (checks::balloon::CHECKS, inflate::ROWS),
    (checks::outside::CHECKS, outside::ROWS),
    (checks::kernel::PVOPS, kernel::PVOPS),
    (checks::kernel::MM, kernel::MM),
    (checks::kernel::TIME, kernel::TIME),
    (checks::clock::CLOCK, clock::ROWS),
    (checks::clock::IRQ, interrupts::ROWS),
    (checks::clock::KVM, kvm::ROWS),
    (checks::smp::CHECKS, smp::ROWS),
    (checks::xen::CHECKS, xen::ROWS),
];

/// A row without code, or code without a row, does not build.
const _: () = {
    let mut group = 0;
    while group < GROUPS.len() {
        let (catalogue, rows) = GROUPS[group];
        assert!(catalogue.len() == rows.len(), "a group has as much code as rows");
        let mut row = 0;
        while row < rows.len() {
            assert!(same(catalogue[row].name, rows[row].0), "code and catalogue have the same order");
            row += 1;
        }
        group += 1;
    }
    assert!(group == checks::ALL.len(), "each group has code");
};

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

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
        let without = cmdline.value(checks::WITHOUT).unwrap_or("");
        cmdline.value("conform").or(all).map(|with| Self { with, without })
    }

    fn takes(self, name: &str) -> bool {
        let any = |patterns: &str| patterns.split(',').any(|pattern| matches(pattern, name));
        any(self.with) && !any(self.without)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            let Some(name) = name.strip_prefix(start) else { return false };
            (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
        }
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
    let rows = GROUPS.iter().flat_map(|(checks, rows)| checks.iter().zip(*rows));
    for (entry, &(name, check)) in rows.filter(|(_, (name, _))| filter.takes(name)) {
        cx.name = name;
        counts.ran += 1;
        let (outcome, what, expected, saw) = match check(&cx) {
            Ok(()) => (Outcome::Success, None, None, None),
            Err(End::Skip(why)) => (Outcome::Skip, Some(why), None, None),
            Err(End::Error(why)) => (Outcome::Error, Some(why), None, None),
            Err(End::Fail { level, what, expected, saw }) => {
                let bound = entry.level == Level::Must && level == Level::Must;
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
        report(Kind::Check, name, outcome, |mut line| {
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
