//! Accesses that no register method offers: of any width at any offset, in one instruction each.

use crate::support::registers::Regs;
use alloc::vec::Vec;
use core::arch::asm;
use frontends::transport::Registers;
use guest_kernel::platform::registers::Window;

/// All widths of an access, in bytes.
pub const WIDTHS: [usize; 4] = [1, 2, 4, 8];

/// A device's windows of registers, those that the transport has.
pub fn windows(regs: &Regs) -> Vec<Window> {
    match regs {
        Regs::Mmio(window) => [*window].into(),
        Regs::Pci(windows, _) => {
            [windows.common, windows.notify, windows.isr].into_iter().chain(windows.device).collect()
        }
    }
}

fn at(window: &Window, offset: usize, width: usize) -> usize {
    assert!(offset + width <= window.len(), "access outside of its window");
    window.address() + offset
}

/// Reads with one access of `width` bytes, aligned or not.
pub fn read(window: &Window, offset: usize, width: usize) -> u64 {
    let address = at(window, offset, width);
    let mut value = 0_u64;
    let mut byte = 0_u8;
    // SAFETY: the window is mapped forever and is no memory that Rust knows of; `at` keeps the access inside.
    unsafe {
        match width {
            1 => asm!("mov {1}, byte ptr [{0}]", in(reg) address, inout(reg_byte) byte, options(nostack)),
            2 => asm!("mov {1:x}, word ptr [{0}]", in(reg) address, inout(reg) value, options(nostack)),
            4 => asm!("mov {1:e}, dword ptr [{0}]", in(reg) address, out(reg) value, options(nostack)),
            _ => asm!("mov {1}, qword ptr [{0}]", in(reg) address, out(reg) value, options(nostack)),
        }
    }
    value | u64::from(byte)
}

/// Writes with one access of `width` bytes, aligned or not.
pub fn write(window: &Window, offset: usize, width: usize, value: u64) {
    let address = at(window, offset, width);
    // SAFETY: as for reading; what a device makes of it is what is tried.
    unsafe {
        match width {
            1 => asm!("mov byte ptr [{0}], {1}", in(reg) address, in(reg_byte) value as u8, options(nostack)),
            2 => asm!("mov word ptr [{0}], {1:x}", in(reg) address, in(reg) value, options(nostack)),
            4 => asm!("mov dword ptr [{0}], {1:e}", in(reg) address, in(reg) value, options(nostack)),
            _ => asm!("mov qword ptr [{0}], {1}", in(reg) address, in(reg) value, options(nostack)),
        }
    }
}
