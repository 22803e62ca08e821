//! Access to configuration space: by memory where the firmware describes it (ECAM), one exit per access; else by ports, two.

use super::ecam::{self, BUS, Entry, Window};
use crate::cmdline::Cmdline;
use crate::mm::Range;
use crate::mm::paging::map_device;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::fmt::{self, Display};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use pci_types::{ConfigRegionAccess, PciAddress};
use pvops::port;
use spin::Once;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// The command register; in the upper half of its 32 bits is the status, whose bits are cleared by writing them as read (PCI
/// Local Bus Specification 3.0, section 6.2.3).
const COMMAND: u16 = 4;
const BUSES: usize = 256;
/// Value read from an absent function.
const NOBODY: u32 = u32::MAX;

static SPACE: Once<Space> = Once::new();
/// Reads and writes by memory, and by ports.
static BY_MEMORY: AtomicU64 = AtomicU64::new(0);
static BY_PORTS: AtomicU64 = AtomicU64::new(0);
/// Where each bus is mapped; 0 before its first access.
static MAPPED: [AtomicUsize; BUSES] = [const { AtomicUsize::new(0) }; BUSES];

/// The access mechanisms that the machine has.
struct Space {
    windows: Vec<Window>,
    ports: bool,
}

/// Which access mechanisms may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMechanism {
    /// Memory where the firmware describes it, else ports.
    Any,
    /// Ports alone.
    Ports,
    /// Memory alone.
    Memory,
}

impl AccessMechanism {
    /// From `ringside.pci=`.
    pub fn from_cmdline(cmdline: Cmdline) -> Self {
        match cmdline.own_value("pci") {
            Some("ports") => Self::Ports,
            Some("memory") => Self::Memory,
            None => Self::Any,
            Some(other) => {
                log::warn!("ringside.pci={other}: not memory or ports; using the default");
                Self::Any
            }
        }
    }
}

/// Configuration space, by the access mechanism of each bus. Only [`get`] returns one.
#[derive(Clone, Copy, Debug)]
pub struct Config(());

/// The same by ports alone. Only on a machine that has them.
#[derive(Clone, Copy, Debug)]
pub struct ConfigPorts(());

const PAGE: u64 = crate::mm::PAGE_SIZE as u64;

/// Finds out which of the allowed access mechanisms work. Called once.
///
/// `entries` come from the firmware, `ram` from the memory map.
/// A window is checked against the ports where there are any: both must show the same first device on its first bus. This
/// catches a window that the firmware describes and never opened.
pub fn init(allowed: AccessMechanism, entries: &[Entry], ram: &[Range]) {
    let ports = if allowed == AccessMechanism::Memory { None } else { ConfigPorts::probe() };
    let entries = if allowed == AccessMechanism::Ports { &[] } else { entries };
    let (windows, refused) = ecam::windows(entries, ram, end_of_memory(), |window| {
        ports.is_none_or(|ports| {
            let first = PciAddress::new(0, window.first, 0, 0);
            let Some(address) = window.bus(window.first).and_then(|bus| map_device(bus, PAGE)) else { return false };
            BY_MEMORY.fetch_add(1, Relaxed);
            // SAFETY: reading configuration space has no effect; the window is no RAM.
            unsafe { read_u32(address) == ports.read(first, 0) }
        })
    });
    for (Entry { base, first, last, .. }, why) in refused {
        log::warn!("pci: ECAM window at {base:#x}, buses {first:02x} to {last:02x}, is not used: {why}");
    }
    if ports.is_some() || !windows.is_empty() {
        SPACE.call_once(|| Space { windows, ports: ports.is_some() });
    }
}

/// Configuration space, on a machine with PCI.
pub fn get() -> Option<Config> {
    SPACE.get().map(|_| Config(()))
}

/// One past the last physical address that an entry of a page table can hold (Intel SDM volume 2, CPUID leaf 80000008H).
fn end_of_memory() -> u64 {
    const EXTENDED: u32 = 0x8000_0000;
    const SIZES: u32 = EXTENDED + 8;
    const AT_LEAST: u32 = 36;
    const AT_MOST: u32 = 52;
    let bits = if __cpuid(EXTENDED).eax >= SIZES { __cpuid(SIZES).eax & 0xff } else { AT_LEAST };
    1 << bits.clamp(AT_LEAST, AT_MOST)
}

/// A way to one register.
enum Way {
    Memory(usize),
    Ports,
    None,
}

impl Config {
    /// Buses that nothing but a host bridge leads to.
    pub fn roots(self) -> Vec<u8> {
        let space = space();
        let by_ports = Some(0).filter(|_| space.ports);
        by_ports.into_iter().chain(space.windows.iter().map(|window| window.first)).collect()
    }

    /// The ports, where the machine has them.
    pub fn ports(self) -> Option<ConfigPorts> {
        space().ports.then_some(ConfigPorts(()))
    }

    /// Whether a function is reached by memory.
    pub fn is_memory(self, address: PciAddress) -> bool {
        matches!(way(address, 0), Way::Memory(_))
    }

    /// Writes half of a register's 32 bits: `offset` is a multiple of 2.
    ///
    /// # Safety
    /// As [`ConfigRegionAccess::write`].
    pub unsafe fn write_half(self, address: PciAddress, offset: u16, value: u16) {
        match way(address, offset) {
            Way::Memory(at) => {
                BY_MEMORY.fetch_add(1, Relaxed);
                // SAFETY: mapped configuration space; for the rest per the contract.
                unsafe { write_u16(at + usize::from(offset & 2), value) };
            }
            Way::Ports => {
                select(address, offset);
                // SAFETY: per the contract.
                unsafe { port::write_u16(DATA_PORT + (offset & 2), value) };
            }
            Way::None => {}
        }
    }
}

impl ConfigRegionAccess for Config {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        match way(address, offset) {
            Way::Memory(at) => {
                BY_MEMORY.fetch_add(1, Relaxed);
                // SAFETY: mapped configuration space, where reading has no effect.
                unsafe { read_u32(at) }
            }
            // SAFETY: per the contract.
            Way::Ports => unsafe { ConfigPorts(()).read(address, offset) },
            Way::None => NOBODY,
        }
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        if offset == COMMAND {
            // SAFETY: per the contract.
            return unsafe { self.write_half(address, offset, value as u16) };
        }
        match way(address, offset) {
            Way::Memory(at) => {
                BY_MEMORY.fetch_add(1, Relaxed);
                // SAFETY: mapped configuration space; for the rest per the contract.
                unsafe { write_u32(at, value) };
            }
            // SAFETY: per the contract.
            Way::Ports => unsafe { ConfigPorts(()).write(address, offset, value) },
            Way::None => {}
        }
    }
}

fn space() -> &'static Space {
    SPACE.get().expect("only a machine with PCI has a Config")
}

#[inline]
fn way(address: PciAddress, offset: u16) -> Way {
    let start = match MAPPED[usize::from(address.bus())].load(Relaxed) {
        0 => match bus_at(address.bus()) {
            Some(start) => start,
            None if space().ports => return Way::Ports,
            None => return Way::None,
        },
        start => start,
    };
    Way::Memory(start + ecam::offset(address, offset & !3))
}

/// Maps a bus that is in a window. Only now: page tables for all 256 would take 512 KiB.
#[inline(never)]
fn bus_at(bus: u8) -> Option<usize> {
    let physical = space().windows.iter().find_map(|window| window.bus(bus))?;
    let address = map_device(physical, BUS)?;
    MAPPED[usize::from(bus)].store(address, Relaxed);
    Some(address)
}

impl ConfigPorts {
    /// `None` on a machine without them.
    fn probe() -> Option<Self> {
        // SAFETY: these are PCI's ports, or unused ones.
        let answer = unsafe {
            port::write_u32(ADDRESS_PORT, ENABLE);
            port::read_u32(ADDRESS_PORT)
        };
        (answer == ENABLE).then_some(Self(()))
    }
}

/// Configuration mechanism #1 (PCI Local Bus Specification 3.0, section 3.2.2.3.2): 256 bytes a function.
impl ConfigRegionAccess for ConfigPorts {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        select(address, offset);
        // SAFETY: reading configuration space has no effect.
        unsafe { port::read_u32(DATA_PORT) }
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        select(address, offset);
        // SAFETY: per the trait's contract.
        unsafe { port::write_u32(DATA_PORT, value) };
    }
}

fn select(address: PciAddress, offset: u16) {
    let function =
        u32::from(address.bus()) << 16 | u32::from(address.device()) << 11 | u32::from(address.function()) << 8;
    BY_PORTS.fetch_add(1, Relaxed);
    // SAFETY: selecting has no effect of its own.
    unsafe { port::write_u32(ADDRESS_PORT, ENABLE | function | u32::from(offset & 0xfc)) };
}

/// How configuration space is reached, and how often it was: for people and tests.
pub struct Counts;

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, ports) = (BY_MEMORY.load(Relaxed), BY_PORTS.load(Relaxed));
        write!(f, "{memory} accesses by memory, {ports} by ports; {} exits", memory + 2 * ports)
    }
}

/// The counts, on a machine with PCI.
pub fn counts() -> Option<Counts> {
    get().map(|_| Counts)
}

// Memory that is configuration space is accessed by plain moves from and to the A register: processors ask for it (AMD
// Family 10h BIOS and Kernel Developer's Guide, "MMIO Configuration Coding Requirements"), and emulators know them best.

/// # Safety
/// The address is that of mapped registers.
unsafe fn read_u32(address: usize) -> u32 {
    let value;
    // SAFETY: per the contract.
    unsafe { asm!("mov eax, [{}]", in(reg) address, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// # Safety
/// The address is that of mapped registers, and the device's reaction does not break memory safety.
unsafe fn write_u32(address: usize, value: u32) {
    // SAFETY: per the contract.
    unsafe { asm!("mov [{}], eax", in(reg) address, in("eax") value, options(nostack, preserves_flags)) };
}

/// # Safety
/// As [`write_u32`].
unsafe fn write_u16(address: usize, value: u16) {
    // SAFETY: per the contract.
    unsafe { asm!("mov [{}], ax", in(reg) address, in("ax") value, options(nostack, preserves_flags)) };
}
