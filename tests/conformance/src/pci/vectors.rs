//! MSI-X vectors of virtio devices: which events are mapped to them, and what comes by them.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Target,
    crate::support::pci_space::{table_size, with_queue_0},
    crate::support::raw::wait_until,
    crate::support::registers::Regs,
    crate::support::rng::Rng,
    crate::support::transport::{Bus, each},
    crate::support::vectors::{QUIET, interrupts, stays_quiet, with},
    crate::support::{Context, Verdict, equal, holds, skip},
    alloc::format,
    code::*,
    core::mem::offset_of,
    frontends::transport::Registers,
    frontends::transport::pci::Vectors,
    guest_kernel::platform::registers::Window,
    shared_abi::virtio::DeviceType,
    shared_abi::virtio::pci::{CommonConfig, NO_VECTOR},
};

const VECTORS: &str = "4.1.5.1.2.1 Device Requirements: MSI-X Vector Configuration";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "pci/vectors-are-none-at-first",
        rule: "After a reset no vector is assigned",
        clause: VECTORS,
        method: "Reset, read config_msix_vector and queue_msix_vector",
        expectation: "0xffff",
        run: |cx| {
            each_with_vectors(cx, |_, common| {
                [CONFIG, QUEUE].into_iter().try_for_each(|(name, at)| equal(name, NO_VECTOR, common.read16(at)))
            })
        },
    },
    Check {
        name: "pci/vectors-read-back",
        rule: "A vector that the device has is taken",
        clause: VECTORS,
        method: "Write 1 to queue_msix_vector and 0 to config_msix_vector",
        expectation: "As written",
        run: |cx| {
            each_with_vectors(cx, |_, common| {
                map(common, CONFIG, 0, 0)?;
                map(common, QUEUE, 1, 1)?;
                equal("config_msix_vector, read again", 0, common.read16(CONFIG.1))
            })
        },
    },
    Check {
        name: "pci/vector-beyond-the-table-is-refused",
        rule: "A vector that the device does not have becomes NO_VECTOR",
        clause: VECTORS,
        method: "Write the number of vectors in the table and 0xfffe to queue_msix_vector",
        expectation: "0xffff",
        run: |cx| {
            each_with_vectors(cx, |target, common| {
                let beyond = [table_size(target)?, 0xfffe];
                beyond.into_iter().try_for_each(|vector| map(common, QUEUE, vector, NO_VECTOR))
            })
        },
    },
    Check {
        name: "pci/every-vector-can-be-mapped",
        rule: "Any event can be mapped to any vector of the table",
        clause: VECTORS,
        method: "Write each vector of the table to queue_msix_vector and config_msix_vector",
        expectation: "As written",
        run: |cx| {
            each_with_vectors(cx, |target, common| {
                (0..table_size(target)?).try_for_each(|vector| {
                    [CONFIG, QUEUE].into_iter().try_for_each(|event| map(common, event, vector, vector))
                })
            })
        },
    },
    Check {
        name: "pci/vectors-can-be-unmapped",
        rule: "Any event can be unmapped",
        clause: VECTORS,
        method: "Map both events, write 0xffff to queue_msix_vector and config_msix_vector",
        expectation: "0xffff",
        run: |cx| {
            each_with_vectors(cx, |_, common| {
                map(common, CONFIG, 0, 0)?;
                map(common, QUEUE, 1, 1)?;
                [CONFIG, QUEUE].into_iter().try_for_each(|event| map(common, event, NO_VECTOR, NO_VECTOR))
            })
        },
    },
    Check {
        name: "pci/vector-table-has-2-to-2048-entries",
        rule: "A device with MSI-X has at least 2 and at most 0x800 vectors",
        clause: VECTORS,
        method: "Read Table Size in the MSI-X capability",
        expectation: "1 to 0x7ff, which is one less",
        level: Should,
        run: |cx| {
            each_with_vectors(cx, |target, _| {
                let size = table_size(target)?;
                holds((2..=0x800).contains(&size), "vectors", "2 to 2048", size)
            })
        },
    },
    Check {
        name: "pci/queue-without-a-vector-stays-quiet",
        rule: "A queue whose vector is NO_VECTOR does not interrupt",
        clause: "4.1.5.3.1 Device Requirements: Used Buffer Notifications",
        method: "Have the entropy device use a buffer with NO_VECTOR for its queue, wait 20 ms; then one with a \
            vector",
        expectation: "No interrupt; then one",
        run: |cx| {
            let target = cx.device(DeviceType::RNG)?;
            let quiet = with(target, |vectors| Vectors { first_queue: NO_VECTOR, ..vectors })?;
            stays_quiet(target, || once(&quiet))?;
            // The same with a vector: else the silence says nothing.
            interrupts(target, || once(target))
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const CONFIG: (&str, usize) = ("config_msix_vector", offset_of!(CommonConfig, config_msix_vector));

    pub const QUEUE: (&str, usize) = ("queue_msix_vector", offset_of!(CommonConfig, queue_msix_vector));

    /// Applies a check to the devices that have MSI-X, with queue 0 selected.
    pub fn each_with_vectors(cx: &Context, check: fn(&Target, &Window) -> Verdict) -> Verdict {
        let mut any = false;
        each(cx, Bus::Pci, |_| Ok(()))?;
        for target in &cx.targets {
            if matches!(target.regs, Regs::Pci(_, Some(_))) {
                any = true;
                with_queue_0(target, |common| check(target, common)).map_err(|end| end.of(target.name()))?;
            }
        }
        if any { Ok(()) } else { Err(skip("no device has MSI-X")) }
    }

    /// Writes a vector and reads it back.
    pub fn map(common: &Window, (name, at): (&str, usize), vector: u16, expected: u16) -> Verdict {
        common.write16(at, vector);
        equal(&format!("{name}, {vector:#x} written"), expected, common.read16(at))
    }

    /// Has a buffer used.
    pub fn once(target: &Target) -> Verdict {
        let mut rng = Rng::on(target, 0, 8)?;
        let buf = rng.dev.buffer(16)?;
        rng.fill(&buf)?;
        // After this, the reset would take an interrupt back that is late.
        wait_until(QUIET, || false);
        rng.dev.healthy()
    }
}
