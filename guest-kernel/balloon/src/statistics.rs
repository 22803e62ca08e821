//! The statistics queue: the device returns the buffer when it wants new numbers, the driver fills it and sends it
//! again.

use crate::pages::Statistics;
use frontends::error::Violation;
use frontends::memory::{DmaBuffer, DmaPages};
use frontends::ring::{Ring, Segment};
use virtio_abi::balloon::{Stat, stat_tag};
use zerocopy::IntoBytes;

/// Statistics that we have numbers for.
const TAGS: usize = 6;
/// The length of a buffer is a multiple of this.
const MULTIPLE: usize = 6;
/// A tag without a meaning.
const IGNORED: u16 = u16::MAX;

pub(crate) struct Reporter {
    pub(crate) ring: Ring,
    buffer: DmaBuffer,
    is_ours: bool,
}

impl Reporter {
    pub(crate) fn new(ring: Ring, buffer: DmaBuffer) -> Self {
        Self { ring, buffer, is_ours: true }
    }

    /// What it needs in addition to a ring.
    pub(crate) fn buffer(dma: &'static dyn DmaPages) -> Option<DmaBuffer> {
        DmaBuffer::allocate_shared(dma, TAGS * size_of::<Stat>())
    }

    /// Sends numbers if the device wants some, as it does at first. True if it did.
    pub(crate) fn answer(&mut self, numbers: impl FnOnce() -> Statistics) -> Result<bool, Violation> {
        self.is_ours |= self.ring.pop()?.is_some();
        if !self.is_ours {
            return Ok(false);
        }
        let len = fill(&mut self.buffer, numbers());
        self.is_ours = self.ring.push(&[Segment::readable(self.buffer.device_address(), len)]).is_none();
        Ok(!self.is_ours)
    }

    /// The buffer is ours again, to be sent again.
    pub(crate) fn restart(&mut self) {
        self.is_ours = true;
    }

    /// Gives up what the device may still use. Returns the pages.
    pub(crate) fn leak(&mut self) -> usize {
        self.ring.leak() + if self.is_ours { 0 } else { self.buffer.leak() }
    }
}

/// Writes what there are numbers for; returns the bytes. They are a multiple of 6, as 5.5.6.3.1 has it, and never none: the
/// rest of three entries has a tag that devices ignore.
fn fill(buffer: &mut DmaBuffer, numbers: Statistics) -> u32 {
    let values: [_; TAGS] = [
        (stat_tag::TOTAL_MEMORY, numbers.total),
        (stat_tag::FREE_MEMORY, numbers.free),
        (stat_tag::AVAILABLE_MEMORY, numbers.available),
        (stat_tag::DISK_CACHES, numbers.caches),
        (stat_tag::MINOR_FAULTS, numbers.minor_faults),
        (stat_tag::MAJOR_FAULTS, numbers.major_faults),
    ];
    let mut len = 0;
    let mut write = |stat: Stat| {
        buffer.copy_from(len, stat.as_bytes());
        len += size_of::<Stat>();
        len
    };
    let mut end = 0;
    for stat in values.into_iter().filter_map(|(tag, value)| Some(Stat { tag, value: value? })) {
        end = write(stat);
    }
    while end == 0 || !end.is_multiple_of(MULTIPLE) {
        end = write(Stat { tag: IGNORED, value: 0 });
    }
    end as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use frontends::fake::Memory;

    #[test]
    fn a_buffer_is_a_multiple_of_6_bytes_and_never_empty() {
        let memory = Memory::leaked(1);
        let mut buffer = Reporter::buffer(memory).unwrap();
        let numbers = [
            Statistics::default(),
            Statistics { total: Some(1), ..Statistics::default() },
            Statistics { total: Some(1), free: Some(2), ..Statistics::default() },
            Statistics { total: Some(1), free: Some(2), available: Some(3), ..Statistics::default() },
            Statistics { total: Some(1), free: Some(2), available: Some(3), caches: Some(4), ..Statistics::default() },
        ];
        for (count, (numbers, len)) in numbers.into_iter().zip([30, 30, 30, 30, 60]).enumerate() {
            assert_eq!(fill(&mut buffer, numbers), len, "{count} numbers");
            let bytes = buffer.to_vec();
            let tags =
                bytes.chunks_exact(10).take(len as usize / 10).map(|stat| u16::from_le_bytes([stat[0], stat[1]]));
            assert_eq!(tags.filter(|&tag| tag == IGNORED).count(), len as usize / 10 - count);
        }
    }
}
