//! Virtio over PCI: configuration space, capabilities, the common configuration, MSI-X vectors.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::pci_space::{STEPS, capabilities, parts, read, structures, with_queue_0, write},
    crate::support::transport::{Bus, each},
    crate::support::{Context, End, Verdict, equal, error, fail, holds, skip},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    core::cell::Cell,
    core::mem::offset_of,
    frontends::transport::Registers,
    frontends::transport::pci::Windows,
    guest_kernel::platform::pci::Function,
    guest_kernel::platform::registers::Window,
    pci_types::ConfigRegionAccess,
    shared_abi::virtio::pci::{CommonConfig, MODERN_DEVICE_ID, VENDOR_ID, cfg_type},
    shared_abi::virtio::{CommonFeatures, DeviceType, blk},
};

const DISCOVERY: &str = "4.1.2.1 Device Requirements: PCI Device Discovery";
const LAYOUT: &str = "4.1.3.2 Device Requirements: PCI Device Layout";
const CAPABILITIES: &str = "4.1.4 Virtio Structure PCI Capabilities";
const EXTRA: &str = "4.1.4.2 Device Requirements: Virtio Structure PCI Capabilities";
const COMMON_TEXT: &str = "4.1.4.3 Common configuration structure layout";
const COMMON: &str = "4.1.4.3.1 Device Requirements: Common configuration structure layout";
const NOTIFY: &str = "4.1.4.4.1 Device Requirements: Notification capability";
const ECAM: &str = "PCI Express 5.0, 7.2.2 PCI Express Enhanced Configuration Access Mechanism (ECAM); 4.1.1 Device Requirements: Virtio Over PCI Bus";
const ALIGNED: &str = "4.1.4.3.1 Device Requirements: Common configuration structure layout; 4.1.4.4.1 Device Requirements: Notification capability; 4.1.4.6.1 Device Requirements: Device-specific configuration";
const ACCESS: &str = "4.1.4.9.1 Device Requirements: PCI configuration access capability";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "pci/vendor-and-device-id-fit",
        rule: "A modern device has vendor 0x1af4 and device id 0x1040 plus its type",
        clause: DISCOVERY,
        method: "Read both from configuration space",
        expectation: "0x1af4, and 0x1041 to 0x107f",
        run: |cx| on(cx, vendor_and_device_id_fit),
    },
    Check {
        name: "pci/revision-is-at-least-1",
        rule: "A non-transitional device has revision 1 or higher",
        clause: DISCOVERY,
        method: "Read the revision id",
        expectation: "1 or more",
        level: Should,
        run: |cx| on(cx, |function, _| {
            let revision = read(function, 8) & 0xff;
            holds(revision >= 1, "revision id", "1 or more", revision)
        }),
    },
    Check {
        name: "pci/subsystem-device-id-is-at-least-0x40",
        rule: "A non-transitional device has Subsystem Device ID 0x40 or higher",
        clause: DISCOVERY,
        method: "Read the Subsystem Device ID",
        expectation: "0x40 or more",
        level: Should,
        run: |cx| on(cx, |function, _| {
            let id = read(function, 0x2c) >> 16;
            holds(id >= 0x40, "Subsystem Device ID", "0x40 or more", format!("{id:#x}"))
        }),
    },
    Check {
        name: "pci/capability-list-ends",
        rule: "Capabilities form a list",
        clause: "PCI Local Bus 3.0, 6.7 Capabilities List; 4.1.1 Device Requirements: Virtio Over PCI Bus",
        method: "Follow it for at most 48 steps",
        expectation: "It ends",
        run: |cx| on(cx, |function, _| {
            holds(capabilities(function).len() < STEPS, "capabilities", "a list that ends", "one that does not")
        }),
    },
    Check {
        name: "pci/structures-lie-in-bars-0-to-5",
        rule: "A structure that a driver uses lies in a memory BAR that is there",
        clause: CAPABILITIES,
        method: "Read bar of each common configuration, notification structure and interrupt status",
        expectation: "0 to 5",
        run: |cx| on(cx, structures_lie_in_bars),
    },
    Check {
        name: "pci/structures-are-aligned",
        rule: "A structure starts at an aligned offset",
        clause: ALIGNED,
        method: "Read offset of each common configuration, notification structure and device-specific configuration \
            in a BAR that is there",
        expectation: "Multiples of 4, of 2 (of 4 with NOTIFICATION_DATA), of 4",
        run: |cx| driven(cx, structures_are_aligned),
    },
    Check {
        name: "pci/capabilities-include-their-extra-data",
        rule: "cap_len counts a capability to the end of its extra data",
        clause: EXTRA,
        method: "Read cap_len of each of virtio's capabilities, look where the other capabilities start",
        expectation: "16 or more, 20 with a multiplier or with data, 24 of shared memory; no other one starts before \
            its end",
        run: |cx| on(cx, capabilities_include_their_extra_data),
    },
    Check {
        name: "pci/halves-of-a-wide-field-are-read-alone",
        rule: "The halves of a field of 64 bits can be read independently",
        clause: LAYOUT,
        method: "Reset and read only the high half of each disk's capacity, then only the low half, then both in \
            either order",
        expectation: "The same halves each time",
        run: |cx| {
            // The capacity of a disk is the one field of 64 bits that a device of ours has.
            const LOW: usize = offset_of!(blk::Config, capacity);
            const HIGH: usize = LOW + 4;
            let any = Cell::new(false);
            each(cx, Bus::Pci, |target| {
                if target.device_type != DeviceType::BLOCK {
                    return Ok(());
                }
                any.set(true);
                let fresh = |halves: &[usize]| -> Result<Vec<u32>, End> {
                    let _dev = Dev::with_features(target, 0)?;
                    Ok(halves.iter().map(|&at| target.regs.config_read(at, 4)).collect())
                };
                let both = fresh(&[LOW, HIGH])?;
                equal("capacity, high half first", both.iter().rev().copied().collect(), fresh(&[HIGH, LOW])?)?;
                equal("high half of capacity, read alone", both[1], fresh(&[HIGH])?[0])?;
                equal("low half of capacity, read alone", both[0], fresh(&[LOW])?[0])
            })?;
            if any.get() { Ok(()) } else { Err(skip("there is no disk")) }
        },
    },
    Check {
        name: "pci/common-structure-is-long-enough",
        rule: "The common configuration has at least 56 bytes",
        clause: COMMON,
        method: "Read the length of its capability",
        expectation: "56 or more",
        run: |cx| on(cx, |_, windows| {
            let len = windows.common.len();
            holds(len >= 56, "length of the common configuration", "56 or more", len)
        }),
    },
    Check {
        name: "pci/notify-multiplier-is-0-or-an-even-power-of-2",
        rule: "notify_off_multiplier is 0 or an even power of 2",
        clause: NOTIFY,
        method: "Read it after the notification capability",
        expectation: "0, or a power of 2 from 2 on",
        run: |cx| on(cx, |_, windows| {
            let multiplier = windows.notify_multiplier;
            let fine = multiplier == 0 || multiplier.is_power_of_two() && multiplier >= 2;
            holds(fine, "notify_off_multiplier", "0, or a power of 2 from 2 on", multiplier)
        }),
    },
    Check {
        name: "pci/notify-places-lie-inside",
        rule: "Where a queue is notified lies inside of the structure",
        clause: NOTIFY,
        method: "Compute the place of each queue",
        expectation: "Two bytes fit for each",
        run: |cx| {
            each(cx, Bus::Pci, |target| {
                let dev = Dev::with_features(target, 0)?;
                let (_, windows) = parts(target)?;
                for queue in 0..windows.common.read16(offset_of!(CommonConfig, num_queues)) {
                    dev.regs().select_queue(queue.into());
                    let place = dev.regs().notify_offset();
                    holds(place.is_some(), &format!("place of notifications of queue {queue}"), "inside", "outside")?;
                }
                Ok(())
            })
        },
    },
    Check {
        name: "pci/num-queues-agrees-with-sizes",
        rule: "num_queues counts the queues",
        clause: COMMON,
        method: "Compare it with the sizes of the queues below and at that number",
        expectation: "At num_queues the size is 0",
        run: |cx| driven(cx, |_, windows| num_queues_agrees_with_sizes(windows)),
    },
    Check {
        name: "pci/feature-selector-reads-back",
        rule: "device_feature_select is readable",
        clause: COMMON_TEXT,
        method: "Write 1 and 0, read after each",
        expectation: "As written",
        run: |cx| driven(cx, |_, windows| {
            for value in [1, 0] {
                windows.common.write32(offset_of!(CommonConfig, device_feature_select), value);
                equal(
                    "device_feature_select",
                    value,
                    windows.common.read32(offset_of!(CommonConfig, device_feature_select)),
                )?;
            }
            Ok(())
        }),
    },
    Check {
        name: "pci/accepted-features-read-back",
        rule: "driver_feature shows the valid bits that the driver has written",
        clause: COMMON,
        method: "Write the offered bits to both words of driver_feature, read them",
        expectation: "As written",
        run: |cx| each(cx, Bus::Pci, |target| {
            let dev = Dev::new(target)?;
            dev.regs().set_features(dev.offered);
            [0, 1].into_iter().try_for_each(|select| {
                let offered = (dev.offered >> (32 * select)) as u32;
                let shown = dev.regs().accepted_word(select).unwrap_or(0);
                equal(&format!("offered bits in word {select} of driver_feature"), offered, shown & offered)
            })
        }),
    },
    Check {
        name: "pci/queue-size-reads-back",
        rule: "A smaller queue size that the driver writes is taken",
        clause: COMMON_TEXT,
        method: "Write 4 to queue_size of queue 0",
        expectation: "Reads 4",
        run: |cx| {
            each(cx, Bus::Pci, |target| {
                with_queue_0(target, |common| {
                    common.write16(offset_of!(CommonConfig, queue_size), 4);
                    equal("queue_size", 4, common.read16(offset_of!(CommonConfig, queue_size)))
                })
            })
        },
    },
    Check {
        name: "pci/reset-restores-queue-size",
        rule: "A reset brings the largest queue size back",
        clause: COMMON_TEXT,
        method: "Write 4 to queue_size, reset, read",
        expectation: "As before the write",
        run: |cx| {
            each(cx, Bus::Pci, |target| {
                let mut before = 0;
                with_queue_0(target, |common| {
                    before = common.read16(offset_of!(CommonConfig, queue_size));
                    common.write16(offset_of!(CommonConfig, queue_size), 4);
                    Ok(())
                })?;
                with_queue_0(target, |common| {
                    equal("queue_size", before, common.read16(offset_of!(CommonConfig, queue_size)))
                })
            })
        },
    },
    Check {
        name: "pci/queue-addresses-read-back",
        rule: "Queue addresses are readable",
        clause: COMMON_TEXT,
        method: "Write an address to queue_desc of queue 0, read both halves",
        expectation: "As written",
        run: |cx| {
            each(cx, Bus::Pci, |target| {
                with_queue_0(target, |common| {
                    let at = offset_of!(CommonConfig, queue_desc);
                    for (offset, value) in [(at, 0x1234_5000), (at + 4, 0x1)] {
                        common.write32(offset, value);
                        equal("half of queue_desc", value, common.read32(offset))?;
                    }
                    Ok(())
                })
            })
        },
    },
    Check {
        name: "pci/window-of-configuration-space-agrees",
        rule: "VIRTIO_PCI_CAP_PCI_CFG gives access to the structures",
        clause: ACCESS,
        method: "Read num_queues through it and through the BAR",
        expectation: "Equal",
        run: |cx| driven(cx, window_of_configuration_space_agrees),
    },
    Check {
        name: "pci/window-of-configuration-space-writes",
        rule: "A write to pci_cfg_data is carried out in the BAR",
        clause: ACCESS,
        method: "Write device_feature_select (4 bytes) and queue_select (2 bytes) through it, read both through the \
            BAR",
        expectation: "As written",
        run: |cx| driven(cx, window_of_configuration_space_writes),
    },
    Check {
        name: "pci/memory-and-ports-agree",
        rule: "The 256 bytes that the ports reach are the same ones in memory (ECAM)",
        clause: ECAM,
        method: "Read all of them both ways, the access window aside; write the interrupt line by one way, read it \
            by the other",
        expectation: "Equal",
        run: |cx| on(cx, memory_and_ports_agree),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Applies a check to all PCI devices.
    pub fn on(cx: &Context, check: fn(&Function, &Windows<Window>) -> Verdict) -> Verdict {
        each(cx, Bus::Pci, |_| Ok(()))?;
        cx.targets
            .iter()
            .filter_map(|target| parts(target).ok())
            .try_for_each(|(function, windows)| check(function, windows).map_err(|end| end.of(function.location())))
    }

    /// The same with features negotiated: a driver reads and writes the common configuration in the order of 3.1.1.
    pub fn driven(cx: &Context, check: fn(&Function, &Windows<Window>) -> Verdict) -> Verdict {
        each(cx, Bus::Pci, |target| {
            let _dev = Dev::with_features(target, 0)?;
            let (function, windows) = parts(target)?;
            check(function, windows)
        })
    }

    pub fn vendor_and_device_id_fit(function: &Function, _: &Windows<Window>) -> Verdict {
        let id = read(function, 0);
        equal("vendor id", VENDOR_ID, id as u16)?;
        let device = (id >> 16) as u16;
        let range = MODERN_DEVICE_ID + 1..=MODERN_DEVICE_ID + 0x3f;
        holds(range.contains(&device), "device id", "0x1041 to 0x107f", format!("{device:#x}"))
    }

    pub fn structures_lie_in_bars(function: &Function, _: &Windows<Window>) -> Verdict {
        for (kind, name) in [
            (cfg_type::COMMON, "common configuration"),
            (cfg_type::NOTIFY, "notification"),
            (cfg_type::ISR, "interrupt status"),
        ] {
            let bars: Vec<u32> = structures(function, kind).map(|at| read(function, at + 4) & 0xff).collect();
            let fine = bars.iter().any(|&bar| bar <= 5);
            holds(fine, &format!("BARs of the {name} structures"), "one from 0 to 5", format!("{bars:?}"))?;
        }
        Ok(())
    }

    pub fn structures_are_aligned(function: &Function, windows: &Windows<Window>) -> Verdict {
        windows.common.write32(offset_of!(CommonConfig, device_feature_select), 1);
        let word = u64::from(windows.common.read32(offset_of!(CommonConfig, device_feature))) << 32;
        let data = word & CommonFeatures::NOTIFICATION_DATA.bits() != 0;
        for (kind, name, align) in [
            (cfg_type::COMMON, "common configuration", 4),
            (cfg_type::NOTIFY, "notification structure", if data { 4 } else { 2 }),
            (cfg_type::DEVICE, "device-specific configuration", 4),
        ] {
            for at in structures(function, kind).filter(|&at| read(function, at + 4) & 0xff <= 5) {
                let offset = read(function, at + 8);
                let expected = format!("a multiple of {align}");
                holds(
                    offset.is_multiple_of(align),
                    &format!("offset of the {name}"),
                    expected,
                    format!("{offset:#x}"),
                )?;
            }
        }
        Ok(())
    }

    pub fn capabilities_include_their_extra_data(function: &Function, _: &Windows<Window>) -> Verdict {
        /// VIRTIO_PCI_CAP_SHARED_MEMORY_CFG.
        const SHARED_MEMORY: u8 = 8;
        let all = capabilities(function);
        for (kind, least) in [
            (cfg_type::COMMON, 16),
            (cfg_type::NOTIFY, 20),
            (cfg_type::ISR, 16),
            (cfg_type::DEVICE, 16),
            (cfg_type::PCI, 20),
            (SHARED_MEMORY, 24),
        ] {
            for at in structures(function, kind) {
                let len = (read(function, at) >> 16) as u16 & 0xff;
                let what = format!("cap_len of the capability of type {kind} at {at:#x}");
                holds(len >= least, &what, format!("{least} or more"), len)?;
                let inside = all.iter().find(|&&other| (at + 1..at + len).contains(&other));
                equal(&format!("{what}: a capability before its end"), None, inside)?;
            }
        }
        Ok(())
    }

    pub fn num_queues_agrees_with_sizes(windows: &Windows<Window>) -> Verdict {
        let count = windows.common.read16(offset_of!(CommonConfig, num_queues));
        holds(count > 0, "num_queues", "1 or more", count)?;
        windows.common.write16(offset_of!(CommonConfig, queue_select), 0);
        let first = windows.common.read16(offset_of!(CommonConfig, queue_size));
        holds(first > 0, "size of queue 0", "1 or more", first)?;
        windows.common.write16(offset_of!(CommonConfig, queue_select), count);
        equal(&format!("size of queue {count}"), 0, windows.common.read16(offset_of!(CommonConfig, queue_size)))
    }

    /// `virtio_pci_cfg_cap`: a capability whose bar, offset and length the driver writes; data follows. Shows a field of the
    /// common configuration there, and returns where its data is.
    pub fn show(function: &Function, field: usize, width: u32) -> Result<u16, End> {
        let access = structures(function, cfg_type::PCI).next();
        let at = access.ok_or_else(|| fail("capabilities", "one of type VIRTIO_PCI_CAP_PCI_CFG", "none"))?;
        let usable = structures(function, cfg_type::COMMON).find(|&at| read(function, at + 4) & 0xff <= 5);
        let common = usable.ok_or_else(|| error("no common configuration"))?;
        let (bar, offset) = (read(function, common + 4) & 0xff, read(function, common + 8));
        write(function, at + 4, read(function, at + 4) & !0xff | bar);
        write(function, at + 8, offset + field as u32);
        write(function, at + 12, width);
        Ok(at + 16)
    }

    pub fn window_of_configuration_space_agrees(function: &Function, windows: &Windows<Window>) -> Verdict {
        let data = show(function, offset_of!(CommonConfig, num_queues), 2)?;
        let through = read(function, data) as u16;
        equal("num_queues", windows.common.read16(offset_of!(CommonConfig, num_queues)), through)
    }

    pub fn window_of_configuration_space_writes(function: &Function, windows: &Windows<Window>) -> Verdict {
        let at = offset_of!(CommonConfig, device_feature_select);
        for value in [1, 0] {
            windows.common.write32(at, value ^ 1);
            let data = show(function, at, 4)?;
            write(function, data, value);
            equal("device_feature_select", value, windows.common.read32(at))?;
        }
        let at = offset_of!(CommonConfig, queue_select);
        let last = windows.common.read16(offset_of!(CommonConfig, num_queues)).saturating_sub(1);
        for value in [last, 0] {
            windows.common.write16(at, last - value);
            let data = show(function, at, 2)?;
            write(function, data, value.into());
            equal("queue_select", value, windows.common.read16(at))?;
        }
        Ok(())
    }

    pub fn memory_and_ports_agree(function: &Function, _: &Windows<Window>) -> Verdict {
        const SPACE: u16 = 256;
        const INTERRUPT: u16 = 0x3c;
        const LINE: u32 = 0xff;
        let at = function.address;
        if !function.config().is_memory(at) {
            return Err(skip("configuration space is reached by ports alone"));
        }
        let ports = function.config().ports().ok_or_else(|| skip("configuration space is reached by memory alone"))?;
        // Reading the data of the access window reads a register of the device.
        let access: Vec<u16> = structures(function, cfg_type::PCI).collect();
        for offset in
            (0..SPACE).step_by(4).filter(|offset| !access.iter().any(|at| (at + 16..at + 20).contains(offset)))
        {
            // SAFETY: reading configuration space has no effect, but where it was left out.
            let by_ports = unsafe { ports.read(at, offset) };
            equal(&format!("register {offset:#x}"), by_ports, read(function, offset))?;
        }
        let before = read(function, INTERRUPT);
        // Only software uses the line's number.
        let (one, other) = (before ^ 0x55 & LINE, before ^ 0xaa & LINE);
        write(function, INTERRUPT, one);
        // SAFETY: as above.
        let (by_ports, by_memory) = unsafe {
            let by_ports = ports.read(at, INTERRUPT);
            ports.write(at, INTERRUPT, other);
            (by_ports, read(function, INTERRUPT))
        };
        write(function, INTERRUPT, before);
        equal("interrupt line, written by memory and read by ports", one, by_ports)?;
        equal("interrupt line, written by ports and read by memory", other, by_memory)
    }
}
