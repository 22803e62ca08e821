//! The split virtqueue, with the block and the entropy device to answer.

use super::{Check, row};

const FRAMING: &str = "2.7.4.1 Device Requirements: Message Framing";
const TABLE: &str = "2.7.5 The Virtqueue Descriptor Table";
const INDIRECT: &str = "2.7.5.3 Indirect Descriptors";
const AVAILABLE: &str = "2.7.6 The Virtqueue Available Ring";
const INTERRUPTS: &str = "2.7.7.2 Device Requirements: Used Buffer Notification Suppression";
const USED: &str = "2.7.8.2 Device Requirements: The Virtqueue Used Ring";
const NOTIFICATIONS: &str = "2.7.10.2 Device Requirements: Available Buffer Notification Suppression";
const STATUS: &str = "2.1.2 Device Requirements: Device Status Field";

/// The checks of this group.
pub const CHECKS: &[Check] = &[
    row(
        "queue/one-descriptor",
        "A chain may be one descriptor",
        TABLE,
        "One writable buffer for the entropy device",
        "It is used",
    ),
    row(
        "queue/three-descriptors",
        "A chain may have readable and writable parts",
        TABLE,
        "Header, sector, status",
        "Status OK",
    ),
    row(
        "queue/descriptors-in-descending-order",
        "Any free descriptors may form a chain",
        TABLE,
        "The same in descriptors 6, 3 and 1",
        "Status OK, id 6",
    ),
    row(
        "queue/header-in-two-parts",
        "A device makes no assumptions about how a message is divided",
        FRAMING,
        "Two descriptors of 8 bytes for the header",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/header-in-sixteen-parts",
        "A device makes no assumptions about how a message is divided; it may have a reasonable limit",
        FRAMING,
        "Sixteen descriptors of 1 byte for the header",
        "Status OK, data as from a plain read",
    )
    .should(),
    row(
        "queue/status-behind-data",
        "A device makes no assumptions about how a message is divided",
        FRAMING,
        "One descriptor for a sector and the status byte",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/header-before-data",
        "A device makes no assumptions about how a message is divided",
        FRAMING,
        "One descriptor for the header and a sector to write",
        "Status OK, and the sector reads back",
    ),
    row(
        "queue/many-small-parts",
        "A device makes no assumptions about how a message is divided",
        FRAMING,
        "A sector in 32 parts of 16 bytes, or as many as seg_max says; without seg_max what fails is advice",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/parts-of-odd-sizes-at-odd-addresses",
        "Buffers need no alignment",
        FRAMING,
        "A sector in parts of 1, 3, 127 and 381 bytes at odd addresses; without seg_max what fails is advice",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/part-across-a-page-boundary",
        "Buffers need no alignment",
        FRAMING,
        "A sector 100 bytes before the end of a page",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/longest-chain",
        "A chain may be as long as the queue; a device may have a reasonable limit",
        FRAMING,
        "As many writable bytes as the queue has entries, up to 256, one descriptor each",
        "Used length from 1 to that number",
    )
    .should(),
    row(
        "queue/indirect-chain",
        "An indirect table holds a chain",
        INDIRECT,
        "Header, sector, status in a table",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/indirect-table-of-one",
        "An indirect table may have one entry",
        INDIRECT,
        "One writable buffer in a table",
        "It is used",
    ),
    row(
        "queue/indirect-table-out-of-order",
        "Entries of an indirect table are linked by next",
        INDIRECT,
        "Header, sector, status in entries 0, 3 and 1 of a table of four",
        "Status OK",
    ),
    row(
        "queue/longest-indirect-chain",
        "An indirect chain may be as long as the queue; a device may have a reasonable limit",
        FRAMING,
        "As many writable bytes as the queue has entries, up to 256, in one table",
        "Used length from 1 to that number",
    )
    .should(),
    row(
        "queue/indirect-and-direct-mixed",
        "Indirect and plain chains may share a queue",
        INDIRECT,
        "Four of each in turn",
        "Every status OK",
    ),
    row(
        "queue/used-length-of-a-read",
        "The device writes at least as many bytes as the used length says; fewer may be counted",
        USED,
        "Read a sector",
        "At most 513; less is advice",
    ),
    row(
        "queue/used-length-of-a-write",
        "The device writes at least as many bytes as the used length says; fewer may be counted",
        USED,
        "Write a sector",
        "At most 1; less is advice",
    ),
    row(
        "queue/used-id-is-the-head",
        "The used id is the index of the first descriptor",
        USED,
        "Chains that start at 0, 5 and 9",
        "These ids",
    ),
    row(
        "queue/used-ring-is-written-in-turn",
        "Used elements are written one after the other",
        USED,
        "Two turns of a queue of 4",
        "The used index grows by one a request, each slot in turn",
    ),
    row(
        "queue/batch-with-one-notification",
        "A notification stands for all that is new",
        "2.7.13.3 Updating idx",
        "Eight requests, one notification",
        "Eight used elements, every status OK",
    ),
    row(
        "queue/heads-in-any-order",
        "The available ring holds heads in any order",
        AVAILABLE,
        "Chains at 9, 0, 6 and 3, in this order",
        "Each is used once",
    ),
    row(
        "queue/ids-are-reused",
        "A descriptor that was used is the driver's again",
        TABLE,
        "Twenty rounds of three chains, each in the descriptors that came back first",
        "Every status OK",
    ),
    row(
        "queue/small-size-works",
        "The driver may choose a smaller size",
        "2.6 Virtqueues",
        "Ten requests in a queue of 4",
        "Every status OK",
    ),
    row(
        "queue/size-of-one-works",
        "Any power of 2 is a queue size",
        "2.7 Split Virtqueues",
        "Four buffers through a queue of 1",
        "Each is used",
    ),
    row(
        "queue/largest-size-works",
        "The driver may choose the largest size",
        "2.6 Virtqueues",
        "A request in the last descriptors of a queue of the largest size",
        "Status OK",
    ),
    row(
        "queue/index-wraps-at-65536",
        "Ring indices wrap at 65536",
        AVAILABLE,
        "66000 requests, in batches, without event index",
        "Each is used; the indices agree",
    ),
    row(
        "queue/event-index-wraps-at-65536",
        "Event indices wrap with the ring indices",
        INTERRUPTS,
        "66000 requests, in batches, with event index, an interrupt asked for at the end of each of the last hundred batches before and all behind the wrap",
        "Each is used; no interrupt is missing",
    ),
    row(
        "queue/nothing-is-used-before-driver-ok",
        "A device consumes no buffers before DRIVER_OK",
        STATUS,
        "Offer and notify before DRIVER_OK, wait 20 ms",
        "The used index is 0",
    ),
    row(
        "queue/offered-before-driver-ok-is-served-after",
        "A device serves what it finds when it goes live",
        STATUS,
        "Offer, set DRIVER_OK, notify",
        "It is used",
    ),
    row(
        "queue/starts-over-after-a-reset",
        "After a reset both indices start at 0",
        "2.4.1 Device Requirements: Device Reset",
        "Three requests, a reset, a new queue, one request",
        "Used index 1, in slot 0",
    ),
    row(
        "queue/reset-with-requests-in-flight",
        "A reset may come at any time",
        "2.4.1 Device Requirements: Device Reset",
        "Offer eight reads, reset at once, start over, read",
        "The reset succeeds; the read is as a plain one; old rings do not change any more",
    ),
    row(
        "queue/spurious-notification-is-harmless",
        "A device handles notifications although there is nothing new",
        NOTIFICATIONS,
        "Ten notifications behind one request",
        "One used element",
    ),
    row(
        "queue/descriptors-are-left-alone",
        "The device does not write the descriptor table",
        "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        "Compare table and available ring before and behind a request",
        "Equal",
    ),
    row(
        "queue/readable-buffers-are-left-alone",
        "The device does not write buffers that it may only read",
        "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        "Compare header and data before and behind a write",
        "Equal",
    ),
    row(
        "queue/neighbours-are-left-alone",
        "A device writes only what it was given",
        "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        "Read a sector between two guards of 64 bytes",
        "The guards stay",
    ),
    row(
        "queue/no-interrupt-is-followed",
        "With NO_INTERRUPT set the device sends none",
        INTERRUPTS,
        "Ten requests with the flag set, without event index, then wait 5 ms",
        "No interrupt",
    )
    .should(),
    row(
        "queue/interrupt-without-the-flag",
        "Without NO_INTERRUPT the device sends one",
        INTERRUPTS,
        "Ten requests, one at a time",
        "An interrupt for each",
    ),
    row(
        "queue/event-index-asks-for-interrupts",
        "The device interrupts when the used index passes used_event",
        INTERRUPTS,
        "Ten requests, one at a time, used_event at each",
        "An interrupt for each",
    ),
    row(
        "queue/event-index-holds-interrupts-back",
        "The device does not interrupt before used_event",
        INTERRUPTS,
        "One request that interrupts, ten with used_event far ahead, then wait 5 ms",
        "No further interrupt",
    )
    .should(),
    row(
        "queue/event-index-holds-the-first-interrupt-back",
        "The device does not interrupt before used_event",
        INTERRUPTS,
        "The first request behind a reset, used_event far ahead, then wait 5 ms",
        "No interrupt",
    )
    .should(),
    row(
        "queue/event-index-in-the-middle",
        "The device interrupts when the used index passes used_event",
        INTERRUPTS,
        "One request that interrupts, eight one at a time, used_event at the fifth",
        "One interrupt, with the fifth; more are advice",
    ),
    row(
        "queue/event-index-overrules-the-flag",
        "With event index the flag is ignored",
        INTERRUPTS,
        "Five requests, one at a time, NO_INTERRUPT set and used_event at each",
        "An interrupt for each",
    ),
    row(
        "queue/idle-device-asks-for-notifications",
        "Without NO_NOTIFY a device wants to be told",
        NOTIFICATIONS,
        "A request without event index, wait until the device is idle",
        "Used flags 0",
    )
    .should(),
    row(
        "queue/idle-device-moves-avail-event",
        "avail_event tells when the device wants to be told",
        NOTIFICATIONS,
        "Three requests with event index, wait until the device is idle, each time",
        "avail_event is the available index",
    )
    .should(),
    row(
        "queue/direct-then-indirect",
        "A device handles normal descriptors followed by one that refers to an indirect table",
        "2.7.5.3.2 Device Requirements: Indirect Descriptors",
        "The header in a descriptor of the ring, sector and status in a table",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/write-flag-of-a-table-is-ignored",
        "A device ignores the write flag of a descriptor that refers to an indirect table",
        "2.7.5.3.2 Device Requirements: Indirect Descriptors",
        "A read whose table is referred to with the write flag set",
        "Status OK, data as from a plain read",
    ),
    row(
        "queue/zero-length-part-is-survived",
        "No text allows or forbids an empty buffer: a device serves it, or asks for a reset",
        TABLE,
        "A read with an empty buffer between header and sector; then, behind a reset, a plain one",
        "Status OK and the right data, or DEVICE_NEEDS_RESET; the plain read succeeds",
    )
    .should(),
    row(
        "queue/in-order-is-kept",
        "With IN_ORDER buffers are used in the order in which they were made available",
        "6.2 Device Requirements: Reserved Feature Bits",
        "Where offered: six rounds of five reads of 64, 1, 32, 1 and 8 sectors, in descriptors in ring order",
        "Ids in that order; one may stand for those before it",
    ),
];
