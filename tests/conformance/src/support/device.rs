//! A device in the hands of a check: reset before and after, its memory kept until it has let go of it.

use super::raw::{Buf, Pages, Queue, wait_until};
use super::registers::{Layout, Regs};
use super::{End, Verdict, equal, error, fail, skip};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bitflags::Flags;
use core::cell::RefCell;
use guest_kernel::devices::place::Place;
use guest_kernel::platform::pci::VECTORS;
use guest_kernel::trap::Interrupts;
use guest_kernel::trap::irq;
use shared_abi::virtio::{CommonFeatures, DeviceType, Status, balloon, blk, console, net, ring};

/// How long a reset may take.
const RESET_PATIENCE: u64 = 1_000_000_000;

/// A device that was found: mapped, its interrupts bound, not driven by anybody.
pub struct Target {
    pub device_type: DeviceType,
    pub place: Place,
    pub regs: Regs,
    pub interrupts: Interrupts,
}

impl Target {
    /// Maps it.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub fn open(device_type: DeviceType, place: Place) -> Result<Self, String> {
        let (regs, interrupts) = match &place {
            Place::Mmio(slot, window) => {
                (Regs::Mmio(*window), Interrupts::of_line(device_type.name(), slot.line, slot.trigger))
            }
            Place::Pci(function) => {
                let (windows, interrupts) = function.map().map_err(|error| error.to_string())?;
                (Regs::Pci(windows, interrupts.has_messages().then_some(VECTORS)), interrupts)
            }
        };
        Ok(Self { device_type, place, regs, interrupts })
    }

    /// Its type and place, for people.
    pub fn name(&self) -> String {
        format!("{} at {}", self.device_type.name(), self.place.location())
    }

    /// Acknowledges its interrupt and returns what the status said: a line that signals by a level may interrupt again.
    pub fn take_interrupt(&self) -> u32 {
        self.interrupts.look(|| self.regs.take_interrupt())
    }

    /// Resets it; whether it said so.
    pub fn reset(&self) -> bool {
        self.regs.set_status(0);
        wait_until(RESET_PATIENCE, || self.regs.status() == 0)
    }
}

/// Those of the features that are not among `bits`.
fn difference<F: Flags<Bits = u64>>(features: &F, bits: u64) -> F {
    F::from_bits_retain(features.bits() & !bits)
}

/// How long an interrupt may take, and how long one is waited for that must not come.
const INTERRUPT: u64 = 1_000_000_000;
const NO_INTERRUPT: u64 = 5_000_000;

/// A driver has the device's other queues set up before DRIVER_OK (3.1.1, step 7), as small as this.
const IDLE_SIZE: u16 = 8;

/// Features that give a type of device its other queues. Some balloons number their queues by what they offer, others by
/// what was negotiated: a driver that accepts all of them is right with both.
fn queue_features(device_type: DeviceType) -> u64 {
    use balloon::Features;
    match device_type {
        DeviceType::BALLOON => (Features::STATS_VQ | Features::FREE_PAGE_HINT | Features::REPORTING).bits(),
        _ => 0,
    }
}

/// The queues that a driver sets up before DRIVER_OK with these features.
fn mandatory_queues(device_type: DeviceType, features: u64) -> Vec<u16> {
    match device_type {
        DeviceType::NET => {
            let control = net::Features::CTRL_VQ.bits();
            // With MQ the control queue's number depends on the configuration: who wants that one sets it up.
            let fixed = features & (control | net::Features::MQ.bits()) == control;
            [net::RECEIVE_QUEUE, net::TRANSMIT_QUEUE].into_iter().chain(fixed.then_some(2)).collect()
        }
        DeviceType::CONSOLE => {
            let multiport = features & console::Features::MULTIPORT.bits() != 0;
            (0..if multiport { 4 } else { 2 }).collect()
        }
        DeviceType::BALLOON => {
            let numbers = balloon::queues(balloon::Features::from_bits_truncate(features));
            let others = [numbers.stats, numbers.free_page, numbers.reporting];
            [numbers.inflate, numbers.deflate].into_iter().chain(others.into_iter().flatten()).collect()
        }
        _ => [0].into(),
    }
}

/// A device from reset to reset.
pub struct Dev<'a> {
    pub target: &'a Target,
    /// What it offers.
    pub offered: u64,
    /// What was negotiated.
    pub features: u64,
    memory: RefCell<Vec<Rc<Pages>>>,
    /// Queues that were set up.
    set_up: RefCell<Vec<u16>>,
}

impl<'a> Dev<'a> {
    /// Resets a device and shows it a driver.
    ///
    /// # Errors
    /// A failure when it does not reset.
    pub fn new(target: &'a Target) -> Result<Self, End> {
        if !target.reset() {
            return Err(fail(&format!("{}: status after a reset", target.name()), 0, target.regs.status()));
        }
        target.regs.set_status(Status::ACKNOWLEDGE.bits());
        target.regs.set_status((Status::ACKNOWLEDGE | Status::DRIVER).bits());
        let offered = target.regs.features();
        Ok(Self { target, offered, features: 0, memory: RefCell::default(), set_up: RefCell::default() })
    }

    /// The same with features negotiated: of `wanted` those that it offers, and what no driver may leave out.
    ///
    /// # Errors
    /// A failure when it does not accept them.
    pub fn with_features(target: &'a Target, wanted: u64) -> Result<Self, End> {
        Self::with_exactly(target, wanted | queue_features(target.device_type))
    }

    /// The same without those features that give a device its other queues.
    ///
    /// # Errors
    /// A failure when it does not accept them.
    pub fn with_exactly(target: &'a Target, wanted: u64) -> Result<Self, End> {
        let mut dev = Self::new(target)?;
        let needed = CommonFeatures::VERSION_1 | CommonFeatures::ACCESS_PLATFORM;
        dev.features = dev.offered & (wanted | needed.bits());
        dev.regs().set_features(dev.features);
        let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
        dev.regs().set_status(status.bits());
        let saw = dev.regs().status();
        if saw & Status::FEATURES_OK.bits() == 0 {
            let what = format!("{}: status after features {:#x}", target.name(), dev.features);
            return Err(fail(&what, "FEATURES_OK", format_args!("{saw:#x}")));
        }
        Ok(dev)
    }

    pub fn regs(&self) -> &'a Regs {
        &self.target.regs
    }

    /// [`Target::take_interrupt`].
    pub fn take_interrupt(&self) -> u32 {
        self.target.take_interrupt()
    }

    pub fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }

    /// Goes on only with these features negotiated.
    ///
    /// # Errors
    /// Not applicable when the device does not offer them.
    pub fn needs(&self, features: impl Flags<Bits = u64>) -> Verdict {
        let missing = difference(&features, self.features);
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(" ");
        Err(skip(format!("the {} device does not offer {names}", self.target.device_type.name())))
    }

    /// Sets a queue up, as large as the device and `size` allow. Where the device keeps a larger size the rings have that
    /// one: the fault is reported by `pci/queue-size-reads-back` alone.
    ///
    /// # Errors
    /// An error when it is not there, a failure when it does not become live.
    pub fn queue(&self, index: u16, size: u16) -> Result<Queue, End> {
        let lens = |size| [ring::descriptor_table_len(size), ring::available_len(size), ring::used_len(size)];
        let (size, parts, notify_at) = self.place(index, size, lens)?;
        Ok(Queue::new(index, size, parts, notify_at))
    }

    /// The same for rings of any kind: places parts of these lengths for a size; returns that size, the parts, and where the
    /// queue is notified.
    ///
    /// # Errors
    /// As for [`queue`](Self::queue).
    pub fn place(
        &self,
        index: u16,
        size: u16,
        lens: impl Fn(u16) -> [usize; 3],
    ) -> Result<(u16, [Buf; 3], usize), End> {
        self.regs().select_queue(index.into());
        let max = self.regs().queue_size_max();
        if max == 0 {
            return Err(error(format!("{} has no queue {index}", self.target.name())));
        }
        let largest = max.min(u32::from(ring::MAX_SIZE)) as u16;
        let size = self.regs().set_queue_size(size.min(largest), largest);
        // Each part in pages of its own: nothing says that they lie together.
        let [first, second, third] = lens(size);
        let parts = [self.buffer(first)?, self.buffer(second)?, self.buffer(third)?];
        let [descriptors, available, used] = [0, 1, 2].map(|part: usize| parts[part].address());
        self.regs().place_queue(Layout { size, descriptors, available, used });
        let Some(notify_at) = self.regs().notify_offset() else {
            return Err(fail("the place of notifications", "inside of its structure", "outside"));
        };
        self.regs().set_queue_ready();
        match self.regs().queue_ready() {
            1 => {
                self.set_up.borrow_mut().push(index);
                Ok((size, parts, notify_at))
            }
            saw => Err(fail(&format!("{}: ready state of queue {index}", self.target.name()), 1, saw)),
        }
    }

    /// Sets up the queues that the check has no use for, and sets DRIVER_OK.
    ///
    /// # Errors
    /// A failure when one of them does not become live.
    pub fn start(&self) -> Verdict {
        for index in mandatory_queues(self.target.device_type, self.features) {
            if !self.set_up.borrow().contains(&index) {
                self.queue(index, IDLE_SIZE)?;
            }
        }
        self.go();
        Ok(())
    }

    /// Sets DRIVER_OK, whatever was set up.
    pub fn go(&self) {
        let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;
        self.regs().set_status(status.bits());
    }

    /// Zeroed memory that it can reach.
    ///
    /// # Errors
    /// An error when there is none.
    pub fn buffer(&self, len: usize) -> Result<Buf, End> {
        let (buf, pages) = Buf::allocate(len).ok_or_else(|| error(format!("no memory for {len} bytes")))?;
        self.memory.borrow_mut().push(pages);
        Ok(buf)
    }

    /// Interrupts of its queues so far; `None` where it cannot interrupt.
    pub fn interrupts(&self) -> Option<u64> {
        self.target.interrupts.queue_event().map(irq::count_of)
    }

    /// The same where they are needed.
    ///
    /// # Errors
    /// Not applicable where it cannot interrupt.
    pub fn needed_interrupts(&self) -> Result<u64, End> {
        self.interrupts().ok_or_else(|| skip("the device cannot interrupt"))
    }

    /// Waits up to a second for another interrupt than those `before`, and acknowledges it; whether it came.
    pub fn interrupted(&self, before: u64) -> bool {
        let came = wait_until(INTERRUPT, || self.interrupts() != Some(before));
        self.take_interrupt();
        came
    }

    /// Fails if another interrupt than those `before` comes within 5 ms; acknowledges it.
    ///
    /// # Errors
    /// Then; not applicable where the device cannot interrupt.
    pub fn quiet(&self, before: u64) -> Verdict {
        wait_until(NO_INTERRUPT, || self.interrupts() != Some(before));
        let saw = self.needed_interrupts()?;
        self.take_interrupt();
        equal("interrupts", 0, saw - before)
    }

    /// Fails if the device says that it cannot go on.
    ///
    /// # Errors
    /// Then.
    pub fn healthy(&self) -> Result<(), End> {
        let status = self.regs().status();
        if status & Status::DEVICE_NEEDS_RESET.bits() == 0 {
            return Ok(());
        }
        let what = format!("{}: status", self.target.name());
        Err(fail(&what, "without DEVICE_NEEDS_RESET", format_args!("{status:#x}")))
    }
}

impl AsRef<Regs> for Dev<'_> {
    fn as_ref(&self) -> &Regs {
        self.regs()
    }
}

impl Drop for Dev<'_> {
    fn drop(&mut self) {
        let confirmed = self.target.reset();
        // A line stays up until it is acknowledged, and an edge that never comes again would be the next check's problem.
        self.target.take_interrupt();
        if !confirmed {
            // The device may still write there: these pages are not used any more.
            self.memory.take().into_iter().for_each(core::mem::forget);
        }
    }
}

/// Whether a device is a read-only disk.
pub fn is_read_only(target: &Target) -> bool {
    target.device_type == DeviceType::BLOCK
        && Dev::new(target).is_ok_and(|dev| dev.offered & blk::Features::RO.bits() != 0)
}
