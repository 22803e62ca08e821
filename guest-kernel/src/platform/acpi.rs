//! The machine's ACPI tables, by the `acpi` crate, which checks signatures and checksums. For what boot and power need;
//! their contents are believed.

use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use core::ptr::NonNull;

/// The tables behind a root pointer, if there are any.
pub fn tables(rsdp: u64) -> Option<AcpiTables<Handler>> {
    let rsdp = usize::try_from(rsdp).ok().filter(|&address| address != 0)?;
    // SAFETY: the loader said that the RSDP is there; the crate checks signatures and checksums.
    unsafe { AcpiTables::from_rsdp(Handler, rsdp) }.ok()
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
        let mapped = crate::mm::paging::map_device(address as u64, size as u64).unwrap_or(0);
        let start = NonNull::new(mapped as *mut T).expect("an ACPI table lies outside of the address space");
        // SAFETY: mapped for ever, with the size that was asked for.
        unsafe { PhysicalMapping::new(address, start, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}
