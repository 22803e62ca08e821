//! For tests: whether the memory that a queue is about to use is the memory that was checked when it was set up. All that
//! virtio-queue reads and writes of a ring is computed from the size and the three addresses that are looked at here.

use super::{Placement, Ring, VirtQueue};
use crate::vmm::GuestRam;
use std::cell::RefCell;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend};

thread_local! {
    static VIOLATIONS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What was found on this thread since the last call.
pub(crate) fn violations() -> Vec<String> {
    VIOLATIONS.take()
}

impl VirtQueue {
    /// Where the ring is now.
    pub(crate) fn placement(&self) -> Placement {
        let queue = self.ring.queue();
        Placement {
            size: queue.size().into(),
            descriptors: queue.desc_table(),
            driver: queue.avail_ring(),
            device: queue.used_ring(),
        }
    }

    pub(super) fn audit(&self, memory: &GuestRam) {
        let (now, checked) = (self.placement(), self.checked);
        let size = now.size as usize;
        let parts = [(now.descriptors, 16, 16 * size), (now.driver, 2, 6 + 2 * size), (now.device, 4, 6 + 8 * size)];
        let is_memory = |(address, align, len): (u64, u64, usize)| {
            address.is_multiple_of(align) && GuestMemoryBackend::check_range(memory, GuestAddress(address), len)
        };
        if now != checked || !self.ready() || !size.is_power_of_two() || !parts.into_iter().all(is_memory) {
            let violation = format!("a queue at {now:x?} is used, {checked:x?} was checked");
            VIOLATIONS.with_borrow_mut(|violations| violations.push(violation));
        }
    }
}
