//! A device for tests: DMA memory, a transport, and the device's side of rings, all of which can be made to lie.
//!
//! Used by the tests of this crate, of `balloon` and of the workspace; not built into the kernel (feature
//! `fake-device`). Everything runs in one thread: the test plays the device between two calls of the driver.

mod iommu;
mod memory;
mod queue;

pub use memory::Memory;
pub use queue::{Chain, DeviceQueue};

use crate::transport::{QueueLayout, Transport, TransportError};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};
use virtio_abi::mmio::InterruptStatus;
use virtio_abi::{CommonFeatures, DeviceType, Status};

/// Registers of a device, and its habits.
#[non_exhaustive]
pub struct Model {
    /// The type it says it is.
    pub device_type: DeviceType,
    /// What it offers.
    pub offered: u64,
    /// What the driver took.
    pub accepted: u64,
    /// Its status register.
    pub status: Status,
    /// Its configuration space.
    pub config: Vec<u8>,
    /// Its configuration generation.
    pub generation: u32,
    /// Largest size of each queue.
    pub queue_sizes: Vec<u32>,
    /// Queues that the driver set up.
    pub layouts: Vec<Option<QueueLayout>>,
    /// Notifications, by queue.
    pub notified: Vec<u64>,
    /// Pending reasons of an interrupt.
    pub interrupt: InterruptStatus,
    /// Resets that the driver asked for.
    pub resets: u32,
    /// Times that the driver set a queue up.
    pub set_ups: u32,
    /// Every status that the driver wrote.
    pub status_writes: Vec<Status>,
    /// Never shows a reset status again.
    pub ignores_reset: bool,
    /// Keeps the largest size of a queue, whatever is asked for.
    pub insists_on_queue_size: bool,
    /// Does not keep FEATURES_OK.
    pub refuses_features: bool,
    /// Changes the configuration generation at every read.
    pub unstable_config: bool,
}

/// A transport to a [`Model`]; clones reach the same one.
#[derive(Clone)]
pub struct FakeTransport {
    model: Rc<RefCell<Model>>,
}

impl FakeTransport {
    /// A well-behaved device with rings of 256 entries and version 1 in addition to the offered features.
    pub fn new(device_type: DeviceType, features: u64, queues: usize, config: &[u8]) -> Self {
        let model = Model {
            device_type,
            offered: features | CommonFeatures::VERSION_1.bits(),
            accepted: 0,
            status: Status::empty(),
            config: config.to_vec(),
            generation: 0,
            queue_sizes: vec![256; queues],
            layouts: vec![None; queues],
            notified: vec![0; queues],
            interrupt: InterruptStatus::empty(),
            resets: 0,
            set_ups: 0,
            status_writes: Vec::new(),
            ignores_reset: false,
            insists_on_queue_size: false,
            refuses_features: false,
            unstable_config: false,
        };
        Self { model: Rc::new(RefCell::new(model)) }
    }

    /// The registers.
    pub fn model(&self) -> RefMut<'_, Model> {
        self.model.borrow_mut()
    }

    /// The device's side of a queue that the driver has set up.
    ///
    /// # Panics
    /// If it has not.
    pub fn queue(&self, memory: &'static Memory, queue: u16) -> DeviceQueue {
        let model = self.model.borrow();
        let layout = model.layouts[usize::from(queue)].expect("the driver has set the queue up");
        DeviceQueue::new(memory, layout, model.accepted)
    }

    /// The device's side of queues, made anew if they were set up since [`Model::set_ups`] was `seen`: the old sides see
    /// what is not meant for them.
    pub fn follow(&self, memory: &'static Memory, seen: &mut u32, queues: &mut [(u16, &mut DeviceQueue)]) {
        let model = self.model.borrow();
        if model.set_ups == *seen || model.layouts.iter().all(Option::is_none) {
            return;
        }
        *seen = model.set_ups;
        drop(model);
        queues.iter_mut().for_each(|(number, queue)| **queue = self.queue(memory, *number));
    }

    /// Changes configuration bytes and interrupts, as a device does.
    pub fn change_config(&self, offset: usize, bytes: &[u8]) {
        let mut model = self.model.borrow_mut();
        model.config[offset..offset + bytes.len()].copy_from_slice(bytes);
        model.generation += 1;
        model.interrupt |= InterruptStatus::CONFIG_CHANGE;
    }
}

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        self.model.borrow().device_type
    }

    fn device_features(&mut self) -> u64 {
        self.model().offered
    }

    fn set_driver_features(&mut self, features: u64) {
        self.model().accepted = features;
    }

    fn status(&self) -> Status {
        self.model.borrow().status
    }

    fn set_status(&mut self, status: Status) {
        let mut model = self.model();
        model.status_writes.push(status);
        if status.is_empty() {
            model.resets += 1;
            if model.ignores_reset {
                return;
            }
            model.layouts.fill(None);
        }
        model.status = status;
        if model.refuses_features {
            model.status.remove(Status::FEATURES_OK);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.model().queue_sizes.get(usize::from(queue)).copied().unwrap_or(0)
    }

    fn set_queue_size(&mut self, queue: u16, size: u16) -> Result<u16, TransportError> {
        let model = self.model();
        let insisted =
            model.insists_on_queue_size.then(|| model.queue_sizes.get(usize::from(queue)).copied()).flatten();
        Ok(insisted.and_then(|size| u16::try_from(size).ok()).unwrap_or(size))
    }

    fn set_queue(&mut self, queue: u16, layout: QueueLayout) -> Result<(), TransportError> {
        let mut model = self.model();
        let slot = model.layouts.get_mut(usize::from(queue)).ok_or(TransportError::QueueUnavailable { queue })?;
        *slot = Some(layout);
        model.set_ups += 1;
        Ok(())
    }

    fn notify(&mut self, queue: u16) {
        self.model().notified[usize::from(queue)] += 1;
    }

    fn take_interrupt(&mut self) -> InterruptStatus {
        core::mem::replace(&mut self.model().interrupt, InterruptStatus::empty())
    }

    fn config_generation(&self) -> u32 {
        let mut model = self.model();
        if model.unstable_config {
            model.generation += 1;
        }
        model.generation
    }

    fn config_len(&self) -> usize {
        self.model.borrow().config.len()
    }

    fn read_config(&self, offset: usize, field: &mut [u8]) {
        match self.model.borrow().config.get(offset..offset + field.len()) {
            Some(bytes) => field.copy_from_slice(bytes),
            None => field.fill(0),
        }
    }

    fn write_config(&mut self, offset: usize, field: &[u8]) {
        if let Some(bytes) = self.model().config.get_mut(offset..offset + field.len()) {
            bytes.copy_from_slice(field);
        }
    }
}
