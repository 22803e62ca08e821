//! Registers written as no driver does: queues in impossible places, steps in the wrong order, garbage.

use crate::catalogue::{Check, attacks};
#[cfg(feature = "guest")]
use {
    crate::hostile::access::{self, WIDTHS},
    crate::support::device::Dev,
    crate::support::raw::{Buf, wait_until},
    crate::support::registers::{Layout, Regs},
    crate::support::trial::{DATA_AT, HEADER_AT, NEXT, READ, SIZE, STATUS_AT, Trial, Unit, WRITE},
    crate::support::{End, equal},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    core::mem::offset_of,
    frontends::transport::Registers,
    guest_kernel::platform::registers::Window,
    shared_abi::virtio::Status,
    shared_abi::virtio::blk::RequestType,
    shared_abi::virtio::mmio::{CONFIG, Register},
    shared_abi::virtio::pci::CommonConfig,
};

const LAYOUT: &str = "2.7 Split Virtqueues";
const SETUP: &str = "3.1.1 Driver Requirements: Device Initialization";
const REGISTERS: &str =
    "4.2.2.2 Driver Requirements: MMIO Device Register Layout; 4.1.3.1 Driver Requirements: PCI Device Layout";
const CONFIG_CLAUSE: &str = "2.5.1 Driver Requirements: Device Configuration Space";
const PLACED: &str = "Rings lie in memory, aligned, apart, and have a size that the device offered";
const ORDER: &str = "A queue is set up once, before DRIVER_OK, and left alone while it is live";

/// The checks.
pub(crate) const CHECKS: &[Check] = attacks![
    Attack {
        name: "hostile/rings-outside-memory",
        rule: PLACED,
        clause: LAYOUT,
        method: "All parts at 32 TiB, then at 2^64 - 16",
        device: RNG,
        run: |trial| {
            for address in [1 << 45, u64::MAX - 15] {
                place(trial, |own| Layout { descriptors: address, available: address, used: address, ..own })?;
                place(trial, |own| Layout { used: address, ..own })?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/rings-misaligned",
        rule: PLACED,
        clause: LAYOUT,
        method: "Table, available and used ring at odd addresses",
        device: RNG,
        run: |trial| {
            place(trial, |own| Layout { descriptors: own.descriptors + 8, ..own })?;
            place(trial, |own| Layout { available: own.available + 1, ..own })?;
            place(trial, |own| Layout { used: own.used + 2, ..own })
        },
    },
    Attack {
        name: "hostile/rings-over-device-registers",
        rule: PLACED,
        clause: LAYOUT,
        method: "The rings at the registers of the device or of the I/O APIC",
        device: RNG,
        run: |trial| {
            let address = trial.device_memory();
            place(trial, |own| Layout { descriptors: address, available: address, ..own })?;
            place(trial, |own| Layout { descriptors: address, ..own })
        },
    },
    Attack {
        name: "hostile/rings-in-one-place",
        rule: PLACED,
        clause: LAYOUT,
        method: "All three parts at one address, with requests in them",
        device: RNG,
        run: |trial| {
            // The first descriptor is the available ring then, and its address has the index: one entry, and far too many.
            for index in [1, u16::MAX] {
                let first = (u64::from(index) << 16, READ);
                placed(trial, Some(first), &|own| Layout { available: own.descriptors, used: own.descriptors, ..own })?;
            }
            place(trial, |own| Layout { used: own.available, ..own })
        },
    },
    Attack {
        name: "hostile/queue-size-0",
        rule: PLACED,
        clause: LAYOUT,
        method: "A queue of size 0 is made live and notified",
        device: RNG,
        run: |trial| place(trial, |own| Layout { size: 0, ..own }),
    },
    Attack {
        name: "hostile/queue-size-no-power-of-2",
        rule: PLACED,
        clause: LAYOUT,
        method: "A queue of size 7 is made live and notified",
        device: RNG,
        run: |trial| place(trial, |own| Layout { size: 7, ..own }),
    },
    Attack {
        name: "hostile/queue-size-past-the-maximum",
        rule: PLACED,
        clause: LAYOUT,
        method: "A queue of size 0xffff is made live and notified",
        device: RNG,
        run: |trial| place(trial, |own| Layout { size: 0xffff, ..own }),
    },
    Attack {
        name: "hostile/ring-moved-while-live",
        rule: ORDER,
        clause: SETUP,
        method: "Size and addresses of a live queue change, with requests in flight",
        device: BLOCK,
        run: |trial| {
            for address in [1 << 45, u64::MAX - 15, 0] {
                let mut unit = trial.unit(0)?;
                requests(&mut unit, 4, true);
                let regs = unit.dev.regs();
                regs.select_queue(0);
                regs.place_queue(Layout { size: 8, descriptors: address, available: address, used: address });
                if address != 0 {
                    // At 0 there is memory that is not ours: the device may believe it, so it gets nothing more to do.
                    unit.queues[0].notify(&unit.dev);
                    unit.settle();
                    trial.judge(unit)?;
                } else {
                    drop(unit);
                    trial.revive()?;
                }
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/queue-taken-back-in-flight",
        rule: ORDER,
        clause: SETUP,
        method: "A live queue is made not ready and ready again, with requests in flight",
        device: BLOCK,
        run: |trial| {
            for _ in 0..5 {
                let mut unit = trial.unit(0)?;
                requests(&mut unit, SIZE, true);
                let regs = unit.dev.regs();
                regs.select_queue(0);
                match regs {
                    Regs::Mmio(window) => Regs::mmio_write(window, Register::QueueReady, 0),
                    Regs::Pci(windows, _) => windows.common.write16(offset_of!(CommonConfig, queue_enable), 0),
                }
                unit.queues[0].notify(&unit.dev);
                regs.set_queue_ready();
                unit.queues[0].notify(&unit.dev);
                unit.settle();
                trial.judge(unit)?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/notify-before-driver-ok",
        rule: ORDER,
        clause: SETUP,
        method: "A request is notified before DRIVER_OK, and before the queue is ready",
        device: BLOCK,
        run: |trial| {
            let mut unit = Unit::prepare(trial.target, 0)?;
            requests(&mut unit, 1, true);
            wait_until(20_000_000, || unit.queues[0].used_index() != 0);
            let early = unit.queues[0].used_index();
            unit.dev.start()?;
            unit.queues[0].notify(&unit.dev);
            unit.settle();
            trial.judge(unit)?;
            // 2.1.2: a device does not consume buffers before DRIVER_OK.
            equal("used index before DRIVER_OK", 0, early)?;
            // Before there is a queue at all.
            let dev = Dev::new(trial.target)?;
            let at = dev.regs().notify_offset().unwrap_or(0);
            (0..4).for_each(|queue| dev.regs().notify(at, queue));
            drop(dev);
            trial.revive()
        },
    },
    Attack {
        name: "hostile/notify-of-missing-queues",
        rule: "Only queues that exist are notified",
        clause: "2.9 Driver Notifications",
        method: "Notifications of queues 2 to 0xffff in steps",
        device: BLOCK,
        run: |trial| {
            let mut unit = trial.unit(0)?;
            let at = unit.main().notify_at;
            (0..16)
                .map(|shift| (1 << shift) + 1)
                .chain([2, 900, 0xfffe, 0xffff])
                .for_each(|queue| unit.dev.regs().notify(at, queue));
            unit.settle();
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/notify-after-reset",
        rule: ORDER,
        clause: "2.4.1 Device Requirements: Device Reset",
        method: "Requests are published, the device is reset, then notified a hundred times",
        device: BLOCK,
        run: |trial| {
            let mut unit = trial.unit(0)?;
            let at = unit.main().notify_at;
            requests(&mut unit, 4, true);
            unit.dev.target.reset();
            (0..100).for_each(|_| unit.dev.regs().notify(at, 0));
            trial.revive()?;
            drop(unit);
            trial.revive()
        },
    },
    Attack {
        name: "hostile/notify-storm",
        rule: "Notifications are for new buffers",
        clause: "2.9 Driver Notifications",
        method: "Five hundred notifications without a buffer",
        device: BLOCK,
        run: |trial| {
            let unit = trial.unit(0)?;
            (0..500).for_each(|_| unit.queues[0].notify(&unit.dev));
            unit.settle();
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/reset-in-flight",
        rule: "A reset takes all buffers back",
        clause: "2.4.1 Device Requirements: Device Reset",
        method: "Twenty times eight requests and a reset at once; then nothing is written any more",
        device: BLOCK,
        run: |trial| {
            for _ in 0..20 {
                let mut unit = trial.unit(0)?;
                requests(&mut unit, SIZE, true);
                let said_so = unit.dev.target.reset();
                let used = unit.queues[0].used_index();
                unit.arena.write8(STATUS_AT, 0x77);
                wait_until(1_000_000, || false);
                if said_so {
                    equal("used index after a reset", used, unit.queues[0].used_index())?;
                    equal("status byte after a reset", 0x77, unit.arena.read8(STATUS_AT))?;
                }
            }
            trial.revive()
        },
    },
    Attack {
        name: "hostile/features-garbage",
        rule: "A driver accepts what was offered",
        clause: "2.2.1 Driver Requirements: Feature Bits",
        method: "Selectors and feature words of all ones, then DRIVER_OK all the same",
        device: BLOCK,
        run: |trial| {
            for features in [u64::MAX, 0, 1 << 63, 0x5a5a_5a5a_5a5a_5a5a] {
                let dev = Dev::new(trial.target)?;
                let regs = dev.regs();
                for select in [2, 7, u32::MAX] {
                    regs.feature_word(select);
                }
                regs.set_features(features);
                let driver = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
                regs.set_status(driver.bits());
                if regs.status() & Status::FEATURES_OK.bits() == 0 {
                    trial.refused(format!("features {features:#x} are not accepted"));
                }
                // As if they had been.
                let queue = dev.queue(0, SIZE);
                dev.go();
                regs.set_features(!features);
                if let Ok(queue) = queue {
                    queue.notify(&dev);
                }
                wait_until(1_000_000, || false);
                drop(dev);
                trial.revive()?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/status-garbage",
        rule: "Status bits are set one step at a time",
        clause: "2.1.1 Driver Requirements: Device Status Field",
        method: "Every value of the status from a reset, and DRIVER_OK without anything before it",
        device: BLOCK,
        run: |trial| {
            for status in 1..=u8::MAX {
                trial.target.reset();
                trial.target.regs.set_status(status);
                trial.target.regs.set_status(!status | 1);
            }
            trial.revive()?;
            // Live without features and without queues.
            trial.target.reset();
            trial.target.regs.set_status(Status::DRIVER_OK.bits());
            let at = trial.target.regs.notify_offset().unwrap_or(0);
            trial.target.regs.notify(at, 0);
            trial.revive()
        },
    },
    Attack {
        name: "hostile/registers-of-odd-width",
        rule: "Registers are accessed by their own width",
        clause: REGISTERS,
        method: "Accesses of 1, 2, 4 and 8 bytes to every offset, also between registers",
        device: BLOCK,
        run: |trial| {
            // What is written has bits set everywhere, so that an address made of it is none.
            let windows = access::windows(&trial.target.regs);
            for width in WIDTHS {
                for window in &windows {
                    for offset in offsets(window, width) {
                        access::read(window, offset, width);
                    }
                }
                trial.revive()?;
                trial.target.reset();
                for window in &windows {
                    for offset in offsets(window, width) {
                        access::write(window, offset, width, 0xa5a5_a5a5_a5a5_a5a5);
                    }
                }
                trial.revive()?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/registers-read-only-written",
        rule: "Read-only registers stay",
        clause: REGISTERS,
        method: "Each of them is written; then they read as before",
        device: BLOCK,
        run: |trial| {
            let dev = Dev::new(trial.target)?;
            dev.regs().select_queue(0);
            type Field = (usize, usize);
            let (window, fields): (&Window, Vec<Field>) = match dev.regs() {
                Regs::Mmio(window) => {
                    use Register::{
                        ConfigGeneration, DeviceFeatures, DeviceId, InterruptStatus, MagicValue, QueueSizeMax,
                        VendorId, Version,
                    };
                    let fields = [
                        MagicValue,
                        Version,
                        DeviceId,
                        VendorId,
                        DeviceFeatures,
                        QueueSizeMax,
                        InterruptStatus,
                        ConfigGeneration,
                    ];
                    (window, fields.map(|register| (register.offset() as usize, 4)).into())
                }
                Regs::Pci(windows, _) => {
                    let fields = [
                        (offset_of!(CommonConfig, device_feature), 4),
                        (offset_of!(CommonConfig, num_queues), 2),
                        (offset_of!(CommonConfig, config_generation), 1),
                        (offset_of!(CommonConfig, queue_notify_off), 2),
                    ];
                    (&windows.common, fields.into())
                }
            };
            let mut changed = Ok(());
            for (offset, width) in fields {
                let before = access::read(window, offset, width);
                for value in [0, u64::MAX, 0x5a5a_5a5a] {
                    access::write(window, offset, width, value);
                }
                let after = access::read(window, offset, width);
                changed = changed.and(equal(&format!("the read-only register at {offset:#x}"), before, after));
            }
            drop(dev);
            trial.revive()?;
            changed
        },
    },
    Attack {
        name: "hostile/config-space-written",
        rule: "A driver writes only fields that say so",
        clause: CONFIG_CLAUSE,
        method: "All of the configuration space is written, in widths 1 and 4",
        device: BLOCK,
        run: |trial| {
            let capacity = trial.target.regs.config_read64(0);
            let len = match trial.target.regs {
                Regs::Mmio(ref window) => window.len() - CONFIG as usize,
                Regs::Pci(..) => trial.target.regs.config_len(),
            };
            for live in [false, true] {
                let unit = if live { trial.unit(0)? } else { Unit::prepare(trial.target, 0)? };
                for offset in 0..len.min(0x100) {
                    unit.dev.regs().config_write(offset, 1, 0xa5);
                }
                for offset in (0..len.min(0x100) / 4 * 4).step_by(4) {
                    unit.dev.regs().config_write(offset, 4, u32::MAX);
                }
                if live {
                    trial.judge(unit)?;
                } else {
                    drop(unit);
                    trial.revive()?;
                }
            }
            equal("the disk's capacity", capacity, trial.target.regs.config_read64(0))
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Sets a queue up where no driver would, whether the device likes it or not, publishes a request in a proper place, notifies.
    pub fn place(trial: &mut Trial<'_>, spoil: impl Fn(Layout) -> Layout) -> Result<(), End> {
        placed(trial, None, &spoil)
    }

    /// A queue at a place that `spoil` makes of a good one, with one request: by default a buffer that is written, else one at
    /// an address, with flags.
    pub fn placed(
        trial: &mut Trial<'_>,
        first: Option<(u64, u16)>,
        spoil: &dyn Fn(Layout) -> Layout,
    ) -> Result<(), End> {
        let dev = Dev::with_features(trial.target, 0)?;
        let data = dev.buffer(4096)?;
        let [table, available, used] = [dev.buffer(4096)?, dev.buffer(4096)?, dev.buffer(4096)?];
        let [descriptors, driver, device] = [&table, &available, &used].map(|part| part.address());
        let (address, flags) = first.unwrap_or((data.address(), WRITE));
        table.write64(0, address);
        table.write32(8, 16);
        table.write16(12, flags);
        available.write16(2, 1);
        let layout = spoil(Layout { size: SIZE, descriptors, available: driver, used: device });
        // Wherever the used ring lies now: its index and its first element.
        let answer = || bytes_at(&[&table, &available, &used], layout.used + 2);
        let before = answer();
        let regs = dev.regs();
        regs.select_queue(0);
        regs.place_queue(layout);
        let at = regs.notify_offset().unwrap_or(0);
        regs.set_queue_ready();
        dev.go();
        regs.notify(at, 0);
        wait_until(20_000_000, || answer() != before || regs.status() & Status::DEVICE_NEEDS_RESET.bits() != 0);
        if regs.status() & Status::DEVICE_NEEDS_RESET.bits() != 0 {
            trial.refused("DEVICE_NEEDS_RESET");
        } else if regs.queue_ready() == 0 {
            trial.refused("the queue does not become ready");
        } else if before.is_none() {
            trial.refused("no place for an answer");
        } else if answer() == before {
            trial.refused("no answer");
        }
        drop(dev);
        trial.revive()
    }

    /// Ten bytes at an address, if they lie in one of the parts.
    fn bytes_at(parts: &[&Buf], address: u64) -> Option<[u8; 10]> {
        parts.iter().find_map(|part| {
            let offset = usize::try_from(address.checked_sub(part.address())?).ok()?;
            (offset < part.len() - 10).then(|| core::array::from_fn(|at| part.read8(offset + at)))
        })
    }

    /// Puts reads into the queue: one descriptor table entry each would not do, so all share the first three.
    pub fn requests(unit: &mut Unit<'_>, count: u16, notify: bool) {
        unit.header(RequestType::IN.0, 0);
        unit.put(0, (unit.at(HEADER_AT), 16, NEXT, 1));
        unit.put(1, (unit.at(DATA_AT), 512, WRITE | NEXT, 2));
        unit.put(2, (unit.at(STATUS_AT), 1, WRITE, 0));
        let queue = &mut unit.queues[0];
        (0..count).for_each(|_| queue.offer(0));
        queue.publish();
        if notify {
            queue.notify(&unit.dev);
        }
    }

    /// Every offset at the start of a window; its last bytes too.
    pub fn offsets(window: &Window, width: usize) -> impl Iterator<Item = usize> + use<> {
        const START: usize = 0x140;
        let end = (window.len() + 1).saturating_sub(width);
        (0..START.min(end)).chain(end.saturating_sub(8).max(START.min(end))..end)
    }
}
