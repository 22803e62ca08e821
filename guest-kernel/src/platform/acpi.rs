//! The machine's ACPI tables, by the `acpi` crate, which checks signatures and checksums. For what boot, PCI and power
//! need; their contents are believed, but for what `pci::ecam` says of the MCFG.

use super::aml;
use super::interrupts::{Override, Routing};
use super::mmio::Slot;
use super::pci::ecam::{Entry, WINDOWS_MAX};
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::{Mcfg, McfgEntry};
use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiResult, AcpiTable, AcpiTables, PhysicalMapping};
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use pvops::event::IoApic;

/// Entries of a MADT that are looked at: one without a length would have no end.
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

/// The interrupt chips and ISA interrupts that the MADT tells of, if there is one.
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

/// Windows to PCI configuration space that the MCFG tells of (PCI Firmware Specification 3.3, section 4.1.2), as it tells
/// them; empty without one.
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
        let len = self.header().length as usize;
        if !(size_of::<Mcfg>()..=TABLE_MAX).contains(&len) {
            return Err(AcpiError::SdtInvalidChecksum(Self::SIGNATURE));
        }
        self.header().validate(Self::SIGNATURE)
    }
}

/// The bytecode (AML) of the DSDT, if there is one.
pub fn bytecode() -> Option<&'static [u8]> {
    let dsdt = tables()?.dsdt().ok()?;
    let length = u64::from(dsdt.length);
    if length > TABLE_MAX as u64 {
        return None;
    }
    let address = crate::mm::paging::map_device(dsdt.address as u64, length)?;
    // SAFETY: just mapped for ever, and nobody writes tables.
    Some(unsafe { core::slice::from_raw_parts(address as *const u8, dsdt.length as usize) })
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
/// The crate's own search maps a page of what is behind the BIOS, too, which a hypervisor may refuse.
pub fn search_bios() -> u64 {
    const BIOS: core::ops::Range<u64> = 0xe_0000..0x10_0000;
    const ALIGNMENT: usize = 16;
    let len = (BIOS.end - BIOS.start) as usize;
    let Some(address) = crate::mm::paging::map_device(BIOS.start, len as u64) else { return 0 };
    // SAFETY: just mapped, and nobody writes it.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, len) };
    let found = bytes.chunks_exact(ALIGNMENT).position(|chunk| chunk.starts_with(b"RSD PTR "));
    found.map_or(0, |index| BIOS.start + (index * ALIGNMENT) as u64)
}

/// Reads tables by mapping them.
#[derive(Clone)]
pub struct Handler;

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let size = size.min(TABLE_MAX);
        let mapped = crate::mm::paging::map_device(address as u64, size as u64).unwrap_or(0);
        let start = NonNull::new(mapped as *mut T).expect("an ACPI table lies outside of the address space");
        // SAFETY: mapped for ever, with that size.
        unsafe { PhysicalMapping::new(address, start, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}
