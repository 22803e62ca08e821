//! From the loader's entry to `kernel_main`: `pvh` and `xen` have an entry each, `long_mode` the way into 64-bit mode.

#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports, reason = "a host enters nothing"))]

pub mod info;
mod long_mode;
mod memory;
mod pvh;
pub mod trampoline;
mod unfit;
mod xen;

use pvops::detect::Surroundings;

/// Bytes of the boot stack, which stays the kernel's stack.
pub const STACK_SIZE: usize = 64 * 1024;

/// An aligned page.
#[repr(C, align(4096))]
pub struct Page<T>(pub T);

/// The page below the stack, unmapped in the final tables, then the stack.
#[repr(C, align(4096))]
pub struct Stack {
    guard: [u8; 4096],
    stack: [u8; STACK_SIZE],
}

/// The kernel's stack.
#[unsafe(link_section = ".bss.stack")]
pub static mut STACK: Stack = Stack { guard: [0; 4096], stack: [0; STACK_SIZE] };

/// TSC at the first instruction.
#[unsafe(no_mangle)]
pub static mut ENTRY_TSC: u64 = 0;

#[cfg(target_os = "none")]
unsafe extern "Rust" {
    /// What [`entry!`](crate::entry) defines in the program that this library is linked into.
    fn kernel_main(info: info::BootInfo, found: Surroundings) -> !;
}

/// A host has no entry.
#[cfg(not(target_os = "none"))]
unsafe fn kernel_main(_: info::BootInfo, _: Surroundings) -> ! {
    unreachable!("nothing enters the kernel on a host")
}

/// Bottom of the stack's guard page.
pub fn stack_guard() -> usize {
    (&raw const STACK).addr()
}
