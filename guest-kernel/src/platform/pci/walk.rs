//! Walks the PCI buses: those of the host bridges, and those below bridges, by the bus numbers that the firmware gave
//! them. Devices and bridges are believed in nothing that could keep the walk from ending.

use alloc::vec::Vec;
use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType, PciAddress, PciHeader, PciPciBridgeHeader};

const BUSES: usize = 256;
const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;
const NOBODY: u16 = 0xffff;

/// A function and its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where.
    pub address: PciAddress,
    /// Who made it.
    pub vendor: u16,
    /// What it is, by its maker's numbers.
    pub device: u16,
}

/// What the walk came by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// Functions that are wanted, bus by bus.
    pub functions: Vec<Found>,
    /// Bridges without a bus number of their own: the devices below them stay unseen.
    pub unnumbered: Vec<PciAddress>,
}

/// Finds all functions that are wanted, and lets the bridges before them pass memory accesses and messages on. Of the
/// roots, those count that no bridge below an earlier one leads to.
pub(super) fn walk(access: impl ConfigRegionAccess + Copy, roots: &[u8], wanted: impl Fn(u16, u16) -> bool) -> Walk {
    let mut walk = Walk::default();
    // The bridge that leads to a bus, by the bus's number; `None` until a bridge to it is found.
    let mut bridges: [Option<PciAddress>; BUSES] = [None; BUSES];
    let mut buses = Vec::new();
    let mut roots = roots.iter();
    let mut next = 0;
    loop {
        let Some(&bus) = buses.get(next) else {
            match roots.find(|root| !buses.contains(*root)) {
                Some(&root) => buses.push(root),
                None => return walk,
            }
            continue;
        };
        next += 1;
        for address in functions(access, bus) {
            let header = PciHeader::new(address);
            let (vendor, device) = header.id(access);
            if let Some(bridge) = PciPciBridgeHeader::from_header(PciHeader::new(address), access) {
                let secondary = bridge.secondary_bus_number(access);
                if secondary == 0 || buses.contains(&secondary) {
                    walk.unnumbered.push(address);
                } else {
                    bridges[usize::from(secondary)] = Some(address);
                    buses.push(secondary);
                }
            } else if wanted(vendor, device) {
                walk.functions.push(Found { address, vendor, device });
                open_way(access, &bridges, bus);
            }
        }
    }
}

/// The functions of a bus that are there and have a header of a known kind.
fn functions(access: impl ConfigRegionAccess + Copy, bus: u8) -> impl Iterator<Item = PciAddress> {
    (0..DEVICES).flat_map(move |device| {
        let first = PciHeader::new(PciAddress::new(0, bus, device, 0));
        let count = match first.id(access) {
            (NOBODY, _) => 0,
            _ if first.has_multiple_functions(access) => FUNCTIONS,
            _ => 1,
        };
        (0..count).map(move |function| PciAddress::new(0, bus, device, function)).filter(move |&address| {
            let header = PciHeader::new(address);
            header.id(access).0 != NOBODY && !matches!(header.header_type(access), HeaderType::Unknown(_))
        })
    })
}

/// Lets all bridges between a host bridge and a bus pass on. Firmware opens those that it needs itself.
fn open_way(access: impl ConfigRegionAccess + Copy, bridges: &[Option<PciAddress>; BUSES], mut bus: u8) {
    while let Some(address) = bridges[usize::from(bus)] {
        let open = CommandRegister::MEMORY_ENABLE | CommandRegister::BUS_MASTER_ENABLE;
        let mut header = PciHeader::new(address);
        if !header.command(access).contains(open) {
            header.update_command(access, |command| command | open);
        }
        bus = address.bus();
    }
}

#[cfg(test)]
mod tests;
