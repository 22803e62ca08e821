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
