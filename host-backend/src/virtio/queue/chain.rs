//! A descriptor chain as a device sees it: whole, and inside guest memory.

use super::{CHAIN_MAX, Fault, Slice};
use crate::vmm::GuestRam;
use virtio_queue::DescriptorChain;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryBackend, Permissions};

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    address: GuestAddress,
    len: u32,
}

impl Buffer {
    /// Whether all of it is in memory. An empty buffer has an address too, and code that rounds it.
    fn lies_in(self, memory: &GuestRam) -> bool {
        GuestMemory::check_range(memory, self.address, self.len.max(1) as usize, Permissions::ReadWrite)
    }
}

/// A descriptor chain, checked and copied.
#[derive(Clone, Debug)]
pub struct Chain {
    head: u16,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

impl Chain {
    /// Checks and copies a chain of a queue with `size` entries.
    pub(super) fn read_all(
        memory: &GuestRam,
        size: u16,
        mut descriptors: DescriptorChain<&GuestRam>,
    ) -> Result<Self, Fault> {
        let head = descriptors.head_index();
        if head >= size {
            return Err(Fault::Head(head));
        }
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut goes_on = true;
        for descriptor in descriptors.by_ref() {
            if chain.readable.len() + chain.writable.len() == CHAIN_MAX {
                return Err(Fault::ChainTooLong(head));
            }
            let buffer = Buffer { address: descriptor.addr(), len: descriptor.len() };
            if !buffer.lies_in(memory) {
                return Err(Fault::OutsideMemory { head, address: buffer.address.0, len: buffer.len });
            }
            if descriptor.is_write_only() {
                chain.writable.push(buffer);
            } else if chain.writable.is_empty() {
                chain.readable.push(buffer);
            } else {
                return Err(Fault::Direction(head));
            }
            goes_on = descriptor.has_next();
        }
        if goes_on { Err(Fault::BrokenChain(head)) } else { Ok(chain) }
    }

    /// What to return it under.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u64 {
        len(&self.readable)
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        len(&self.writable)
    }

    /// The readable bytes `offset..offset + len`, as they lie in memory.
    pub fn readable<'a>(&self, memory: &'a GuestRam, offset: u64, len: u64) -> Vec<Slice<'a>> {
        slices(memory, &self.readable, offset, len)
    }

    /// The writable bytes `offset..offset + len`, as they lie in memory.
    pub fn writable<'a>(&self, memory: &'a GuestRam, offset: u64, len: u64) -> Vec<Slice<'a>> {
        slices(memory, &self.writable, offset, len)
    }

    /// Copies readable bytes from `offset` on and returns how many there were.
    pub fn read(&self, memory: &GuestRam, offset: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.readable(memory, offset, data.len() as u64) {
            done += slice.copy_to(&mut data[done..]);
        }
        done
    }

    /// Copies bytes to the writable part from `offset` on and returns how many there was room for.
    pub fn write(&self, memory: &GuestRam, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        for slice in self.writable(memory, offset, data.len() as u64) {
            slice.copy_from(&data[done..]);
            done += slice.len();
        }
        done
    }

    /// The ranges of guest memory that the device may write: address and length.
    pub fn writable_ranges(&self) -> impl Iterator<Item = (GuestAddress, u32)> + '_ {
        self.writable.iter().map(|buffer| (buffer.address, buffer.len))
    }
}

fn len(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

fn slices<'a>(memory: &'a GuestRam, buffers: &[Buffer], mut offset: u64, mut len: u64) -> Vec<Slice<'a>> {
    let mut slices = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let buffer_len = u64::from(buffer.len);
        if offset >= buffer_len {
            offset -= buffer_len;
            continue;
        }
        let here = (buffer_len - offset).min(len);
        if here == 0 {
            break;
        }
        // The chain was checked to lie in memory, and memory never shrinks.
        if let Ok(slice) = memory.get_slice(GuestAddress(buffer.address.0 + offset), here as usize) {
            slices.push(slice);
        }
        offset = 0;
        len -= here;
    }
    slices
}
