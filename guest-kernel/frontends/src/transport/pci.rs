//! Virtio over PCI (section 4.1), the modern interface: four windows that its capabilities name.
//!
//! The kernel walks the capabilities, maps the BARs and programs the MSI-X table; this code is given the windows.
//! Offsets that the device hands out (where to notify a queue) are checked against their window.

use super::field::{Block, Field};
use super::{QueueLayout, Registers, Transport, TransportError, read_field, write_field};
use alloc::vec::Vec;
use core::mem::{offset_of, size_of};
use virtio_abi::mmio::InterruptStatus;
use virtio_abi::pci::CommonConfig;
use virtio_abi::{DeviceType, Status};

/// The windows of a device, each as long as its capability says (and its BAR holds).
#[derive(Clone, Debug)]
pub struct Windows<R> {
    /// [`CommonConfig`].
    pub common: R,
    /// Notification addresses.
    pub notify: R,
    /// `notify_off_multiplier` of the notification capability.
    pub notify_multiplier: u32,
    /// The interrupt status byte.
    pub isr: R,
    /// The device's configuration, if it has one.
    pub device: Option<R>,
}

/// MSI-X vectors to assign: entries of the device's MSI-X table that the kernel has programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// For configuration changes.
    pub config: u16,
    /// For queue 0; the others follow.
    pub first_queue: u16,
    /// How many vectors there are for queues, at least 1; further queues share the last.
    pub queues: u16,
}

impl Vectors {
    /// One vector for everything.
    pub const fn shared(vector: u16) -> Self {
        Self { config: vector, first_queue: vector, queues: 1 }
    }

    /// The vector of a queue.
    pub fn queue(&self, queue: u16) -> u16 {
        self.first_queue + queue.min(self.queues.max(1) - 1)
    }
}

/// A device with modern virtio-pci windows.
pub struct PciTransport<R> {
    windows: Windows<R>,
    device_type: DeviceType,
    vectors: Option<Vectors>,
    /// Byte offset in the notify window, by queue; filled as queues are set up.
    notify_offsets: Vec<Option<usize>>,
}

macro_rules! common {
    ($field:ident) => {
        Field::new(offset_of!(CommonConfig, $field), |block: &CommonConfig| block.$field)
    };
}

impl<R: Registers> PciTransport<R> {
    /// Takes the windows of a device of a type (of its PCI id); without `vectors` it interrupts by its line.
    pub fn new(windows: Windows<R>, device_type: DeviceType, vectors: Option<Vectors>) -> Result<Self, TransportError> {
        // Devices of older revisions of the specification end after queue_device.
        for (what, window, needed) in [
            ("common configuration", &windows.common, common!(queue_notify_data).offset()),
            ("notification", &windows.notify, size_of::<u16>()),
            ("interrupt status", &windows.isr, size_of::<u8>()),
        ] {
            if window.len() < needed {
                return Err(TransportError::WindowTooShort { what, len: window.len(), needed });
            }
        }
        Ok(Self { windows, device_type, vectors, notify_offsets: Vec::new() })
    }

    fn select(&self, queue: u16) -> bool {
        self.windows.common.write(common!(queue_select), queue);
        queue < self.windows.common.read(common!(num_queues))
    }

    /// Writes a vector and reads it back: a device that has no room for it says so by NO_VECTOR.
    fn assign(&self, field: Field<u16>, vector: u16) -> Result<(), TransportError> {
        self.windows.common.write(field, vector);
        let taken = self.windows.common.read(field);
        if taken == vector { Ok(()) } else { Err(TransportError::VectorRefused { vector }) }
    }
}

impl<R: Registers> Transport for PciTransport<R> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn device_features(&mut self) -> u64 {
        let common = &self.windows.common;
        common.write(common!(device_feature_select), 0);
        let low = common.read(common!(device_feature));
        common.write(common!(device_feature_select), 1);
        u64::from(common.read(common!(device_feature))) << 32 | u64::from(low)
    }

    fn set_driver_features(&mut self, features: u64) {
        let common = &self.windows.common;
        common.write(common!(driver_feature_select), 0);
        common.write(common!(driver_feature), features as u32);
        common.write(common!(driver_feature_select), 1);
        common.write(common!(driver_feature), (features >> 32) as u32);
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.windows.common.read(common!(device_status)))
    }

    fn set_status(&mut self, status: Status) {
        if status.is_empty() {
            // A reset takes queues and vectors away.
            self.notify_offsets.clear();
        }
        self.windows.common.write(common!(device_status), status.bits());
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if self.select(queue) { self.windows.common.read(common!(queue_size)).into() } else { 0 }
    }

    /// The size is read back: kvmtool's devices keep the largest one whatever is written.
    fn set_queue_size(&mut self, queue: u16, wanted: u16) -> Result<u16, TransportError> {
        if !self.select(queue) {
            return Err(TransportError::QueueUnavailable { queue });
        }
        self.windows.common.write(common!(queue_size), wanted);
        match self.windows.common.read(common!(queue_size)) {
            size if size.is_power_of_two() => Ok(size),
            size => Err(TransportError::BadQueueSize { queue, wanted, size }),
        }
    }

    fn set_queue(&mut self, queue: u16, layout: QueueLayout) -> Result<(), TransportError> {
        if !self.select(queue) || self.windows.common.read(common!(queue_enable)) != 0 {
            return Err(TransportError::QueueUnavailable { queue });
        }
        let common = &self.windows.common;
        let notify_at =
            usize::from(common.read(common!(queue_notify_off))).saturating_mul(self.windows.notify_multiplier as usize);
        let needed = notify_at.saturating_add(size_of::<u16>());
        if needed > self.windows.notify.len() || !notify_at.is_multiple_of(2) {
            return Err(TransportError::WindowTooShort {
                what: "notification",
                len: self.windows.notify.len(),
                needed,
            });
        }
        common.write(common!(queue_size), layout.size);
        common.write(common!(queue_desc), layout.descriptors);
        common.write(common!(queue_driver), layout.available);
        common.write(common!(queue_device), layout.used);
        if let Some(vectors) = self.vectors {
            if self.notify_offsets.is_empty() {
                self.assign(common!(config_msix_vector), vectors.config)?;
            }
            self.assign(common!(queue_msix_vector), vectors.queue(queue))?;
        }
        self.windows.common.write(common!(queue_enable), 1);

        let slot = usize::from(queue);
        if self.notify_offsets.len() <= slot {
            self.notify_offsets.resize(slot + 1, None);
        }
        self.notify_offsets[slot] = Some(notify_at);
        Ok(())
    }

    fn notify(&mut self, queue: u16) {
        if let Some(Some(offset)) = self.notify_offsets.get(usize::from(queue)) {
            self.windows.notify.write16(*offset, queue);
        }
    }

    fn take_interrupt(&mut self) -> InterruptStatus {
        let status = InterruptStatus::from_bits_truncate(self.windows.isr.read8(0).into());
        // With MSI-X a device does not show used buffers here, only configuration changes.
        if self.vectors.is_some() { status | InterruptStatus::USED_BUFFER } else { status }
    }

    fn config_generation(&self) -> u32 {
        self.windows.common.read(common!(config_generation)).into()
    }

    fn config_len(&self) -> usize {
        self.windows.device.as_ref().map_or(0, Registers::len)
    }

    fn read_config(&self, offset: usize, field: &mut [u8]) {
        match &self.windows.device {
            Some(window) => read_field(window, 0, offset, field),
            None => field.fill(0),
        }
    }

    fn write_config(&mut self, offset: usize, field: &[u8]) {
        if let Some(window) = &self.windows.device {
            write_field(window, 0, offset, field);
        }
    }
}
