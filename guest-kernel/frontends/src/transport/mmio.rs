//! Virtio over MMIO (section 4.2), version 2: one window of registers.
//!
//! Made by the code that finds such a window: the board's table, or `virtio_mmio.device=` on a command line.

use super::{QueueLayout, Registers, Transport, TransportError, read_field, write_field};
use virtio_abi::mmio::{CONFIG, InterruptStatus, MAGIC, Register, VERSION};
use virtio_abi::{DeviceType, Status};

/// Acknowledgements of one interrupt at most: a device that never ends is seen again at the next one.
const ACKNOWLEDGEMENTS: usize = 8;

/// A device with a virtio-mmio window.
pub struct MmioTransport<R> {
    registers: R,
}

impl<R: Registers> MmioTransport<R> {
    /// Takes a window whose magic and version fit. An empty slot is a device of type [`DeviceType::NONE`].
    pub fn new(registers: R) -> Result<Self, TransportError> {
        let (len, needed) = (registers.len(), CONFIG as usize);
        if len < needed {
            return Err(TransportError::WindowTooShort { what: "virtio-mmio", len, needed });
        }
        let this = Self { registers };
        match (this.read(Register::MagicValue), this.read(Register::Version)) {
            (MAGIC, VERSION) => Ok(this),
            (MAGIC, version) => Err(TransportError::BadVersion { version }),
            (magic, _) => Err(TransportError::BadMagic { magic }),
        }
    }

    fn read(&self, register: Register) -> u32 {
        self.registers.read32(register.offset() as usize)
    }

    fn write(&self, register: Register, value: u32) {
        self.registers.write32(register.offset() as usize, value);
    }

    fn write_address(&self, low: Register, high: Register, address: u64) {
        self.write(low, address as u32);
        self.write(high, (address >> 32) as u32);
    }
}

impl<R: Registers> Transport for MmioTransport<R> {
    fn device_type(&self) -> DeviceType {
        DeviceType(self.read(Register::DeviceId))
    }

    fn device_features(&mut self) -> u64 {
        self.write(Register::DeviceFeaturesSel, 0);
        let low = self.read(Register::DeviceFeatures);
        self.write(Register::DeviceFeaturesSel, 1);
        u64::from(self.read(Register::DeviceFeatures)) << 32 | u64::from(low)
    }

    fn set_driver_features(&mut self, features: u64) {
        self.write(Register::DriverFeaturesSel, 0);
        self.write(Register::DriverFeatures, features as u32);
        self.write(Register::DriverFeaturesSel, 1);
        self.write(Register::DriverFeatures, (features >> 32) as u32);
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.read(Register::Status) as u8)
    }

    fn set_status(&mut self, status: Status) {
        self.write(Register::Status, status.bits().into());
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write(Register::QueueSel, queue.into());
        self.read(Register::QueueSizeMax)
    }

    fn set_queue(&mut self, queue: u16, layout: QueueLayout) -> Result<(), TransportError> {
        self.write(Register::QueueSel, queue.into());
        if self.read(Register::QueueReady) != 0 {
            return Err(TransportError::QueueUnavailable { queue });
        }
        self.write(Register::QueueSize, layout.size.into());
        self.write_address(Register::QueueDescLow, Register::QueueDescHigh, layout.descriptors);
        self.write_address(Register::QueueDriverLow, Register::QueueDriverHigh, layout.available);
        self.write_address(Register::QueueDeviceLow, Register::QueueDeviceHigh, layout.used);
        self.write(Register::QueueReady, 1);
        Ok(())
    }

    fn notify(&mut self, queue: u16) {
        self.write(Register::QueueNotify, queue.into());
    }

    /// Reads and acknowledges until nothing is left: a reason that comes while another is pending raises no edge of its
    /// own.
    fn take_interrupt(&mut self) -> InterruptStatus {
        let mut taken = InterruptStatus::empty();
        for _ in 0..ACKNOWLEDGEMENTS {
            let status = InterruptStatus::from_bits_truncate(self.read(Register::InterruptStatus));
            if status.is_empty() {
                break;
            }
            self.write(Register::InterruptAck, status.bits());
            taken |= status;
        }
        taken
    }

    fn config_generation(&self) -> u32 {
        self.read(Register::ConfigGeneration)
    }

    fn config_len(&self) -> usize {
        self.registers.len() - CONFIG as usize
    }

    fn read_config(&self, offset: usize, field: &mut [u8]) {
        read_field(&self.registers, CONFIG as usize, offset, field);
    }

    fn write_config(&mut self, offset: usize, field: &[u8]) {
        write_field(&self.registers, CONFIG as usize, offset, field);
    }
}
