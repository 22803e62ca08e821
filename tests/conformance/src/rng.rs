//! The entropy device.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::raw::{Dir, link},
    crate::support::rng::Rng,
    crate::support::{Context, Verdict, equal, fail, holds},
    code::*,
};

const OPERATION: &str = "5.4.6.2 Device Requirements: Device Operation";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "rng/buffer-is-answered",
        rule: "The device places one or more random bytes into the buffer",
        clause: OPERATION,
        method: "Give it 64 bytes",
        expectation: "A used length from 1 to 64",
        run: |cx| answered(cx, 64),
    },
    Check {
        name: "rng/one-byte-is-answered",
        rule: "A buffer may be as small as a byte",
        clause: OPERATION,
        method: "Give it 1 byte",
        expectation: "A used length of 1",
        run: |cx| answered(cx, 1),
    },
    Check {
        name: "rng/large-buffer-is-answered",
        rule: "A buffer may be large",
        clause: OPERATION,
        method: "Give it 64 KiB",
        expectation: "A used length from 1 to 65536",
        run: |cx| answered(cx, 65536),
    },
    Check {
        name: "rng/bytes-are-not-constant",
        rule: "The bytes are random",
        clause: OPERATION,
        method: "Gather 64 bytes",
        expectation: "At least 16 different values, which chance misses once in 10^24 times",
        run: |cx| {
            let bytes = Rng::start(cx, 0, 8)?.gather(64)?;
            let different = (0..=255u8).filter(|value| bytes.contains(value)).count();
            holds(different >= 16, "different values in 64 bytes", "16 or more", different)
        },
    },
    Check {
        name: "rng/two-answers-differ",
        rule: "The bytes are random",
        clause: OPERATION,
        method: "Gather 32 bytes twice",
        expectation: "They differ",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let (first, second) = (rng.gather(32)?, rng.gather(32)?);
            if first == second { Err(fail("32 bytes, twice", "different ones", "the same")) } else { Ok(()) }
        },
    },
    Check {
        name: "rng/nothing-behind-the-used-length",
        rule: "Bytes after the used length are left as they were, although a device may write more than it says",
        clause: "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        method: "Fill 128 bytes with 0xa5, give the first 64 away",
        expectation: "The bytes after the used length are 0xa5",
        level: Should,
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let buf = rng.dev.buffer(128)?;
            buf.fill(0xa5);
            let len = rng.fill(&buf.part(0, 64))?;
            equal("first byte changed after the used length", None, buf.part(len, 128 - len).first_not(0xa5))
        },
    },
    Check {
        name: "rng/all-buffers-in-flight-are-answered",
        rule: "Every buffer is used once",
        clause: OPERATION,
        method: "Give it 8 buffers at once",
        expectation: "Eight used elements with eight ids",
        run: |cx| {
            const MOST: u16 = 8;
            let mut rng = Rng::start(cx, 0, MOST)?;
            let buf = rng.dev.buffer(usize::from(MOST) * 32)?;
            // A device may keep a larger size.
            let count = rng.queue.size.min(MOST);
            for n in 0..count {
                let head = rng.queue.chain(n, &[link(&buf.part(usize::from(n) * 32, 32), Dir::In)]);
                rng.queue.offer(head);
            }
            rng.queue.publish();
            rng.queue.notify(&rng.dev);
            rng.queue.wait_each_once(count, 8)?;
            equal("used index", count, rng.queue.used_index())
        },
    },
    Check {
        name: "rng/neighbours-are-left-alone",
        rule: "A device writes only what it was given",
        clause: "2.7.5.1 Device Requirements: The Virtqueue Descriptor Table",
        method: "Look at the 64 bytes before and after a buffer after eight answers",
        expectation: "Unchanged",
        run: |cx| {
            let mut rng = Rng::start(cx, 0, 8)?;
            let buf = rng.dev.buffer(3 * 64)?;
            buf.pattern(7);
            let (before, after) = (buf.part(0, 64).bytes(), buf.part(128, 64).bytes());
            for _ in 0..8 {
                rng.fill(&buf.part(64, 64))?;
            }
            equal("bytes before the buffer", before, buf.part(0, 64).bytes())?;
            equal("bytes after the buffer", after, buf.part(128, 64).bytes())
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub fn answered(cx: &Context, len: usize) -> Verdict {
        let mut rng = Rng::start(cx, 0, 8)?;
        let buf = rng.dev.buffer(len)?;
        rng.fill(&buf)?;
        rng.dev.healthy()
    }
}
