//! The machine's ACPI tables, by the `acpi` crate, which checks signatures and checksums. For what boot, PCI and power
//! need; their contents are believed, but for what `pci::ecam` says of the MCFG.

use super::aml;
use super::interrupts::{Override, Routing};
use super::mmio::Slot;
use super::pci::ecam::{Entry, WINDOWS_MAX};
use acpi::address::AddressSpace;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::{Mcfg, McfgEntry};
use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiResult, AcpiTable, AcpiTables, PhysicalMapping};
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use pvops::event::IoApic;

/// Most entries of a MADT that are read: one of length 0 would never end.
const ENTRIES_MAX: usize = 4096;
/// Bytes of a table that are mapped at most: more are a broken length, and its page tables would take the memory.
const TABLE_MAX: usize = 16 << 20;

/// Address of the root pointer; 0 for none.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Remembers where the root pointer is; 0 for none.
pub fn init(rsdp: u64) {
    ROOT.store(rsdp, Relaxed);
}

/// The machine's tables, if there are any.
pub fn tables() -> Option<AcpiTables<Handler>> {
    let rsdp = usize::try_from(ROOT.load(Relaxed)).ok().filter(|&address| address != 0)?;
    // SAFETY: the loader said that the RSDP is there; the crate checks signatures and checksums.
    unsafe { AcpiTables::from_rsdp(Handler, rsdp) }.ok()
}

/// The interrupt chips and ISA interrupts that the MADT describes, if there is one.
pub fn routing() -> Option<Routing> {
    const ISA_BUS: u8 = 0;
    let madt = tables()?.find_table::<Madt>().ok()?;
    let mut routing = Routing::new(madt.get().local_apic_address.into());
    let mut left_out = 0;
    for entry in madt.get().entries().take(ENTRIES_MAX) {
        let kept = match entry {
            MadtEntry::LocalApicAddressOverride(entry) => {
                routing.local = entry.local_apic_address;
                true
            }
            MadtEntry::IoApic(entry) => {
                let (address, first_line) = (entry.io_apic_address.into(), entry.global_system_interrupt_base);
                routing.io.push(IoApic { address, first_line }).is_ok()
            }
            MadtEntry::InterruptSourceOverride(entry) if entry.bus == ISA_BUS => {
                let (irq, line, flags) = (entry.irq, entry.global_system_interrupt, entry.flags);
                routing.overrides.push(Override { irq, line, flags }).is_ok()
            }
            _ => true,
        };
        left_out += u32::from(!kept);
    }
    if left_out > 0 {
        log::warn!("acpi: {left_out} interrupt chips or overrides are too many");
    }
    Some(routing)
}

/// Local APIC ids of the enabled CPUs, if there is a MADT.
pub fn cpus() -> Option<Vec<u32>> {
    const ENABLED: u32 = 1;
    let madt = tables()?.find_table::<Madt>().ok()?;
    let cpus = madt.get().entries().take(ENTRIES_MAX).filter_map(|entry| match entry {
        MadtEntry::LocalApic(cpu) if { cpu.flags } & ENABLED != 0 => Some(u32::from(cpu.apic_id)),
        MadtEntry::LocalX2Apic(cpu) if { cpu.flags } & ENABLED != 0 => Some(cpu.x2apic_id),
        _ => None,
    });
    Some(cpus.collect())
}

/// Windows to PCI configuration space that the MCFG describes (PCI Firmware Specification 3.3, section 4.1.2),
/// unchecked; empty without one.
pub fn ecam() -> Vec<Entry> {
    let Some(table) = tables().and_then(|tables| tables.find_table::<WindowTable>().ok()) else {
        return Vec::new();
    };
    let entries = table.get().get_ref().0.entries().iter().take(WINDOWS_MAX);
    let entry = |entry: &McfgEntry| Entry {
        base: entry.base_address,
        segment: entry.pci_segment_group,
        first: entry.bus_number_start,
        last: entry.bus_number_end,
    };
    entries.map(entry).collect()
}

/// The MCFG. The crate subtracts what it must have from its length, and reads as many bytes as that says.
#[repr(transparent)]
struct WindowTable(Mcfg);

// SAFETY: it is one.
unsafe impl AcpiTable for WindowTable {
    const SIGNATURE: Signature = Signature::MCFG;

    fn header(&self) -> &SdtHeader {
        self.0.header()
    }

    fn validate(&self) -> AcpiResult<()> {
        checked(self.header(), Self::SIGNATURE, size_of::<Mcfg>())
    }
}

/// Checks a table whose reader takes `least` bytes for granted.
fn checked(header: &SdtHeader, signature: Signature, least: usize) -> AcpiResult<()> {
    if !(least..=TABLE_MAX).contains(&(header.length as usize)) {
        return Err(AcpiError::SdtInvalidChecksum(signature));
    }
    header.validate(signature)
}

/// Physical address of the HPET's registers, if there is one (IA-PC HPET Specification 1.0a, section 3.2.4).
pub fn hpet() -> Option<u64> {
    const SYSTEM_MEMORY: u8 = 0;
    let table = tables()?.find_table::<HpetTable>().ok()?;
    let base = { table.get().get_ref().base };
    (table.get().get_ref().space == SYSTEM_MEMORY && base != 0).then_some(base)
}

/// The table, as far as it matters.
#[repr(C, packed)]
struct HpetTable {
    header: SdtHeader,
    block: u32,
    space: u8,
    register: [u8; 3],
    base: u64,
}

// SAFETY: it is the beginning of one.
unsafe impl AcpiTable for HpetTable {
    const SIGNATURE: Signature = Signature::HPET;

    fn header(&self) -> &SdtHeader {
        &self.header
    }

    fn validate(&self) -> AcpiResult<()> {
        checked(&self.header, Self::SIGNATURE, size_of::<Self>())
    }
}

/// The FADT, if there is one. It has grown over the versions of ACPI: fields that an older one lacks read as zeroes,
/// whatever version it claims to have.
pub fn fadt() -> Option<Fadt> {
    let found = tables()?.find_table::<Fadt>().ok()?;
    let len = (found.header().length as usize).min(size_of::<Fadt>());
    let mut fadt = MaybeUninit::<Fadt>::zeroed();
    // SAFETY: `len` bytes of the table are mapped, and fit. The structure is plain numbers, for which zeroes will do.
    unsafe {
        fadt.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(found.virtual_start().as_ptr().cast(), len);
        Some(fadt.assume_init())
    }
}

/// ACPI's timer (ACPI 6.5, section 4.8.3.3), which counts at 3.579545 MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    /// Its port.
    pub port: u16,
    /// 24 or 32 ones.
    pub mask: u32,
}

/// ACPI's timer, if it is at a port.
pub fn pm_timer() -> Option<PmTimer> {
    const BITS_24: u32 = (1 << 24) - 1;
    let fadt = fadt()?;
    let block = fadt.pm_timer_block().ok()??;
    let port = u16::try_from(block.address).ok().filter(|&port| port != 0)?;
    let mask = if { fadt.flags }.pm_timer_is_32_bit() { u32::MAX } else { BITS_24 };
    (block.address_space == AddressSpace::SystemIo).then_some(PmTimer { port, mask })
}

/// The bytecode (AML) of the DSDT, if there is one.
pub fn bytecode() -> Option<&'static [u8]> {
    bytecode_of(&fadt()?)
}

/// The bytecode of the DSDT that a FADT names.
pub fn bytecode_of(fadt: &Fadt) -> Option<&'static [u8]> {
    const HEADER: u64 = size_of::<SdtHeader>() as u64;
    let address = fadt.dsdt_address().ok()? as u64;
    let header = crate::mm::paging::map_device(address, HEADER)?;
    // SAFETY: just mapped forever, and nothing writes tables.
    let length = u64::from(unsafe { (header as *const SdtHeader).read_unaligned() }.length);
    if !(HEADER..=TABLE_MAX as u64).contains(&length) {
        return None;
    }
    let table = crate::mm::paging::map_device(address, length)?;
    // SAFETY: as above.
    let table = unsafe { core::slice::from_raw_parts(table as *const u8, length as usize) };
    Some(&table[HEADER as usize..])
}

/// The virtio-mmio devices that the bytecode declares.
pub fn virtio_mmio() -> Vec<Slot> {
    let (slots, unread) = bytecode().map(aml::virtio_mmio).unwrap_or_default();
    if unread > 0 {
        log::warn!("acpi: {unread} virtio-mmio devices are declared otherwise than by constants, and left out");
    }
    slots
}

/// Address of the root pointer that a PC's BIOS left below 1 MiB; 0 if it left none.
///
/// The crate's own search also maps a page past the BIOS area, which a hypervisor may refuse.
pub fn search_bios() -> u64 {
    const BIOS: core::ops::Range<u64> = 0xe_0000..0x10_0000;
    const ALIGNMENT: usize = 16;
    let len = (BIOS.end - BIOS.start) as usize;
    let Some(address) = crate::mm::paging::map_device(BIOS.start, len as u64) else { return 0 };
    // SAFETY: just mapped, and nothing writes it.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, len) };
    let found = bytes.chunks_exact(ALIGNMENT).position(|chunk| chunk.starts_with(b"RSD PTR "));
    found.map_or(0, |index| BIOS.start + (index * ALIGNMENT) as u64)
}

/// What is read where nothing can be mapped: more than any table's structure.
#[repr(C, align(16))]
struct Zeroes([u8; 1024]);

static NOTHING: Zeroes = Zeroes([0; 1024]);

/// Reads tables by mapping them.
#[derive(Clone)]
pub struct Handler;

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        // At least the structure: its reader takes it for whole, however short the table says that it is.
        let size = size.clamp(size_of::<T>(), TABLE_MAX.max(size_of::<T>()));
        const { assert!(size_of::<T>() <= size_of::<Zeroes>() && align_of::<T>() <= align_of::<Zeroes>()) };
        let mapped = crate::mm::paging::map_device(address as u64, size as u64).map(|mapped| mapped as *mut T);
        // The crate allows no failure here: an impossible table reads as zeroes, which have no valid signature. A reader looks
        // no further than the structure until it has seen signature and length.
        let start = mapped.and_then(NonNull::new).unwrap_or(NonNull::from(&NOTHING).cast());
        // SAFETY: mapped and never unmapped, with that size, or as the last comment says.
        unsafe { PhysicalMapping::new(address, start, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

#[cfg(test)]
mod tests;
