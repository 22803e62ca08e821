//! What a driver has written to a device's registers: status, features, where the queues are.
//!
//! Owned by [`super::mmio::MmioTransport`] under a lock that is never held while a device does I/O. What the driver changes
//! here reaches the device by [`Registers::apply`], before its next request. Knows which steps of the initialization are legal
//! (section 3.1 "Device Initialization"); anything else is ignored.

use super::Device;
use super::queue::{EventIdx, Fault, Placement, VirtQueue};
use crate::mistake::{Mistake, made};
use crate::vmm::GuestRam;
use shared_abi::virtio::{CommonFeatures, Status};

/// Features of every device here: each uses buffers in the order in which they come.
const COMMON: CommonFeatures = CommonFeatures::VERSION_1
    .union(CommonFeatures::INDIRECT_DESC)
    .union(CommonFeatures::EVENT_IDX)
    .union(CommonFeatures::IN_ORDER)
    .union(CommonFeatures::RING_RESET);

/// The registers as the driver sees them.
pub(super) struct Registers {
    /// Features of the device and of its rings.
    pub(super) offered: u64,
    pub(super) status: Status,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) driver_features: u64,
    pub(super) queue_sel: u32,
    places: Vec<Placement>,
    queues: Vec<Queue>,
    /// The driver has written a reset that the device has not processed yet.
    resetting: bool,
    /// The driver has started with these features; the device has not processed it yet.
    activated: Option<u64>,
}

/// A queue as the driver sees it.
enum Queue {
    Off,
    /// It is live, and the device takes it over before its next request.
    Starting(VirtQueue),
    Live,
    /// The driver takes it back; it is live until the device has let go of it.
    Stopping(By),
}

/// Which register a driver takes a queue back with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Ready,
    Reset,
}

/// The device and its queues, locked by the thread that runs it.
pub(super) struct Machinery {
    pub(super) device: Box<dyn Device>,
    pub(super) queues: Vec<VirtQueue>,
}

impl Machinery {
    pub(super) fn new(device: Box<dyn Device>) -> Self {
        let queues = (0..device.queue_count()).map(|_| VirtQueue::new()).collect();
        Self { device, queues }
    }
}

impl Registers {
    pub(super) fn new(device: &dyn Device) -> Self {
        let count = device.queue_count();
        Self {
            offered: device.features() | COMMON.bits(),
            status: Status::empty(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            places: vec![Placement::default(); count],
            queues: (0..count).map(|_| Queue::Off).collect(),
            resetting: false,
            activated: None,
        }
    }

    /// Whether the device may touch its queues.
    pub(super) fn is_live(&self) -> bool {
        self.status.contains(Status::DRIVER_OK) && !self.status.contains(Status::DEVICE_NEEDS_RESET)
    }

    /// Whether the driver has reset the device and must wait until that is done.
    pub(super) fn is_resetting(&self) -> bool {
        self.resetting
    }

    pub(super) fn features_are_acceptable(&self) -> bool {
        let unknown = self.driver_features & !self.offered;
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

    /// Whether the selected queue is live.
    pub(super) fn queue_ready(&self) -> bool {
        self.selected().is_some_and(|index| !matches!(self.queues[index], Queue::Off))
    }

    /// Whether the selected queue is being reset.
    pub(super) fn queue_resetting(&self) -> bool {
        self.selected().is_some_and(|index| matches!(self.queues[index], Queue::Stopping(By::Reset)))
    }

    /// Changes where the selected queue will be, unless it is live already.
    pub(super) fn place(&mut self, change: impl FnOnce(&mut Placement)) {
        if let Some(index) = self.selected()
            && (matches!(self.queues[index], Queue::Off) || made(Mistake::LiveQueueMoves))
        {
            change(&mut self.places[index]);
        }
    }

    pub(super) fn set_queue_ready(&mut self, memory: &GuestRam, value: u32) -> Result<(), Fault> {
        let Some(index) = self.selected() else { return Ok(()) };
        if value & 1 == 0 {
            self.stop_queue(index, By::Ready);
            return Ok(());
        }
        if !matches!(self.queues[index], Queue::Off) || !self.status.contains(Status::FEATURES_OK) {
            return Ok(());
        }
        let event_idx = match self.driver_features & CommonFeatures::EVENT_IDX.bits() {
            0 => EventIdx::Absent,
            _ => EventIdx::Negotiated,
        };
        let mut queue = VirtQueue::new();
        queue.set_up(memory, self.places[index], event_idx)?;
        self.queues[index] = Queue::Starting(queue);
        Ok(())
    }

    /// Takes the selected queue back; QueueReset reads 1 until the device has let go of it.
    pub(super) fn reset_queue(&mut self, value: u32) {
        let negotiated =
            self.status.contains(Status::FEATURES_OK) && self.driver_features & CommonFeatures::RING_RESET.bits() != 0;
        let Some(index) = self.selected().filter(|_| negotiated && value & 1 != 0) else { return };
        self.stop_queue(index, By::Reset);
    }

    fn stop_queue(&mut self, index: usize, by: By) {
        match self.queues[index] {
            Queue::Live if made(Mistake::OffBeforeLetGo) => self.queue_stopped(index, by),
            Queue::Live | Queue::Stopping(By::Ready) => self.queues[index] = Queue::Stopping(by),
            Queue::Stopping(By::Reset) => {}
            // The device has not processed it.
            Queue::Off | Queue::Starting(_) => self.queue_stopped(index, by),
        }
    }

    fn queue_stopped(&mut self, index: usize, by: By) {
        self.queues[index] = Queue::Off;
        if by == By::Reset {
            self.places[index] = Placement::default();
        }
    }

    /// The driver wants everything forgotten.
    pub(super) fn reset(&mut self) {
        self.resetting = true;
    }

    /// The driver is ready.
    pub(super) fn activate(&mut self) {
        self.activated = Some(self.driver_features);
    }

    /// Lets the device see what the driver changed; true if that was a reset.
    pub(super) fn apply(&mut self, machinery: &mut Machinery) -> bool {
        let Machinery { device, queues } = machinery;
        if self.resetting {
            device.reset();
            queues.iter_mut().for_each(VirtQueue::reset);
            let (offered, selected) = (self.offered, self.queue_sel);
            *self = Self { offered, ..Self::new(device.as_ref()) };
            if made(Mistake::ResetKeepsSelection) {
                self.queue_sel = selected;
            }
            return true;
        }
        for index in 0..self.queues.len() {
            match std::mem::replace(&mut self.queues[index], Queue::Off) {
                Queue::Off => {}
                Queue::Live => {
                    if made(Mistake::LiveQueueMoves) {
                        queues[index].move_unchecked(self.places[index]);
                    }
                    self.queues[index] = Queue::Live;
                }
                Queue::Starting(queue) => {
                    queues[index] = queue;
                    self.queues[index] = Queue::Live;
                    device.start_queue(index, &mut queues[index]);
                }
                Queue::Stopping(by) => {
                    device.reset_queue(index);
                    queues[index].reset();
                    self.queue_stopped(index, by);
                }
            }
        }
        if let Some(features) = self.activated.take() {
            device.activate(features);
        }
        false
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
