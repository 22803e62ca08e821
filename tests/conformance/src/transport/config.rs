//! The configuration space of a device.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::transport::{Bus, each},
    crate::support::{equal, skip},
    alloc::format,
    code::*,
};

/// The checks of a bus.
macro_rules! of {
    ($group:literal, $bus:expr) => {
        checks![
            Check {
                name: concat!($group, "/config-is-stable"),
                rule: "Configuration does not change while its generation stays",
                clause: "2.5.2 Device Requirements: Device Configuration Space",
                method: "Read all of it twice between two reads of the generation",
                expectation: "Equal when the generation is",
                run: |cx| each(cx, $bus, |target| {
                    let _dev = Dev::with_features(target, 0)?;
                    let (first, before) = config(target);
                    let (second, after) = config(target);
                    if first != second {
                        return Err(skip("the configuration changed meanwhile"));
                    }
                    equal("configuration", before, after)
                }),
            },
            Check {
                name: concat!($group, "/config-reads-alike-by-width"),
                rule: "Fields can be read byte by byte, which no driver does",
                clause: "4.2.2.2 Driver Requirements: MMIO Device Register Layout; 4.1.3.1 Driver Requirements: PCI \
            Device Layout",
                method: "Compare 32-bit reads of the first 8 bytes with 8-bit and 16-bit reads",
                expectation: "The same bytes",
                level: Should,
                run: |cx| each(cx, $bus, |target| {
                    let _dev = Dev::with_features(target, 0)?;
                    let regs = &target.regs;
                    for at in (0..config_len(target).min(8)).step_by(4) {
                        let word = regs.config_read(at, 4);
                        let bytes = (0..4).fold(0, |word, n| word | regs.config_read(at + n, 1) << (8 * n));
                        let halves = regs.config_read(at, 2) | regs.config_read(at + 2, 2) << 16;
                        equal(&format!("bytes of the configuration at {at}"), word, bytes)?;
                        equal(&format!("halves of the configuration at {at}"), word, halves)?;
                    }
                    Ok(())
                }),
            },
            Check {
                name: concat!($group, "/config-before-features-ok-is-readable"),
                rule: "A driver may read the configuration before it sets FEATURES_OK",
                clause: "2.5.2 Device Requirements: Device Configuration Space",
                method: "Read it after DRIVER, then after FEATURES_OK",
                expectation: "Equal while the generation stays",
                run: |cx| each(cx, $bus, |target| {
                    let before = Dev::new(target).map(|_dev| config(target))?;
                    let after = Dev::with_features(target, 0).map(|_dev| config(target))?;
                    if before.0 != after.0 { Ok(()) } else { equal("configuration", before.1, after.1) }
                }),
            },
        ]
    };
}

/// On virtio-mmio.
pub(crate) const MMIO: &[Check] = of!("mmio", Bus::Mmio);
/// On virtio-pci.
pub(crate) const PCI: &[Check] = of!("pci", Bus::Pci);

#[cfg(feature = "guest")]
mod code {
    use crate::support::device::Target;
    use alloc::vec::Vec;
    use shared_abi::virtio::{DeviceType, blk, net};

    /// Bytes of the configuration that a type of device has for certain.
    pub fn config_len(target: &Target) -> usize {
        let known = match target.device_type {
            DeviceType::BLOCK => core::mem::offset_of!(blk::Config, num_queues),
            DeviceType::NET => core::mem::offset_of!(net::Config, status),
            DeviceType::BALLOON => 8,
            _ => 0,
        };
        known.min(target.regs.config_len()) & !3
    }

    pub fn config(target: &Target) -> (u32, Vec<u32>) {
        let generation = target.regs.config_generation();
        (generation, (0..config_len(target)).step_by(4).map(|at| target.regs.config_read(at, 4)).collect())
    }
}
