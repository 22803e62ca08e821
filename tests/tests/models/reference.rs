//! `virtio-drivers`, which shares no code with us, over the same wire. Its memory is found by thread, because its
//! platform trait has no state: each test runs in a thread of its own.

use crate::bridge::{Dma, Rig, Slot};
use frontends::memory::{DmaPages, PAGE_SIZE, RawPages};
use shared_abi::virtio::mmio::{CONFIG, Register};
use std::cell::Cell;
use std::ptr::NonNull;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

thread_local! {
    static DMA: Cell<Option<&'static Dma>> = const { Cell::new(None) };
}

fn dma() -> &'static Dma {
    DMA.get().expect("a reference transport was made in this thread")
}

/// The platform.
pub(crate) struct Hal;

// SAFETY: pages are those of `Dma`, shared ones are copies of their own.
unsafe impl virtio_drivers::Hal for Hal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let raw = dma().allocate(pages).expect("DMA memory");
        // SAFETY: just allocated.
        unsafe { raw.address.write_bytes(0, pages * PAGE_SIZE) };
        (raw.device_address, raw.address)
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: from `dma_alloc`, by the trait's contract.
        unsafe { dma().free(RawPages { address: vaddr, device_address: paddr, count: pages }) };
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("there are no mapped registers here")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let raw = dma().allocate(buffer.len().div_ceil(PAGE_SIZE)).expect("DMA memory");
        // SAFETY: both are valid for this length, and apart.
        unsafe { raw.address.copy_from_nonoverlapping(buffer.cast(), buffer.len()) };
        raw.device_address
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let count = buffer.len().div_ceil(PAGE_SIZE);
        let address = dma().host_address(paddr, buffer.len());
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: as in `share`.
            unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(address, buffer.len()) };
        }
        // SAFETY: from `share`, by the trait's contract.
        unsafe { dma().free(RawPages { address, device_address: paddr, count }) };
    }
}

/// The registers of section 4.2, written down a second time.
pub(crate) struct ReferenceTransport {
    slot: Slot,
}

impl ReferenceTransport {
    pub(crate) fn new(rig: &Rig) -> Self {
        DMA.set(Some(rig.dma));
        Self { slot: Slot(rig.model.clone()) }
    }

    fn get(&self, register: Register) -> u32 {
        u32::from_le_bytes(self.slot.read(register.offset() as usize))
    }

    fn set(&self, register: Register, value: u32) {
        self.slot.0.write(register.offset(), &value.to_le_bytes());
    }
}

impl Transport for ReferenceTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.get(Register::DeviceId)).expect("a known type")
    }

    fn read_device_features(&mut self) -> u64 {
        self.set(Register::DeviceFeaturesSel, 0);
        let low = self.get(Register::DeviceFeatures);
        self.set(Register::DeviceFeaturesSel, 1);
        u64::from(low) | u64::from(self.get(Register::DeviceFeatures)) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for (half, value) in [features as u32, (features >> 32) as u32].into_iter().enumerate() {
            self.set(Register::DriverFeaturesSel, half as u32);
            self.set(Register::DriverFeatures, value);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.set(Register::QueueSel, queue.into());
        self.get(Register::QueueSizeMax)
    }

    fn notify(&mut self, queue: u16) {
        self.set(Register::QueueNotify, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.get(Register::Status))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.set(Register::Status, status.bits());
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.set(Register::QueueSel, queue.into());
        self.set(Register::QueueSize, size);
        self.set(Register::QueueDescLow, descriptors as u32);
        self.set(Register::QueueDescHigh, (descriptors >> 32) as u32);
        self.set(Register::QueueDriverLow, driver as u32);
        self.set(Register::QueueDriverHigh, (driver >> 32) as u32);
        self.set(Register::QueueDeviceLow, device as u32);
        self.set(Register::QueueDeviceHigh, (device >> 32) as u32);
        self.set(Register::QueueReady, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.set(Register::QueueSel, queue.into());
        self.set(Register::QueueReady, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.set(Register::QueueSel, queue.into());
        self.get(Register::QueueReady) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.get(Register::InterruptStatus);
        self.set(Register::InterruptAck, status);
        InterruptStatus::from_bits_retain(status)
    }

    fn read_config_generation(&self) -> u32 {
        self.get(Register::ConfigGeneration)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut value = T::new_zeroed();
        self.slot.0.read(CONFIG + offset as u64, value.as_mut_bytes());
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> virtio_drivers::Result<()> {
        self.slot.0.write(CONFIG + offset as u64, value.as_bytes());
        Ok(())
    }
}
