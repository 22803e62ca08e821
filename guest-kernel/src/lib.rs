//! The Ringside guest kernel, a library: a program that is linked with it boots on whatever it is started on. [`start::start`]
//! is its table of contents, [`entry!`] the way into the program.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod boot;
pub mod checks;
pub mod cmdline;
pub mod console;
pub mod crash;
pub mod devices;
pub mod fs;
pub mod mm;
pub mod net;
pub mod patching;
pub mod platform;
pub mod shell;
pub mod smp;
pub mod start;
pub mod status;
pub mod symbols;
pub mod sync;
pub mod system;
pub mod task;
pub mod time;
pub mod trap;

/// Makes a function the program: `fn(guest_kernel::start::Machine) -> !`, which gets the machine when it is set up.
#[macro_export]
macro_rules! entry {
    ($program:path) => {
        #[unsafe(no_mangle)]
        fn kernel_main(info: $crate::boot::info::BootInfo, found: $crate::pvops::detect::Surroundings) -> ! {
            let program: fn($crate::start::Machine) -> ! = $program;
            program($crate::start::start(info, found))
        }
    };
}

#[doc(hidden)]
pub use pvops;
