//! What no driver should send. Each check runs in a virtual machine of its own, and its report has a
//! [`Handling`](crate::report::Handling): the specification leaves open what a device makes of such a driver, so a device
//! that has handled or rejected it passes, and one that is wedged or has crashed does not.
//!
//! The clause is the one that the guest breaks, or whose room it uses.

use super::{Check, row};

/// The group's name.
pub const GROUP: &str = "hostile";
/// The key on the kernel's command line: `hostile=NAME`, the name without its group.
pub const KEY: &str = "hostile";
/// `hostile=seeds:A..B` plays the scripts of these seeds under the name of [`SEEDED`].
pub const SEEDS: &str = "seeds:";
/// The check that plays scripts.
pub const SEEDED: &str = "hostile/seeded-scripts";

const TABLE: &str = "2.7.5 The Virtqueue Descriptor Table";
const FRAMING: &str = "2.7.4.2 Driver Requirements: Message Framing";
const INDIRECT: &str = "2.7.5.3.1 Driver Requirements: Indirect Descriptors";
const AVAILABLE: &str = "2.7.6 The Virtqueue Available Ring";
const INDEX: &str = "2.7.13.3 Updating idx";
const LAYOUT: &str = "2.7 Split Virtqueues";
const SETUP: &str = "3.1.1 Driver Requirements: Device Initialization";
const REGISTERS: &str =
    "4.2.2.2 Driver Requirements: MMIO Device Register Layout; 4.1.3.1 Driver Requirements: PCI Device Layout";
const CONFIG: &str = "2.5.1 Driver Requirements: Device Configuration Space";
const BLOCK: &str = "5.2.6.1 Driver Requirements: Device Operation";
const NET: &str = "5.1.9.2.1 Driver Requirements: Packet Transmission";
const BALLOON: &str = "5.5.6.1 Driver Requirements: Device Operation";
const PCI: &str = "4.1.4 Virtio Structure PCI Capabilities";
const MACHINE: &str = "none: of the machine, not of Virtio";

const fn attack(name: &'static str, rule: &'static str, clause: &'static str, method: &'static str) -> Check {
    row(
        name,
        rule,
        clause,
        method,
        "Handled or rejected: after a reset at the latest the device serves a well-formed request, and another device always does",
    )
}

const LOOP: &str = "A chain has an end";
const INSIDE: &str = "Buffers lie in memory";
const INDIRECT_FORM: &str = "An indirect table is a whole number of descriptors, alone in its chain, and not nested";
const PLACED: &str = "Rings lie in memory, aligned, apart, and have a size that the device offered";
const ORDER: &str = "A queue is set up once, before DRIVER_OK, and left alone while it is live";
const REQUEST: &str =
    "A block request has a header, whole sectors of the disk, and a status byte that the device can write";
const FRAME: &str = "A frame has a header, a sensible length, and names only negotiated offloads";
const PAGES: &str = "The balloon gets numbers of pages that the guest has and does not use";

/// The checks of this group.
pub const CHECKS: &[Check] = &[
    attack("hostile/chain-loops-to-itself", LOOP, TABLE, "Descriptor 0 says that descriptor 0 is next"),
    attack("hostile/chain-loops-over-two", LOOP, TABLE, "Descriptors 0 and 1 name each other"),
    attack("hostile/chain-next-out-of-range", LOOP, TABLE, "A descriptor's next is 0xffff"),
    attack("hostile/chain-next-just-past-the-table", LOOP, TABLE, "The last descriptor's next is the queue's size"),
    attack(
        "hostile/chain-writable-before-readable",
        "Readable buffers come before writable ones",
        FRAMING,
        "A block request with its status in front",
    ),
    attack(
        "hostile/chain-of-empty-buffers",
        "Buffers have bytes",
        TABLE,
        "A block request of three buffers of length 0",
    ),
    attack(
        "hostile/chain-of-4-gib",
        "A chain is shorter than 4 GiB",
        FRAMING,
        "A chain of as many buffers as the queue has entries, 16 MiB each, to the end of memory and beyond",
    ),
    attack("hostile/buffer-beyond-memory", INSIDE, TABLE, "A buffer at 32 TiB, readable and writable"),
    attack("hostile/buffer-address-wraps", INSIDE, TABLE, "A buffer of 4096 bytes at 2^64 - 8"),
    attack("hostile/buffer-of-4-gib", INSIDE, TABLE, "A writable buffer of 0xffffffff bytes that starts in memory"),
    attack(
        "hostile/buffer-over-device-registers",
        INSIDE,
        TABLE,
        "A readable buffer at the registers of the device or of the I/O APIC",
    ),
    attack("hostile/buffer-over-firmware", INSIDE, TABLE, "A writable buffer in the last page below 4 GiB"),
    attack(
        "hostile/buffer-over-own-ring",
        "Buffers and rings lie apart",
        TABLE,
        "The entropy device's buffer covers all three parts of its own queue",
    ),
    attack(
        "hostile/indirect-inside-indirect",
        INDIRECT_FORM,
        INDIRECT,
        "An indirect table's entry is indirect again, and refers to that table",
    ),
    attack("hostile/indirect-length-no-multiple-of-16", INDIRECT_FORM, INDIRECT, "Tables of 24 and of 15 bytes"),
    attack("hostile/indirect-of-no-bytes", INDIRECT_FORM, INDIRECT, "A table of length 0"),
    attack("hostile/indirect-with-next", INDIRECT_FORM, INDIRECT, "A descriptor with INDIRECT and NEXT"),
    attack(
        "hostile/indirect-not-negotiated",
        "INDIRECT is used only when it was negotiated",
        INDIRECT,
        "A well-formed table without the feature",
    ),
    attack("hostile/indirect-outside-memory", INDIRECT_FORM, INDIRECT, "A table at 32 TiB, and one at 2^64 - 16"),
    attack("hostile/indirect-loops", INDIRECT_FORM, INDIRECT, "A table whose entries name each other"),
    attack(
        "hostile/indirect-longer-than-the-queue",
        "A chain is no longer than the queue",
        INDIRECT,
        "A table of 4096 entries of one byte, all chained",
    ),
    attack(
        "hostile/available-index-jumps",
        "The index grows by what was offered",
        INDEX,
        "The index jumps by the queue's size and one",
    ),
    attack("hostile/available-index-goes-back", "The index never goes back", INDEX, "The index goes back by one"),
    attack(
        "hostile/head-out-of-range",
        "A head is a descriptor of the table",
        AVAILABLE,
        "Heads: the queue's size, and 0xffff",
    ),
    attack(
        "hostile/same-head-twice",
        "A chain is offered once at a time",
        AVAILABLE,
        "Eight entries with the same head",
    ),
    attack(
        "hostile/ring-garbage",
        "Rings hold what a driver put there",
        AVAILABLE,
        "The whole table and the available ring filled with 0xff, then with 0x5a, each notified",
    ),
    attack("hostile/rings-outside-memory", PLACED, LAYOUT, "All parts at 32 TiB, then at 2^64 - 16"),
    attack("hostile/rings-misaligned", PLACED, LAYOUT, "Table, available and used ring at odd addresses"),
    attack(
        "hostile/rings-over-device-registers",
        PLACED,
        LAYOUT,
        "The rings at the registers of the device or of the I/O APIC",
    ),
    attack("hostile/rings-in-one-place", PLACED, LAYOUT, "All three parts at one address, with requests in them"),
    attack("hostile/queue-size-0", PLACED, LAYOUT, "A queue of size 0 is made live and notified"),
    attack("hostile/queue-size-no-power-of-2", PLACED, LAYOUT, "A queue of size 7 is made live and notified"),
    attack("hostile/queue-size-past-the-maximum", PLACED, LAYOUT, "A queue of size 0xffff is made live and notified"),
    attack(
        "hostile/ring-moved-while-live",
        ORDER,
        SETUP,
        "Size and addresses of a live queue change, with requests in flight",
    ),
    attack(
        "hostile/queue-taken-back-in-flight",
        ORDER,
        SETUP,
        "A live queue is made not ready and ready again, with requests in flight",
    ),
    attack(
        "hostile/notify-before-driver-ok",
        ORDER,
        SETUP,
        "A request is notified before DRIVER_OK, and before the queue is ready",
    ),
    attack(
        "hostile/notify-of-missing-queues",
        "Only queues that exist are notified",
        "2.9 Driver Notifications",
        "Notifications of queues 2 to 0xffff in steps",
    ),
    attack(
        "hostile/notify-after-reset",
        ORDER,
        "2.4.1 Device Requirements: Device Reset",
        "Requests are published, the device is reset, then notified a hundred times",
    ),
    attack(
        "hostile/notify-storm",
        "Notifications are for new buffers",
        "2.9 Driver Notifications",
        "Five hundred notifications without a buffer",
    ),
    attack(
        "hostile/reset-in-flight",
        "A reset takes all buffers back",
        "2.4.1 Device Requirements: Device Reset",
        "Twenty times eight requests and a reset at once; then nothing is written any more",
    ),
    attack(
        "hostile/features-garbage",
        "A driver accepts what was offered",
        "2.2.1 Driver Requirements: Feature Bits",
        "Selectors and feature words of all ones, then DRIVER_OK all the same",
    ),
    attack(
        "hostile/status-garbage",
        "Status bits are set one step at a time",
        "2.1.1 Driver Requirements: Device Status Field",
        "Every value of the status from a reset, and DRIVER_OK without anything before it",
    ),
    attack(
        "hostile/registers-of-odd-width",
        "Registers are accessed by their own width",
        REGISTERS,
        "Accesses of 1, 2, 4 and 8 bytes to every offset, also between registers",
    ),
    attack(
        "hostile/registers-read-only-written",
        "Read-only registers stay",
        REGISTERS,
        "Each of them is written; then they read as before",
    ),
    attack(
        "hostile/config-space-written",
        "A driver writes only fields that say so",
        CONFIG,
        "All of the configuration space is written, in widths 1 and 4",
    ),
    attack(
        "hostile/block-type-unknown",
        "There are only so many request types",
        BLOCK,
        "Types 0xdeadbeef, 3 and 0x80000000",
    ),
    attack("hostile/block-without-status", REQUEST, BLOCK, "A header and nothing that the device could write"),
    attack("hostile/block-status-readable", REQUEST, BLOCK, "The status byte lies in a readable buffer"),
    attack("hostile/block-header-short", REQUEST, BLOCK, "Headers of 0, 1, 8 and 15 bytes"),
    attack(
        "hostile/block-header-in-single-bytes",
        "Legal, though no driver does it: framing is the driver's choice",
        FRAMING,
        "A header in 16 buffers of one byte",
    ),
    attack("hostile/block-sector-past-the-end", REQUEST, BLOCK, "Reads and writes at, across and far behind the end"),
    attack(
        "hostile/block-sector-overflows",
        REQUEST,
        BLOCK,
        "Sectors 2^64 - 1 and 2^55, whose bytes do not fit 64 bits",
    ),
    attack("hostile/block-length-no-sectors", REQUEST, BLOCK, "Reads and writes of 1, 511 and 513 bytes"),
    attack("hostile/block-write-of-writable-data", REQUEST, BLOCK, "A write whose data only the device may write"),
    attack("hostile/block-read-into-readable", REQUEST, BLOCK, "A read whose data only the driver may write"),
    attack(
        "hostile/block-segments-garbage",
        "Ranges to discard or zero lie on the disk",
        BLOCK,
        "Segments past the end, of all ones, cut off, and too many",
    ),
    attack("hostile/block-id-short", "An id has 20 bytes", BLOCK, "An id is asked for with 0 and with 4 bytes"),
    attack("hostile/net-without-header", FRAME, NET, "Packets of 0, 1 and 11 bytes"),
    attack("hostile/net-header-alone", FRAME, NET, "A header without a frame, and with one byte"),
    attack("hostile/net-frame-huge", FRAME, NET, "Frames of 64 KiB and of 1 MiB"),
    attack(
        "hostile/net-offloads-bogus",
        FRAME,
        NET,
        "Headers of all ones, of every kind of segmentation, with lengths of 0 and 0xffff, none negotiated",
    ),
    attack(
        "hostile/net-offloads-negotiated-and-bogus",
        FRAME,
        NET,
        "The same with everything negotiated that is offered",
    ),
    attack("hostile/net-transmit-writable", FRAME, NET, "A frame in a buffer that only the device may write"),
    attack(
        "hostile/net-receive-useless",
        "Receive buffers are writable and hold a frame",
        "5.1.9.3.1 Driver Requirements: Setting Up Receive Buffers",
        "Receive buffers of 1 byte and readable ones, and a request for an answer",
    ),
    attack(
        "hostile/balloon-pages-outside-memory",
        PAGES,
        BALLOON,
        "Page numbers past the end of memory, at device registers, and 0xffffffff, in and out",
    ),
    attack("hostile/balloon-odd-length", PAGES, BALLOON, "Arrays of 1, 3 and 5 bytes"),
    attack(
        "hostile/balloon-own-rings",
        PAGES,
        BALLOON,
        "The pages of its own rings and of the array of numbers go into the balloon",
    ),
    attack("hostile/balloon-same-page-again-and-again", PAGES, BALLOON, "One page 4096 times in, 8192 times out"),
    attack(
        "hostile/balloon-statistics-garbage",
        "Statistics are whole entries",
        "5.5.6.3 Memory Statistics",
        "Statistics of 1 byte, of all ones, and eight buffers at once",
    ),
    attack(
        "hostile/rng-readable-only",
        "The entropy device gets writable buffers",
        "5.4.6.1 Driver Requirements: Device Operation",
        "A readable buffer, and one of length 0",
    ),
    attack(
        "hostile/console-output-writable",
        "Output lies in readable buffers",
        "5.3.6.1 Driver Requirements: Device Operation",
        "A writable buffer on the transmit queue, a readable one on the receive queue, all of the configuration written",
    ),
    attack(
        "hostile/pci-bar-moved",
        "A BAR is not moved under a live device",
        PCI,
        "With a request in flight each BAR goes to 0xffffffff, to 0 and back, decoding on and off",
    ),
    attack(
        "hostile/pci-bus-master-off",
        "A device that is to work is bus master",
        PCI,
        "A request with bus mastering off, then on",
    ),
    attack(
        "hostile/pci-access-window-garbage",
        "The access window names a BAR and a length of 1, 2 or 4",
        "4.1.4.9.2 Driver Requirements: PCI configuration access capability",
        "BARs 0 to 255, offsets to 2^32 - 1 and lengths 0, 3, 8, 2^32 - 1, data read and written each time",
    ),
    attack(
        "hostile/pci-vector-out-of-range",
        "Vectors are entries of the MSI-X table",
        "4.1.5.1.2 MSI-X Vector Configuration",
        "Vectors 0x7ff and 0x7fff for queue and configuration, then a request",
    ),
    attack(
        "hostile/ports-of-nobody",
        "Ports that no device has are left alone",
        MACHINE,
        "Reads and writes of every width, strings too, to ports that nothing has",
    ),
    attack(
        "hostile/ports-of-wrong-width",
        "Ports are accessed by their own width",
        MACHINE,
        "Accesses of 2 and 4 bytes to the last register of the serial port, of 1, 2 and 4 bytes at and around the board's exit port",
    ),
    attack(
        "hostile/memory-of-nobody",
        "Addresses that nothing has are left alone",
        MACHINE,
        "Reads and writes of every width in the device window, where nothing is",
    ),
    attack(
        SEEDED,
        "A driver does not play dice",
        "2.7 Split Virtqueues",
        "Scripts of seeds 0 to 99, each on one device: registers, rings and notifications by chance; a reset and a well-formed request behind each",
    ),
];
