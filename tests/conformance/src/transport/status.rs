//! The device status: reset, and what is written stays.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::equal,
    crate::support::transport::{ACKNOWLEDGE, Bus, DRIVER, FAILED, each, reset},
};

/// The checks of a bus.
macro_rules! of {
    ($group:literal, $bus:expr) => {
        checks![
            Check {
                name: concat!($group, "/reset-clears-status"),
                rule: "A write of 0 to the device status resets the device",
                clause: "2.4 Device Reset",
                method: "Set ACKNOWLEDGE and DRIVER, write 0, read until a second has passed",
                expectation: "Status reads 0",
                run: |cx| each(cx, $bus, |target| {
                    target.regs.set_status(ACKNOWLEDGE);
                    target.regs.set_status(DRIVER);
                    reset(target)
                }),
            },
            Check {
                name: concat!($group, "/reset-works-again-and-again"),
                rule: "A driver may reset a device at any time",
                clause: "2.4 Device Reset",
                method: "Fifty resets, each after ACKNOWLEDGE",
                expectation: "Status reads 0 after each",
                run: |cx| each(cx, $bus, |target| {
                    for _ in 0..50 {
                        target.regs.set_status(ACKNOWLEDGE);
                        reset(target)?;
                    }
                    Ok(())
                }),
            },
            Check {
                name: concat!($group, "/status-keeps-what-is-written"),
                rule: "Status bits that the driver sets stay set",
                clause: "2.1 Device Status Field",
                method: "Set ACKNOWLEDGE, then DRIVER, read after each",
                expectation: "Exactly the bits written",
                run: |cx| each(cx, $bus, |target| {
                    reset(target)?;
                    for status in [ACKNOWLEDGE, DRIVER] {
                        target.regs.set_status(status);
                        equal("status", status, target.regs.status())?;
                    }
                    reset(target)
                }),
            },
            Check {
                name: concat!($group, "/failed-stays-until-reset"),
                rule: "FAILED is the driver's to set, and only a reset takes it away",
                clause: "2.1 Device Status Field",
                method: "Set FAILED, read, reset, read",
                expectation: "FAILED, then 0",
                run: |cx| each(cx, $bus, |target| {
                    let _dev = Dev::new(target)?;
                    target.regs.set_status(DRIVER | FAILED);
                    let saw = target.regs.status();
                    reset(target)?;
                    equal("status", DRIVER | FAILED, saw)
                }),
            },
        ]
    };
}

/// On virtio-mmio.
pub(crate) const MMIO: &[Check] = of!("mmio", Bus::Mmio);
/// On virtio-pci.
pub(crate) const PCI: &[Check] = of!("pci", Bus::Pci);
