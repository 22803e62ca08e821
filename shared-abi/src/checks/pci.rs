//! Virtio over PCI: configuration space, capabilities, common configuration, MSI-X.

use super::{Check, row};

const DISCOVERY: &str = "4.1.2.1 Device Requirements: PCI Device Discovery";
const LAYOUT: &str = "4.1.3.2 Device Requirements: PCI Device Layout";
const CAPABILITIES: &str = "4.1.4 Virtio Structure PCI Capabilities";
const EXTRA: &str = "4.1.4.2 Device Requirements: Virtio Structure PCI Capabilities";
const COMMON: &str = "4.1.4.3.1 Device Requirements: Common configuration structure layout";
const NOTIFY: &str = "4.1.4.4.1 Device Requirements: Notification capability";
const ECAM: &str = "PCI Express 5.0, 7.2.2 PCI Express Enhanced Configuration Access Mechanism (ECAM); 4.1.1 Device Requirements: Virtio Over PCI Bus";
const ALIGNED: &str = "4.1.4.3.1 Device Requirements: Common configuration structure layout; 4.1.4.4.1 Device Requirements: Notification capability; 4.1.4.6.1 Device Requirements: Device-specific configuration";
const ACCESS: &str = "4.1.4.9.1 Device Requirements: PCI configuration access capability";
const VECTORS: &str = "4.1.5.1.2.1 Device Requirements: MSI-X Vector Configuration";

/// The checks of this group.
pub const CHECKS: &[Check] = transport_rows!("pci";
    row("pci/vendor-and-device-id-fit", "A modern device has vendor 0x1af4 and device id 0x1040 plus its type", DISCOVERY,
        "Read both from configuration space", "0x1af4, and 0x1041 to 0x107f"),
    row("pci/revision-is-at-least-1", "A non-transitional device has revision 1 or higher", DISCOVERY,
        "Read the revision id", "1 or more").should(),
    row("pci/subsystem-device-id-is-at-least-0x40", "A non-transitional device has Subsystem Device ID 0x40 or higher", DISCOVERY,
        "Read the Subsystem Device ID", "0x40 or more").should(),
    row("pci/capability-list-ends", "Capabilities form a list", "PCI Local Bus 3.0, 6.7 Capabilities List; 4.1.1 Device Requirements: Virtio Over PCI Bus",
        "Follow it for at most 48 steps", "It ends"),
    row("pci/structures-lie-in-bars-0-to-5", "A structure that a driver uses lies in a memory BAR that is there", CAPABILITIES,
        "Read bar of each of the four structures", "0 to 5"),
    row("pci/structures-are-aligned", "A structure starts at an aligned offset", ALIGNED,
        "Read offset of each common configuration, notification structure and device-specific configuration in a BAR that is there",
        "Multiples of 4, of 2 (of 4 with NOTIFICATION_DATA), of 4"),
    row("pci/capabilities-include-their-extra-data", "cap_len counts a capability to the end of its extra data", EXTRA,
        "Read cap_len of each of virtio's capabilities, look where the other capabilities start",
        "16 or more, 20 with a multiplier or with data, 24 of shared memory; no other one starts before its end"),
    row("pci/halves-of-a-wide-field-are-read-alone", "The halves of a field of 64 bits can be read independently", LAYOUT,
        "Reset and read only the high half of each disk's capacity, then only the low half, then both in either order",
        "The same halves each time"),
    row("pci/common-structure-is-long-enough", "The common configuration has at least 56 bytes", COMMON,
        "Read the length of its capability", "56 or more"),
    row("pci/notify-multiplier-is-0-or-an-even-power-of-2", "notify_off_multiplier is 0 or an even power of 2", NOTIFY,
        "Read it behind the notification capability", "0, or a power of 2 from 2 on"),
    row("pci/notify-places-lie-inside", "Where a queue is notified lies inside of the structure", NOTIFY,
        "Compute the place of each queue", "Two bytes fit for each"),
    row("pci/num-queues-agrees-with-sizes", "num_queues counts the queues", COMMON,
        "Compare it with the sizes of the queues below and at that number", "At num_queues the size is 0"),
    row("pci/feature-selector-reads-back", "device_feature_select is readable", COMMON,
        "Write 1 and 0, read after each", "As written"),
    row("pci/queue-size-reads-back", "A smaller queue size that the driver writes is taken", COMMON,
        "Write 4 to queue_size of queue 0", "Reads 4"),
    row("pci/reset-restores-queue-size", "A reset brings the largest queue size back", COMMON,
        "Write 4 to queue_size, reset, read", "As before the write"),
    row("pci/queue-addresses-read-back", "Queue addresses are readable", COMMON,
        "Write an address to queue_desc of queue 0, read both halves", "As written"),
    row("pci/vectors-are-none-at-first", "After a reset no vector is assigned", VECTORS,
        "Reset, read config_msix_vector and queue_msix_vector", "0xffff"),
    row("pci/vectors-read-back", "A vector that the device has is taken", VECTORS,
        "Write 1 to queue_msix_vector and 0 to config_msix_vector", "As written"),
    row("pci/vector-beyond-the-table-is-refused", "A vector that the device does not have becomes NO_VECTOR", VECTORS,
        "Write 0x7fe to queue_msix_vector", "0xffff"),
    row("pci/every-vector-can-be-mapped", "Any event can be mapped to any vector of the table", VECTORS,
        "Write each vector of the table to queue_msix_vector and config_msix_vector", "As written"),
    row("pci/vectors-can-be-unmapped", "Any event can be unmapped", VECTORS,
        "Map both events, write 0xffff to queue_msix_vector and config_msix_vector", "0xffff"),
    row("pci/vector-table-has-2-to-2048-entries", "A device with MSI-X has at least 2 and at most 0x800 vectors", VECTORS,
        "Read Table Size in the MSI-X capability", "1 to 0x7ff, which is one less").should(),
    row("pci/queue-without-a-vector-stays-quiet", "A queue whose vector is NO_VECTOR does not interrupt",
        "4.1.5.3.1 Device Requirements: Used Buffer Notifications",
        "Have the entropy device use a buffer with NO_VECTOR for its queue, wait 20 ms; then one with a vector",
        "No interrupt; then one"),
    row("pci/window-of-configuration-space-agrees", "VIRTIO_PCI_CAP_PCI_CFG gives access to the structures",
        ACCESS, "Read num_queues through it and through the BAR", "Equal"),
    row("pci/window-of-configuration-space-writes", "A write to pci_cfg_data is carried out in the BAR",
        ACCESS, "Write device_feature_select (4 bytes) and queue_select (2 bytes) through it, read both through the BAR",
        "As written"),
    row("pci/memory-and-ports-agree", "The 256 bytes that the ports reach are the same ones in memory (ECAM)", ECAM,
        "Read all of them both ways, the access window aside; write the interrupt line by one way, read it by the other",
        "Equal"),
);
