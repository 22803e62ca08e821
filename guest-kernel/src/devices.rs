//! Finds the virtio devices of the machine and brings their drivers up.

use crate::balloon::KernelBalloon;
use crate::cmdline::Cmdline;
use crate::disk::{self, Disk};
use crate::mm::dma::DMA;
use crate::net::card::Card;
use crate::platform::mmio::Slot;
use crate::platform::pci::Function;
use crate::platform::registers::Window;
use crate::platform::{acpi, mmio, pci};
use crate::rng::Rng;
use crate::task::{self, Event};
use crate::trap::irq;
use crate::trap::level::Masked;
use crate::vconsole::VirtioConsole;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::task::Poll;
use frontends::transport::MmioTransport;
use frontends::{InterruptSource, Transport};
use pvops::detect::Surroundings;
use pvops::event::Trigger;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::InterruptStatus;

/// How often a device is asked that cannot interrupt: one without MSI-X, because which line its pin leads to is only told
/// by ACPI's bytecode.
const POLL_INTERVAL: u64 = 5_000_000;

/// A transport of either kind.
pub type AnyTransport = Box<dyn Transport>;

/// Where a device's interrupts arrive.
#[derive(Clone, Copy)]
pub struct Interrupts {
    queue: Option<&'static Event>,
    /// Apart for messages; a line is shared.
    config: Option<&'static Event>,
}

impl Interrupts {
    /// The device cannot interrupt: it is polled.
    pub const fn none() -> Self {
        Self { queue: None, config: None }
    }

    /// One line for everything.
    pub const fn line(event: &'static Event) -> Self {
        Self { queue: Some(event), config: None }
    }

    /// The line of a virtio-mmio device, bound as ACPI's bytecode says that it signals.
    pub fn of_slot(name: &'static str, slot: &Slot) -> Self {
        match irq::bind_line(name, slot.line, slot.trigger) {
            Ok(event) => Self::line(event),
            Err(error) => {
                log::warn!("{name}: {error}; it is polled");
                Self::none()
            }
        }
    }

    /// One message for queues, one for configuration changes.
    pub const fn messages(queue: &'static Event, config: &'static Event) -> Self {
        Self { queue: Some(queue), config: Some(config) }
    }

    /// Whether they are messages.
    pub const fn has_messages(&self) -> bool {
        self.config.is_some()
    }

    /// The event of queues, if the device can interrupt.
    pub const fn queue_event(&self) -> Option<&'static Event> {
        self.queue
    }

    /// The event of configuration changes, where they have one of their own.
    pub const fn config_event(&self) -> Option<&'static Event> {
        self.config
    }

    /// Has what arrived handled, and lets the line interrupt again. Returns whether there was anything.
    pub fn handle(&self, mut handle: impl FnMut(InterruptSource) -> InterruptStatus) -> bool {
        let taken = self.take();
        let any = taken.sources().map(&mut handle).fold(false, |any, what| any | !what.is_empty());
        taken.handled();
        any
    }

    /// Takes what arrived. A device that cannot interrupt is asked every time.
    pub fn take(&self) -> Taken {
        let (queue, line) = self.queue.map_or((true, None), irq::take);
        let config = self.config.is_some_and(Event::take);
        let source = if self.has_messages() { InterruptSource::Queue } else { InterruptSource::Shared };
        Taken { sources: [queue.then_some(source), config.then_some(InterruptSource::Config)], line }
    }

    /// For checks, which wait for no event: reads and acknowledges the device's status by `look`, and lets the line that was
    /// masked before that interrupt again; once more if it came up meanwhile. A device that holds its line up keeps it masked.
    pub fn look(&self, mut look: impl FnMut() -> u32) -> u32 {
        const ROUNDS: usize = 8;
        let mut status = 0;
        for _ in 0..ROUNDS {
            let line = self.queue.and_then(irq::take_line);
            status |= look();
            line.into_iter().for_each(irq::release);
            if !self.queue.is_some_and(irq::is_masked) {
                break;
            }
        }
        status
    }

    /// Waits until `done` gives something; asks it again after every interrupt, or from time to time
    /// where there are none.
    pub async fn until<R>(&self, done: impl FnMut() -> Option<R>) -> R {
        match self.until_deadline(u64::MAX, done).await {
            Some(result) => result,
            None => unreachable!("the end of time"),
        }
    }

    /// The same, until a time of `pvops::time::now`: then `None`.
    pub async fn until_deadline<R>(&self, deadline: u64, mut done: impl FnMut() -> Option<R>) -> Option<R> {
        core::future::poll_fn(|_| {
            for event in [self.queue, self.config].into_iter().flatten() {
                event.subscribe();
            }
            if !task::spend() {
                return Poll::Pending;
            }
            if let Some(result) = done() {
                return Poll::Ready(Some(result));
            }
            let now = pvops::time::now();
            if now >= deadline {
                return Poll::Ready(None);
            }
            let next = if self.queue.is_some() { deadline } else { deadline.min(now + POLL_INTERVAL) };
            task::wake_at(next);
            Poll::Pending
        })
        .await
    }
}

/// What arrived, and the line that is masked until it is [`handled`](Self::handled).
#[must_use = "its line interrupts no more"]
pub struct Taken {
    sources: [Option<InterruptSource>; 2],
    line: Option<Masked>,
}

impl Taken {
    /// What it was about.
    pub fn sources(&self) -> impl Iterator<Item = InterruptSource> + use<> {
        self.sources.into_iter().flatten()
    }

    /// The device has let go of its line.
    pub fn handled(self) {
        self.line.into_iter().for_each(irq::release);
    }
}

/// All devices that came up.
#[derive(Default)]
pub struct Devices {
    /// Disks.
    pub disks: Vec<Rc<Disk>>,
    /// Network card.
    pub card: Option<Rc<Card>>,
    /// Balloon.
    pub balloon: Option<Rc<KernelBalloon>>,
    /// Console.
    pub console: Option<Rc<VirtioConsole>>,
    /// Entropy.
    pub rng: Option<Rng>,
    /// A line for each device that was seen.
    pub list: Vec<Listed>,
}

/// A device that was seen.
pub struct Listed {
    /// What.
    pub device_type: DeviceType,
    /// Where.
    pub location: String,
    /// Which driver, or why none.
    pub state: String,
}

/// Which drivers for block, net and entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    /// `frontends`.
    Own,
    /// `virtio-drivers`.
    Reference,
}

impl DriverChoice {
    /// From `drivers=`.
    pub fn from_cmdline(cmdline: Cmdline) -> Self {
        match cmdline.value("drivers") {
            Some("reference") => Self::Reference,
            None | Some("own") => Self::Own,
            Some(other) => {
                log::warn!("drivers={other}: not own or reference; taking our own");
                Self::Own
            }
        }
    }

    /// The driver's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "frontends",
            Self::Reference => "virtio-drivers",
        }
    }
}

/// A place where a device is.
pub enum Place {
    /// A register block.
    Mmio(Slot, Window),
    /// A PCI function.
    Pci(Function),
}

impl Place {
    /// Where, as people write it.
    pub fn location(&self) -> String {
        match self {
            Self::Mmio(slot, _) => {
                let by = if matches!(slot.trigger, Trigger::Edge | Trigger::EdgeLow) { "" } else { " by level" };
                format!("mmio {:#x} line {}{by}", slot.address, slot.line)
            }
            Self::Pci(function) => function.location(),
        }
    }

    /// The transport of our drivers, with interrupts bound.
    fn open(&self, name: &'static str) -> Result<(AnyTransport, Interrupts), String> {
        match self {
            Self::Mmio(slot, window) => {
                let transport = MmioTransport::new(*window).map_err(|error| error.to_string())?;
                Ok((Box::new(transport), Interrupts::of_slot(name, slot)))
            }
            Self::Pci(function) => {
                let (transport, interrupts) = function.open().map_err(|error| error.to_string())?;
                Ok((Box::new(transport), interrupts))
            }
        }
    }
}

/// Where the virtio devices of the machine are.
#[derive(Default)]
pub struct Places {
    /// Those that can be driven.
    pub modern: Vec<(DeviceType, Place)>,
    /// Those that cannot.
    pub legacy: Vec<Listed>,
}

impl Places {
    /// Looks everywhere, and leaves the devices alone.
    pub fn find(found: &Surroundings, cmdline: Cmdline) -> Self {
        let mut places = Self::default();
        let mut seen: Vec<u64> = Vec::new();
        // With PCI there is no need: reading the bytecode would only take time.
        let declared = if pci::config::get().is_none() { acpi::virtio_mmio() } else { Vec::new() };
        for slot in mmio::slots(found.board_slots.unwrap_or(0), cmdline, declared) {
            if seen.contains(&slot.address) {
                continue;
            }
            seen.push(slot.address);
            let Some(window) = Window::map(slot.address, slot.size) else {
                log::warn!("virtio-mmio at {:#x}: no such range", slot.address);
                continue;
            };
            match MmioTransport::new(window) {
                Ok(transport) if transport.device_type() == DeviceType::NONE => {}
                Ok(transport) => places.modern.push((transport.device_type(), Place::Mmio(slot, window))),
                Err(error) => log::warn!("virtio-mmio at {:#x}: {error}", slot.address),
            }
        }
        if let Some(config) = pci::config::get() {
            for function in pci::functions(config) {
                if function.device_type == DeviceType::NONE {
                    let state = "legacy device, not driven: it needs disable-legacy=on".to_string();
                    log::warn!("{}: {state}", function.location());
                    places.legacy.push(Listed { device_type: DeviceType::NONE, location: function.location(), state });
                } else {
                    places.modern.push((function.device_type, Place::Pci(function)));
                }
            }
        }
        places
    }
}

impl Devices {
    /// Looks everywhere and starts the drivers.
    pub fn find(found: &Surroundings, cmdline: Cmdline) -> Self {
        let mut devices = Self::default();
        let choice = DriverChoice::from_cmdline(cmdline);
        let places = Places::find(found, cmdline);
        devices.list = places.legacy;
        for (device_type, place) in places.modern {
            devices.add(device_type, place, choice, cmdline);
        }
        if let Some(balloon) = KernelBalloon::of_hypervisor() {
            devices.balloon = Some(Rc::new(balloon));
        }
        devices
    }

    fn add(&mut self, device_type: DeviceType, place: Place, choice: DriverChoice, cmdline: Cmdline) {
        let location = place.location();
        let state = match self.start(device_type, place, choice, cmdline) {
            Ok(state) => state,
            Err(error) => {
                log::error!("{} at {location}: {error}", device_type.name());
                error
            }
        };
        self.list.push(Listed { device_type, location, state });
    }

    fn start(
        &mut self,
        device_type: DeviceType,
        place: Place,
        choice: DriverChoice,
        cmdline: Cmdline,
    ) -> Result<String, String> {
        let name = device_type.name();
        let text = |error: frontends::InitError| error.to_string();
        match (device_type, choice) {
            (DeviceType::BLOCK, DriverChoice::Own) => {
                let (transport, interrupts) = place.open(name)?;
                let driver = frontends::Block::new(transport, &DMA, disk::settings(cmdline)).map_err(text)?;
                self.disks.push(Rc::new(Disk::own(driver, interrupts)));
            }
            (DeviceType::BLOCK, DriverChoice::Reference) => self.disks.push(Rc::new(Disk::reference(&place)?)),
            (DeviceType::NET, _) if self.card.is_some() => return Ok("not driven: one card is enough".to_string()),
            (DeviceType::NET, DriverChoice::Own) => {
                let (transport, interrupts) = place.open(name)?;
                let driver = frontends::Net::new(transport, &DMA, Card::SETTINGS).map_err(text)?;
                self.card = Some(Rc::new(Card::own(driver, interrupts)));
            }
            (DeviceType::NET, DriverChoice::Reference) => self.card = Some(Rc::new(Card::reference(&place)?)),
            (DeviceType::BALLOON, _) => {
                let (transport, interrupts) = place.open(name)?;
                let driver = balloon::Balloon::new(transport, &DMA, KernelBalloon::settings()).map_err(text)?;
                self.balloon = Some(Rc::new(KernelBalloon::new(driver, interrupts)));
                return Ok("balloon".to_string());
            }
            (DeviceType::CONSOLE, _) => {
                let (transport, interrupts) = place.open(name)?;
                let driver = frontends::Console::new(transport, &DMA).map_err(text)?;
                self.console = Some(Rc::new(VirtioConsole::new(driver, interrupts)));
                return Ok("frontends".to_string());
            }
            (DeviceType::RNG, DriverChoice::Own) => {
                let (transport, _) = place.open(name)?;
                self.rng = Some(Rng::Own(frontends::Entropy::new(transport, &DMA).map_err(text)?));
            }
            (DeviceType::RNG, DriverChoice::Reference) => self.rng = Some(Rng::reference(&place)?),
            _ => return Ok("no driver".to_string()),
        }
        Ok(choice.name().to_string())
    }
}
