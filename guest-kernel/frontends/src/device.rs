//! A device's life from reset to reset (section 3.1 "Device Initialization"), the same for every type of driver.
//!
//! ```text
//! begin()  reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK      Setup
//! ring()   queues                                                 Setup
//! start()  DRIVER_OK                                              Setup -> Live
//! begin_again(), ring_again(), start()  the same after a failure  Live  -> Live
//! stop()   reset, reason kept                                     any   -> Stopped
//! ```
//! Drivers own one [`Device`] and their rings, and implement [`Driver`] for the kernel.

use crate::error::{InitError, Violation};
use crate::memory::{DmaPages, Loan};
use crate::ring::Ring;
use crate::transport::Transport;
use core::task::{Context, Poll, Waker};
use virtio_abi::mmio::InterruptStatus;
use virtio_abi::{CommonFeatures, DeviceType, Status};

/// Reads of the status register that a reset is given to be confirmed.
pub const RESET_POLLS: u32 = 1000;
/// How often a device is restarted after a failure, unless the kernel says otherwise, before its driver gives up for
/// good.
pub const RESTARTS: u32 = 3;
/// Attempts to read a configuration that does not change meanwhile.
pub const CONFIG_ATTEMPTS: u32 = 8;
/// The features of rings and transports that all drivers take if offered.
const COMMON: CommonFeatures = CommonFeatures::VERSION_1
    .union(CommonFeatures::EVENT_IDX)
    .union(CommonFeatures::INDIRECT_DESC)
    .union(CommonFeatures::ACCESS_PLATFORM);

/// What the kernel knows about an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterruptSource {
    /// A line, or one vector for everything: the device is asked why.
    Shared,
    /// A vector that only queues have: no register is read.
    Queue,
    /// A vector that only configuration changes have.
    Config,
}

/// What all drivers have in common.
pub trait Driver {
    /// How it reaches its device.
    type Transport: Transport;

    /// The device.
    fn device(&self) -> &Device<Self::Transport>;
    /// The device.
    fn device_mut(&mut self) -> &mut Device<Self::Transport>;
    /// Resets the device for good and keeps the reason. Requests in flight fail with it.
    fn stop(&mut self, reason: Violation);
    /// Goes on with a device that was reset and has agreed to the same features again: sets its queues up, starts it, and
    /// gives it again what is safe to do again. [`Driver::fail`] calls this, with the failure.
    fn restart(&mut self, reason: Violation) -> Result<(), InitError>;
    /// Follows a change of the configuration.
    fn config_changed(&mut self);
    /// Asks for an interrupt at the next completion. True if there is something to take already, so that the caller
    /// polls again instead of waiting for an interrupt that will not come.
    fn enable_interrupts(&mut self) -> bool;
    /// Asks for no interrupts; a device may still send some.
    fn disable_interrupts(&mut self);
    /// Shows the device what was submitted since the last call, and notifies it if it asked for that.
    fn kick(&mut self);
    /// Pages given up for good, because the device did not confirm its reset and may still write to them.
    fn leaked_pages(&self) -> usize;

    /// The type of the device.
    fn device_type(&self) -> DeviceType {
        self.device().device_type()
    }

    /// The negotiated features.
    fn features(&self) -> u64 {
        self.device().features()
    }

    /// Handles an interrupt: acknowledges it, follows configuration changes, and says what it was about. Takes no
    /// completions.
    fn interrupt(&mut self, source: InterruptSource) -> InterruptStatus {
        let status = match self.device_mut().interrupt(source) {
            Ok(status) => {
                if status.contains(InterruptStatus::CONFIG_CHANGE) {
                    self.config_changed();
                }
                status
            }
            Err(violation) => {
                self.fail(violation);
                InterruptStatus::CONFIG_CHANGE
            }
        };
        if !status.is_empty() {
            self.device_mut().wake();
        }
        status
    }

    /// For async callers that have taken all completions: ready if there are more, or the device has stopped. Otherwise
    /// asks for an interrupt and keeps the waker; [`Driver::interrupt`], a restart and a stop wake it, once. A driver keeps
    /// one waker, that of the last call: several tasks share a disk through [`Requests`](crate::block::Requests).
    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.broken().is_some() {
            return Poll::Ready(());
        }
        // The waker first: an interrupt handler that runs on another CPU must find it.
        self.device_mut().set_waker(context.waker());
        if self.enable_interrupts() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Handles a failure of the device: restarts it, or stops it if that does not help or has been done too often.
    fn fail(&mut self, reason: Violation) {
        if self.broken().is_some() {
            return;
        }
        if !self.device_mut().begin_again(reason) {
            return self.stop(reason);
        }
        if let Err(error) = self.restart(reason) {
            log::error!("{}: not restarted: {error}", self.device_type().name());
            self.stop(reason);
        }
    }

    /// Sets how often the device is restarted after a failure; 0 for never.
    fn set_restart_limit(&mut self, limit: u32) {
        self.device_mut().restart_limit = limit;
    }

    /// Times that the device was restarted.
    fn restarts(&self) -> u32 {
        self.device().restarts
    }

    /// Why the driver stopped, if it did.
    fn broken(&self) -> Option<Violation> {
        self.device().broken()
    }

    /// Notifications sent so far.
    fn notifications(&self) -> u64 {
        self.device().notifications()
    }

    /// Resets the device. Requests in flight fail.
    fn shut_down(&mut self) {
        self.stop(Violation::ShutDown);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Setup,
    Live,
    Stopped { reason: Violation, reset_confirmed: bool },
}

/// A device between its resets: the transport, the negotiated features, and whether it may still be trusted to answer.
pub struct Device<T: Transport> {
    transport: T,
    device_type: DeviceType,
    offered: u64,
    features: u64,
    state: State,
    notifications: u64,
    restarts: u32,
    restart_limit: u32,
    /// For the memory that the device has been shown since its last reset.
    loan: Loan,
    /// Of the task that waits for an interrupt.
    waker: Option<Waker>,
}

impl<T: Transport> Device<T> {
    /// Resets a device and negotiates features: the common ones, and those of `supported` that it offers.
    pub fn begin(transport: T, wanted: DeviceType, supported: u64) -> Result<Self, InitError> {
        Self::begin_with(transport, wanted, |_| supported)
    }

    /// Like [`Device::begin`] for a driver that looks at the configuration before it knows what it supports.
    pub fn begin_with(
        mut transport: T,
        wanted: DeviceType,
        supported: impl FnOnce(ConfigFields<'_, T>) -> u64,
    ) -> Result<Self, InitError> {
        let found = transport.device_type();
        if found != wanted {
            return Err(InitError::WrongDevice { wanted, found });
        }
        if !reset(&mut transport) {
            return Err(InitError::ResetTimeout { polls: RESET_POLLS });
        }
        let offered = greet(&mut transport);
        let supported = supported(ConfigFields { transport: &transport });
        let features = offered & (supported | COMMON.bits());
        let (state, loan) = (State::Setup, Loan::default());
        let mut this = Self {
            transport,
            device_type: wanted,
            offered,
            features,
            state,
            notifications: 0,
            restarts: 0,
            restart_limit: RESTARTS,
            loan,
            waker: None,
        };
        if features & CommonFeatures::VERSION_1.bits() == 0 {
            return Err(this.give_up(InitError::Legacy { offered }));
        }
        this.agree().map_err(|error| this.give_up(error))?;
        Ok(this)
    }

    /// Writes the negotiated features and checks that the device accepts them.
    fn agree(&mut self) -> Result<(), InitError> {
        self.transport.set_driver_features(self.features);
        self.transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK);
        match self.transport.status().contains(Status::FEATURES_OK) {
            true => Ok(()),
            false => Err(InitError::FeaturesRefused { wanted: self.features }),
        }
    }

    /// Resets the device after a failure and agrees on the same features again. False if it is to be stopped: it has been
    /// restarted too often, does not confirm the reset, or has become another.
    #[must_use]
    pub fn begin_again(&mut self, reason: Violation) -> bool {
        if !self.is_live() || self.restarts >= self.restart_limit {
            return false;
        }
        self.restarts += 1;
        let name = self.device_type.name();
        log::warn!("{name}: restarted ({} of {}): {reason}", self.restarts, self.restart_limit);
        if !self.reset() {
            return false;
        }
        self.loan = Loan::default();
        self.state = State::Setup;
        let offered = greet(&mut self.transport);
        if offered & self.features != self.features {
            log::error!("{name}: not restarted: it offers {offered:#x} now, {:#x} is needed", self.features);
            return false;
        }
        self.agree().inspect_err(|error| log::error!("{name}: not restarted: {error}")).is_ok()
    }

    /// Sets a queue up again, empty, after [`Device::begin_again`].
    pub fn ring_again(&mut self, ring: &mut Ring) -> Result<(), InitError> {
        let (queue, size) = (ring.queue(), self.transport.max_queue_size(ring.queue()));
        if size < ring.size().into() || self.transport.set_queue_size(queue, ring.size())? != ring.size() {
            return Err(InitError::BadQueue { queue, size });
        }
        ring.clear();
        ring.lend(self.loan.clone());
        Ok(self.transport.set_queue(queue, ring.layout())?)
    }

    /// Entries that a queue can have; 0 if the device has no such queue.
    pub fn largest_ring(&mut self, queue: u16) -> u16 {
        match self.transport.max_queue_size(queue).min(32768) as u16 {
            0 => 0,
            max => prev_power_of_two(max),
        }
    }

    /// Sets up a queue of at most `size` entries, unless the device insists on more, whose chains have at most `chain`
    /// descriptors.
    pub fn ring(&mut self, queue: u16, size: u16, chain: u16, dma: &'static dyn DmaPages) -> Result<Ring, InitError> {
        let max = self.largest_ring(queue);
        let ring = if max > 0 && size > 0 {
            let taken = self.transport.set_queue_size(queue, prev_power_of_two(size.min(max)));
            taken.map_err(InitError::from).and_then(|size| Ring::new(queue, size, chain, self.features, dma))
        } else {
            Err(InitError::BadQueue { queue, size: max.into() })
        };
        let set = ring.and_then(|mut ring| {
            ring.lend(self.loan.clone());
            self.transport.set_queue(queue, ring.layout())?;
            Ok(ring)
        });
        set.map_err(|error| self.give_up(error))
    }

    /// Sets DRIVER_OK: from now on the device uses its queues.
    pub fn start(&mut self) {
        let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;
        self.transport.set_status(status);
        self.state = State::Live;
        // After a restart interrupts are to be asked for again.
        self.wake();
    }

    /// Marks the device FAILED before it was started, and passes the reason on. Rings that were set up are freed when
    /// they are dropped only if the device confirms its reset.
    pub fn give_up(&mut self, error: InitError) -> InitError {
        let reset_confirmed = self.reset();
        if !reset_confirmed {
            log::error!("{}: the device does not confirm its reset; its rings are not freed", self.device_type.name());
        }
        self.transport.set_status(Status::FAILED);
        self.state = State::Stopped { reason: Violation::ShutDown, reset_confirmed };
        error
    }

    /// Reads fields of the configuration that belong together: again, if the device changed it meanwhile.
    pub fn config<C>(&self, read: impl Fn(ConfigFields<'_, T>) -> C) -> Result<C, InitError> {
        for _ in 0..CONFIG_ATTEMPTS {
            let before = self.transport.config_generation();
            let config = read(ConfigFields { transport: &self.transport });
            if self.transport.config_generation() == before {
                return Ok(config);
            }
        }
        Err(InitError::ConfigUnstable { attempts: CONFIG_ATTEMPTS })
    }

    /// Bytes of the configuration.
    pub fn config_len(&self) -> usize {
        self.transport.config_len()
    }

    /// Writes one 4-byte field of the configuration.
    pub fn write_config(&mut self, offset: usize, value: u32) {
        self.transport.write_config(offset, &value.to_le_bytes());
    }

    /// Publishes what was pushed on a ring and notifies the device if it asked for that.
    pub fn kick(&mut self, ring: &mut Ring) {
        if ring.publish() && self.is_live() {
            self.transport.notify(ring.queue());
            self.notifications += 1;
        }
    }

    /// Why the device interrupts; acknowledged. A device that needs a reset is stopped with an error.
    pub fn interrupt(&mut self, source: InterruptSource) -> Result<InterruptStatus, Violation> {
        if !self.is_live() {
            return Ok(InterruptStatus::empty());
        }
        let status = match source {
            InterruptSource::Shared => self.transport.take_interrupt(),
            InterruptSource::Queue => InterruptStatus::USED_BUFFER,
            InterruptSource::Config => InterruptStatus::CONFIG_CHANGE,
        };
        if status.contains(InterruptStatus::CONFIG_CHANGE)
            && self.transport.status().contains(Status::DEVICE_NEEDS_RESET)
        {
            return Err(Violation::NeedsReset);
        }
        Ok(status)
    }

    /// Resets the device for good and keeps the first reason. False if the device did not confirm: then it may still
    /// write to whatever it was given, and none of it may be freed.
    #[must_use]
    pub fn stop(&mut self, reason: Violation) -> bool {
        if let State::Stopped { reset_confirmed, .. } = self.state {
            return reset_confirmed;
        }
        let reset_confirmed = self.reset();
        let name = self.device_type.name();
        match (reason, reset_confirmed) {
            (Violation::ShutDown, true) => {}
            (_, true) => log::error!("{name}: stopped: {reason}"),
            (_, false) => log::error!("{name}: stopped: {reason}; the device does not confirm its reset"),
        }
        self.state = State::Stopped { reason, reset_confirmed };
        self.wake();
        reset_confirmed
    }

    /// Keeps the waker of the task that waits for an interrupt, in place of any other.
    fn set_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(kept) => kept.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    /// Wakes the task that waits for an interrupt.
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Resets the device. If it confirms, all memory that it was shown is ours again.
    fn reset(&mut self) -> bool {
        let confirmed = reset(&mut self.transport);
        if confirmed {
            self.loan.end();
        }
        confirmed
    }

    /// Whether the device works.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Why the device was stopped.
    pub fn broken(&self) -> Option<Violation> {
        match self.state {
            State::Stopped { reason, .. } => Some(reason),
            State::Setup | State::Live => None,
        }
    }

    /// The type of the device.
    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// The negotiated features.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// What the device offered.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Notifications sent so far.
    pub fn notifications(&self) -> u64 {
        self.notifications
    }
}

/// Access to the fields of a configuration. Each is read in its own width; 64 bits as two halves.
pub struct ConfigFields<'a, T: Transport> {
    transport: &'a T,
}

impl<T: Transport> ConfigFields<'_, T> {
    fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut field = [0; N];
        self.transport.read_config(offset, &mut field);
        field
    }

    /// A byte.
    pub fn u8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.read(offset))
    }

    /// Two bytes.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }

    /// Four bytes.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }

    /// Eight bytes.
    pub fn u64(&self, offset: usize) -> u64 {
        u64::from(self.u32(offset)) | u64::from(self.u32(offset + 4)) << 32
    }
}

/// Introduces the driver to a device that was reset; what the device offers.
fn greet(transport: &mut impl Transport) -> u64 {
    transport.set_status(Status::ACKNOWLEDGE);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    transport.device_features()
}

/// Resets a device and waits, for a bounded number of reads, until it confirms.
fn reset(transport: &mut impl Transport) -> bool {
    transport.set_status(Status::empty());
    (0..RESET_POLLS).any(|_| transport.status().is_empty())
}

/// The largest power of two that is not more than `n`, which is not 0.
const fn prev_power_of_two(n: u16) -> u16 {
    1 << n.ilog2()
}
