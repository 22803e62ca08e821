//! The ring of a lying device: what it returns to the driver, in which order and when.

use super::liar::{Draw, Liar};
use crate::config::lie::Lie;
use crate::virtio::queue::Ring;
use crate::virtio::{Chain, Fault};
use crate::vmm::GuestRam;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::net::{Header, RECEIVE_QUEUE};
use shared_abi::virtio::ring::{ENTRIES_OFFSET, INDEX_OFFSET, UsedElement};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

/// Longest delay of a chain in milliseconds.
const DELAY_MAX: u32 = 200;
/// Longest delay of a chain that waits for the next one, which may never come.
const SWAP_MAX: u32 = 50;

/// Chains that were not returned yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    chains: Mutex<Vec<HeldChain>>,
    /// They are being returned: that is no chance for further lies.
    releasing: AtomicBool,
}

#[derive(Debug)]
struct HeldChain {
    number: u64,
    head: u16,
    written: u32,
    until: Until,
}

/// When a chain that is held back is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    ItsTime,
    /// After the next one, or at its time if there is none.
    TheNext,
    Now,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Vec<HeldChain>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_due(&self) -> bool {
        self.lock().iter().any(|chain| chain.until == Until::Now)
    }

    /// Returns with `give` those whose time has come.
    pub(super) fn release(&self, mut give: impl FnMut(u16, u32) -> Result<(), Fault>) -> Result<(), Fault> {
        let due: Vec<_> = self.lock().extract_if(.., |chain| chain.until == Until::Now).collect();
        self.releasing.store(true, Ordering::Relaxed);
        let result = due.into_iter().try_for_each(|chain| give(chain.head, chain.written));
        self.releasing.store(false, Ordering::Relaxed);
        result
    }
}

/// What was returned since the driver was last considered for an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Returned {
    Nothing,
    Honestly,
    /// virtio-queue has not seen it all, so that it cannot tell whether the driver wants an interrupt.
    Forged,
}

/// A ring with lies.
pub(super) struct LyingRing {
    liar: Arc<Liar>,
    inner: Box<dyn Ring>,
    index: usize,
    /// Chains that the device has, as they were when it took them.
    taken: BTreeMap<u16, Chain>,
    held: Arc<Held>,
    held_before: u64,
    returned: Returned,
}

impl std::fmt::Debug for LyingRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LyingRing").field("inner", &self.inner).finish_non_exhaustive()
    }
}

fn failed(error: vm_memory::GuestMemoryError) -> Fault {
    Fault::Ring(Error::GuestMemory(error))
}

impl LyingRing {
    pub(super) fn new(liar: Arc<Liar>, inner: Box<dyn Ring>, index: usize, held: Arc<Held>) -> Self {
        Self { liar, inner, index, taken: BTreeMap::new(), held, held_before: 0, returned: Returned::Nothing }
    }

    fn tell(&self, lie: Lie, what: std::fmt::Arguments<'_>) {
        self.liar.tell(lie, format_args!("queue {}, {what}", self.index));
    }

    /// Changes what the device has put into the driver's buffers.
    fn spoil(&self, memory: &GuestRam, chain: &Chain, lie: Lie) {
        let Some(mut draw) = self.liar.chance(lie) else { return };
        let head = chain.head();
        if lie == Lie::RequestStatus {
            let status = draw.pick([1, 2, 3, 0x7f, 0xff_u8]);
            let Some(at) = chain.writable_len().checked_sub(1) else { return };
            chain.write(memory, at, &[status]);
            self.tell(lie, format_args!("chain {head} has status {status}"));
        } else {
            let mut header = [draw.next(), draw.next()].map(u64::to_le_bytes).concat();
            // Every other one has a kind of segmentation that there is, and says only there something wrong.
            if draw.one_in(2) {
                header[..2].copy_from_slice(&[draw.pick([0, 1, 2, 3]), draw.pick([0, 1, 3, 4, 5])]);
            }
            chain.write(memory, 0, &header[..size_of::<Header>()]);
            self.tell(lie, format_args!("chain {head} starts with {:02x?}", &header[..size_of::<Header>()]));
        }
    }

    fn length(&self, chain: &Chain, written: u32, frame: Option<Draw>, any: Option<Draw>) -> u32 {
        let (head, room) = (chain.head(), chain.writable_len() as u32);
        let (lie, len) = if let Some(mut draw) = any {
            (Lie::UsedLength, draw.pick([0, 1, room.wrapping_add(1), room.wrapping_add(1 << 16), 1 << 31, u32::MAX]))
        } else if let Some(mut draw) = frame {
            let short = draw.below(size_of::<Header>() as u32 + 14);
            (Lie::Frame, if draw.one_in(2) { short } else { room })
        } else {
            return written;
        };
        if len != written {
            self.tell(lie, format_args!("chain {head} has length {len}, not {written}"));
        }
        len
    }

    /// Keeps a chain back.
    fn hold(&mut self, head: u16, written: u32, until: Until, ms: u32) {
        self.held_before += 1;
        let number = self.held_before;
        self.held.lock().push(HeldChain { number, head, written, until });
        let held = self.held.clone();
        self.liar.look_in(ms, self.index, move || {
            if let Some(chain) = held.lock().iter_mut().find(|chain| chain.number == number) {
                chain.until = Until::Now;
            }
        });
    }

    /// Returns a chain under an id that it does not have, or twice.
    fn forge_id(&mut self, memory: &GuestRam, head: u16, written: u32, mut draw: Draw) -> Result<(), Fault> {
        let size = u32::from(self.inner.queue().size());
        let next = (u32::from(head) + 1) % size;
        let id = draw.pick([u32::from(head), next, size, size + 7, 0x1_0000 + u32::from(head), u32::MAX]);
        if id == u32::from(head) {
            self.give(memory, head, written)?;
            self.tell(Lie::UsedId, format_args!("chain {head} is returned twice"));
        } else {
            self.tell(Lie::UsedId, format_args!("chain {head} is returned as {id}"));
        }
        self.add_any(memory, UsedElement { id, len: written })
    }

    /// What virtio-queue does with a used element, but for any id.
    fn add_any(&mut self, memory: &GuestRam, element: UsedElement) -> Result<(), Fault> {
        let queue = self.inner.queue_mut();
        let (ring, at, size) = (queue.used_ring(), queue.next_used(), queue.size());
        let slot = ring + ENTRIES_OFFSET as u64 + u64::from(at % size) * size_of::<UsedElement>() as u64;
        memory.write_slice(element.as_bytes(), GuestAddress(slot)).map_err(failed)?;
        queue.set_next_used(at.wrapping_add(1));
        self.returned = Returned::Forged;
        self.show_index(memory, at.wrapping_add(1))
    }

    fn give(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        if self.returned == Returned::Nothing {
            self.returned = Returned::Honestly;
        }
        self.inner.add_used(memory, head, written)
    }

    fn show_index(&self, memory: &GuestRam, index: u16) -> Result<(), Fault> {
        let at = GuestAddress(self.inner.queue().used_ring() + INDEX_OFFSET as u64);
        memory.store(index.to_le(), at, Ordering::Release).map_err(failed)
    }

    fn move_index(&mut self, memory: &GuestRam, mut draw: Draw) -> Result<(), Fault> {
        let size = self.inner.queue().size();
        let step = draw.pick([1, 2, 3, size, size + 1, 0x8000, u16::MAX, u16::MAX - 1]);
        self.tell(Lie::UsedIndex, format_args!("the used index is {} too far", step as i16));
        // It is right again with the next chain.
        self.show_index(memory, self.inner.queue().next_used().wrapping_add(step))
    }
}

impl Ring for LyingRing {
    fn queue(&self) -> &Queue {
        self.inner.queue()
    }

    fn queue_mut(&mut self) -> &mut Queue {
        self.inner.queue_mut()
    }

    fn taken(&mut self, chain: &Chain) {
        self.taken.insert(chain.head(), chain.clone());
    }

    fn add_used(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), Fault> {
        if self.held.releasing.load(Ordering::Relaxed) {
            return self.give(memory, head, written);
        }
        let is_frame = self.liar.device_type() == DeviceType::NET && self.index == usize::from(RECEIVE_QUEUE);
        let Some(chain) = self.taken.remove(&head) else { return self.give(memory, head, written) };
        if is_frame {
            self.spoil(memory, &chain, Lie::Header);
        }
        self.spoil(memory, &chain, Lie::RequestStatus);
        // All chances are taken here, so that none depends on whether another one was used.
        let frame = self.liar.chance(Lie::Frame).filter(|_| is_frame);
        let [length, lost, late, order, id, index] =
            [Lie::UsedLength, Lie::Lost, Lie::Late, Lie::Order, Lie::UsedId, Lie::UsedIndex]
                .map(|lie| self.liar.chance(lie));
        let written = self.length(&chain, written, frame, length);
        if lost.is_some() {
            self.tell(Lie::Lost, format_args!("chain {head} is kept"));
        } else if let Some(mut draw) = late {
            let ms = 1 + draw.below(DELAY_MAX);
            self.tell(Lie::Late, format_args!("chain {head} comes in {ms} ms"));
            self.hold(head, written, Until::ItsTime, ms);
        } else if order.is_some() {
            self.tell(Lie::Order, format_args!("chain {head} comes after the next"));
            self.hold(head, written, Until::TheNext, SWAP_MAX);
        } else {
            match id {
                Some(draw) => self.forge_id(memory, head, written, draw)?,
                None => self.give(memory, head, written)?,
            }
            let next: Vec<_> = self.held.lock().extract_if(.., |chain| chain.until == Until::TheNext).collect();
            for chain in next {
                self.give(memory, chain.head, chain.written)?;
            }
        }
        index.map_or(Ok(()), |draw| self.move_index(memory, draw))
    }

    fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, Fault> {
        Ok(match std::mem::replace(&mut self.returned, Returned::Nothing) {
            Returned::Nothing => false,
            Returned::Honestly => self.inner.wants_interrupt(memory)?,
            Returned::Forged => true,
        })
    }
}
