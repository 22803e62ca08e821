//! A device model on a virtio-mmio slot with a little memory, without KVM and without threads: a notification runs it at once.

use host_backend::devices::InterruptLine;
use host_backend::virtio::Device;
use host_backend::virtio::mmio::MmioTransport;
use host_backend::vmm::GuestRam;
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::ring::{Descriptor, ENTRIES_OFFSET, INDEX_OFFSET};
use shared_abi::virtio::{CommonFeatures, Status};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

/// Bytes of memory.
pub(crate) const MEMORY: u64 = 4 << 20;
/// Buffers are from here to a bit over 2 MiB; rings are below.
pub(crate) const DATA: u64 = 1 << 20;
/// A page that no descriptor names.
pub(crate) const UNTOUCHED: u64 = 3 << 20;
const FILL: u8 = 0x5a;
/// Entries of a queue that is set up properly.
pub(crate) const SIZE: u16 = 16;

/// Memory for a script.
pub(crate) fn memory() -> GuestRam {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
    memory.unwrap_or_else(|error| panic!("the system gives no memory: {error}"))
}

struct NoLine;

impl InterruptLine for NoLine {
    fn raise(&self) {}
}

/// The machine.
pub(crate) struct Machine {
    memory: GuestRam,
    pub(crate) transport: Arc<MmioTransport>,
}

impl Machine {
    pub(crate) fn new(device: impl Device + 'static, memory: GuestRam) -> Self {
        let transport = MmioTransport::new(Box::new(device), memory.clone(), Arc::new(NoLine));
        let machine = Self { memory, transport };
        machine.put(UNTOUCHED, &[FILL; 0x1000]);
        machine
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        // The script may aim anywhere; what is outside of memory is nobody's.
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    pub(crate) fn get16(&self, address: u64) -> u16 {
        self.memory.read_obj(GuestAddress(address)).unwrap_or_default()
    }

    pub(crate) fn get8(&self, address: u64) -> u8 {
        self.memory.read_obj(GuestAddress(address)).unwrap_or_default()
    }

    /// Whether nobody wrote where nobody should.
    pub(crate) fn is_untouched(&self) -> bool {
        let mut page = [0; 0x1000];
        self.memory.read_slice(&mut page, GuestAddress(UNTOUCHED)).is_ok() && page == [FILL; 0x1000]
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.offset(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.transport.write(register.offset(), &value.to_le_bytes());
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.read(Register::Status) as u8 & Status::DEVICE_NEEDS_RESET.bits() != 0
    }

    /// Resets the device and starts it properly, with those of the offered features that are in `mask`.
    pub(crate) fn start(&self, mask: u64) {
        self.write(Register::Status, 0);
        assert_eq!(self.read(Register::Status), 0, "status behind a reset");
        self.write(Register::Status, (Status::ACKNOWLEDGE | Status::DRIVER).bits().into());
        for half in 0..2 {
            self.write(Register::DeviceFeaturesSel, half);
            let offered = self.read(Register::DeviceFeatures);
            let needed = CommonFeatures::VERSION_1.bits();
            self.write(Register::DriverFeaturesSel, half);
            self.write(Register::DriverFeatures, offered & ((mask | needed) >> (32 * half)) as u32);
        }
        let driver = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
        self.write(Register::Status, driver.bits().into());
        assert_eq!(self.read(Register::Status), u32::from(driver.bits()), "offered features are refused");
        for queue in 0..self.transport.queue_count() as u32 {
            self.put(available(queue), &[0; 0x100]);
            self.put(used(queue), &[0; 0x100]);
            self.place(queue, SIZE.into(), [descriptors(queue), available(queue), used(queue)]);
        }
        self.write(Register::Status, (driver | Status::DRIVER_OK).bits().into());
    }

    pub(crate) fn place(&self, queue: u32, size: u32, parts: [u64; 3]) {
        self.write(Register::QueueSel, queue);
        self.write(Register::QueueSize, size);
        let registers = [
            (Register::QueueDescLow, Register::QueueDescHigh),
            (Register::QueueDriverLow, Register::QueueDriverHigh),
            (Register::QueueDeviceLow, Register::QueueDeviceHigh),
        ];
        for (part, (low, high)) in parts.into_iter().zip(registers) {
            self.write(low, part as u32);
            self.write(high, (part >> 32) as u32);
        }
        self.write(Register::QueueReady, 1);
    }

    /// Writes an entry of a table anywhere.
    pub(crate) fn describe(&self, table: u64, at: u16, descriptor: Descriptor) {
        self.put(table + 16 * u64::from(at), descriptor.as_bytes());
    }

    /// Puts a head into an available ring without showing it.
    pub(crate) fn offer(&self, queue: u32, index: u16, head: u16) {
        let slot = available(queue) + ENTRIES_OFFSET as u64 + 2 * u64::from(index % SIZE);
        self.put(slot, &head.to_le_bytes());
    }

    pub(crate) fn available_index(&self, queue: u32) -> u16 {
        self.get16(available(queue) + INDEX_OFFSET as u64)
    }

    pub(crate) fn publish(&self, queue: u32, index: u16) {
        self.put(available(queue) + INDEX_OFFSET as u64, &index.to_le_bytes());
    }

    pub(crate) fn used_index(&self, queue: u32) -> u16 {
        self.get16(used(queue) + INDEX_OFFSET as u64)
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
