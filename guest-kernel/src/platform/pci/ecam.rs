//! Where configuration space is memory (ECAM): which windows of ACPI's MCFG table are used. The firmware wrote the table, so
//! nothing in it is believed that would have us write to RAM.

use alloc::vec::Vec;
use core::fmt::{self, Display};
use pci_types::PciAddress;

use crate::mm::Range;

/// Bytes of a bus: 32 devices of 8 functions of 4 KiB (PCI Express 5.0, section 7.2.2).
pub const BUS: u64 = 1 << 20;
/// Windows that are read: more than there are buses would overlap.
pub const WINDOWS_MAX: usize = 256;

/// An entry of the table (PCI Firmware Specification 3.3, table 4-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where bus 0 of the segment group is, or would be where the first bus is a later one.
    pub base: u64,
    /// Segment group.
    pub segment: u16,
    /// The first bus.
    pub first: u8,
    /// The last bus, inclusive.
    pub last: u8,
}

/// A window that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    base: u64,
    /// The first bus: a host bridge's.
    pub first: u8,
    /// The last bus.
    pub last: u8,
}

/// Why a window is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The last bus comes before the first.
    NoBuses,
    /// It does not begin where a bus can.
    Unaligned,
    /// It lies where nothing can be mapped.
    TooHigh,
    /// It is RAM, by the memory map.
    Ram,
    /// Another window has some of its buses.
    Twice,
    /// It reads otherwise than the ports.
    OtherThanPorts,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBuses => "it has no buses",
            Self::Unaligned => "its address is no multiple of 1 MiB",
            Self::TooHigh => "it lies beyond what can be mapped",
            Self::Ram => "it is RAM",
            Self::Twice => "another one has its buses",
            Self::OtherThanPorts => "it reads otherwise than the ports",
        })
    }
}

impl Entry {
    /// The window, checked by itself, against the RAM, and against the end of the addresses that can be mapped.
    ///
    /// # Errors
    /// [`Refusal`], but those that take other windows or the machine to know.
    pub fn window(self, ram: &[Range], end_of_memory: u64) -> Result<Window, Refusal> {
        if self.last < self.first {
            return Err(Refusal::NoBuses);
        }
        if !self.base.is_multiple_of(BUS) {
            return Err(Refusal::Unaligned);
        }
        let start = self.base.checked_add(u64::from(self.first) * BUS);
        let end = self.base.checked_add((u64::from(self.last) + 1) * BUS).filter(|&end| end <= end_of_memory);
        let (Some(start), Some(end)) = (start, end) else { return Err(Refusal::TooHigh) };
        if ram.iter().any(|range| range.start < end && start < range.end) {
            return Err(Refusal::Ram);
        }
        Ok(Window { base: self.base, first: self.first, last: self.last })
    }
}

impl Window {
    /// Whether a bus is in it.
    pub fn has(&self, bus: u8) -> bool {
        (self.first..=self.last).contains(&bus)
    }

    /// Where a bus is, if it is in the window.
    pub fn bus(&self, bus: u8) -> Option<u64> {
        self.has(bus).then(|| self.base + u64::from(bus) * BUS)
    }
}

/// The windows of segment group 0 that can be used, and those that cannot. `confirm` has the last word on one.
pub fn windows(
    entries: &[Entry],
    ram: &[Range],
    end_of_memory: u64,
    confirm: impl Fn(&Window) -> bool,
) -> (Vec<Window>, Vec<(Entry, Refusal)>) {
    let (mut used, mut refused) = (Vec::<Window>::new(), Vec::new());
    for &entry in entries.iter().filter(|entry| entry.segment == 0).take(WINDOWS_MAX) {
        let window = entry.window(ram, end_of_memory).and_then(|window| {
            if used.iter().any(|other| other.first <= window.last && window.first <= other.last) {
                Err(Refusal::Twice)
            } else if confirm(&window) {
                Ok(window)
            } else {
                Err(Refusal::OtherThanPorts)
            }
        });
        match window {
            Ok(window) => used.push(window),
            Err(why) => refused.push((entry, why)),
        }
    }
    (used, refused)
}

/// Where a register of a function is, from the start of its bus.
pub fn offset(address: PciAddress, register: u16) -> usize {
    usize::from(address.device()) << 15 | usize::from(address.function()) << 12 | usize::from(register & 0xfff)
}
