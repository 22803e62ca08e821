//! What a check is: its texts, which everybody reads, and its code, which only the guest has (feature `guest`).
//!
//! A group's file has a table of both (`checks!`), so that a check's rule stands directly above its code, and a name is
//! written once. A row that lacks a part, or has one too many, does not build, and the compiler points at the row.

use crate::level::Level;
#[cfg(feature = "guest")]
use crate::support::trial::Trial;
#[cfg(feature = "guest")]
use crate::support::{Context, End, Verdict};
#[cfg(feature = "guest")]
use shared_abi::virtio::DeviceType;

/// A check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// `group/what-holds-in-words`.
    pub name: &'static str,
    /// What must hold.
    pub rule: &'static str,
    /// Number and title of the section that says so.
    pub clause: &'static str,
    /// What the check does.
    pub method: &'static str,
    /// What it expects to see.
    pub expectation: &'static str,
    /// How binding the rule is. A check with several parts may report one of them as advice although the rest must hold.
    pub level: Level,
    /// The code.
    #[cfg(feature = "guest")]
    pub(crate) run: Run,
}

impl Check {
    /// The part of the name before the slash.
    pub fn group(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(group, _)| group)
    }
}

/// The code of a check.
#[cfg(feature = "guest")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    /// One of those that run one after the other.
    Check(fn(&Context) -> Verdict),
    /// One that runs in a virtual machine of its own, on a device of a type.
    Attack(DeviceType, fn(&mut Trial<'_>) -> Result<(), End>),
    /// Scripts of this many seeds, on all devices.
    Scripts(u64),
}

/// What an attack expects, whatever it sends.
pub(crate) const SURVIVES: &str = "Handled or rejected: after a reset at the latest the device serves a well-formed request, and another device always does";

/// A table of checks. `level: Should` may be left out: a rule is a must by default.
macro_rules! checks {
    ($(Check {
        name: $name:expr, rule: $rule:expr, clause: $clause:expr, method: $method:expr, expectation: $expectation:expr,
        $(level: $level:ident,)? run: $run:expr $(,)?
    }),* $(,)?) => {
        &[$($crate::catalogue::Check {
            name: $name,
            rule: $rule,
            clause: $clause,
            method: $method,
            expectation: $expectation,
            level: $crate::catalogue::level!($($level)?),
            #[cfg(feature = "guest")]
            run: $crate::catalogue::Run::Check($run),
        }),*]
    };
}

/// A table of attacks: checks that expect a device to survive what they send it.
macro_rules! attacks {
    ($(Attack {
        name: $name:expr, rule: $rule:expr, clause: $clause:expr, method: $method:expr, device: $device:ident,
        run: $run:expr $(,)?
    }),* $(,)?) => {
        &[$($crate::catalogue::Check {
            name: $name,
            rule: $rule,
            clause: $clause,
            method: $method,
            expectation: $crate::catalogue::SURVIVES,
            level: $crate::level::Level::Must,
            #[cfg(feature = "guest")]
            run: $crate::catalogue::Run::Attack(shared_abi::virtio::DeviceType::$device, $run),
        }),*]
    };
}

macro_rules! level {
    () => {
        $crate::level::Level::Must
    };
    ($level:ident) => {
        $crate::level::Level::$level
    };
}

pub(crate) use {attacks, checks, level};
