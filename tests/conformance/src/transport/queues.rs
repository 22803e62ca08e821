//! Going live, and the registers of queues.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::transport::{Bus, DRIVER, FEATURES_OK, MISSING, each, live},
    crate::support::{equal, holds},
    alloc::format,
    shared_abi::virtio::Status,
};

/// The checks of a bus.
macro_rules! of {
    ($group:literal, $bus:expr) => {
        checks![
            Check {
                name: concat!($group, "/driver-ok-reads-back"),
                rule: "The device goes live when the driver says so",
                clause: "3.1.1 Driver Requirements: Device Initialization",
                method: "Negotiate, set queue 0 up, set DRIVER_OK",
                expectation: "All four bits read back, no DEVICE_NEEDS_RESET",
                run: |cx| each(cx, $bus, |target| {
                    let (dev, _queue) = live(target)?;
                    let all = DRIVER | FEATURES_OK | Status::DRIVER_OK.bits();
                    equal("status", all, dev.regs().status())
                }),
            },
            Check {
                name: concat!($group, "/queue-size-is-valid"),
                rule: "A queue has at least one entry and at most 32768",
                clause: "2.6 Virtqueues",
                method: "Read the largest size of queue 0",
                expectation: "From 1 to 32768",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::with_features(target, 0)?;
                    dev.regs().select_queue(0);
                    let size = dev.regs().queue_size_max();
                    holds((1..=32768).contains(&size), "largest size of queue 0", "1 to 32768", size)
                }),
            },
            Check {
                name: concat!($group, "/missing-queue-has-size-0"),
                rule: "A queue that is not there has size 0",
                clause: "4.2.2 MMIO Device Register Layout; 4.1.4.3 Common configuration structure layout",
                method: "Select queue 900 and read its size",
                expectation: "0",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::with_features(target, 0)?;
                    dev.regs().select_queue(MISSING);
                    equal("size of queue 900", 0, dev.regs().queue_size_max())
                }),
            },
            Check {
                name: concat!($group, "/queue-selectors-far-out-of-range-have-size-0"),
                rule: "A queue that is not there has size 0",
                clause: "4.2.2 MMIO Device Register Layout; 4.1.4.3 Common configuration structure layout",
                method: "Select queue 0, then 0xfff0, read the size",
                expectation: "0",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::with_features(target, 0)?;
                    dev.regs().select_queue(0);
                    dev.regs().select_queue(0xfff0);
                    equal("size of queue 0xfff0", 0, dev.regs().queue_size_max())
                }),
            },
            Check {
                name: concat!($group, "/queue-is-not-ready-at-first"),
                rule: "No queue is live after a reset",
                clause: "4.2.2.1 Device Requirements: MMIO Device Register Layout; 4.1.4.3.1 Device Requirements: \
            Common configuration structure layout",
                method: "Reset, select each queue, read its ready state",
                expectation: "0",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::with_features(target, 0)?;
                    for queue in 0..64 {
                        dev.regs().select_queue(queue);
                        if dev.regs().queue_size_max() == 0 {
                            break;
                        }
                        equal(&format!("ready state of queue {queue}"), 0, dev.regs().queue_ready())?;
                    }
                    Ok(())
                }),
            },
            Check {
                name: concat!($group, "/queue-ready-reads-back"),
                rule: "The ready state reads as it was written",
                clause: "4.2.2 MMIO Device Register Layout; 4.1.4.3 Common configuration structure layout",
                method: "Set queue 0 up and read its ready state",
                expectation: "1",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::with_features(target, 0)?;
                    dev.queue(0, 8).map(drop)
                }),
            },
            Check {
                name: concat!($group, "/reset-takes-queues-back"),
                rule: "After a reset no queue is live",
                clause: "2.4.1 Device Requirements: Device Reset",
                method: "Set queue 0 up, reset before DRIVER_OK, and again after it; read its ready state",
                expectation: "0",
                run: |cx| each(cx, $bus, |target| {
                    let taken_back = |when| {
                        let _dev = Dev::new(target)?;
                        target.regs.select_queue(0);
                        equal(&format!("ready state of queue 0, set up and reset {when}"), 0, target.regs.queue_ready())
                    };
                    let early = {
                        let dev = Dev::with_features(target, 0)?;
                        dev.queue(0, 8)?;
                        drop(dev);
                        taken_back("before DRIVER_OK")
                    };
                    // A device that keeps it then is rid of it here.
                    let (dev, queue) = live(target)?;
                    drop((queue, dev));
                    taken_back("after DRIVER_OK")?;
                    early
                }),
            },
            Check {
                name: concat!($group, "/selectors-keep-queues-apart"),
                rule: "Queue registers mean the selected queue",
                clause: "4.2.2 MMIO Device Register Layout; 4.1.4.3 Common configuration structure layout",
                method: "Make queue 0 ready, read the ready state of queue 1, then of queue 0",
                expectation: "0, then 1",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::with_features(target, 0)?;
                    let _queue = dev.queue(0, 8)?;
                    dev.regs().select_queue(1);
                    if dev.regs().queue_size_max() != 0 {
                        equal("ready state of queue 1", 0, dev.regs().queue_ready())?;
                    }
                    dev.regs().select_queue(0);
                    equal("ready state of queue 0", 1, dev.regs().queue_ready())
                }),
            },
        ]
    };
}

/// On virtio-mmio.
pub(crate) const MMIO: &[Check] = of!("mmio", Bus::Mmio);
/// On virtio-pci.
pub(crate) const PCI: &[Check] = of!("pci", Bus::Pci);
