//! A virtio device's configuration space and registers on PCI, as the checks reach them.

use super::device::{Dev, Target};
use super::registers::Regs;
use super::{End, Verdict, error, skip};
use alloc::vec::Vec;
use frontends::transport::Registers;
use frontends::transport::pci::Windows;
use guest_kernel::devices::place::Place;
use guest_kernel::platform::pci::Function;
use guest_kernel::platform::registers::Window;
use pci_types::ConfigRegionAccess;
use shared_abi::virtio::pci::{CAPABILITY_MSIX, CAPABILITY_VENDOR};

/// More capabilities than fit into a configuration space.
pub const STEPS: usize = 48;

/// The function and the windows of a virtio device on PCI.
///
/// # Errors
/// An error when it is somewhere else.
pub fn parts(target: &Target) -> Result<(&Function, &Windows<Window>), End> {
    match (&target.place, &target.regs) {
        (Place::Pci(function), Regs::Pci(windows, _)) => Ok((function, windows)),
        _ => Err(error("not a virtio-pci device")),
    }
}

pub fn read(function: &Function, offset: u16) -> u32 {
    // SAFETY: reading configuration space has no effect but that of the access window, which only this group uses.
    unsafe { function.config().read(function.address, offset & !3) }
}

pub fn write(function: &Function, offset: u16, value: u32) {
    // SAFETY: only written to the access window, by which a device reads its own registers, to the interrupt line's number,
    // which it does not look at, and to what chooses between its pin and its messages. The status's bits are written as 0.
    unsafe { function.config().write(function.address, offset & !3, value) };
}

/// Offsets of the capabilities.
pub fn capabilities(function: &Function) -> Vec<u16> {
    let mut found = Vec::new();
    let mut at = read(function, 0x34) as u16 & 0xfc;
    while at != 0 && found.len() < STEPS {
        found.push(at);
        at = (read(function, at) >> 8) as u16 & 0xfc;
    }
    found
}

/// Offsets of virtio's capabilities of a kind.
pub fn structures(function: &Function, kind: u8) -> impl Iterator<Item = u16> {
    capabilities(function).into_iter().filter(move |&at| {
        let word = read(function, at);
        word as u8 == CAPABILITY_VENDOR && (word >> 24) as u8 == kind
    })
}

/// Entries of a device's MSI-X table.
///
/// # Errors
/// Not applicable where it has none.
pub fn table_size(target: &Target) -> Result<u16, End> {
    let (function, _) = parts(target)?;
    let msix = capabilities(function).into_iter().find(|&at| read(function, at) as u8 == CAPABILITY_MSIX);
    let control = msix.map(|at| (read(function, at) >> 16) as u16).ok_or_else(|| skip("the device has no MSI-X"))?;
    Ok((control & 0x7ff) + 1)
}

/// The registers of queue 0 of a device with features negotiated.
pub fn with_queue_0(target: &Target, check: impl FnOnce(&Window) -> Verdict) -> Verdict {
    let dev = Dev::with_features(target, 0)?;
    dev.regs().select_queue(0);
    check(&parts(target)?.1.common)
}

/// The interrupt pin of a device that has MSI-X.
pub struct Pin {
    pub function: Function,
    pub isr: Window,
    /// The ISA interrupt that the firmware wrote down.
    pub irq: u8,
    pub msix: u16,
}

impl Pin {
    /// That of a virtio device on PCI.
    ///
    /// # Errors
    /// Not applicable where it has none, or its line is not recorded.
    pub fn of(target: &Target) -> Result<Self, End> {
        const INTERRUPT: u16 = 0x3c;
        let (function, windows) = parts(target).map_err(|_| skip("the entropy device is not on PCI"))?;
        let (irq, pin) = (read(function, INTERRUPT) as u8, (read(function, INTERRUPT) >> 8) as u8);
        if pin == 0 || !(1..16).contains(&irq) {
            return Err(skip("the line of the device's interrupt pin is not recorded"));
        }
        let msix = capabilities(function).into_iter().find(|&at| read(function, at) as u8 == CAPABILITY_MSIX);
        let msix = msix.ok_or_else(|| skip("the entropy device has no MSI-X"))?;
        Ok(Self { function: *function, isr: windows.isr, irq, msix })
    }

    /// Runs a check while the device interrupts by its pin.
    pub fn alone(&self, check: impl FnOnce() -> Verdict) -> Verdict {
        const MSIX_ENABLE: u32 = 1 << 31;
        const COMMAND: u16 = 4;
        const PIN_OFF: u32 = 1 << 10;
        let (control, command) = (read(&self.function, self.msix), read(&self.function, COMMAND) & 0xffff);
        write(&self.function, self.msix, control & !MSIX_ENABLE);
        write(&self.function, COMMAND, command & !PIN_OFF);
        let verdict = check();
        write(&self.function, COMMAND, command);
        write(&self.function, self.msix, control);
        verdict
    }

    /// Lets the line fall.
    pub fn acknowledge(&self) {
        self.isr.read8(0);
    }
}
