//! Virtio over MMIO: the registers.

use super::{Check, row};

const LAYOUT: &str = "4.2.2 MMIO Device Register Layout";
const DEVICE: &str = "4.2.2.1 Device Requirements: MMIO Device Register Layout";

/// Binds the driver alone: what the device does about it is its own.
const DRIVER: &str = "4.2.2.2 Driver Requirements: MMIO Device Register Layout";

/// The checks of this group.
pub const CHECKS: &[Check] = transport_rows!("mmio";
    row("mmio/magic-reads-virt", "The magic register holds \"virt\"", DEVICE, "Read MagicValue", "0x74726976"),
    row("mmio/version-is-2", "A modern device says version 2", DEVICE, "Read Version", "2"),
    row("mmio/device-id-is-stable", "The device id is a constant", LAYOUT, "Read DeviceID before and after a reset", "Equal and not 0"),
    row("mmio/vendor-id-is-stable", "The vendor id is a constant", LAYOUT, "Read VendorID before and after a reset", "Equal"),
    row("mmio/constants-refuse-writes", "Identification registers are read-only", DRIVER,
        "Write all ones to MagicValue, Version, DeviceID and VendorID", "They read as before").should(),
    row("mmio/reserved-offsets-are-harmless", "An access to an offset without a register has no effect", DRIVER,
        "Read and write 0x018, 0x048, 0x068 and 0x0d0 of a live device", "Status and queue 0 stay as they are").should(),
    row("mmio/write-only-registers-are-harmless-to-read", "Reading a write-only register has no effect", DRIVER,
        "Read QueueSel, QueueNotify, InterruptACK and the address registers of a live device", "Status and queue 0 stay as they are").should(),
    row("mmio/absent-shared-memory-has-length-all-ones", "A shared memory region that is not there has length -1", DEVICE,
        "Select region 200 and read SHMLenLow and SHMLenHigh", "0xffffffff in both"),
    row("mmio/acknowledging-nothing-is-harmless", "Acknowledging bits that are not pending has no effect", DRIVER,
        "Write 3 to InterruptACK of a live device with nothing pending", "Interrupt status 0, no DEVICE_NEEDS_RESET").should(),
    row("mmio/used-buffer-sets-interrupt-status", "Bit 0 of the interrupt status says that a buffer was used", LAYOUT,
        "Let the device use a buffer, read InterruptStatus", "Bit 0 is set"),
    row("mmio/acknowledge-clears-interrupt-status", "Acknowledged bits are pending no more", DEVICE,
        "Let the device use a buffer, write 1 to InterruptACK", "InterruptStatus reads 0"),
    row("mmio/acknowledge-clears-only-its-bits", "Bits that were not acknowledged stay pending", LAYOUT,
        "Let the device use a buffer, write 2 to InterruptACK", "Bit 0 of InterruptStatus is still set"),
    row("mmio/reset-clears-interrupt-status", "A reset clears all bits of the interrupt status", DEVICE,
        "Let the device use a buffer, reset", "InterruptStatus reads 0"),
);
