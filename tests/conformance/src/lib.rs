//! The checks of the conformance suite. A group has a file of its name, with a table of its checks: rule, clause, method,
//! expectation, and the code that the guest runs ([`catalogue`] explains the table).
//!
//! Without the feature `guest` the crate is the catalogue alone: the texts, the host actions and the echo peer's address,
//! which is what the harness needs. With it the crate has the code, for the guest.
//!
//! Clauses are those of "Virtual I/O Device (VIRTIO) Version 1.4" unless they say otherwise.
#![cfg_attr(not(test), no_std)]
#![allow(unreachable_pub, reason = "only the image links it: `pub` marks what other modules use")]

#[cfg(feature = "guest")]
extern crate alloc;

pub mod catalogue;
pub mod echo;
pub mod host_action;
mod level;

#[cfg(feature = "guest")]
mod runner;
#[cfg(feature = "guest")]
mod support;

mod balloon;
mod block;
mod clock;
mod console;
pub mod hostile;
mod irq;
mod kvm;
mod mm;
mod mmio;
mod net;
mod net_control;
mod net_frames;
mod net_offload;
mod outside;
mod packed;
#[cfg(any(test, feature = "guest"))]
mod pattern;
mod pci;
mod pvops;
mod queue;
mod queue_reset;
mod rng;
mod smp;
mod time;
mod transport;
mod xen;

pub use catalogue::Check;
pub use level::Level;
#[cfg(feature = "guest")]
pub use runner::{is_asked_for, start};

/// The word of the command line for checks that are left out because they would end the machine.
pub const WITHOUT: &str = "without";

/// The groups that run one after the other in one virtual machine, in the order in which they run; each has its checks in one
/// table or several.
pub const GROUPS: &[&[&[Check]]] = &[
    mmio::CHECKS,
    pci::CHECKS,
    queue::CHECKS,
    &[queue_reset::CHECKS],
    packed::CHECKS,
    block::CHECKS,
    &[rng::CHECKS],
    &[net::CHECKS],
    &[net_frames::CHECKS],
    &[net_offload::CHECKS],
    &[net_control::CHECKS],
    &[console::CHECKS],
    &[balloon::CHECKS],
    outside::CHECKS,
    &[pvops::CHECKS],
    &[mm::CHECKS],
    &[time::CHECKS],
    &[clock::CHECKS],
    irq::CHECKS,
    kvm::CHECKS,
    &[smp::CHECKS],
    xen::CHECKS,
];

/// All checks, in the order in which they run; those of [`hostile`] last, each in a virtual machine of its own.
pub fn iter() -> impl Iterator<Item = &'static Check> {
    GROUPS.iter().chain(&[hostile::CHECKS]).copied().flatten().copied().flatten()
}

/// The check of a name.
pub fn find(name: &str) -> Option<&'static Check> {
    iter().find(|check| check.name == name)
}

#[cfg(test)]
mod tests {
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
            assert_eq!(find(name).map(|check| check.name), Some(name));
        }
    }

    #[test]
    fn each_group_has_one_prefix_of_its_own() {
        let mut groups = HashSet::new();
        for tables in GROUPS.iter().chain(&[hostile::CHECKS]) {
            let group = tables[0][0].group();
            assert!(groups.insert(group), "{group} is there twice");
            assert!(tables.iter().copied().flatten().all(|check| check.group() == group), "{group}");
        }
    }

    #[test]
    fn every_text_says_something() {
        for check in iter() {
            for text in [check.rule, check.clause, check.method, check.expectation] {
                assert!(!text.is_empty() && text.trim() == text && !text.ends_with('.'), "{}: {text:?}", check.name);
                assert!(!text.contains("  ") && !text.contains('\n'), "{}: {text:?}", check.name);
            }
        }
    }
}
