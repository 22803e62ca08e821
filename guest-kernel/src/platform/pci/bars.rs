//! The memory that a function's base address registers select (PCI Local Bus Specification 3.0, section 6.2.5.1).

use pci_types::{Bar, ConfigRegionAccess, EndpointHeader};

/// Base address registers of an endpoint.
pub(super) const BARS: usize = 6;

/// Address and size of each memory BAR; a 64-bit BAR is listed at its first register, and its second is not a BAR. To learn the
/// sizes, the registers are written: the function must not answer to memory accesses meanwhile.
pub(super) fn memory(header: &EndpointHeader, access: impl ConfigRegionAccess + Copy) -> [Option<(u64, u64)>; BARS] {
    const FIRST: u16 = 0x10;
    const LAST: usize = BARS - 1;
    let mut bars = [None; BARS];
    let mut slot = 0;
    while slot < BARS {
        // SAFETY: reading configuration space has no effect.
        let register = unsafe { access.read(header.header().address(), FIRST + 4 * slot as u16) };
        let registers = match register & 0b111 {
            0b000 => 1,
            0b100 if slot < LAST => 2,
            // Ports, and kinds that do not exist.
            _ => {
                slot += 1;
                continue;
            }
        };
        bars[slot] = match header.bar(slot as u8, access) {
            Some(Bar::Memory32 { address, size, .. }) => Some((address.into(), size.into())),
            Some(Bar::Memory64 { address, size, .. }) => Some((address, size)),
            Some(Bar::Io { .. }) | None => None,
        };
        slot += registers;
    }
    bars
}
