//! The registers of a virtio-mmio slot (section 4.2 "Virtio Over MMIO"), version 2, and the way to the device behind.
//!
//! Called by vCPU threads (registers) and by the device's worker ([`MmioTransport::process_queue`]). It works without KVM
//! and without threads: until [`MmioTransport::attach`] a write of QueueNotify runs the device at once.

use super::bugs::{self, Bug, is_injected};
use super::queue::{Fault, SIZE_MAX};
use super::state::{State, half, set_high, set_low};
use super::{Change, Changed, Counters, Device, Io, Progress, Signal};
use crate::devices::{BusDevice, InterruptLine};
use crate::vmm::GuestRam;
use shared_abi::virtio::mmio::{CONFIG, InterruptStatus, MAGIC, Register, VERSION};
use shared_abi::virtio::{DeviceType, Status};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

/// "RNGS".
const VENDOR: u32 = u32::from_le_bytes(*b"RNGS");

/// A slot with its device.
pub struct MmioTransport {
    inner: Mutex<State>,
    memory: GuestRam,
    signal: Signal,
    device_type: DeviceType,
    /// The status register and the first fault, for those who must not wait for the device.
    status: AtomicU8,
    fault: OnceLock<String>,
    notifier: OnceLock<Notifier>,
}

/// How the worker of a device hears of work.
#[derive(Debug)]
pub struct Notifier {
    /// One event per queue.
    pub queues: Vec<EventFd>,
    /// The device changed its mind about what it waits for.
    pub wake: EventFd,
}

impl MmioTransport {
    /// A slot with `device` in its reset state.
    pub fn new(device: Box<dyn Device>, memory: GuestRam, line: Arc<dyn InterruptLine>) -> Arc<Self> {
        let device_type = device.device_type();
        let inner = State::new(device);
        let signal = Signal::new(line);
        Arc::new(Self {
            inner: Mutex::new(inner),
            memory,
            signal,
            device_type,
            status: AtomicU8::new(0),
            fault: OnceLock::new(),
            notifier: OnceLock::new(),
        })
    }

    /// A read by the guest at `offset` in the slot.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG {
            return self.lock().device.read_config((offset - CONFIG) as usize, data);
        }
        match (Register::at(offset), <&mut [u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => *data = self.read_register(register).to_le_bytes(),
            _ => self.signal.counters.bad_accesses.add(1),
        }
    }

    /// A write by the guest at `offset` in the slot.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            self.lock().device.write_config((offset - CONFIG) as usize, data);
            return self.wake();
        }
        match (Register::at(offset), data.try_into()) {
            (Some(register), Ok(data)) => self.write_register(register, u32::from_le_bytes(data)),
            _ => self.signal.counters.bad_accesses.add(1),
        }
    }

    fn read_register(&self, register: Register) -> u32 {
        // Lock-free: an interrupt handler reads it while the device works.
        if register == Register::InterruptStatus {
            return self.signal.status();
        }
        let inner = self.lock();
        match register {
            Register::MagicValue => MAGIC,
            Register::Version => VERSION,
            Register::DeviceId => self.device_type.0,
            Register::VendorId => VENDOR,
            Register::DeviceFeatures if bugs::is_too_early(inner.status) => 0,
            Register::DeviceFeatures => half(inner.offered(), inner.device_features_sel),
            Register::QueueSizeMax if inner.selected().is_some() => SIZE_MAX.into(),
            Register::QueueReady => inner.selected().is_some_and(|index| inner.queues[index].ready()).into(),
            Register::Status => inner.status.bits().into(),
            Register::ConfigGeneration => self.signal.generation(),
            // There are no shared memory regions.
            Register::ShmLenLow | Register::ShmLenHigh | Register::ShmBaseLow | Register::ShmBaseHigh => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&self, register: Register, value: u32) {
        match register {
            Register::InterruptAck => return self.signal.acknowledge(value),
            Register::QueueNotify => return self.notify(value),
            _ => {}
        }
        let mut inner = self.lock();
        match register {
            Register::DeviceFeaturesSel => inner.device_features_sel = value,
            Register::DriverFeaturesSel => inner.driver_features_sel = value,
            Register::DriverFeatures => inner.set_driver_features(value),
            Register::QueueSel => inner.queue_sel = value,
            Register::QueueSize => inner.place(|place| place.size = value),
            Register::QueueDescLow => inner.place(|place| set_low(&mut place.descriptors, value)),
            Register::QueueDescHigh => inner.place(|place| set_high(&mut place.descriptors, value)),
            Register::QueueDriverLow => inner.place(|place| set_low(&mut place.driver, value)),
            Register::QueueDriverHigh => inner.place(|place| set_high(&mut place.driver, value)),
            Register::QueueDeviceLow => inner.place(|place| set_low(&mut place.device, value)),
            Register::QueueDeviceHigh => inner.place(|place| set_high(&mut place.device, value)),
            Register::QueueReady => {
                if let Err(fault) = inner.set_queue_ready(&self.memory, value) {
                    self.needs_reset(&mut inner, &fault);
                }
            }
            Register::QueueReset => {
                inner.reset_queue(value);
                drop(inner);
                // The device may wait for something else now.
                self.wake();
            }
            Register::Status => self.write_status(inner, value),
            _ => self.signal.counters.bad_accesses.add(1),
        }
    }

    fn write_status(&self, mut inner: MutexGuard<'_, State>, value: u32) {
        if value == 0 {
            inner.reset();
            if is_injected(Bug::FaultOutlivesReset) && self.fault.get().is_some() {
                inner.status = Status::DEVICE_NEEDS_RESET;
            }
            self.publish(&inner);
            self.signal.acknowledge(u32::MAX);
            drop(inner);
            return self.wake();
        }
        if bugs::is_out_of_step(inner.status, value) {
            return;
        }
        // Bits are only ever added, and DEVICE_NEEDS_RESET is not the driver's to set.
        let mut new = Status::from_bits_truncate(value as u8) - inner.status - Status::DEVICE_NEEDS_RESET;
        let acceptable = inner.features_are_acceptable() || is_injected(Bug::FeaturesOkAlways);
        if new.contains(Status::FEATURES_OK) && !acceptable {
            new -= Status::FEATURES_OK;
        }
        let starts = new.contains(Status::DRIVER_OK);
        if starts && !(inner.status | new).contains(Status::FEATURES_OK) {
            new -= Status::DRIVER_OK;
        }
        inner.status |= new;
        let ready: Vec<bool> = inner.queues.iter().map(|queue| queue.ready()).collect();
        if new.contains(Status::DRIVER_OK) && bugs::lacks_queues(self.device_type, &ready) {
            inner.status |= Status::DEVICE_NEEDS_RESET;
        }
        self.publish(&inner);
        if new.contains(Status::DRIVER_OK) {
            let features = inner.driver_features;
            inner.device.activate(features);
            // A fault from before was not announced: the driver was not there yet.
            if inner.status.contains(Status::DEVICE_NEEDS_RESET) {
                self.signal.raise(InterruptStatus::CONFIG_CHANGE);
            }
            let count = inner.queues.len();
            drop(inner);
            for index in 0..count {
                self.notify(index as u32);
            }
            self.wake();
        }
    }

    /// The guest (or a restart) says that queue `index` has buffers.
    fn notify(&self, index: u32) {
        match self.notifier.get() {
            Some(notifier) => {
                if let Some(event) = notifier.queues.get(index as usize) {
                    // A full counter is readable too.
                    let _ = event.write(1);
                }
            }
            None => while self.process_queue(index as usize) == Progress::More {},
        }
    }

    /// Lets the device work on a queue now, on this thread.
    pub fn process_queue(&self, index: usize) -> Progress {
        self.signal.counters.notifications.add(1);
        self.work(
            |device, io| if index < io.queues.len() { device.process_queue(index, io) } else { Ok(Progress::Done) },
        )
    }

    /// Lets the device handle its event source now, on this thread.
    pub fn process_event(&self, events: EventSet) -> Progress {
        self.work(|device, io| device.process_event(events, io))
    }

    fn work(&self, what: impl FnOnce(&mut dyn Device, &mut Io<'_>) -> Result<Progress, Fault>) -> Progress {
        let mut inner = self.lock();
        if !inner.is_live() {
            return Progress::Done;
        }
        let State { device, queues, .. } = &mut *inner;
        let mut io = Io { memory: &self.memory, queues, signal: &self.signal };
        match what(device.as_mut(), &mut io) {
            Ok(progress) => progress,
            Err(fault) => {
                self.needs_reset(&mut inner, &fault);
                Progress::Done
            }
        }
    }

    /// The device cannot go on with what the guest gave it.
    fn needs_reset(&self, inner: &mut State, fault: &Fault) {
        if is_injected(Bug::FaultEndsHost) {
            std::process::abort();
        }
        self.signal.counters.faults.add(1);
        self.fault.get_or_init(|| fault.to_string());
        inner.status |= Status::DEVICE_NEEDS_RESET;
        self.publish(inner);
        if inner.status.contains(Status::DRIVER_OK) {
            self.signal.raise(InterruptStatus::CONFIG_CHANGE);
        }
    }

    /// Tells the guest that the device's configuration space changed.
    pub fn config_changed(&self) {
        self.tell_config_change(&self.lock());
    }

    fn tell_config_change(&self, inner: &State) {
        // Before DRIVER_OK nobody is to be interrupted; but a driver may be reading already.
        if inner.is_live() {
            self.signal.config_changed();
        } else {
            self.signal.new_generation();
        }
    }

    /// Changes the device, and tells the guest if it can see that. A device that is busy for longer than `patience` stays
    /// as it is.
    ///
    /// # Errors
    /// One line that says why nothing changed.
    pub fn change(&self, change: Change, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let mut inner = loop {
            match self.inner.try_lock() {
                Ok(inner) => break inner,
                Err(TryLockError::Poisoned(poison)) => break poison.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err("the device is busy".into()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if inner.device.change(change)? == Changed::Config {
            self.tell_config_change(&inner);
        }
        drop(inner);
        self.wake();
        Ok(())
    }

    /// From now on a notification wakes the worker behind `notifier`. Only the first call counts.
    pub fn attach(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// How the worker is woken, once there is one.
    pub fn notifier(&self) -> Option<&Notifier> {
        self.notifier.get()
    }

    /// What the device waits for outside the guest.
    pub fn event_source(&self) -> Option<(RawFd, EventSet)> {
        let inner = self.lock();
        if inner.is_live() { inner.device.event_source() } else { None }
    }

    /// Number of queues.
    pub fn queue_count(&self) -> usize {
        self.lock().queues.len()
    }

    /// The device's type.
    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// What the device did so far.
    pub fn counters(&self) -> &Counters {
        &self.signal.counters
    }

    /// Why the device first needed a reset, if it ever did.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// The device status register.
    pub fn status(&self) -> Status {
        Status::from_bits_retain(self.status.load(Ordering::Relaxed))
    }

    fn publish(&self, inner: &State) {
        self.status.store(inner.status.bits(), Ordering::Relaxed);
    }

    /// Makes what the guest wrote durable.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn flush(&self) -> std::io::Result<()> {
        self.lock().device.flush()
    }

    fn wake(&self) {
        if let Some(notifier) = self.notifier.get() {
            // A full counter is readable too.
            let _ = notifier.wake.write(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.write(offset, data);
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
