//! The wire between a driver and a device model in one process: guest memory that both see, and registers that go
//! straight to the model. Nothing runs in between: a notification runs the device before the driver's store returns.

use frontends::memory::{DmaPages, PAGE_SIZE, RawPages};
use frontends::transport::{MmioTransport, Registers};
use host_backend::devices::InterruptLine;
use host_backend::virtio::Device;
use host_backend::virtio::mmio::MmioTransport as Model;
use host_backend::vmm::{GuestRam, memory};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// Bytes of guest memory.
pub(crate) const MEMORY: u64 = 32 << 20;
/// DMA memory is between these pages, the rest is for a balloon.
const DMA_FIRST: usize = 256;
const DMA_END: usize = 2048;
/// The first page that is no DMA memory.
pub(crate) const FREE_FIRST: u32 = DMA_END as u32;

/// Guest memory as an allocator of DMA pages. Never freed, as drivers require.
pub(crate) struct Dma {
    pub(crate) memory: GuestRam,
    used: Mutex<Vec<bool>>,
}

/// New guest memory.
pub(crate) fn dma() -> &'static Dma {
    let memory = memory::map(MEMORY).expect("guest memory");
    Box::leak(Box::new(Dma { memory, used: Mutex::new(vec![false; DMA_END]) }))
}

impl Dma {
    /// Pages in use.
    pub(crate) fn allocated(&self) -> usize {
        self.used.lock().unwrap().iter().filter(|used| **used).count()
    }

    /// Where a page of guest memory is in this process.
    pub(crate) fn host_address(&self, address: u64, len: usize) -> NonNull<u8> {
        let slice = self.memory.get_slice(GuestAddress(address), len).expect("guest memory is there");
        NonNull::new(slice.ptr_guard_mut().as_ptr()).expect("memory is mapped")
    }
}

// SAFETY: guest memory is mapped as long as the process lives (`dma` leaks it), pages are aligned and initialised,
// and the map gives each to one owner.
unsafe impl DmaPages for Dma {
    fn allocate(&self, count: usize) -> Option<RawPages> {
        let mut used = self.used.lock().unwrap();
        let first = DMA_FIRST + used[DMA_FIRST..].windows(count).position(|window| !window.contains(&true))?;
        used[first..first + count].fill(true);
        let device_address = (first * PAGE_SIZE) as u64;
        Some(RawPages { address: self.host_address(device_address, count * PAGE_SIZE), device_address, count })
    }

    unsafe fn free(&self, pages: RawPages) {
        let first = pages.device_address as usize / PAGE_SIZE;
        self.used.lock().unwrap()[first..first + pages.count].fill(false);
    }
}

/// An interrupt line that counts.
#[derive(Default)]
pub(crate) struct Line(AtomicUsize);

impl Line {
    /// Interrupts so far.
    pub(crate) fn raised(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl InterruptLine for Line {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The registers of a model.
#[derive(Clone)]
pub(crate) struct Slot(pub(crate) Arc<Model>);

impl Slot {
    pub(crate) fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut data = [0; N];
        self.0.read(offset as u64, &mut data);
        data
    }
}

impl Registers for Slot {
    fn len(&self) -> usize {
        shared_abi::board::VIRTIO_MMIO_STRIDE as usize
    }
    fn read8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.read(offset))
    }
    fn read16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }
    fn read32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }
    fn write8(&self, offset: usize, value: u8) {
        self.0.write(offset as u64, &value.to_le_bytes());
    }
    fn write16(&self, offset: usize, value: u16) {
        self.0.write(offset as u64, &value.to_le_bytes());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.0.write(offset as u64, &value.to_le_bytes());
    }
}

/// A device model in its slot.
pub(crate) struct Rig {
    pub(crate) dma: &'static Dma,
    pub(crate) model: Arc<Model>,
    pub(crate) line: Arc<Line>,
}

impl Rig {
    pub(crate) fn new(dma: &'static Dma, device: Box<dyn Device>) -> Self {
        let line = Arc::new(Line::default());
        let model = Model::new(device, dma.memory.clone(), line.clone());
        Self { dma, model, line }
    }

    /// A transport for our drivers.
    pub(crate) fn transport(&self) -> MmioTransport<Slot> {
        MmioTransport::new(Slot(self.model.clone())).expect("the slot holds a device")
    }

    /// No fault of the guest, no access to a register that is not there.
    pub(crate) fn assert_content(&self) {
        assert_eq!(self.model.fault(), None);
        assert_eq!((self.model.counters().faults.get(), self.model.counters().bad_accesses.get()), (0, 0));
    }
}
