//! Virtio over PCI: configuration space, capabilities, the common configuration, MSI-X vectors.

use super::device::{Dev, Target};
use super::pci_space::{STEPS, capabilities, parts, read, structures, with_queue_0, write};
use super::transport::{Bus, each};
use super::{Context, End, Row, Verdict, equal, error, fail, holds, skip, vectors};
use alloc::format;
use alloc::vec::Vec;
use core::cell::Cell;
use core::mem::offset_of;
use frontends::transport::Registers;
use frontends::transport::pci::Windows;
use guest_kernel::platform::pci::Function;
use guest_kernel::platform::registers::Window;
use pci_types::ConfigRegionAccess;
use shared_abi::virtio::pci::{CAPABILITY_MSIX, CommonConfig, MODERN_DEVICE_ID, VENDOR_ID, cfg_type};
use shared_abi::virtio::{CommonFeatures, DeviceType, blk};

pub const ROWS: &[Row] = crate::transport_code!("pci", Bus::Pci;
    "vendor-and-device-id-fit" => |cx| on(cx, vendor_and_device_id_fit),
    "revision-is-at-least-1" => |cx| on(cx, |function, _| {
        let revision = read(function, 8) & 0xff;
        holds(revision >= 1, "revision id", "1 or more", revision)
    }),
    "subsystem-device-id-is-at-least-0x40" => |cx| on(cx, |function, _| {
        let id = read(function, 0x2c) >> 16;
        holds(id >= 0x40, "Subsystem Device ID", "0x40 or more", format!("{id:#x}"))
    }),
    "capability-list-ends" => |cx| on(cx, |function, _| {
        holds(capabilities(function).len() < STEPS, "capabilities", "a list that ends", "one that does not")
    }),
    "structures-lie-in-bars-0-to-5" => |cx| on(cx, structures_lie_in_bars),
    "structures-are-aligned" => |cx| driven(cx, structures_are_aligned),
    "capabilities-include-their-extra-data" => |cx| on(cx, capabilities_include_their_extra_data),
    "halves-of-a-wide-field-are-read-alone" => halves_of_a_wide_field_are_read_alone,
    "common-structure-is-long-enough" => |cx| on(cx, |_, windows| {
        let len = windows.common.len();
        holds(len >= 56, "length of the common configuration", "56 or more", len)
    }),
    "notify-multiplier-is-0-or-an-even-power-of-2" => |cx| on(cx, |_, windows| {
        let multiplier = windows.notify_multiplier;
        let fine = multiplier == 0 || multiplier.is_power_of_two() && multiplier >= 2;
        holds(fine, "notify_off_multiplier", "0, or a power of 2 from 2 on", multiplier)
    }),
    "notify-places-lie-inside" => notify_places_lie_inside,
    "num-queues-agrees-with-sizes" => |cx| driven(cx, |_, windows| num_queues_agrees_with_sizes(windows)),
    "feature-selector-reads-back" => |cx| driven(cx, |_, windows| {
        for value in [1, 0] {
            windows.common.write32(offset_of!(CommonConfig, device_feature_select), value);
            equal("device_feature_select", value, windows.common.read32(offset_of!(CommonConfig, device_feature_select)))?;
        }
        Ok(())
    }),
    "queue-size-reads-back" => queue_size_reads_back,
    "reset-restores-queue-size" => reset_restores_queue_size,
    "queue-addresses-read-back" => queue_addresses_read_back,
    "vectors-are-none-at-first" => vectors::are_none_at_first,
    "vectors-read-back" => vectors::read_back,
    "vector-beyond-the-table-is-refused" => vectors::beyond_the_table_is_refused,
    "every-vector-can-be-mapped" => vectors::every_one_can_be_mapped,
    "vectors-can-be-unmapped" => vectors::can_be_unmapped,
    "vector-table-has-2-to-2048-entries" => vectors::table_has_2_to_2048,
    "queue-without-a-vector-stays-quiet" => vectors::queue_without_one_stays_quiet,
    "window-of-configuration-space-agrees" => |cx| driven(cx, window_of_configuration_space_agrees),
    "window-of-configuration-space-writes" => |cx| driven(cx, window_of_configuration_space_writes),
    "memory-and-ports-agree" => |cx| on(cx, memory_and_ports_agree),
);

/// Applies a check to all PCI devices.
fn on(cx: &Context, check: fn(&Function, &Windows<Window>) -> Verdict) -> Verdict {
    each(cx, Bus::Pci, |_| Ok(()))?;
    cx.targets
        .iter()
        .filter_map(|target| parts(target).ok())
        .try_for_each(|(function, windows)| check(function, windows).map_err(|end| end.of(function.location())))
}

/// The same with features negotiated: a driver reads and writes the common configuration in the order of 3.1.1.
fn driven(cx: &Context, check: fn(&Function, &Windows<Window>) -> Verdict) -> Verdict {
    each(cx, Bus::Pci, |target| {
        let _dev = Dev::with_features(target, 0)?;
        let (function, windows) = parts(target)?;
        check(function, windows)
    })
}

/// The interrupt pin of a device that has MSI-X.
pub struct Pin {
    function: Function,
    isr: Window,
    /// The ISA interrupt that the firmware wrote down.
    pub irq: u8,
    msix: u16,
}

impl Pin {
    /// That of a virtio device on PCI.
    ///
    /// # Errors
    /// Not applicable where it has none, or nobody wrote down where it arrives.
    pub fn of(target: &Target) -> Result<Self, End> {
        const INTERRUPT: u16 = 0x3c;
        let (function, windows) = parts(target).map_err(|_| skip("the entropy device is not on PCI"))?;
        let (irq, pin) = (read(function, INTERRUPT) as u8, (read(function, INTERRUPT) >> 8) as u8);
        if pin == 0 || !(1..16).contains(&irq) {
            return Err(skip("nobody wrote down where the device's interrupt pin arrives"));
        }
        let msix = capabilities(function).into_iter().find(|&at| read(function, at) as u8 == CAPABILITY_MSIX);
        let msix = msix.ok_or_else(|| skip("the entropy device has no MSI-X"))?;
        Ok(Self { function: *function, isr: windows.isr, irq, msix })
    }

    /// Runs a check while the device interrupts by its pin.
    pub fn alone(&self, check: impl FnOnce() -> Verdict) -> Verdict {
        const MSIX_ENABLE: u32 = 1 << 31;
        const COMMAND: u16 = 4;
        const PIN_OFF: u32 = 1 << 10;
        let (control, command) = (read(&self.function, self.msix), read(&self.function, COMMAND) & 0xffff);
        write(&self.function, self.msix, control & !MSIX_ENABLE);
        write(&self.function, COMMAND, command & !PIN_OFF);
        let verdict = check();
        write(&self.function, COMMAND, command);
        write(&self.function, self.msix, control);
        verdict
    }

    /// Lets the line fall.
    pub fn acknowledge(&self) {
        self.isr.read8(0);
    }
}

fn vendor_and_device_id_fit(function: &Function, _: &Windows<Window>) -> Verdict {
    let id = read(function, 0);
    equal("vendor id", VENDOR_ID, id as u16)?;
    let device = (id >> 16) as u16;
    let range = MODERN_DEVICE_ID + 1..=MODERN_DEVICE_ID + 0x3f;
    holds(range.contains(&device), "device id", "0x1041 to 0x107f", format!("{device:#x}"))
}

fn structures_lie_in_bars(function: &Function, _: &Windows<Window>) -> Verdict {
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

fn structures_are_aligned(function: &Function, windows: &Windows<Window>) -> Verdict {
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
            holds(offset.is_multiple_of(align), &format!("offset of the {name}"), expected, format!("{offset:#x}"))?;
        }
    }
    Ok(())
}

fn capabilities_include_their_extra_data(function: &Function, _: &Windows<Window>) -> Verdict {
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

/// The capacity of a disk is the one field of 64 bits that a device of ours has.
fn halves_of_a_wide_field_are_read_alone(cx: &Context) -> Verdict {
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
}

fn notify_places_lie_inside(cx: &Context) -> Verdict {
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
}

fn num_queues_agrees_with_sizes(windows: &Windows<Window>) -> Verdict {
    let count = windows.common.read16(offset_of!(CommonConfig, num_queues));
    holds(count > 0, "num_queues", "1 or more", count)?;
    windows.common.write16(offset_of!(CommonConfig, queue_select), 0);
    let first = windows.common.read16(offset_of!(CommonConfig, queue_size));
    holds(first > 0, "size of queue 0", "1 or more", first)?;
    windows.common.write16(offset_of!(CommonConfig, queue_select), count);
    equal(&format!("size of queue {count}"), 0, windows.common.read16(offset_of!(CommonConfig, queue_size)))
}

fn queue_size_reads_back(cx: &Context) -> Verdict {
    each(cx, Bus::Pci, |target| {
        with_queue_0(target, |common| {
            common.write16(offset_of!(CommonConfig, queue_size), 4);
            equal("queue_size", 4, common.read16(offset_of!(CommonConfig, queue_size)))
        })
    })
}

fn reset_restores_queue_size(cx: &Context) -> Verdict {
    each(cx, Bus::Pci, |target| {
        let mut before = 0;
        with_queue_0(target, |common| {
            before = common.read16(offset_of!(CommonConfig, queue_size));
            common.write16(offset_of!(CommonConfig, queue_size), 4);
            Ok(())
        })?;
        with_queue_0(target, |common| equal("queue_size", before, common.read16(offset_of!(CommonConfig, queue_size))))
    })
}

fn queue_addresses_read_back(cx: &Context) -> Verdict {
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
}

/// `virtio_pci_cfg_cap`: a capability whose bar, offset and length the driver writes; data follows. Shows a field of the
/// common configuration there, and returns where its data is.
fn show(function: &Function, field: usize, width: u32) -> Result<u16, End> {
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

fn window_of_configuration_space_agrees(function: &Function, windows: &Windows<Window>) -> Verdict {
    let data = show(function, offset_of!(CommonConfig, num_queues), 2)?;
    let through = read(function, data) as u16;
    equal("num_queues", windows.common.read16(offset_of!(CommonConfig, num_queues)), through)
}

fn window_of_configuration_space_writes(function: &Function, windows: &Windows<Window>) -> Verdict {
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

fn memory_and_ports_agree(function: &Function, _: &Windows<Window>) -> Verdict {
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
    for offset in (0..SPACE).step_by(4).filter(|offset| !access.iter().any(|at| (at + 16..at + 20).contains(offset))) {
        // SAFETY: reading configuration space has no effect, but where it was left out.
        let by_ports = unsafe { ports.read(at, offset) };
        equal(&format!("register {offset:#x}"), by_ports, read(function, offset))?;
    }
    let before = read(function, INTERRUPT);
    // Nobody but software looks at the line's number.
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
