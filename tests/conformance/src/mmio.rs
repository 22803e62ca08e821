//! Virtio over MMIO: the registers themselves.

use crate::catalogue::{Check, checks};
use crate::transport::{config, features, notifications, queues, status};
#[cfg(feature = "guest")]
use {
    crate::support::device::{Dev, Target},
    crate::support::raw::{Dir, Queue, link, wait_until},
    crate::support::registers::Regs,
    crate::support::transport::{Bus, each, live, still_live},
    crate::support::{Context, End, Verdict, equal, error, holds, skip},
    alloc::format,
    code::*,
    frontends::transport::Registers,
    guest_kernel::platform::registers::Window,
    shared_abi::virtio::DeviceType,
    shared_abi::virtio::mmio::{MAGIC, Register, VERSION},
};

const LAYOUT: &str = "4.2.2 MMIO Device Register Layout";
const DEVICE: &str = "4.2.2.1 Device Requirements: MMIO Device Register Layout";
/// Binds the driver alone: what the device does about it is its own.
const DRIVER: &str = "4.2.2.2 Driver Requirements: MMIO Device Register Layout";

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] =
    &[status::MMIO, features::MMIO, queues::MMIO, notifications::MMIO, config::MMIO, OWN];

/// Those that only this transport has.
const OWN: &[Check] = checks![
    Check {
        name: "mmio/magic-reads-virt",
        rule: "The magic register holds \"virt\"",
        clause: DEVICE,
        method: "Read MagicValue",
        expectation: "0x74726976",
        run: |cx| registers(cx, |window| { equal("MagicValue", MAGIC, Regs::mmio_read(window, Register::MagicValue)) }),
    },
    Check {
        name: "mmio/version-is-2",
        rule: "A modern device says version 2",
        clause: DEVICE,
        method: "Read Version",
        expectation: "2",
        run: |cx| registers(cx, |window| { equal("Version", VERSION, Regs::mmio_read(window, Register::Version)) }),
    },
    Check {
        name: "mmio/device-id-is-stable",
        rule: "The device id is a constant",
        clause: LAYOUT,
        method: "Read DeviceID before and after a reset",
        expectation: "Equal and not 0",
        run: |cx| each(cx, Bus::Mmio, |target| constant(target, Register::DeviceId)),
    },
    Check {
        name: "mmio/vendor-id-is-stable",
        rule: "The vendor id is a constant",
        clause: LAYOUT,
        method: "Read VendorID before and after a reset",
        expectation: "Equal",
        run: |cx| each(cx, Bus::Mmio, |target| constant(target, Register::VendorId)),
    },
    Check {
        name: "mmio/constants-refuse-writes",
        rule: "Identification registers are read-only",
        clause: DRIVER,
        method: "Write all ones to MagicValue, Version, DeviceID and VendorID",
        expectation: "They read as before",
        level: Should,
        run: |cx| {
            each(cx, Bus::Mmio, |target| {
                let window = window(target)?;
                for register in CONSTANTS {
                    let before = Regs::mmio_read(window, register);
                    Regs::mmio_write(window, register, u32::MAX);
                    equal(&format!("{register:?}"), before, Regs::mmio_read(window, register))?;
                }
                Ok(())
            })
        },
    },
    Check {
        name: "mmio/reserved-offsets-are-harmless",
        rule: "An access to an offset without a register has no effect",
        clause: DRIVER,
        method: "Read and write 0x018, 0x048, 0x068 and 0x0d0 of a live device",
        expectation: "Status and queue 0 stay as they are",
        level: Should,
        run: |cx| {
            each(cx, Bus::Mmio, |target| {
                let (dev, _queue) = live(target)?;
                for offset in [0x018, 0x048, 0x068, 0x0d0] {
                    window(target)?.read32(offset);
                    window(target)?.write32(offset, u32::MAX);
                }
                still_live(&dev)
            })
        },
    },
    Check {
        name: "mmio/write-only-registers-are-harmless-to-read",
        rule: "Reading a write-only register has no effect",
        clause: DRIVER,
        method: "Read QueueSel, QueueNotify, InterruptACK and the address registers of a live device",
        expectation: "Status and queue 0 stay as they are",
        level: Should,
        run: |cx| {
            each(cx, Bus::Mmio, |target| {
                let (dev, _queue) = live(target)?;
                for register in [
                    Register::QueueSel,
                    Register::QueueNotify,
                    Register::InterruptAck,
                    Register::QueueDescLow,
                    Register::QueueDriverHigh,
                    Register::QueueDeviceLow,
                ] {
                    Regs::mmio_read(window(target)?, register);
                }
                still_live(&dev)
            })
        },
    },
    Check {
        name: "mmio/absent-shared-memory-has-length-all-ones",
        rule: "A shared memory region that is not there has length -1",
        clause: LAYOUT,
        method: "Select region 200 and read SHMLenLow and SHMLenHigh",
        expectation: "0xffffffff in both",
        run: |cx| {
            each(cx, Bus::Mmio, |target| {
                let window = window(target)?;
                Regs::mmio_write(window, Register::ShmSel, 200);
                equal("SHMLenLow", u32::MAX, Regs::mmio_read(window, Register::ShmLenLow))?;
                equal("SHMLenHigh", u32::MAX, Regs::mmio_read(window, Register::ShmLenHigh))
            })
        },
    },
    Check {
        name: "mmio/acknowledging-nothing-is-harmless",
        rule: "Acknowledging bits that are not pending has no effect",
        clause: DRIVER,
        method: "Write 3 to InterruptACK of a live device with nothing pending",
        expectation: "Interrupt status 0, no DEVICE_NEEDS_RESET",
        level: Should,
        run: |cx| {
            each(cx, Bus::Mmio, |target| {
                let (dev, _queue) = live(target)?;
                Regs::mmio_write(window(target)?, Register::InterruptAck, 3);
                equal("InterruptStatus", 0, Regs::mmio_read(window(target)?, Register::InterruptStatus))?;
                still_live(&dev)
            })
        },
    },
    Check {
        name: "mmio/used-buffer-sets-interrupt-status",
        rule: "Bit 0 of the interrupt status says that a buffer was used",
        clause: LAYOUT,
        method: "Let the device use a buffer, read InterruptStatus",
        expectation: "Bit 0 is set",
        run: |cx| used(cx, |_, window| {
            equal("bit 0 of InterruptStatus", 1, Regs::mmio_read(window, Register::InterruptStatus) & 1)
        }),
    },
    Check {
        name: "mmio/interrupt-status-has-known-bits",
        rule: "Bits of the interrupt status that stand for no event are 0",
        clause: DEVICE,
        method: "Let the device use a buffer, read InterruptStatus",
        expectation: "Bits 2 to 31 are 0",
        run: |cx| used(cx, |_, window| {
            equal("bits from 2 on of InterruptStatus", 0, Regs::mmio_read(window, Register::InterruptStatus) & !3)
        }),
    },
    Check {
        name: "mmio/acknowledge-clears-interrupt-status",
        rule: "Acknowledged bits are pending no more",
        clause: DEVICE,
        method: "Let the device use a buffer, write 1 to InterruptACK",
        expectation: "InterruptStatus reads 0",
        run: |cx| used(cx, |_, window| {
            Regs::mmio_write(window, Register::InterruptAck, 1);
            equal("InterruptStatus", 0, Regs::mmio_read(window, Register::InterruptStatus))
        }),
    },
    Check {
        name: "mmio/acknowledge-clears-only-its-bits",
        rule: "Bits that were not acknowledged stay pending",
        clause: LAYOUT,
        method: "Let the device use a buffer, write 2 to InterruptACK",
        expectation: "Bit 0 of InterruptStatus is still set",
        run: |cx| used(cx, |_, window| {
            Regs::mmio_write(window, Register::InterruptAck, 2);
            equal("bit 0 of InterruptStatus", 1, Regs::mmio_read(window, Register::InterruptStatus) & 1)
        }),
    },
    Check {
        name: "mmio/queue-that-is-not-ready-is-left-alone",
        rule: "A device does not access a queue while its QueueReady is 0",
        clause: "4.2.2 MMIO Device Register Layout; 4.2.2.1 Device Requirements: MMIO Device Register Layout",
        method: "Let the device use a buffer, write 0 to QueueReady, offer the buffer again, notify, wait 20 ms",
        expectation: "QueueReady reads 0, the used index stays",
        run: |cx| {
            const QUIET: u64 = 20_000_000;
            let target = cx.device(DeviceType::RNG)?;
            let window = window(target).map_err(|_| skip("there is no virtio-mmio entropy device"))?;
            let dev = Dev::with_features(target, 0)?;
            let mut queue = dev.queue(0, 8)?;
            dev.start()?;
            let buf = dev.buffer(64)?;
            let head = queue.chain(0, &[link(&buf, Dir::In)]);
            queue.send(&dev, head);
            queue.wait()?;
            Regs::mmio_write(window, Register::QueueSel, 0);
            Regs::mmio_write(window, Register::QueueReady, 0);
            equal("QueueReady", 0, Regs::mmio_read(window, Register::QueueReady))?;
            queue.send(&dev, head);
            wait_until(QUIET, || queue.used_index() != queue.seen());
            equal("used index of a queue that is not ready", queue.seen(), queue.used_index())
        },
    },
    Check {
        name: "mmio/reset-clears-interrupt-status",
        rule: "A reset clears all bits of the interrupt status",
        clause: DEVICE,
        method: "Let the device use a buffer, reset",
        expectation: "InterruptStatus reads 0",
        run: |cx| used(cx, |dev, window| {
            holds(dev.target.reset(), "status after a reset", 0, dev.regs().status())?;
            equal("InterruptStatus", 0, Regs::mmio_read(window, Register::InterruptStatus))
        }),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub fn window(target: &Target) -> Result<&Window, End> {
        match &target.regs {
            Regs::Mmio(window) => Ok(window),
            Regs::Pci(..) => Err(error("not a virtio-mmio device")),
        }
    }

    /// All register blocks that the machine names as those of devices, also those that do not look like one.
    pub fn registers(cx: &Context, check: fn(&Window) -> Verdict) -> Verdict {
        let windows = || cx.targets.iter().filter_map(|target| window(target).ok()).chain(&cx.strange);
        if windows().next().is_none() {
            return Err(skip("there is no virtio-mmio device"));
        }
        windows().filter(|window| window.len() >= 8).try_for_each(check)
    }

    pub fn constant(target: &Target, register: Register) -> Verdict {
        let window = window(target)?;
        let before = Regs::mmio_read(window, register);
        holds(target.reset(), "status after a reset", 0, target.regs.status())?;
        equal(&format!("{register:?}"), before, Regs::mmio_read(window, register))
    }

    pub const CONSTANTS: [Register; 4] =
        [Register::MagicValue, Register::Version, Register::DeviceId, Register::VendorId];

    /// Looks at the registers right after a used buffer: the entropy device is the one that can use a buffer of any kind.
    pub fn used(cx: &Context, check: fn(&Dev<'_>, &Window) -> Verdict) -> Verdict {
        let target = cx.device(DeviceType::RNG)?;
        let window = window(target).map_err(|_| skip("there is no virtio-mmio entropy device"))?;
        let dev = Dev::with_features(target, 0)?;
        let mut queue: Queue = dev.queue(0, 8)?;
        dev.start()?;
        let buf = dev.buffer(64)?;
        let head = queue.chain(0, &[link(&buf, Dir::In)]);
        // With interrupts off nothing but this code acknowledges.
        queue.send(&dev, head);
        queue.wait()?;
        wait_until(1_000_000_000, || Regs::mmio_read(window, Register::InterruptStatus) != 0);
        check(&dev, window)
    }
}
