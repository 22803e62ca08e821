//! The block device.

use super::{Check, row};

const LAYOUT: &str = "5.2.4 Device configuration layout";
const OPERATION: &str = "5.2.6 Device Operation";
const DEVICE: &str = "5.2.6.2 Device Requirements: Device Operation";
/// Binds the driver alone: what the device does about it is its own.
const DRIVER: &str = "5.2.6.1 Driver Requirements: Device Operation";
const INIT: &str = "5.2.5.2 Device Requirements: Device Initialization";
const FEATURES: &str = "5.2.3 Feature bits";

/// The checks of this group.
pub const CHECKS: &[Check] = &[
    row("block/capacity-is-not-0", "capacity is the number of 512-byte sectors", LAYOUT, "Read it", "1 or more")
        .should(),
    row("block/seg-max-is-valid", "seg_max leaves room for data", LAYOUT, "Read it, where offered", "1 to 32768"),
    row(
        "block/blk-size-is-valid",
        "blk_size is the optimal size of a sector",
        LAYOUT,
        "Read it, where offered",
        "A power of 2 from 512 on",
    )
    .should(),
    row(
        "block/topology-is-valid",
        "Topology counts blocks",
        LAYOUT,
        "Read it, where offered",
        "An exponent below 16, an alignment offset inside of the block",
    )
    .should(),
    row("block/read-succeeds", "A read fills the buffer", OPERATION, "Read sector 0", "Status OK"),
    row("block/reads-agree", "What is not written does not change", OPERATION, "Read sector 0 twice", "The same"),
    row(
        "block/large-read-agrees-with-small-ones",
        "A read may be many sectors",
        OPERATION,
        "Read 64 KiB at once and sector by sector",
        "The same",
    ),
    row(
        "block/last-sector-reads",
        "Sectors count from 0 to the capacity",
        OPERATION,
        "Read the last sector",
        "Status OK",
    ),
    row(
        "block/status-byte-is-written",
        "The device writes the status byte",
        DEVICE,
        "Preset it with 0xaa, read a sector",
        "0",
    ),
    row(
        "block/write-reads-back",
        "A write stores the buffer",
        OPERATION,
        "Write a pattern to the last sector, read it",
        "The pattern",
    ),
    row(
        "block/large-write-reads-back",
        "A write may be many sectors",
        OPERATION,
        "Write 16 KiB, read sector by sector",
        "The pattern",
    ),
    row(
        "block/write-in-parts-reads-back",
        "A write may have many buffers",
        OPERATION,
        "Write 8 sectors from 8 buffers in reverse memory order; without seg_max a refusal is advice",
        "Each where it belongs",
    ),
    row(
        "block/write-touches-its-sectors-only",
        "A write changes the sectors that it names",
        OPERATION,
        "Write sector 1 of three",
        "Sectors 0 and 2 stay",
    ),
    row(
        "block/overwrite-wins",
        "The last write is what is read",
        OPERATION,
        "Write two patterns one after the other",
        "The second",
    ),
    row(
        "block/writes-in-flight-all-arrive",
        "Requests in flight are all served",
        OPERATION,
        "Eight writes to eight sectors with one notification",
        "Each reads back",
    ),
    row(
        "block/reads-in-flight-do-not-mix",
        "Requests in flight are served apart",
        OPERATION,
        "Sixteen reads of different sectors with one notification",
        "Each as from a plain read",
    ),
    row(
        "block/flush-succeeds",
        "A flush is answered",
        DEVICE,
        "Flush",
        "Status OK, used length at most 1; less is advice",
    ),
    row(
        "block/flush-behind-writes-succeeds",
        "A flush makes completed writes stable",
        DEVICE,
        "Write, flush, read",
        "Status OK thrice, and the pattern",
    ),
    row(
        "block/flushed-data-outlives-a-reset",
        "A flush makes completed writes stable",
        DEVICE,
        "Write, flush, reset the device, start over, read",
        "Status OK thrice, and the pattern",
    ),
    row(
        "block/id-succeeds",
        "GET_ID fills 20 bytes",
        OPERATION,
        "Ask for the id twice",
        "Status OK, printable up to the first NUL, the same twice",
    ),
    row(
        "block/unknown-type-is-unsupported",
        "A request that the device does not know is UNSUPP",
        DEVICE,
        "Types 0x7fff and 0xffffffff without data",
        "Status 2",
    ),
    row(
        "block/unknown-type-with-data-is-unsupported",
        "A request that the device does not know is UNSUPP",
        DEVICE,
        "Type 0x7fff with a writable sector",
        "Status 2",
    ),
    row(
        "block/read-beyond-the-end-fails",
        "A read beyond the capacity fails",
        DRIVER,
        "Read the sector at capacity",
        "Status 1",
    )
    .should(),
    row(
        "block/read-across-the-end-fails",
        "A read beyond the capacity fails",
        DRIVER,
        "Read two sectors from the last on",
        "Status 1",
    )
    .should(),
    row(
        "block/read-of-sector-2-to-64-fails",
        "A sector number does not wrap",
        DRIVER,
        "Read sector 0xffffffffffffffff and 2^55",
        "Status 1",
    )
    .should(),
    row(
        "block/write-beyond-the-end-fails",
        "A write beyond the capacity fails",
        DRIVER,
        "Write the sector at capacity",
        "Status 1; the capacity stays",
    )
    .should(),
    row(
        "block/write-across-the-end-changes-nothing-inside",
        "A request that fails for its range is not half done",
        DRIVER,
        "Write two sectors from the last on",
        "Status 1; the last sector stays",
    )
    .should(),
    row(
        "block/length-that-is-no-sector-fails",
        "Data is a multiple of 512 bytes",
        DRIVER,
        "Read 100 bytes",
        "Not status 0",
    )
    .should(),
    row(
        "block/used-length-of-a-failed-read",
        "The used length counts bytes that were written from the first writable one on",
        "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        "Preset a sector with 0x5a, then with 0xa5, read beyond the end",
        "A used length up to the first byte that was not written: 0 if none was, although the status was",
    ),
    row(
        "block/goes-on-after-errors",
        "An error ends a request, not the device",
        DEVICE,
        "Ten requests of unknown types, with and without data, then a read",
        "Status OK, no DEVICE_NEEDS_RESET",
    ),
    row("block/discard-succeeds", "A discard is answered", OPERATION, "Discard 8 sectors", "Status OK"),
    row(
        "block/discard-leaves-neighbours",
        "A discard touches the sectors that it names",
        OPERATION,
        "Discard the middle 8 of 24 sectors",
        "The others stay",
    ),
    row(
        "block/discard-beyond-the-end-fails",
        "A discard beyond the capacity fails",
        DRIVER,
        "Discard 8 sectors from the last on",
        "Not status 0",
    )
    .should(),
    row(
        "block/discard-with-unmap-is-unsupported",
        "The unmap flag of a discard is UNSUPP",
        DEVICE,
        "Discard with flags 1",
        "Status 2",
    ),
    row(
        "block/discard-limits-are-valid",
        "Limits of discard leave room",
        LAYOUT,
        "Read max_discard_sectors and max_discard_seg",
        "1 or more",
    ),
    row(
        "block/write-zeroes-zeroes",
        "Write zeroes makes sectors read as zero",
        DEVICE,
        "Write a pattern, then zeroes to 8 sectors, without unmap",
        "Zero",
    ),
    row(
        "block/write-zeroes-with-unmap-zeroes",
        "Sectors read as zero with unmap too",
        DEVICE,
        "The same with unmap",
        "Zero",
    ),
    row(
        "block/write-zeroes-leaves-neighbours",
        "Write zeroes touches the sectors that it names",
        OPERATION,
        "Zero the middle 8 of 24 sectors",
        "The others stay",
    ),
    row(
        "block/write-zeroes-of-two-ranges",
        "A request may name as many ranges as max_write_zeroes_seg says",
        OPERATION,
        "Two ranges in one request, where allowed",
        "Both zero, the sector between stays",
    ),
    row(
        "block/write-zeroes-beyond-the-end-fails",
        "Write zeroes beyond the capacity fails",
        DRIVER,
        "Zero 8 sectors from the last on",
        "Not status 0; the last sector stays",
    )
    .should(),
    row(
        "block/write-zeroes-with-unknown-flags-is-unsupported",
        "Unknown flags are UNSUPP",
        DEVICE,
        "Flags 0x80",
        "Status 2",
    ),
    row(
        "block/write-zeroes-limits-are-valid",
        "Limits of write zeroes leave room",
        LAYOUT,
        "Read max_write_zeroes_sectors and max_write_zeroes_seg",
        "1 or more",
    ),
    row(
        "block/zeroes-then-write-keeps-the-write",
        "Requests that follow each other take effect in order",
        OPERATION,
        "Zero a sector, wait, write it, wait, read",
        "The pattern",
    ),
    row(
        "block/read-only-disk-refuses-writes",
        "A read-only device fails writes",
        DEVICE,
        "Write a sector of a disk that offers RO, read it",
        "Status 1; the sector stays",
    ),
    row(
        "block/read-only-disk-refuses-ranges",
        "A read-only device changes nothing",
        DEVICE,
        "Discard and zero a sector of a disk that offers RO, read it",
        "Status 1 or 2 for the second, any for the first; the sector stays",
    ),
    row(
        "block/read-only-disk-serves-the-rest",
        "A read-only device serves all but writes",
        OPERATION,
        "Read the first and the last sector, ask for the id, flush where offered",
        "Status OK each time",
    ),
    row(
        "block/writeback-reads-as-written",
        "The cache mode is 0 or 1",
        INIT,
        "Write 0 and 1 to writeback, where CONFIG_WCE is offered",
        "As written",
    ),
    row(
        "block/each-queue-answers",
        "A device with MQ serves every queue",
        FEATURES,
        "Read sector 0 through each queue, where MQ is offered",
        "Status OK on each",
    ),
    row(
        "block/seg-max-segments-are-taken",
        "A request may have seg_max buffers",
        LAYOUT,
        "A read of seg_max sectors, one buffer each (as far as queue and disk allow)",
        "Status OK",
    ),
    row(
        "block/queues-serve-at-once",
        "A device with MQ serves every queue",
        FEATURES,
        "A read of another sector in each queue (up to eight), all told before any answer is looked at",
        "Status OK, the right data and id on each",
    ),
    row(
        "block/queues-answer-where-asked",
        "A buffer is used in the queue that it came by",
        "2.6 Virtqueues",
        "With MQ, a read through each queue in turn, while all others are live",
        "The used index of that queue grows by one, the others stay",
    ),
    row(
        "block/long-queue-holds-no-other-up",
        "A device with MQ serves every queue",
        FEATURES,
        "Four reads in the first queue, one in the last, told one after the other",
        "All are used, with status OK",
    ),
    row(
        "block/flush-among-requests-in-flight",
        "Requests in flight are all served, whatever their kind",
        OPERATION,
        "Four writes, a flush, four writes with one notification",
        "Nine times status OK; all eight read back",
    ),
    row(
        "block/requests-not-offered-are-unsupported",
        "A request that the device does not offer is UNSUPP",
        DEVICE,
        "DISCARD, WRITE_ZEROES, GET_LIFETIME and SECURE_ERASE, each where its feature is not offered",
        "Status 2",
    ),
    row(
        "block/discard-of-most-ranges",
        "A request may name as many ranges as max_discard_seg says",
        LAYOUT,
        "As many single sectors, every second one (up to sixteen)",
        "Status OK, the sectors between stay",
    ),
    row(
        "block/write-zeroes-of-most-ranges",
        "A request may name as many ranges as max_write_zeroes_seg says",
        LAYOUT,
        "As many single sectors, every second one (up to sixteen)",
        "Status OK, they read as zero, the sectors between stay",
    ),
];
