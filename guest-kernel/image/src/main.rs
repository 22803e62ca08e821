//! The bootable image: the kernel, and the programs that a word on the command line chooses from.
#![no_std]
#![no_main]

extern crate alloc;

mod bench;
mod tour;

use guest_kernel::shell;
use guest_kernel::start::Machine;

guest_kernel::entry!(main);

/// What the image can do.
struct Program {
    /// Whether the command line asks for it.
    is_asked_for: fn(&Machine) -> bool,
    run: fn(Machine) -> !,
}

/// The first one that is asked for runs.
const PROGRAMS: [Program; 5] = [
    Program { is_asked_for: |machine| machine.cmdline.value(shared_abi::bench::WORD).is_some(), run: bench::run },
    Program { is_asked_for: conformance::hostile::is_asked_for, run: conformance::hostile::start },
    Program { is_asked_for: conformance::is_asked_for, run: conformance::start },
    Program { is_asked_for: |machine| machine.cmdline.has("tour"), run: tour },
    Program { is_asked_for: |_| true, run: shell },
];

fn main(machine: Machine) -> ! {
    let program =
        PROGRAMS.iter().find(|program| (program.is_asked_for)(&machine)).map_or(shell as fn(_) -> _, |it| it.run);
    program(machine)
}

/// The tour, then the machine is switched off.
fn tour(machine: Machine) -> ! {
    let mut kernel = machine.bring_up();
    kernel.spawn(tour::run(kernel.system.clone()));
    kernel.run()
}

/// The shell on the serial port.
fn shell(machine: Machine) -> ! {
    let mut kernel = machine.bring_up();
    kernel.spawn(shell::on_serial(kernel.system.clone()));
    kernel.run()
}
