//! The ring of a queue with bugs in what it returns to the driver.

use super::Bug;
use crate::virtio::queue::Ring;
use crate::virtio::{Chain, Fault};
use crate::vmm::GuestRam;
use shared_abi::virtio::net::{HDR_DATA_VALID, Header};
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::Ordering;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// How much too long [`Bug::UsedLengthTooLong`] makes a length: more than what a driver may take for the readable part.
pub const TOO_LONG: u32 = 1 << 16;

/// A ring with a bug.
#[derive(Debug)]
pub struct FaultyRing {
    bug: Bug,
    inner: Box<dyn Ring>,
    /// The driver did not want the interrupt before.
    suppressed: bool,
    /// The used index at the interrupt before.
    used: u16,
    /// Chains that are still to come of a frame in more than one.
    rest_of_frame: u16,
    /// Chains that were not returned yet, for the bug that looks into them.
    taken: BTreeMap<u16, Chain>,
}

impl FaultyRing {
    /// A fresh ring with a bug. That of [`Bug::MergeableCountWrong`] belongs to a queue of received frames.
    pub fn new(bug: Bug, inner: Box<dyn Ring>) -> Self {
        Self { bug, inner, suppressed: false, used: 0, rest_of_frame: 0, taken: BTreeMap::new() }
    }

    /// Counts one buffer too many in the header of the frame that begins in the chain at `head`.
    fn miscount(&mut self, memory: &GuestRam, head: u16) {
        if self.rest_of_frame > 0 {
            self.rest_of_frame -= 1;
            return;
        }
        let at = offset_of!(Header, num_buffers) as u64;
        let Some(chain) = self.taken.remove(&head) else { return };
        let mut count = [0; 2];
        let mut done = 0;
        for slice in chain.writable(memory, at, count.len() as u64) {
            done += slice.copy_to(&mut count[done..]);
        }
        let right = u16::from_le_bytes(count);
        chain.write(memory, at, &right.wrapping_add(1).to_le_bytes());
        self.rest_of_frame = right.saturating_sub(1);
    }
}

impl Ring for FaultyRing {
    fn queue(&self) -> &Queue {
        self.inner.queue()
    }

    fn queue_mut(&mut self) -> &mut Queue {
        self.inner.queue_mut()
    }

    fn taken(&mut self, chain: &Chain) {
        if matches!(self.bug, Bug::MergeableCountWrong | Bug::DataValidUnasked) {
            self.taken.insert(chain.head(), chain.clone());
        }
    }

    fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        match self.bug {
            Bug::UsedIdWrong => self.inner.add_used(memory, (head + 1) % self.queue().size(), written),
            Bug::UsedLengthTooLong => self.inner.add_used(memory, head, written.wrapping_add(TOO_LONG)),
            // Only the status of a failed request was written, after a gap.
            Bug::FailedReadCounted if written == 0 => self.inner.add_used(memory, head, 1),
            Bug::UsedFlagsStray if self.queue().event_idx_enabled() => {
                // A bug may fail.
                let _ = memory.store(u16::MAX, GuestAddress(self.queue().used_ring()), Ordering::Release);
                self.inner.add_used(memory, head, written)
            }
            Bug::DataValidUnasked => {
                if let Some(chain) = self.taken.remove(&head) {
                    chain.write(memory, offset_of!(Header, flags) as u64, &[HDR_DATA_VALID]);
                }
                self.inner.add_used(memory, head, written)
            }
            Bug::MergeableCountWrong => {
                self.miscount(memory, head);
                self.inner.add_used(memory, head, written)
            }
            _ => self.inner.add_used(memory, head, written),
        }
    }

    fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        let wanted = self.inner.wants_interrupt(memory)?;
        let used = self.queue().next_used();
        let suppressed = std::mem::replace(&mut self.suppressed, !wanted);
        let wrapped = used < std::mem::replace(&mut self.used, used);
        let lost = match self.bug {
            Bug::InterruptLostWhenSuppressed => suppressed,
            Bug::EventIndexAtWrap => wrapped && self.queue().event_idx_enabled(),
            _ => false,
        };
        Ok(wanted && !lost)
    }
}
