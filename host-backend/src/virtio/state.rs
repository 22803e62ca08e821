//! What a driver has told a device through its registers, and the device itself: status, features, where the queues are.
//!
//! Owned by [`super::mmio::MmioTransport`], which holds its lock. Knows which steps of the initialization are legal
//! (section 3.1 "Device Initialization"); anything else is ignored.

use super::Device;
use super::queue::{EventIdx, Fault, Placement, VirtQueue};
use crate::vmm::GuestRam;
use shared_abi::virtio::{CommonFeatures, Status};

/// Features of every device here: each uses buffers in the order in which they come.
const COMMON: CommonFeatures = CommonFeatures::VERSION_1
    .union(CommonFeatures::INDIRECT_DESC)
    .union(CommonFeatures::EVENT_IDX)
    .union(CommonFeatures::IN_ORDER)
    .union(CommonFeatures::RING_RESET);

pub(super) struct State {
    pub(super) device: Box<dyn Device>,
    pub(super) status: Status,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) driver_features: u64,
    pub(super) queue_sel: u32,
    pub(super) places: Vec<Placement>,
    pub(super) queues: Vec<VirtQueue>,
}

impl State {
    pub(super) fn new(device: Box<dyn Device>) -> Self {
        let count = device.queue_count();
        Self {
            device,
            status: Status::empty(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            places: vec![Placement::default(); count],
            queues: (0..count).map(|_| VirtQueue::new()).collect(),
        }
    }

    pub(super) fn offered(&self) -> u64 {
        self.device.features() | COMMON.bits()
    }

    /// Whether the device may touch its queues.
    pub(super) fn is_live(&self) -> bool {
        self.status.contains(Status::DRIVER_OK) && !self.status.contains(Status::DEVICE_NEEDS_RESET)
    }

    pub(super) fn features_are_acceptable(&self) -> bool {
        let unknown = self.driver_features & !self.offered();
        unknown == 0 && self.driver_features & CommonFeatures::VERSION_1.bits() != 0
    }

    pub(super) fn set_driver_features(&mut self, value: u32) {
        if self.status.contains(Status::FEATURES_OK) {
            return;
        }
        match self.driver_features_sel {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            // There are no features up there to accept.
            _ => {}
        }
    }

    pub(super) fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_sel).ok().filter(|index| *index < self.queues.len())
    }

    /// Changes where the selected queue will be, unless it is live already.
    pub(super) fn place(&mut self, change: impl FnOnce(&mut Placement)) {
        if let Some(index) = self.selected()
            && !self.queues[index].ready()
        {
            change(&mut self.places[index]);
        }
    }

    pub(super) fn set_queue_ready(&mut self, memory: &GuestRam, value: u32) -> Result<(), Fault> {
        let Some(index) = self.selected() else { return Ok(()) };
        if value & 1 == 0 {
            self.queues[index].reset();
            return Ok(());
        }
        if self.queues[index].ready() || !self.status.contains(Status::FEATURES_OK) {
            return Ok(());
        }
        let event_idx = match self.driver_features & CommonFeatures::EVENT_IDX.bits() {
            0 => EventIdx::Absent,
            _ => EventIdx::Negotiated,
        };
        self.queues[index].set_up(memory, self.places[index], event_idx)
    }

    /// Takes the selected queue back at once, so that QueueReset reads 0 from then on.
    pub(super) fn reset_queue(&mut self, value: u32) {
        let negotiated = self.driver_features & CommonFeatures::RING_RESET.bits() != 0;
        let Some(index) = self.selected().filter(|_| negotiated && value & 1 != 0) else { return };
        self.device.reset_queue(index);
        self.queues[index].reset();
        self.places[index] = Placement::default();
    }

    pub(super) fn reset(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(VirtQueue::reset);
        self.places.fill(Placement::default());
        self.status = Status::empty();
        self.driver_features = 0;
        (self.device_features_sel, self.driver_features_sel, self.queue_sel) = (0, 0, 0);
    }
}

pub(super) fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

pub(super) fn set_low(value: &mut u64, low: u32) {
    *value = *value & !u64::from(u32::MAX) | u64::from(low);
}

pub(super) fn set_high(value: &mut u64, high: u32) {
    *value = *value & u64::from(u32::MAX) | u64::from(high) << 32;
}
