//! A kernel that has a `Hal` for the crate `virtio-drivers` drives a device with these drivers.

use frontends::block::{Block, Output, Request, Settings};
use frontends::fake::{FakeTransport, Memory};
use frontends::memory::{HalPages, RawPages};
use frontends::{DmaBuffer, DmaPages, Driver, InitError};
use std::ptr::NonNull;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use virtio_abi::DeviceType;
use virtio_abi::blk::{Config, RequestStatus};
use virtio_drivers::{BufferDirection, Hal};
use zerocopy::IntoBytes;

static MEMORY: LazyLock<&'static Memory> = LazyLock::new(|| Memory::leaked(32));
static SHARES: AtomicUsize = AtomicUsize::new(0);
static DMA: HalPages<Kernel> = HalPages::new();

struct Kernel;

// SAFETY: `Memory` gives aligned pages to one owner at a time; they are zeroed here.
unsafe impl Hal for Kernel {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        let Some(raw) = MEMORY.allocate(pages) else { return (0, NonNull::dangling()) };
        MEMORY.write(raw.device_address, &vec![0; pages * 4096]);
        (raw.device_address, raw.address)
    }

    unsafe fn dma_dealloc(device_address: u64, address: NonNull<u8>, count: usize) -> i32 {
        // SAFETY: the pages are from `dma_alloc`.
        unsafe { MEMORY.free(RawPages { address, device_address, count }) };
        0
    }

    unsafe fn mmio_phys_to_virt(_: u64, _: usize) -> NonNull<u8> {
        unreachable!("transports are the caller's")
    }

    unsafe fn share(_: NonNull<[u8]>, _: BufferDirection) -> u64 {
        SHARES.fetch_add(1, Ordering::Relaxed);
        0
    }

    unsafe fn unshare(_: u64, _: NonNull<[u8]>, _: BufferDirection) {}
}

#[test]
fn block_driver_works_with_the_pages_of_a_hal() {
    let transport = FakeTransport::new(DeviceType::BLOCK, 0, 1, Config { capacity: 8, ..Config::default() }.as_bytes());
    let mut block = Block::new(transport.clone(), &DMA, Settings::default()).expect("the driver comes up");
    let mut queue = transport.queue(*MEMORY, 0);

    let mut buffer = DmaBuffer::allocate(&DMA, 512).expect("a page");
    buffer.copy_from(0, &[7; 512]);
    block.submit(Request::Write { sector: 1, buffer }).expect("room for a request");
    block.kick();
    let chain = queue.next_chain().expect("a request");
    assert_eq!(chain.read(*MEMORY)[16..], [7; 512]);
    chain.write(*MEMORY, &[RequestStatus::OK.0]);
    queue.complete(&chain, 1);
    let done = block.poll().expect("a completion");
    assert_eq!(done.result, Ok(Output::Done));

    let buffer = done.buffer.expect("the buffer comes back");
    block.submit(Request::Read { sector: 1, buffer }).expect("room for a request");
    block.kick();
    let chain = queue.next_chain().expect("a request");
    chain.write(*MEMORY, &[[9; 512].as_slice(), &[RequestStatus::OK.0]].concat());
    queue.complete(&chain, 513);
    let done = block.poll().expect("a completion");
    assert_eq!(done.buffer.expect("the buffer comes back").to_vec(), [9; 512]);

    assert_eq!(SHARES.load(Ordering::Relaxed), 0, "memory of `dma_alloc` needs no sharing");
    drop(block);
    assert_eq!(MEMORY.allocated_pages(), 0, "all pages are back");

    let all = MEMORY.allocate(32).expect("the whole arena");
    let refused = Block::new(transport, &DMA, Settings::default()).err();
    assert_eq!(refused, Some(InitError::NoMemory { what: "a ring" }), "an address of 0 is a failed allocation");
    // SAFETY: just allocated, and not used.
    unsafe { MEMORY.free(all) };
}
