//! The entropy device.

use super::{Check, row};

const OPERATION: &str = "5.4.6.2 Device Requirements: Device Operation";

/// The checks of this group.
pub const CHECKS: &[Check] = &[
    row(
        "rng/buffer-is-answered",
        "The device places one or more random bytes into the buffer",
        OPERATION,
        "Give it 64 bytes",
        "A used length from 1 to 64",
    ),
    row(
        "rng/one-byte-is-answered",
        "A buffer may be as small as a byte",
        OPERATION,
        "Give it 1 byte",
        "A used length of 1",
    ),
    row(
        "rng/large-buffer-is-answered",
        "A buffer may be large",
        OPERATION,
        "Give it 64 KiB",
        "A used length from 1 to 65536",
    ),
    row(
        "rng/bytes-are-not-constant",
        "The bytes are random",
        OPERATION,
        "Gather 64 bytes",
        "At least 16 different values, which chance misses once in 10^24 times",
    ),
    row("rng/two-answers-differ", "The bytes are random", OPERATION, "Gather 32 bytes twice", "They differ"),
    row(
        "rng/nothing-behind-the-used-length",
        "A device writes no more than it says",
        "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        "Fill 128 bytes with 0xa5, give the first 64 away",
        "The bytes behind the used length are 0xa5",
    ),
    row(
        "rng/all-buffers-in-flight-are-answered",
        "Every buffer is used once",
        OPERATION,
        "Give it 8 buffers at once",
        "Eight used elements with eight ids",
    ),
    row(
        "rng/neighbours-are-left-alone",
        "A device writes only what it was given",
        "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        "Look at the 64 bytes before and behind a buffer after eight answers",
        "Unchanged",
    ),
];
