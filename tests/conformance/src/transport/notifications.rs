//! Notifications in both directions, where there is nothing to notify of.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::equal,
    crate::support::raw::wait_until,
    crate::support::transport::{Bus, MISSING, each, live, still_live},
};

/// The checks of a bus.
macro_rules! of {
    ($group:literal, $bus:expr) => {
        checks![
            Check {
                name: concat!($group, "/interrupt-status-is-0-at-first"),
                rule: "After a reset no interrupt is pending",
                clause: "4.2.2.1 Device Requirements: MMIO Device Register Layout; 4.1.4.5.1 Device Requirements: \
            ISR status capability",
                method: "Reset, read the interrupt status",
                expectation: "0",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::new(target)?;
                    equal("interrupt status", 0, dev.take_interrupt())
                }),
            },
            Check {
                name: concat!($group, "/setup-does-not-interrupt"),
                rule: "A device sends no used buffer notification before DRIVER_OK",
                clause: "2.1.2 Device Requirements: Device Status Field",
                method: "Set up without DRIVER_OK, wait 20 ms, look at status and interrupts",
                expectation: "Neither status nor interrupts",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::with_features(target, 0)?;
                    let _queue = dev.queue(0, 8)?;
                    let before = dev.interrupts();
                    wait_until(20_000_000, || false);
                    equal("interrupts", before, dev.interrupts())?;
                    equal("interrupt status", 0, dev.take_interrupt())
                }),
            },
            Check {
                name: concat!($group, "/notify-of-a-missing-queue-is-harmless"),
                rule: "A device goes on after a notification that means nothing",
                clause: "2.9 Driver Notifications",
                method: "On a live device write 900 to the notification register of queue 0",
                expectation: "No DEVICE_NEEDS_RESET; queue 0 still ready",
                level: Should,
                run: |cx| each(cx, $bus, |target| {
                    let (dev, queue) = live(target)?;
                    dev.regs().notify(queue.notify_at, MISSING);
                    still_live(&dev)
                }),
            },
            Check {
                name: concat!($group, "/notify-of-an-empty-queue-is-harmless"),
                rule: "A device handles notifications although there is nothing new",
                clause: "2.7.10.2 Device Requirements: Available Buffer Notification Suppression",
                method: "Notify queue 0 thrice with an empty ring",
                expectation: "The used index stays 0, no DEVICE_NEEDS_RESET",
                run: |cx| each(cx, $bus, |target| {
                    let (dev, queue) = live(target)?;
                    for _ in 0..3 {
                        queue.notify(&dev);
                    }
                    wait_until(5_000_000, || queue.used_index() != 0);
                    equal("used index", 0, queue.used_index())?;
                    still_live(&dev)
                }),
            },
        ]
    };
}

/// On virtio-mmio.
pub(crate) const MMIO: &[Check] = of!("mmio", Bus::Mmio);
/// On virtio-pci.
pub(crate) const PCI: &[Check] = of!("pci", Bus::Pci);
