//! A packed ring for the checks (section 2.8), as `raw` has a split one: lists of descriptors go in, used ones are looked at.

use super::device::Dev;
use super::raw::{Buf, Dir, Link, PATIENCE, wait_until};
use super::{End, fail, holds, skip};
use alloc::format;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};
use shared_abi::virtio::packed::{Descriptor, DescriptorFlags, EventSuppression, WRAP_COUNTER};

/// Buffers with these ids and more are not counted.
const IDS: u16 = 64;

/// A place in the ring, with the wrap counter of the turn that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub at: u16,
    pub wrap: bool,
}

impl Place {
    /// Where both sides begin.
    const FIRST: Self = Self { at: 0, wrap: true };

    /// The place so many descriptors on.
    pub fn after(self, count: u16, size: u16) -> Self {
        let at = self.at + count;
        if at < size { Self { at, ..self } } else { Self { at: at - size, wrap: !self.wrap } }
    }

    /// As event suppression has it.
    pub fn event(self) -> u16 {
        self.at | if self.wrap { WRAP_COUNTER } else { 0 }
    }

    /// The two flags of an available descriptor.
    fn available(self) -> DescriptorFlags {
        if self.wrap { DescriptorFlags::AVAIL } else { DescriptorFlags::USED }
    }

    /// The two flags of a used one.
    fn used(self) -> DescriptorFlags {
        if self.wrap { TURN } else { DescriptorFlags::empty() }
    }
}

/// The flags that say whose a descriptor is.
const TURN: DescriptorFlags = DescriptorFlags::AVAIL.union(DescriptorFlags::USED);

/// A used descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedDescriptor {
    pub id: u16,
    /// Bytes written; nothing without `wrote`.
    pub len: u32,
    /// Whether the device says that it wrote anything.
    pub wrote: bool,
}

/// A packed ring.
pub struct Packed {
    pub size: u16,
    pub ring: Buf,
    driver_event: Buf,
    device_event: Buf,
    index: u16,
    notify_at: usize,
    /// Where the next list goes.
    pub next: Place,
    /// Where the next used descriptor comes.
    pub seen: Place,
    /// Descriptors of the list of each id in flight.
    lists: Vec<u16>,
}

impl Packed {
    /// Sets a queue up, with at least so many entries.
    ///
    /// # Errors
    /// As [`Dev::queue`]; not applicable where the queue is shorter.
    pub fn on(dev: &Dev<'_>, index: u16, wanted: u16) -> Result<Self, End> {
        let parts = |size: u16| [usize::from(size) * size_of::<Descriptor>(), 4, 4];
        let (size, [ring, driver_event, device_event], notify_at) = dev.place(index, wanted, parts)?;
        if size < wanted {
            return Err(skip(format!("the queue has only {size} entries")));
        }
        let (next, seen) = (Place::FIRST, Place::FIRST);
        let lists = alloc::vec![1; IDS.into()];
        Ok(Self { size, ring, driver_event, device_event, index, notify_at, next, seen, lists })
    }

    /// Writes a descriptor, its flags last.
    pub fn describe(&self, at: u16, (address, len): (u64, u32), id: u16, flags: DescriptorFlags) {
        let at = usize::from(at) * size_of::<Descriptor>();
        self.ring.write64(at, address);
        self.ring.write32(at + offset_of!(Descriptor, len), len);
        self.ring.write16(at + offset_of!(Descriptor, id), id);
        fence(Ordering::Release);
        self.ring.write16(at + offset_of!(Descriptor, flags), flags.bits());
    }

    /// What stands at a place.
    pub fn descriptor(&self, at: u16) -> Vec<u8> {
        self.ring.part(usize::from(at) * size_of::<Descriptor>(), size_of::<Descriptor>()).bytes()
    }

    /// Makes a list available, its first descriptor last, and moves past it.
    pub fn offer(&mut self, id: u16, links: &[Link]) {
        self.offer_named(id, id, links);
    }

    /// The same with another id in all descriptors but the last, which names the list.
    pub fn offer_named(&mut self, id: u16, others: u16, links: &[Link]) {
        let last = links.len() - 1;
        for (n, &(address, len, dir)) in links.iter().enumerate().rev() {
            let place = self.next.after(n as u16, self.size);
            let mut flags = place.available();
            flags.set(DescriptorFlags::WRITE, dir == Dir::In);
            flags.set(DescriptorFlags::NEXT, n < last);
            self.describe(place.at, (address, len), if n == last { id } else { others }, flags);
        }
        self.moved(id, links.len() as u16);
    }

    /// Makes a list in a table available, by one descriptor.
    pub fn offer_indirect(&mut self, id: u16, table: &Buf, links: &[Link]) {
        for (n, &(address, len, dir)) in links.iter().enumerate() {
            let at = n * size_of::<Descriptor>();
            table.write64(at, address);
            table.write32(at + offset_of!(Descriptor, len), len);
            // "Buffer ID is also reserved and is ignored by the device" (2.8.7).
            table.write16(at + offset_of!(Descriptor, id), !id);
            let flags = if dir == Dir::In { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
            table.write16(at + offset_of!(Descriptor, flags), flags.bits());
        }
        let len = (links.len() * size_of::<Descriptor>()) as u32;
        let flags = self.next.available() | DescriptorFlags::INDIRECT;
        self.describe(self.next.at, (table.address(), len), id, flags);
        self.moved(id, 1);
    }

    fn moved(&mut self, id: u16, count: u16) {
        self.next = self.next.after(count, self.size);
        if let Some(list) = self.lists.get_mut(usize::from(id)) {
            *list = count;
        }
        fence(Ordering::SeqCst);
    }

    pub fn notify(&self, dev: &Dev<'_>) {
        dev.regs().notify(self.notify_at, self.index.into());
    }

    /// Whether the next used descriptor is there.
    pub fn is_used(&self) -> bool {
        let flags = self.flags(self.seen.at);
        fence(Ordering::Acquire);
        flags & TURN == self.seen.used()
    }

    /// The flags at a place.
    pub fn flags(&self, at: u16) -> DescriptorFlags {
        let at = usize::from(at) * size_of::<Descriptor>() + offset_of!(Descriptor, flags);
        DescriptorFlags::from_bits_retain(self.ring.read16(at))
    }

    /// Waits for the next used descriptor, and moves on by the length of its list.
    ///
    /// # Errors
    /// A failure when it does not come.
    pub fn wait(&mut self) -> Result<UsedDescriptor, End> {
        let place = self.seen;
        if !wait_until(PATIENCE, || self.is_used()) {
            let flags = self.flags(place.at).bits();
            let expected = format_args!("a used descriptor at {} in 5 s", place.at);
            return Err(fail("the device does not answer", expected, format_args!("flags {flags:#x}")));
        }
        let at = usize::from(place.at) * size_of::<Descriptor>();
        let used = UsedDescriptor {
            id: self.ring.read16(at + offset_of!(Descriptor, id)),
            len: self.ring.read32(at + offset_of!(Descriptor, len)),
            wrote: self.flags(place.at).contains(DescriptorFlags::WRITE),
        };
        let list = self.lists.get(usize::from(used.id)).copied().unwrap_or(1);
        self.seen = place.after(list, self.size);
        Ok(used)
    }

    /// Offers one list, notifies, waits for it.
    ///
    /// # Errors
    /// A failure when it does not come back with its id.
    pub fn once(&mut self, dev: &Dev<'_>, id: u16, links: &[Link]) -> Result<UsedDescriptor, End> {
        self.offer(id, links);
        self.notify(dev);
        let used = self.wait()?;
        holds(used.id == id, "id of the used descriptor", id, used.id)?;
        Ok(used)
    }

    /// Says which interrupts the driver wants.
    pub fn want(&self, flags: u16, place: Place) {
        self.driver_event.write16(offset_of!(EventSuppression, descriptor), place.event());
        self.driver_event.write16(offset_of!(EventSuppression, flags), flags);
        fence(Ordering::SeqCst);
    }

    /// Which notifications the device wants.
    pub fn device_event(&self) -> EventSuppression {
        EventSuppression {
            descriptor: self.device_event.read16(offset_of!(EventSuppression, descriptor)),
            flags: self.device_event.read16(offset_of!(EventSuppression, flags)),
        }
    }
}
