//! The ring of a queue with bugs in what it returns to the driver.

use super::Bug;
use crate::virtio::Fault;
use crate::virtio::queue::Ring;
use crate::vmm::GuestRam;
use shared_abi::virtio::net::Header;
use shared_abi::virtio::ring::{Descriptor, DescriptorFlags};
use std::mem::offset_of;
use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromZeros, IntoBytes};

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
}

impl FaultyRing {
    /// A fresh ring with a bug. That of [`Bug::MergeableCountWrong`] belongs to a queue of received frames.
    pub fn new(bug: Bug, inner: Box<dyn Ring>) -> Self {
        Self { bug, inner, suppressed: false, used: 0, rest_of_frame: 0 }
    }

    /// Counts one buffer too many in the header of the frame that begins in the chain at `head`.
    fn miscount(&mut self, memory: &GuestRam, head: u16) -> Result<(), Fault> {
        if self.rest_of_frame > 0 {
            self.rest_of_frame -= 1;
            return Ok(());
        }
        let failed = |error| Fault::Ring(Error::GuestMemory(error));
        let mut descriptor = Descriptor::new_zeroed();
        let mut at = self.inner.queue().desc_table() + u64::from(head) * size_of::<Descriptor>() as u64;
        loop {
            memory.read_slice(descriptor.as_mut_bytes(), GuestAddress(at)).map_err(failed)?;
            if descriptor.flags & DescriptorFlags::INDIRECT.bits() == 0 {
                break;
            }
            at = descriptor.addr;
        }
        let at = offset_of!(Header, num_buffers);
        // A header in two buffers stays right.
        if descriptor.len as usize >= at + size_of::<u16>() {
            let count = GuestAddress(descriptor.addr + at as u64);
            let right = u16::from_le(memory.read_obj(count).map_err(failed)?);
            memory.write_obj(right.wrapping_add(1).to_le(), count).map_err(failed)?;
            self.rest_of_frame = right.saturating_sub(1);
        }
        Ok(())
    }
}

impl Ring for FaultyRing {
    fn queue(&self) -> &Queue {
        self.inner.queue()
    }

    fn queue_mut(&mut self) -> &mut Queue {
        self.inner.queue_mut()
    }

    fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        match self.bug {
            Bug::UsedIdWrong => self.inner.add_used(memory, (head + 1) % self.queue().size(), written),
            Bug::UsedLengthTooLong => self.inner.add_used(memory, head, written.wrapping_add(TOO_LONG)),
            // Only the status of a failed request was written, after a gap.
            Bug::FailedReadCounted if written == 0 => self.inner.add_used(memory, head, 1),
            Bug::MergeableCountWrong => {
                self.miscount(memory, head)?;
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
