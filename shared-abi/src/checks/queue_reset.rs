//! Reset of one queue while its device lives (VIRTIO_F_RING_RESET).

use super::{Check, row};

const RESET: &str = "2.6.1.1.1 Device Requirements: Virtqueue Reset";
const ENABLE: &str = "2.6.1.2.1 Device Requirements: Virtqueue Re-enable";
const REGISTERS: &str = "4.1.4.3.1 Device Requirements: Common configuration structure layout; 4.2.2.1 Device Requirements: MMIO Device Register Layout";

/// The checks of this group, each on every device that offers the feature.
pub const CHECKS: &[Check] = &[
    row(
        "queue-reset/takes-the-queue-back",
        "A queue that was reset is not enabled",
        REGISTERS,
        "Reset queue 0 of a live device, wait for the reset register; then reset the device",
        "The reset register reads 0 before, behind and after the device's reset, the ready register behind; the device is live",
    ),
    row(
        "queue-reset/other-queues-stay",
        "A queue is reset alone",
        RESET,
        "Reset queue 0 of a device with two live queues, read the ready state of queue 1",
        "1",
    ),
    row(
        "queue-reset/nothing-is-used-after-it",
        "A device executes no requests of a queue that was reset",
        RESET,
        "Reset the queue, offer a buffer in the old rings, notify, wait 20 ms",
        "The used index stays, no interrupt but that of the buffer before, no DEVICE_NEEDS_RESET",
    ),
    row(
        "queue-reset/requests-in-flight-end",
        "A device executes no requests of a queue that was reset",
        RESET,
        "Offer eight buffers, reset the queue at once; once the reset register reads 0, compare the used ring with itself 20 ms later",
        "It does not change any more",
    ),
    row(
        "queue-reset/starts-over-with-other-rings",
        "A queue that was reset may be set up with other parameters",
        ENABLE,
        "Three requests, a reset of the queue, other rings of another size, two requests",
        "Used index 2, from slot 0 on; the old rings do not change",
    ),
    row(
        "queue-reset/works-again-and-again",
        "A queue may be reset at any time",
        RESET,
        "Ten times: reset the queue, set it up, have one buffer used",
        "Each is used",
    ),
    row(
        "queue-reset/receive-queue-goes-on",
        "A queue that was reset may be enabled again while others are in use",
        ENABLE,
        "Reset a card's receive queue with buffers in it, set it up anew, have a frame echoed",
        "The frame arrives in the new buffers, the old ones stay as they are",
    ),
];
