//! The virtio console. The harness listens and types at its other end.

use super::{Check, row};

const OPERATION: &str = "5.3.6 Device Operation";
const LAYOUT: &str = "5.3.4 Device configuration layout";
const INITIALIZATION: &str = "5.3.5.1 Device Requirements: Device Initialization";
const MULTIPORT: &str = "5.3.6.2 Multiport Device Operation";
const PORTS: &str = "5.3.6.2.1 Device Requirements: Multiport Device Operation";
const FRAMING: &str = "2.7.4.1 Device Requirements: Message Framing";

/// The checks of this group.
pub const CHECKS: &[Check] = &[
    row("console/output-is-taken", "Output is consumed", OPERATION, "Send a line", "Used, with length 0"),
    row(
        "console/output-in-parts-is-taken",
        "A device makes no assumptions about how a message is divided",
        FRAMING,
        "Send a line in three descriptors",
        "Used, with length 0",
    ),
    row(
        "console/outputs-in-flight-are-all-taken",
        "Buffers in flight are all consumed",
        OPERATION,
        "Send 8 lines with one notification",
        "Eight used elements, each id once",
    ),
    row(
        "console/long-output-is-taken",
        "A buffer may be longer than a page",
        OPERATION,
        "Send 20,000 bytes in one descriptor",
        "Used, with length 0",
    ),
    row("console/size-is-readable", "cols and rows are valid with SIZE", LAYOUT, "Read them, where offered", "Stable"),
    row(
        "console/only-two-queues-without-multiport",
        "Other queues than those of port 0 exist only with MULTIPORT",
        "5.3.2 Virtqueues",
        "Where MULTIPORT is not offered, read the size of queues 2 and 4",
        "0",
    ),
    row(
        "console/emergency-write-needs-no-driver",
        "A write to emerg_wr is allowed on an unconfigured device",
        INITIALIZATION,
        "Reset, write a line to emerg_wr, then drive the device as usual",
        "Status 0 behind the write; output is taken",
    ),
    row(
        "console/emergency-write-is-heard",
        "The lower byte of emerg_wr is output",
        INITIALIZATION,
        "Write a text to emerg_wr byte by byte; who hears it types it back",
        "The same text arrives",
    )
    .should(),
    row(
        "console/input-arrives",
        "The contents of a used receive buffer is the input",
        OPERATION,
        "Have a text typed",
        "It arrives, no byte more and none less",
    ),
    row(
        "console/input-arrives-in-small-buffers",
        "Input goes on in the next buffer",
        OPERATION,
        "Have 12 bytes typed with receive buffers of 4 bytes",
        "The text, in order; no used length above 4",
    ),
    row(
        "console/nothing-behind-the-input",
        "A device writes no more than it says",
        "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        "Fill the receive buffer with 0xa5 before a text is typed",
        "0xa5 behind the used length",
    ),
    row(
        "console/no-input-uses-no-buffer",
        "A receive buffer is used when there is input",
        OPERATION,
        "Offer buffers, wait 50 ms without input",
        "The used index stays 0",
    ),
    row(
        "console/input-interrupts",
        "A used receive buffer is signalled",
        OPERATION,
        "Have a text typed, count interrupts",
        "At least one",
    ),
    row(
        "console/output-is-heard",
        "Output leaves the machine as it was sent",
        OPERATION,
        "Send a text in two buffers; who hears it types it back",
        "The same text arrives",
    ),
    row(
        "console/ports-are-announced",
        "Active ports are announced with PORT_ADD once the driver is ready",
        PORTS,
        "Where MULTIPORT is offered, send DEVICE_READY",
        "PORT_ADD with ids below max_nr_ports, each once",
    ),
    row(
        "console/console-port-is-nominated",
        "The device nominates a console port",
        MULTIPORT,
        "Answer PORT_ADD of port 0 with PORT_READY",
        "CONSOLE_PORT for port 0",
    ),
];
