//! The virtio devices of the machine: where they are, their drivers, and what the rest of the kernel sees of each.

pub mod balloon;
pub mod card;
pub mod console;
pub mod disk;
pub mod place;
pub mod reference;
pub mod rng;

use crate::cmdline::Cmdline;
use crate::mm::dma::DMA;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use balloon::KernelBalloon;
use card::Card;
use console::VirtioConsole;
use disk::Disk;
use place::{DriverChoice, Listed, Place, Places};
use pvops::detect::Surroundings;
use rng::Rng;
use shared_abi::virtio::DeviceType;

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
                let driver = ::balloon::Balloon::new(transport, &DMA, KernelBalloon::settings()).map_err(text)?;
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
