//! Memory that devices reach: blocks of frames, seen through the direct map. Devices see the world's addresses.

use super::frames::FRAMES;
use super::{PAGE_SIZE, direct, physical_of_direct};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use frontends::memory::{DmaPages, RawPages};
use pvops::mmu;
use x86_64::PhysAddr;
use x86_64::structures::paging::PageTableFlags;

/// The allocator for all drivers.
pub static DMA: Dma = Dma;

/// Pages that devices may still write to though their drivers have ended.
static LEAKED: AtomicUsize = AtomicUsize::new(0);

/// Takes from the frame allocator.
pub struct Dma;

/// Pages that are given up for good, because a device did not confirm its reset.
pub fn leaked_pages() -> usize {
    LEAKED.load(Relaxed)
}

// SAFETY: the frame allocator hands out disjoint frames; the direct map makes them contiguous, readable and writable.
unsafe impl DmaPages for Dma {
    fn allocate(&self, count: usize) -> Option<RawPages> {
        let order = order(count)?;
        let frame = FRAMES.lock().allocate(order)?;
        // SAFETY: the frames are free.
        let Some(device_address) = (unsafe { pvops::memory::machine_block(frame, order as u32) }) else {
            FRAMES.lock().free(frame, order);
            log::warn!("no {count} contiguous pages for a device");
            return None;
        };
        let address = direct(frame * PAGE_SIZE as u64) as *mut u8;
        Some(RawPages { address: NonNull::new(address)?, device_address, count })
    }

    unsafe fn free(&self, pages: RawPages) {
        if let Some(order) = order(pages.count) {
            let physical = physical_of_direct(pages.address.addr().get());
            FRAMES.lock().free(physical / PAGE_SIZE as u64, order);
        }
    }

    fn note_leak(&self, pages: usize) {
        LEAKED.fetch_add(pages, Relaxed);
    }
}

fn order(count: usize) -> Option<usize> {
    let order = count.max(1).next_power_of_two().trailing_zeros() as usize;
    (order <= super::frames::MAX_ORDER).then_some(order)
}

/// What `virtio-drivers` needs of a kernel.
pub struct ReferenceHal;

// SAFETY: as for `DmaPages`; physical addresses are device addresses.
unsafe impl virtio_drivers::Hal for ReferenceHal {
    fn dma_alloc(pages: usize, _: virtio_drivers::BufferDirection) -> (u64, NonNull<u8>) {
        let Some(raw) = DMA.allocate(pages) else { return (0, NonNull::dangling()) };
        // SAFETY: just allocated; the crate expects zeroes.
        unsafe { raw.address.write_bytes(0, pages * PAGE_SIZE) };
        (raw.device_address, raw.address)
    }

    unsafe fn dma_dealloc(address: u64, pointer: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: from `dma_alloc`, per the trait's contract.
        unsafe { DMA.free(RawPages { address: pointer, device_address: address, count: pages }) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: u64, size: usize) -> NonNull<u8> {
        let mapped = super::paging::map_device(address, size as u64).and_then(|at| NonNull::new(at as *mut u8));
        mapped.unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: virtio_drivers::BufferDirection) -> u64 {
        let address = buffer.cast::<u8>().addr().get();
        let physical = match super::paging::lookup(address) {
            // Heap and frames.
            _ if address >= direct(0) && address < DEVICE_LIMIT => physical_of_direct(address),
            // The stack and statics.
            Some((physical, _)) => physical.as_u64(),
            None => return 0,
        };
        device_address(physical, buffer.len()).expect("a buffer of a device is not contiguous for it")
    }

    unsafe fn unshare(_: u64, _: NonNull<[u8]>, _: virtio_drivers::BufferDirection) {}
}

/// The address that devices use for a buffer; `None` if its pages do not follow each other there.
fn device_address(physical: u64, len: usize) -> Option<u64> {
    const PAGE: u64 = PAGE_SIZE as u64;
    let machine = |page: u64| mmu::encode(PhysAddr::new(page), PageTableFlags::PRESENT) & !(PAGE - 1);
    let (first, last) = (physical / PAGE * PAGE, (physical + (len as u64).max(1) - 1) / PAGE * PAGE);
    let follows = (first..=last).step_by(PAGE_SIZE).all(|page| machine(page) - machine(first) == page - first);
    follows.then_some(machine(first) + physical % PAGE)
}

/// End of what the direct map can hold.
const DEVICE_LIMIT: usize = 0xffff_c880_0000_0000;
