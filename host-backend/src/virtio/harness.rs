//! For tests: a machine of memory and one transport, and a driver that can write anything anywhere into its rings.

use super::Device;
use super::mmio::MmioTransport;
use crate::devices::{BusDevice, InterruptLine};
use crate::rate::Clock;
use crate::rate::fake::FakeClock;
use crate::vmm::GuestRam;
use shared_abi::virtio::mmio::{CONFIG, Register};
use shared_abi::virtio::ring::{self, Descriptor, DescriptorFlags, UsedElement};
use shared_abi::virtio::{CommonFeatures, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromZeros, IntoBytes};

pub(crate) const MEMORY: u64 = 4 << 20;
/// Entries of the rings that [`Rig::queue`] sets up.
pub(crate) const SIZE: u16 = 16;
/// Buffers of the tests start here; the rings are below.
pub(crate) const DATA: u64 = 1 << 20;

pub(crate) const NEXT: DescriptorFlags = DescriptorFlags::NEXT;
pub(crate) const WRITE: DescriptorFlags = DescriptorFlags::WRITE;
pub(crate) const INDIRECT: DescriptorFlags = DescriptorFlags::INDIRECT;
pub(crate) const READ: DescriptorFlags = DescriptorFlags::empty();

#[derive(Default)]
pub(crate) struct Edges(AtomicUsize);

impl Edges {
    pub(crate) fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl InterruptLine for Edges {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) struct Rig {
    pub(crate) memory: GuestRam,
    pub(crate) transport: Arc<MmioTransport>,
    /// Where the driver finds the registers.
    bus: Arc<dyn BusDevice>,
    pub(crate) edges: Arc<Edges>,
}

impl Rig {
    /// How long the device waits, by a clock that goes when the test says so.
    pub(crate) fn wait(&self, clock: &FakeClock) -> Option<Duration> {
        self.transport.awaited().until.map(|until| until.saturating_duration_since(clock.now()))
    }

    /// Goes to the device's next wake-up, if it comes within `end`; false if not.
    pub(crate) fn wake(&self, clock: &FakeClock, end: Duration) -> bool {
        let Some(until) = self.transport.awaited().until else { return false };
        clock.pass_until(until);
        if clock.elapsed() > end {
            return false;
        }
        self.transport.process_timer();
        true
    }

    /// A device in its reset state.
    pub(crate) fn new(device: impl Device + 'static) -> Self {
        Self::with_memory(device, GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap())
    }

    pub(crate) fn with_memory(device: impl Device + 'static, memory: GuestRam) -> Self {
        Self::made(memory, |line| (Box::new(device), line))
    }

    /// A device with something around its interrupt line.
    pub(crate) fn made(
        memory: GuestRam,
        make: impl FnOnce(Arc<dyn InterruptLine>) -> (Box<dyn Device>, Arc<dyn InterruptLine>),
    ) -> Self {
        let edges = Arc::new(Edges::default());
        let (device, line) = make(edges.clone());
        let transport = MmioTransport::new(device, memory.clone(), line);
        Self { memory, bus: transport.clone(), transport, edges }
    }

    /// A driver that finds something around the registers.
    pub(crate) fn behind(self, wrap: impl FnOnce(Arc<MmioTransport>) -> Arc<dyn BusDevice>) -> Self {
        Self { bus: wrap(self.transport.clone()), ..self }
    }

    /// A device whose driver has accepted all features but EVENT_IDX, and set up all queues.
    pub(crate) fn running(device: impl Device + 'static) -> Self {
        let rig = Self::new(device);
        rig.start(!CommonFeatures::EVENT_IDX.bits());
        rig
    }

    /// Goes from reset to DRIVER_OK, with those of the offered features that are in `mask`.
    pub(crate) fn start(&self, mask: u64) {
        self.negotiate(self.offered() & mask);
        for index in 0..self.transport.queue_count() {
            self.queue(index as u32);
        }
        self.set_status(Status::DRIVER_OK);
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        let mut data = [0; 4];
        self.bus.read(register.offset(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.bus.write(register.offset(), &value.to_le_bytes());
    }

    pub(crate) fn config(&self, offset: u64, data: &mut [u8]) {
        self.bus.read(CONFIG + offset, data);
    }

    pub(crate) fn status(&self) -> Status {
        Status::from_bits_retain(self.read(Register::Status) as u8)
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.status().contains(Status::DEVICE_NEEDS_RESET)
    }

    pub(crate) fn set_status(&self, add: Status) {
        self.write(Register::Status, (self.status() | add).bits().into());
    }

    pub(crate) fn offered(&self) -> u64 {
        self.write(Register::DeviceFeaturesSel, 0);
        let low = self.read(Register::DeviceFeatures);
        self.write(Register::DeviceFeaturesSel, 1);
        u64::from(self.read(Register::DeviceFeatures)) << 32 | u64::from(low)
    }

    /// Accepts `features` and says whether the device agreed.
    pub(crate) fn negotiate(&self, features: u64) -> bool {
        self.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
        for half in 0..2 {
            self.write(Register::DriverFeaturesSel, half);
            self.write(Register::DriverFeatures, (features >> (32 * half)) as u32);
        }
        self.set_status(Status::FEATURES_OK);
        self.status().contains(Status::FEATURES_OK)
    }

    /// Sets up a queue of [`SIZE`] entries.
    pub(crate) fn queue(&self, index: u32) {
        self.place(index, SIZE.into(), descriptors(index), available(index), used(index));
    }

    pub(crate) fn place(&self, index: u32, size: u32, descriptors: u64, available: u64, used: u64) {
        self.write(Register::QueueSel, index);
        self.write(Register::QueueSize, size);
        self.write(Register::QueueDescLow, descriptors as u32);
        self.write(Register::QueueDescHigh, (descriptors >> 32) as u32);
        self.write(Register::QueueDriverLow, available as u32);
        self.write(Register::QueueDriverHigh, (available >> 32) as u32);
        self.write(Register::QueueDeviceLow, used as u32);
        self.write(Register::QueueDeviceHigh, (used >> 32) as u32);
        self.write(Register::QueueReady, 1);
    }

    /// Writes a descriptor of a queue.
    pub(crate) fn descriptor(&self, queue: u32, at: u16, buffer: (u64, u32), flags: DescriptorFlags, next: u16) {
        self.put_descriptor(descriptors(queue), at, buffer, flags, next);
    }

    /// Writes a descriptor of any table.
    pub(crate) fn put_descriptor(&self, table: u64, at: u16, buffer: (u64, u32), flags: DescriptorFlags, next: u16) {
        let descriptor = Descriptor { addr: buffer.0, len: buffer.1, flags: flags.bits(), next };
        self.put(table + 16 * u64::from(at), descriptor.as_bytes());
    }

    /// Writes a chain of buffers into the table from entry `at` on.
    pub(crate) fn chain(&self, queue: u32, at: u16, buffers: &[(u64, u32, DescriptorFlags)]) {
        for (i, (address, len, flags)) in (at..).zip(buffers) {
            let last = usize::from(i - at) + 1 == buffers.len();
            let flags = if last { *flags } else { *flags | NEXT };
            self.descriptor(queue, i, (*address, *len), flags, i + 1);
        }
    }

    /// Makes the chain at `head` available.
    pub(crate) fn offer(&self, queue: u32, head: u16) {
        let index = self.available_index(queue);
        let slot = available(queue) + ring::ENTRIES_OFFSET as u64 + 2 * u64::from(index % SIZE);
        self.put(slot, &head.to_le_bytes());
        self.set_available_index(queue, index.wrapping_add(1));
    }

    pub(crate) fn available_index(&self, queue: u32) -> u16 {
        self.memory.read_obj(GuestAddress(available(queue) + ring::INDEX_OFFSET as u64)).unwrap()
    }

    pub(crate) fn set_available_index(&self, queue: u32, index: u16) {
        self.put(available(queue) + ring::INDEX_OFFSET as u64, &index.to_le_bytes());
    }

    pub(crate) fn set_available_flags(&self, queue: u32, flags: u16) {
        self.put(available(queue), &flags.to_le_bytes());
    }

    pub(crate) fn set_used_event(&self, queue: u32, event: u16) {
        self.put(available(queue) + ring::used_event_offset(SIZE) as u64, &event.to_le_bytes());
    }

    pub(crate) fn kick(&self, queue: u32) {
        self.write(Register::QueueNotify, queue);
    }

    /// Offers one chain, notifies, and returns what came back for it.
    pub(crate) fn request(&self, queue: u32, buffers: &[(u64, u32, DescriptorFlags)]) -> Option<UsedElement> {
        let before = self.used_index(queue);
        self.chain(queue, 0, buffers);
        self.offer(queue, 0);
        self.kick(queue);
        (self.used_index(queue) != before).then(|| self.used(queue, before))
    }

    pub(crate) fn used_index(&self, queue: u32) -> u16 {
        self.memory.read_obj(GuestAddress(used(queue) + ring::INDEX_OFFSET as u64)).unwrap()
    }

    pub(crate) fn used(&self, queue: u32, index: u16) -> UsedElement {
        let mut element = UsedElement::new_zeroed();
        let at = used(queue) + ring::ENTRIES_OFFSET as u64 + 8 * u64::from(index % SIZE);
        self.memory.read_slice(element.as_mut_bytes(), GuestAddress(at)).unwrap();
        element
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

pub(crate) fn descriptors(queue: u32) -> u64 {
    0x1_0000 * (u64::from(queue) + 1)
}

pub(crate) fn available(queue: u32) -> u64 {
    descriptors(queue) + 0x4000
}

pub(crate) fn used(queue: u32) -> u64 {
    descriptors(queue) + 0x8000
}
