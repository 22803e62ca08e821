//! The entropy device.

use super::device::{Dev, Target};
use super::raw::{Buf, Dir, Queue, link};
use super::{Context, End, Row, Verdict, equal, fail, holds};
use alloc::vec::Vec;
use shared_abi::virtio::DeviceType;

pub const ROWS: &[Row] = &[
    ("rng/buffer-is-answered", |cx| answered(cx, 64)),
    ("rng/one-byte-is-answered", |cx| answered(cx, 1)),
    ("rng/large-buffer-is-answered", |cx| answered(cx, 65536)),
    ("rng/bytes-are-not-constant", bytes_are_not_constant),
    ("rng/two-answers-differ", two_answers_differ),
    ("rng/nothing-behind-the-used-length", nothing_behind_the_used_length),
    ("rng/all-buffers-in-flight-are-answered", all_buffers_in_flight_are_answered),
    ("rng/neighbours-are-left-alone", neighbours_are_left_alone),
];

/// A live entropy device.
pub struct Rng<'a> {
    pub dev: Dev<'a>,
    pub queue: Queue,
}

impl<'a> Rng<'a> {
    /// Starts the first one.
    ///
    /// # Errors
    /// Not applicable without one.
    pub fn start(cx: &'a Context, features: u64, size: u16) -> Result<Self, End> {
        Self::on(cx.device(DeviceType::RNG)?, features, size)
    }

    /// Starts one.
    ///
    /// # Errors
    /// A failure when it does not come up.
    pub fn on(target: &'a Target, features: u64, size: u16) -> Result<Self, End> {
        let dev = Dev::with_features(target, features)?;
        let queue = dev.queue(0, size)?;
        dev.start()?;
        Ok(Self { dev, queue })
    }

    /// Has a buffer filled; returns the used length, which fits.
    pub fn fill(&mut self, buf: &Buf) -> Result<usize, End> {
        let head = self.queue.chain(0, &[link(buf, Dir::In)]);
        self.queue.send(&self.dev, head);
        let used = self.queue.wait()?;
        equal("id of the used element", 0, used.id)?;
        let len = used.len as usize;
        holds((1..=buf.len()).contains(&len), "used length", format_args!("1 to {}", buf.len()), len)?;
        Ok(len)
    }

    /// Gathers bytes, however few come at a time.
    fn gather(&mut self, count: usize) -> Result<Vec<u8>, End> {
        let buf = self.dev.buffer(count)?;
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let len = self.fill(&buf.part(0, count - bytes.len()))?;
            bytes.extend(buf.part(0, len).bytes());
        }
        Ok(bytes)
    }
}

fn answered(cx: &Context, len: usize) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(len)?;
    rng.fill(&buf)?;
    rng.dev.healthy()
}

fn bytes_are_not_constant(cx: &Context) -> Verdict {
    let bytes = Rng::start(cx, 0, 8)?.gather(64)?;
    let different = (0..=255u8).filter(|value| bytes.contains(value)).count();
    holds(different >= 16, "different values in 64 bytes", "16 or more", different)
}

fn two_answers_differ(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let (first, second) = (rng.gather(32)?, rng.gather(32)?);
    if first == second { Err(fail("32 bytes, twice", "different ones", "the same")) } else { Ok(()) }
}

fn nothing_behind_the_used_length(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(128)?;
    buf.fill(0xa5);
    let len = rng.fill(&buf.part(0, 64))?;
    equal("first byte changed behind the used length", None, buf.part(len, 128 - len).first_not(0xa5))
}

fn all_buffers_in_flight_are_answered(cx: &Context) -> Verdict {
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
    let mut seen = 0u32;
    for _ in 0..count {
        let used = rng.queue.wait()?;
        holds(used.id < 8 && seen & 1 << used.id == 0, "id of a used element", "each once", used.id)?;
        seen |= 1 << used.id;
    }
    equal("used index", count, rng.queue.used_index())
}

fn neighbours_are_left_alone(cx: &Context) -> Verdict {
    let mut rng = Rng::start(cx, 0, 8)?;
    let buf = rng.dev.buffer(3 * 64)?;
    buf.pattern(7);
    let (before, after) = (buf.part(0, 64).bytes(), buf.part(128, 64).bytes());
    for _ in 0..8 {
        rng.fill(&buf.part(64, 64))?;
    }
    equal("bytes before the buffer", before, buf.part(0, 64).bytes())?;
    equal("bytes behind the buffer", after, buf.part(128, 64).bytes())
}
