//! Port I/O. Every world executes the same instructions, so these are not in the table.

use core::arch::asm;

/// Reads a byte.
///
/// # Safety
/// Reading the port has no effect that the caller does not want.
pub unsafe fn read_u8(port: u16) -> u8 {
    let value;
    // SAFETY: per the contract.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte.
///
/// # Safety
/// The device's reaction does not break memory safety.
pub unsafe fn write_u8(port: u16, value: u8) {
    // SAFETY: per the contract.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes bytes, in order, with one instruction: under a hypervisor one exit instead of one a byte.
///
/// # Safety
/// As [`write_u8`].
pub unsafe fn write_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: the slice is readable; for the rest per the contract.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _, options(readonly, nostack, preserves_flags));
    }
}

/// Writes 16 bits.
///
/// # Safety
/// As [`write_u8`].
pub unsafe fn write_u16(port: u16, value: u16) {
    // SAFETY: per the contract.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads 16 bits.
///
/// # Safety
/// As [`read_u8`].
pub unsafe fn read_u16(port: u16) -> u16 {
    let value;
    // SAFETY: per the contract.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads 32 bits.
///
/// # Safety
/// As [`read_u8`].
pub unsafe fn read_u32(port: u16) -> u32 {
    let value;
    // SAFETY: per the contract.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes 32 bits.
///
/// # Safety
/// As [`write_u8`].
pub unsafe fn write_u32(port: u16, value: u32) {
    // SAFETY: per the contract.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}
