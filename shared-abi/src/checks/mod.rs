//! The catalogue of the conformance suite: what each check is about. The guest has the code, under the same names
//! and in the same order; the host lists and explains it.
//!
//! Clauses are those of "Virtual I/O Device (VIRTIO) Version 1.4" unless they say otherwise.

#[macro_use]
mod transport;

pub mod balloon;
pub mod block;
pub mod clock;
pub mod console;
pub mod control;
pub mod frames;
pub mod hostile;
pub mod kernel;
pub mod mmio;
pub mod net;
pub mod offload;
pub mod outside;
pub mod pci;
pub mod queue;
pub mod queue_reset;
pub mod rng;
pub mod smp;
pub mod xen;

/// The word of the command line for checks that are left out, for they would end the machine.
pub const WITHOUT: &str = "without";

/// How binding a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The clause says MUST, or describes what a register or a field is.
    Must,
    /// The clause says SHOULD, or binds the driver alone and leaves the reaction to the device: advice.
    Should,
}

impl Level {
    /// The word for people and for reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
        }
    }
}

/// A check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// `group/what-holds-in-words`.
    pub name: &'static str,
    /// What must hold.
    pub rule: &'static str,
    /// Who says so: number and title of the section.
    pub clause: &'static str,
    /// What the check does.
    pub method: &'static str,
    /// What it expects to see.
    pub expectation: &'static str,
    /// How binding the rule is. A check with several parts may report one of them as advice although the rest must hold.
    pub level: Level,
}

impl Check {
    /// The part of the name before the slash.
    pub fn group(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(group, _)| group)
    }

    /// The same as advice.
    const fn should(self) -> Self {
        Self { level: Level::Should, ..self }
    }
}

const fn row(
    name: &'static str,
    rule: &'static str,
    clause: &'static str,
    method: &'static str,
    expectation: &'static str,
) -> Check {
    Check { name, rule, clause, method, expectation, level: Level::Must }
}

/// The groups that run one after the other in one virtual machine, in the order in which they run.
pub const ALL: &[&[Check]] = &[
    mmio::CHECKS,
    pci::CHECKS,
    queue::CHECKS,
    queue_reset::CHECKS,
    block::CHECKS,
    rng::CHECKS,
    net::NET,
    frames::CHECKS,
    offload::CHECKS,
    control::CHECKS,
    console::CHECKS,
    balloon::CHECKS,
    outside::CHECKS,
    kernel::PVOPS,
    kernel::MM,
    kernel::TIME,
    clock::CLOCK,
    clock::IRQ,
    clock::KVM,
    smp::CHECKS,
    xen::CHECKS,
];

/// All checks, in the order in which they run; those of [`hostile`] last, each in a virtual machine of its own.
pub fn iter() -> impl Iterator<Item = &'static Check> {
    ALL.iter().copied().flatten().chain(hostile::CHECKS)
}

/// The check of a name.
pub fn find(name: &str) -> Option<&'static Check> {
    iter().find(|check| check.name == name)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut seen = HashSet::new();
        for check in iter() {
            let name = check.name;
            assert!(seen.insert(name), "{name} is there twice");
            let (group, rest) = name.split_once('/').unwrap_or_else(|| panic!("{name} has no group"));
            for part in [group, rest] {
                assert!(!part.is_empty() && !part.starts_with('-') && !part.ends_with('-'), "{name}");
                assert!(part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'), "{name}");
            }
            assert_eq!(check.group(), group);
            assert_eq!(find(name), Some(check));
        }
    }

    #[test]
    fn each_group_has_one_prefix_of_its_own() {
        let mut groups = HashSet::new();
        for rows in ALL.iter().chain(&[hostile::CHECKS]) {
            assert!(groups.insert(rows[0].group()), "{} is there twice", rows[0].group());
            assert!(rows.iter().all(|check| check.group() == rows[0].group()), "{}", rows[0].group());
        }
    }

    #[test]
    fn every_text_says_something() {
        for check in iter() {
            for text in [check.rule, check.clause, check.method, check.expectation] {
                assert!(!text.is_empty() && text.trim() == text && !text.ends_with('.'), "{}: {text:?}", check.name);
            }
        }
    }
}
