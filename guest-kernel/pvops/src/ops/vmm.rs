//! Services of a hypervisor that is there to be asked. Where none is, the machine's own devices do.

use crate::site::calling;

/// Reports that the kernel has crashed; returns where no hypervisor takes the report.
pub fn crash() {
    // SAFETY: the machine ends, or nothing happens.
    unsafe { calling!(vmm.crash) };
}

/// Asks for the end of the machine; returns where no hypervisor takes the request. `sleep` is what ACPI says to write to the PM1a
/// control port for state S5.
pub fn power_off(sleep: Option<u16>) {
    // SAFETY: as for `crash`.
    unsafe { calling!(vmm.power_off, "edi" = sleep.map_or(u32::MAX, u32::from)) };
}

/// Writes to the hypervisor's console; returns how many bytes it took.
pub fn write(bytes: &[u8]) -> usize {
    let taken: usize;
    // SAFETY: the bytes are readable.
    unsafe { calling!(vmm.write, "rdi" = bytes.as_ptr(), "rsi" = bytes.len() => taken) };
    taken
}

/// Reads from the hypervisor's console what is there; returns how many bytes that were.
pub fn read(buffer: &mut [u8]) -> usize {
    let read: usize;
    // SAFETY: the buffer is writable.
    unsafe { calling!(vmm.read, "rdi" = buffer.as_mut_ptr(), "rsi" = buffer.len() => read) };
    read.min(buffer.len())
}
