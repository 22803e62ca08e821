//! DMA pages from an implementation of the trait `Hal` of the crate `virtio-drivers`.

use super::allocator::DmaPages;
use super::pages::{PAGE_SIZE, RawPages};
use core::fmt;
use core::marker::PhantomData;
use virtio_drivers::{BufferDirection, Hal};

const _: () = assert!(PAGE_SIZE == virtio_drivers::PAGE_SIZE);

/// [`DmaPages`] from a [`Hal`], for kernels that come from `virtio-drivers`:
/// `static DMA: HalPages<MyHal> = HalPages::new();`.
///
/// All memory comes from [`Hal::dma_alloc`], also that of buffers. Devices reach it without [`Hal::share`], so a `Hal` with
/// bounce buffers copies nothing for these drivers.
pub struct HalPages<H> {
    hal: PhantomData<fn() -> H>,
}

impl<H: Hal> HalPages<H> {
    /// The allocator. It has no state: that of a `Hal` is global.
    pub const fn new() -> Self {
        Self { hal: PhantomData }
    }
}

impl<H: Hal> Default for HalPages<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> fmt::Debug for HalPages<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HalPages")
    }
}

// SAFETY: the contract of `Hal::dma_alloc` is that of `DmaPages::allocate`, and pages that it zeroes are initialised.
unsafe impl<H: Hal> DmaPages for HalPages<H> {
    fn allocate(&self, count: usize) -> Option<RawPages> {
        let (device_address, address) = H::dma_alloc(count, BufferDirection::Both);
        // The crate's sign of failure.
        (device_address != 0).then_some(RawPages { address, device_address, count })
    }

    unsafe fn free(&self, pages: RawPages) {
        // SAFETY: the pages came from `dma_alloc`, per the contract.
        let code = unsafe { H::dma_dealloc(pages.device_address, pages.address, pages.count) };
        if code != 0 {
            log::error!("free of {} DMA pages failed with code {code}: they are lost", pages.count);
        }
    }
}
