//! A split ring as the devices use it: virtio-queue's ring state, and a strict reading of descriptor chains.
//!
//! virtio-queue ends a malformed chain early and says nothing; here a chain is either whole, inside guest memory and in
//! the right order, or it is a [`Fault`]. A chain is copied once, bounded by [`CHAIN_MAX`], and only the copy is used.

#[cfg(test)]
pub(super) mod audit;
mod chain;

use crate::mistake::{Mistake, made};
use crate::vmm::GuestRam;
pub use chain::Chain;
use shared_abi::virtio::ring;
use std::fmt::Debug;
use std::sync::atomic::Ordering;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::bitmap::BS;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Entries of every queue, at most.
pub const SIZE_MAX: u16 = 256;
/// Descriptors of a chain, at most, direct or indirect.
pub const CHAIN_MAX: usize = SIZE_MAX as usize;

/// A piece of guest memory that was checked to be there.
pub type Slice<'a> = VolatileSlice<'a, BS<'a, ()>>;

/// What is wrong with a ring, so that its device needs a reset.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Fault {
    #[error("queue size {0} is not a power of two up to {SIZE_MAX}")]
    Size(u32),
    #[error("the queue's {0} at {1:#x} is misaligned or outside memory")]
    Placement(&'static str, u64),
    #[error("the available index jumped by more than the queue's size")]
    AvailableIndex,
    #[error("the available index went back: the chain that it had announced is gone")]
    AvailableIndexBack,
    #[error("the available ring names descriptor {0}, which the queue does not have")]
    Head(u16),
    #[error("the chain at descriptor {0} loops, leaves its table or is cut off")]
    BrokenChain(u16),
    #[error("the chain at descriptor {0} has more than {CHAIN_MAX} descriptors")]
    ChainTooLong(u16),
    #[error("the chain at descriptor {0} has a readable buffer after a writable one")]
    Direction(u16),
    #[error("the chain at descriptor {head} has a buffer outside memory: {len} bytes at {address:#x}")]
    OutsideMemory { head: u16, address: u64, len: u32 },
    #[error("the chain at descriptor {0} has no room for an answer")]
    NoAnswer(u16),
    #[error("the ring cannot be accessed: {0}")]
    Ring(Error),
    #[error("nothing: a hostile device asks for a reset without a reason")]
    Pretended,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidAvailRingIndex => Self::AvailableIndex,
            other => Self::Ring(other),
        }
    }
}

/// Where the driver put a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Entries.
    pub size: u32,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub driver: u64,
    /// Used ring.
    pub device: u64,
}

/// A ring: that of virtio-queue, or a wrapper around another one.
pub trait Ring: Debug + Send {
    /// Where the ring is and how far it has come.
    fn queue(&self) -> &Queue;

    /// The same to be changed.
    fn queue_mut(&mut self) -> &mut Queue;

    /// A chain was taken, as it was read then.
    fn taken(&mut self, _chain: &Chain) {}

    /// Returns a chain to the driver.
    ///
    /// # Errors
    /// [`Fault::Ring`].
    fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault>;

    /// Whether the driver wants an interrupt for what was returned since the last call.
    ///
    /// # Errors
    /// [`Fault::Ring`].
    fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, Fault>;
}

impl Ring for Queue {
    fn queue(&self) -> &Queue {
        self
    }

    fn queue_mut(&mut self) -> &mut Queue {
        self
    }

    fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        Ok(QueueT::add_used(self, memory, head, written)?)
    }

    fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        if !self.needs_notification(memory)? {
            return Ok(false);
        }
        if self.event_idx_enabled() {
            return Ok(true);
        }
        // virtio-queue does not look at the driver's flag.
        let flags = memory
            .load::<u16>(GuestAddress(self.avail_ring()), Ordering::Acquire)
            .map_err(|error| Fault::Ring(Error::GuestMemory(error)))?;
        Ok(flags & ring::AVAIL_NO_INTERRUPT == 0)
    }
}

/// The ring of a queue. One without a wrapper costs no indirect call.
#[derive(Debug)]
enum AnyRing {
    Plain(Queue),
    Wrapped(Box<dyn Ring>),
}

impl Ring for AnyRing {
    fn queue(&self) -> &Queue {
        match self {
            Self::Plain(queue) => queue,
            Self::Wrapped(ring) => ring.queue(),
        }
    }

    fn queue_mut(&mut self) -> &mut Queue {
        match self {
            Self::Plain(queue) => queue,
            Self::Wrapped(ring) => ring.queue_mut(),
        }
    }

    fn taken(&mut self, chain: &Chain) {
        match self {
            Self::Plain(queue) => queue.taken(chain),
            Self::Wrapped(ring) => ring.taken(chain),
        }
    }

    fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        match self {
            Self::Plain(queue) => Ring::add_used(queue, memory, head, written),
            Self::Wrapped(ring) => ring.add_used(memory, head, written),
        }
    }

    fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        match self {
            Self::Plain(queue) => queue.wants_interrupt(memory),
            Self::Wrapped(ring) => ring.wants_interrupt(memory),
        }
    }
}

/// A queue of a device.
#[derive(Debug)]
pub struct VirtQueue {
    ring: AnyRing,
    /// Chains returned since the driver was last considered for an interrupt.
    returned: u16,
    /// Where the queue was when its places were checked.
    #[cfg(test)]
    checked: Placement,
    /// The available index has announced a chain that was not taken yet.
    announced: bool,
}

impl Default for VirtQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtQueue {
    /// A queue that the driver has not set up.
    pub fn new() -> Self {
        // SIZE_MAX is a power of two, the only thing that is checked.
        Self {
            ring: AnyRing::Plain(Queue::new(SIZE_MAX).unwrap_or_default()),
            returned: 0,
            announced: false,
            #[cfg(test)]
            checked: Placement::default(),
        }
    }

    /// Makes the queue live where the driver put it.
    ///
    /// # Errors
    /// [`Fault::Size`], [`Fault::Placement`]; the queue is then not ready.
    pub fn set_up(&mut self, memory: &GuestRam, place: Placement, event_idx: EventIdx) -> Result<(), Fault> {
        self.reset();
        let queue = self.ring.queue_mut();
        let size = u16::try_from(place.size).map_err(|_| Fault::Size(place.size))?;
        queue.try_set_size(size).map_err(|_| Fault::Size(place.size))?;
        let table = |address| GuestAddress(address);
        let parts = [
            ("descriptor table", place.descriptors, ring::descriptor_table_len(size)),
            ("available ring", place.driver, ring::available_len(size)),
            ("used ring", place.device, ring::used_len(size)),
        ];
        for (what, address, len) in parts {
            if !made(Mistake::PlacesUnchecked) && !GuestMemoryBackend::check_range(memory, table(address), len) {
                return Err(Fault::Placement(what, address));
            }
        }
        let misplaced = |what, address| move |_| Fault::Placement(what, address);
        queue
            .try_set_desc_table_address(table(place.descriptors))
            .map_err(misplaced("descriptor table", place.descriptors))?;
        queue.try_set_avail_ring_address(table(place.driver)).map_err(misplaced("available ring", place.driver))?;
        queue.try_set_used_ring_address(table(place.device)).map_err(misplaced("used ring", place.device))?;
        queue.set_event_idx(event_idx == EventIdx::Negotiated);
        queue.set_ready(true);
        #[cfg(test)]
        {
            self.checked = place;
        }
        Ok(())
    }

    /// What Firecracker's PCI transport did with a live queue's registers (CVE-2026-5747): they were the queue's own, and only
    /// their setters' checks were left, which know nothing of memory.
    pub(super) fn move_unchecked(&mut self, place: Placement) {
        let queue = self.ring.queue_mut();
        queue.set_size(place.size as u16);
        queue.set_desc_table_address(Some(place.descriptors as u32), Some((place.descriptors >> 32) as u32));
        queue.set_avail_ring_address(Some(place.driver as u32), Some((place.driver >> 32) as u32));
        queue.set_used_ring_address(Some(place.device as u32), Some((place.device >> 32) as u32));
    }

    /// Puts a wrapper around the ring, until the queue is reset.
    pub fn wrap_ring(&mut self, wrap: impl FnOnce(Box<dyn Ring>) -> Box<dyn Ring>) {
        let inner = match std::mem::replace(&mut self.ring, AnyRing::Plain(Queue::default())) {
            AnyRing::Plain(queue) => Box::new(queue),
            AnyRing::Wrapped(ring) => ring,
        };
        self.ring = AnyRing::Wrapped(wrap(inner));
    }

    /// Takes the queue away from the driver.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Whether the driver has set it up.
    pub fn ready(&self) -> bool {
        self.ring.queue().ready()
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.ring.queue().size()
    }

    /// Takes the next available chain.
    ///
    /// A chain that was announced is there: otherwise a driver whose rings overlap, so that asking for a notification changes
    /// the index, would keep those who empty the queue at work forever.
    ///
    /// # Errors
    /// Any [`Fault`] of the ring or the chain.
    pub fn pop(&mut self, memory: &GuestRam) -> Result<Option<Chain>, Fault> {
        self.audit(memory);
        let size = self.ring.queue().size();
        let announced = std::mem::take(&mut self.announced);
        let Some(descriptors) = self.ring.queue_mut().iter(memory)?.next() else {
            return if announced { Err(Fault::AvailableIndexBack) } else { Ok(None) };
        };
        let chain = Chain::read_all(memory, size, descriptors)?;
        self.ring.taken(&chain);
        Ok(Some(chain))
    }

    /// Takes the next available chain; if the queue is empty, asks for a notification and looks again.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn pop_or_arm(&mut self, memory: &GuestRam) -> Result<Option<Chain>, Fault> {
        loop {
            if let Some(chain) = self.pop(memory)? {
                return Ok(Some(chain));
            }
            if !self.enable_notification(memory)? {
                return Ok(None);
            }
        }
    }

    /// Puts the last `count` chains popped back to where they were.
    pub fn undo_pop(&mut self, count: u16) {
        let position = self.ring.queue().next_avail().wrapping_sub(count);
        self.ring.queue_mut().set_next_avail(position);
    }

    /// Returns a chain to the driver.
    ///
    /// # Errors
    /// [`Fault::Ring`].
    pub fn push_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        self.audit(memory);
        self.returned = self.returned.saturating_add(1);
        self.ring.add_used(memory, head, written)
    }

    /// Asks the driver not to notify.
    ///
    /// # Errors
    /// [`Fault::Ring`].
    pub fn disable_notification(&mut self, memory: &GuestRam) -> Result<(), Fault> {
        self.audit(memory);
        Ok(self.ring.queue_mut().disable_notification(memory)?)
    }

    /// Asks the driver to notify about the next chain; true if one came meanwhile.
    ///
    /// # Errors
    /// [`Fault::Ring`].
    pub fn enable_notification(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        self.audit(memory);
        self.announced = self.ring.queue_mut().enable_notification(memory)?;
        Ok(self.announced)
    }

    /// Chains returned since the last call of [`wants_interrupt`](Self::wants_interrupt).
    pub fn returned(&self) -> u16 {
        self.returned
    }

    /// Whether the driver wants an interrupt for what was returned since the last call.
    ///
    /// # Errors
    /// [`Fault::Ring`].
    pub fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        if std::mem::take(&mut self.returned) == 0 {
            return Ok(false);
        }
        self.audit(memory);
        self.ring.wants_interrupt(memory)
    }

    /// In tests, before each access of the ring: it is where its places were checked.
    #[cfg(not(test))]
    fn audit(&self, _memory: &GuestRam) {}
}

/// Whether VIRTIO_F_EVENT_IDX was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdx {
    /// Yes.
    Negotiated,
    /// No: the rings' flags enable and disable notifications.
    Absent,
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
