//! The registers of a virtio-mmio slot (section 4.2 "Virtio Over MMIO"), version 2, and access to its device.
//!
//! Called by vCPU threads (registers) and by the device's worker ([`MmioTransport::process_queue`]). A vCPU never waits for
//! a request: it changes the registers, under a lock of their own, and the device sees the changes before its next request.
//! What the driver must wait for (a reset, a queue taken back) reads as not done until the device has let go.
//!
//! It works without KVM and without threads: until [`MmioTransport::attach`] a write of QueueNotify runs the device at once.

mod timer;

use super::notifier::{Notifier, QueueEvent};
use super::queue::{Fault, SIZE_MAX};
use super::state::{Machinery, Registers, half, set_high, set_low};
use super::{Change, Changed, ConfigSpace, Counters, Device, Flush, Io, Pause, Problem, Progress, Signal};
use crate::devices::{BusDevice, InterruptLine};
use crate::mistake::{Mistake, made};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Instant, Mutex, MutexGuard, thread};
use crate::vmm::GuestRam;
use shared_abi::virtio::mmio::{CONFIG, InterruptStatus, MAGIC, Register, VERSION};
use shared_abi::virtio::{DeviceType, Status};
use std::sync::{Arc, OnceLock, PoisonError, TryLockError};
use std::time::Duration;
pub use timer::Awaited;
use vmm_sys_util::epoll::EventSet;

/// "RNGS".
const VENDOR: u32 = u32::from_le_bytes(*b"RNGS");

/// How long a driver's change may wait for the end of a request; then the device's worker makes it, and the driver reads that
/// it is not done yet. Drivers should look, but not all do, so that a request that is about to end is waited for.
const SETTLE: Duration = Duration::from_millis(1);
/// How long it may wait for a worker that is in no request, and only has to get a processor.
const SETTLE_IDLE: Duration = Duration::from_millis(100);

/// Polling interval of a thread that waits for a busy device.
const WAIT_STEP: Duration = Duration::from_micros(200);

/// A slot with its device.
pub struct MmioTransport {
    registers: Mutex<Registers>,
    machinery: Mutex<Machinery>,
    config: Arc<dyn ConfigSpace>,
    flusher: Option<Arc<dyn Flush>>,
    memory: GuestRam,
    signal: Signal,
    pause: Pause,
    device_type: DeviceType,
    queue_count: usize,
    /// The status register and the first fault, for those who must not wait for anything.
    status: AtomicU8,
    fault: OnceLock<String>,
    notifier: OnceLock<Notifier>,
}

impl MmioTransport {
    /// A slot with `device` in its reset state.
    pub fn new(device: Box<dyn Device>, memory: GuestRam, line: Arc<dyn InterruptLine>) -> Arc<Self> {
        Self::build(None, device, memory, line)
    }

    /// The same for a device that reports its problems under a name.
    pub fn named(name: &str, device: Box<dyn Device>, memory: GuestRam, line: Arc<dyn InterruptLine>) -> Arc<Self> {
        Self::build(Some(name.into()), device, memory, line)
    }

    fn build(
        name: Option<String>,
        device: Box<dyn Device>,
        memory: GuestRam,
        line: Arc<dyn InterruptLine>,
    ) -> Arc<Self> {
        Arc::new(Self {
            registers: Mutex::new(Registers::new(device.as_ref())),
            config: device.config(),
            flusher: device.flusher(),
            memory,
            signal: Signal::new(name, line),
            pause: Pause::default(),
            device_type: device.device_type(),
            queue_count: device.queue_count(),
            status: AtomicU8::new(0),
            fault: OnceLock::new(),
            notifier: OnceLock::new(),
            machinery: Mutex::new(Machinery::new(device)),
        })
    }

    /// A read by the guest at `offset` in the slot.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG {
            return self.signal.read_config(|| self.config.read((offset - CONFIG) as usize, data));
        }
        match (Register::at(offset), <&mut [u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => *data = self.read_register(register).to_le_bytes(),
            _ => self.signal.counters.bad_accesses.add(1),
        }
    }

    /// A write by the guest at `offset` in the slot.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            self.config.write((offset - CONFIG) as usize, data);
            return self.wake();
        }
        match (Register::at(offset), data.try_into()) {
            (Some(register), Ok(data)) => self.write_register(register, u32::from_le_bytes(data)),
            _ => self.signal.counters.bad_accesses.add(1),
        }
    }

    fn read_register(&self, register: Register) -> u32 {
        let registers = self.registers();
        match register {
            Register::MagicValue => MAGIC,
            Register::Version => VERSION,
            Register::DeviceId => self.device_type.0,
            Register::VendorId => VENDOR,
            Register::DeviceFeatures => half(registers.offered, registers.device_features_sel),
            Register::QueueSizeMax if registers.selected().is_some() => SIZE_MAX.into(),
            Register::QueueReady => registers.queue_ready().into(),
            Register::QueueReset => registers.queue_resetting().into(),
            Register::InterruptStatus => self.signal.status(),
            Register::Status if made(Mistake::ResetBeforeLetGo) && registers.is_resetting() => 0,
            Register::Status => registers.status.bits().into(),
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
            Register::Status => return self.write_status(value),
            _ => {}
        }
        let mut registers = self.registers();
        if registers.is_resetting() {
            // The driver must wait; nothing is to be set up in what is about to be forgotten.
            return;
        }
        match register {
            Register::DeviceFeaturesSel => registers.device_features_sel = value,
            Register::DriverFeaturesSel => registers.driver_features_sel = value,
            Register::DriverFeatures => registers.set_driver_features(value),
            Register::QueueSel => registers.queue_sel = value,
            Register::QueueSize => registers.place(|place| place.size = value),
            Register::QueueDescLow => registers.place(|place| set_low(&mut place.descriptors, value)),
            Register::QueueDescHigh => registers.place(|place| set_high(&mut place.descriptors, value)),
            Register::QueueDriverLow => registers.place(|place| set_low(&mut place.driver, value)),
            Register::QueueDriverHigh => registers.place(|place| set_high(&mut place.driver, value)),
            Register::QueueDeviceLow => registers.place(|place| set_low(&mut place.device, value)),
            Register::QueueDeviceHigh => registers.place(|place| set_high(&mut place.device, value)),
            // All regions are absent, whichever is meant.
            Register::ShmSel => {}
            Register::QueueReady => {
                if let Err(fault) = registers.set_queue_ready(&self.memory, value) {
                    self.needs_reset(&mut registers, &fault);
                }
                drop(registers);
                self.settle();
            }
            Register::QueueReset => {
                registers.reset_queue(value);
                drop(registers);
                self.settle();
            }
            _ => self.signal.counters.bad_accesses.add(1),
        }
    }

    fn write_status(&self, value: u32) {
        let mut registers = self.registers();
        if value == 0 {
            registers.reset();
            drop(registers);
            return self.settle();
        }
        if registers.is_resetting() {
            return;
        }
        // Bits are only ever added, and DEVICE_NEEDS_RESET is not the driver's to set.
        let mut new = Status::from_bits_truncate(value as u8) - registers.status - Status::DEVICE_NEEDS_RESET;
        if new.contains(Status::FEATURES_OK) && !registers.features_are_acceptable() {
            new -= Status::FEATURES_OK;
        }
        let starts = new.contains(Status::DRIVER_OK);
        if starts && !(registers.status | new).contains(Status::FEATURES_OK) {
            new -= Status::DRIVER_OK;
        }
        registers.status |= new;
        self.publish(&registers);
        if new.contains(Status::DRIVER_OK) {
            registers.activate();
            // A fault from before was not announced: the driver was not there yet.
            if registers.status.contains(Status::DEVICE_NEEDS_RESET) {
                self.signal.raise(InterruptStatus::CONFIG_CHANGE);
            }
            drop(registers);
            self.settle();
            for index in 0..self.queue_count {
                self.run_queue(index);
            }
        }
    }

    /// Lets the device see what the driver changed: now if it is between two requests, else its worker does it there.
    fn settle(&self) {
        self.pause.attention.store(!made(Mistake::NoAttention), Ordering::Release);
        if made(Mistake::LocksCrossed) {
            let _registers = self.registers();
            drop(self.machinery());
        }
        if self.notifier.get().is_none() {
            self.apply(&mut self.machinery());
            return;
        }
        let started = Instant::now();
        let most = || if self.pause.in_request.load(Ordering::Acquire) { SETTLE } else { SETTLE_IDLE };
        while self.pause.attention.load(Ordering::Acquire) {
            match self.machinery.try_lock() {
                Ok(mut machinery) => drop(self.apply(&mut machinery)),
                Err(TryLockError::Poisoned(poison)) => drop(self.apply(&mut poison.into_inner())),
                Err(TryLockError::WouldBlock) if started.elapsed() >= most() => break,
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        // The device may wait for something else now.
        self.wake();
    }

    /// Lets the device see what the driver changed, and says whether it may touch its queues.
    fn apply(&self, machinery: &mut Machinery) -> bool {
        self.pause.attention.store(false, Ordering::Release);
        let mut registers = self.registers();
        if registers.apply(machinery) {
            self.publish(&registers);
            self.signal.forget_interrupts();
        }
        registers.is_live()
    }

    /// The guest says that queue `index` has buffers.
    fn notify(&self, index: u32) {
        match self.notifier.get() {
            // The worker counts it with those that come through KVM.
            Some(notifier) => drop(notifier.queues.get(index as usize).map(QueueEvent::signal)),
            None => {
                self.signal.counters.notifications.add(1);
                self.run_queue(index as usize);
            }
        }
    }

    /// Has the device look at queue `index`, which is no notification of the guest.
    pub(crate) fn run_queue(&self, index: usize) {
        match self.notifier.get() {
            Some(notifier) => drop(notifier.queues.get(index).map(QueueEvent::signal_own)),
            None => while self.process_queue(index) == Progress::More {},
        }
    }

    /// Counts the guest's notifications that are in the event of queue `index`, and lets the device work on the queue.
    pub(super) fn process_notified(&self, index: usize) {
        let Some(event) = self.notifier.get().and_then(|notifier| notifier.queues.get(index)) else { return };
        self.signal.counters.notifications.add(event.take());
        if self.process_queue(index) == Progress::More && !made(Mistake::NoMore) {
            event.signal_own();
        }
    }

    /// Lets the device work on a queue now, on this thread.
    pub fn process_queue(&self, index: usize) -> Progress {
        self.work(
            |device, io| if index < io.queues.len() { device.process_queue(index, io) } else { Ok(Progress::Done) },
        )
    }

    /// Lets the device handle its event source now, on this thread.
    pub fn process_event(&self, events: EventSet) -> Progress {
        self.work(|device, io| device.process_event(events, io))
    }

    fn work(&self, what: impl FnOnce(&mut dyn Device, &mut Io<'_>) -> Result<Progress, Fault>) -> Progress {
        // Locks are not fair: a thread that waits between two requests would lose to each of them.
        while self.pause.waiting.load(Ordering::Acquire) > 0 {
            thread::sleep(WAIT_STEP);
        }
        let mut machinery = self.machinery();
        let mut progress = Progress::Done;
        if self.apply(&mut machinery) {
            let Machinery { device, queues } = &mut *machinery;
            let mut io = Io { memory: &self.memory, queues, signal: &self.signal, pause: &self.pause };
            progress = what(device.as_mut(), &mut io).unwrap_or_else(|fault| {
                self.needs_reset(&mut self.registers(), &fault);
                Progress::Done
            });
        } else if made(Mistake::FaultRepeats) && self.status().contains(Status::DEVICE_NEEDS_RESET) {
            self.signal.raise(InterruptStatus::CONFIG_CHANGE);
        }
        if self.pause.attention.load(Ordering::Acquire) {
            self.apply(&mut machinery);
        }
        progress
    }

    /// The device cannot go on with what the guest gave it.
    fn needs_reset(&self, registers: &mut Registers, fault: &Fault) {
        self.signal.counters.faults.add(1);
        self.fault.get_or_init(|| fault.to_string());
        registers.status |= Status::DEVICE_NEEDS_RESET;
        self.publish(registers);
        if registers.status.contains(Status::DRIVER_OK) {
            self.signal.raise(InterruptStatus::CONFIG_CHANGE);
        }
    }

    /// Changes the device's configuration space by `change`, and notifies the guest.
    pub fn change_config(&self, change: impl FnOnce()) {
        if made(Mistake::InterruptBeforeChange) {
            self.signal.raise(InterruptStatus::CONFIG_CHANGE);
            return self.signal.change_config(change);
        }
        self.signal.change_config(change);
        // Before DRIVER_OK the device sends no interrupt; but a driver may be reading already.
        if self.registers().is_live() {
            self.signal.raise(InterruptStatus::CONFIG_CHANGE);
            // Its worker raises the line if that was too often.
            self.wake();
        }
    }

    /// Changes the device, and notifies the guest if it can see that. A device that is busy for longer than `patience` stays
    /// as it is.
    ///
    /// # Errors
    /// One line that says why nothing changed.
    pub fn change(&self, change: Change, patience: Duration) -> Result<(), String> {
        let mut machinery = self.wait_for_device(patience).ok_or("the device is busy")?;
        self.apply(&mut machinery);
        if machinery.device.change(change)? == Changed::Config {
            self.change_config(|| machinery.device.show());
        }
        drop(machinery);
        self.wake();
        Ok(())
    }

    /// Resets the device as its driver would; false if it stays at work for longer than `patience`.
    pub fn reset(&self, patience: Duration) -> bool {
        self.registers().reset();
        let Some(mut machinery) = self.wait_for_device(patience) else {
            return made(Mistake::ResetOfABusyDevice);
        };
        self.apply(&mut machinery);
        drop(machinery);
        self.wake();
        true
    }

    /// Whether a thread waits for the device to pause between two requests.
    #[cfg(test)]
    pub(super) fn is_awaited(&self) -> bool {
        self.pause.waiting.load(Ordering::Acquire) > 0
    }

    /// Where each live queue is.
    #[cfg(test)]
    pub(super) fn placements(&self) -> Vec<Option<super::queue::Placement>> {
        let machinery = self.machinery();
        machinery.queues.iter().map(|queue| queue.ready().then(|| queue.placement())).collect()
    }

    /// Asks the device to come between two requests and waits for that.
    fn wait_for_device(&self, patience: Duration) -> Option<MutexGuard<'_, Machinery>> {
        let deadline = Instant::now() + patience;
        self.pause.waiting.fetch_add(1, Ordering::AcqRel);
        let machinery = loop {
            self.pause.attention.store(true, Ordering::Release);
            match self.machinery.try_lock() {
                Ok(machinery) => break Some(machinery),
                Err(TryLockError::Poisoned(poison)) => break Some(poison.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => break None,
                Err(TryLockError::WouldBlock) => thread::sleep(WAIT_STEP),
            }
        };
        self.pause.waiting.fetch_sub(1, Ordering::AcqRel);
        machinery
    }

    /// From now on a notification wakes the worker of `notifier`. Only the first call counts.
    pub fn attach(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// How the worker is woken, once there is one.
    pub fn notifier(&self) -> Option<&Notifier> {
        self.notifier.get()
    }

    /// Makes the worker's thread return to its loop after the current request, for good.
    pub(super) fn leave(&self) {
        self.pause.leave.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether [`leave`](Self::leave) was called.
    pub(super) fn is_left(&self) -> bool {
        self.pause.leave.load(Ordering::Acquire)
    }

    /// Number of queues.
    pub fn queue_count(&self) -> usize {
        self.queue_count
    }

    /// The device's type.
    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// What the device did so far.
    pub fn counters(&self) -> &Counters {
        &self.signal.counters
    }

    /// The device's name, or its type's.
    pub fn name(&self) -> &str {
        self.signal.name().unwrap_or(self.device_type.name())
    }

    /// What the device has to say to the outside.
    pub fn signal(&self) -> &Signal {
        &self.signal
    }

    /// What went wrong on the host's side so far.
    pub fn problems(&self) -> Vec<Problem> {
        self.signal.problems()
    }

    /// Why the device first needed a reset, if it ever did.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// The device status register.
    pub fn status(&self) -> Status {
        Status::from_bits_retain(self.status.load(Ordering::Relaxed))
    }

    fn publish(&self, registers: &Registers) {
        self.status.store(registers.status.bits(), Ordering::Relaxed);
    }

    /// Makes what the guest wrote durable, if that takes anything. Does not wait for the device.
    pub fn flusher(&self) -> Option<Arc<dyn Flush>> {
        self.flusher.clone()
    }

    fn wake(&self) {
        if let Some(notifier) = self.notifier.get() {
            // A full counter is readable too.
            let _ = notifier.wake.write(1);
        }
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machinery(&self) -> MutexGuard<'_, Machinery> {
        self.machinery.lock().unwrap_or_else(PoisonError::into_inner)
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
