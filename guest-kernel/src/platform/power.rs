//! Switching the machine off: by the hypervisor, else the board's exit port, else ACPI's soft-off state by either of its
//! registers, else a reset: by ACPI's reset register, the keyboard controller, or a fault that cannot be delivered.
//!
//! What there is is looked up at boot. The end itself may come from a panic, with any lock held: it takes none, allocates
//! nothing, and maps nothing.

use super::registers::Window;
use super::{acpi, aml};
use ::acpi::address::{AddressSpace, GenericAddress};
use ::acpi::fadt::Fadt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use frontends::transport::Registers;
use pvops::port;
use shared_abi::board::{EXIT_OK, EXIT_PANIC, EXIT_PORT};
use spin::Once;

/// What there is to switch off with.
#[derive(Debug, Default)]
struct Switches {
    on_board: bool,
    /// The PM1a and PM1b control ports, and what to write there for state S5. Most machines have the first alone.
    soft_off: [Option<(u16, u16)>; 2],
    /// The sleep control register of hardware-reduced ACPI, and what to write there for state S5.
    sleep: Option<Write>,
    /// ACPI's reset register, and what to write there.
    reset: Option<Write>,
    /// A keyboard controller may be there.
    has_legacy_chips: bool,
}

/// A byte and where to write it.
#[derive(Clone, Copy, Debug)]
struct Write {
    register: Register,
    value: u8,
}

#[derive(Clone, Copy, Debug)]
enum Register {
    Port(u16),
    Memory(Window),
}

static SWITCHES: Once<Switches> = Once::new();
/// The machine is being ended: a fault on the way must not begin again.
static ENDING: AtomicBool = AtomicBool::new(false);
/// The shell asked for a fault on the way.
static FAULT: AtomicBool = AtomicBool::new(false);

/// How the kernel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In good order.
    Off,
    /// After a panic or an exception.
    Panic,
}

/// Finds out how to switch the machine off.
pub fn init(on_board: bool, has_legacy_chips: bool) {
    SWITCHES.call_once(|| match acpi::fadt().filter(|_| !on_board) {
        Some(fadt) => {
            let [sleep_type, sleep_type_b] = s5_sleep_types(&fadt);
            Switches {
                on_board,
                has_legacy_chips,
                soft_off: [
                    sleep_type.and_then(|kind| soft_off(fadt.pm1a_control_block().ok(), kind)),
                    sleep_type_b.and_then(|kind| soft_off(fadt.pm1b_control_block().ok().flatten(), kind)),
                ],
                sleep: sleep_type.and_then(|kind| sleep(&fadt, kind)),
                reset: reset(&fadt),
            }
        }
        None => Switches { on_board, has_legacy_chips, ..Switches::default() },
    });
}

/// Ends the machine with a panic on the way, which must be the last.
pub fn end_with_a_fault() -> ! {
    FAULT.store(true, Relaxed);
    end(Ending::Panic)
}

/// Ends the machine.
pub fn end(ending: Ending) -> ! {
    pvops::irq::disable();
    if ENDING.swap(true, Relaxed) {
        pvops::cpu::triple_fault();
    }
    if FAULT.load(Relaxed) {
        panic!("asked for in the shell, while the machine is ended");
    }
    crate::console::drain();
    if ending == Ending::Panic {
        pvops::vmm::crash();
    }
    let none = Switches::default();
    let switches = SWITCHES.get().unwrap_or(&none);
    if switches.on_board {
        let code = if ending == Ending::Off { EXIT_OK } else { EXIT_PANIC };
        // SAFETY: the board's exit port ends the VM.
        unsafe { port::write_u32(EXIT_PORT, code) };
    }
    if ending == Ending::Off {
        pvops::vmm::power_off(switches.soft_off[0].map(|(_, value)| value));
    }
    for (control, value) in switches.soft_off.into_iter().flatten() {
        // SAFETY: ACPI says that this is how to switch off.
        unsafe { port::write_u16(control, value) };
    }
    if switches.soft_off[0].is_some() {
        give_a_moment();
    }
    switches.sleep.into_iter().for_each(Write::perform);
    // Machines without any of it (QEMU's microvm without ACPI, Firecracker) end by a reset.
    switches.reset.into_iter().for_each(Write::perform);
    if switches.has_legacy_chips {
        PULSE_RESET_LINE.perform();
    }
    pvops::cpu::triple_fault()
}

/// The command that has a PC's keyboard controller pulse the reset line of the processor. Where there is no such chip nobody
/// listens at its port.
const PULSE_RESET_LINE: Write = Write { register: Register::Port(0x64), value: 0xfe };

impl Write {
    /// Whatever a register does: `None` if it is where bytes cannot be written, or nowhere.
    fn new(register: &GenericAddress, value: u8) -> Option<Self> {
        let register = match register.address_space {
            _ if register.address == 0 => return None,
            AddressSpace::SystemIo => Register::Port(u16::try_from(register.address).ok()?),
            AddressSpace::SystemMemory => Register::Memory(Window::map(register.address, 1)?),
            _ => return None,
        };
        Some(Self { register, value })
    }

    /// Writes, and gives the machine a moment.
    fn perform(self) {
        match self.register {
            // SAFETY: the register ends the machine.
            Register::Port(port) => unsafe { port::write_u8(port, self.value) },
            Register::Memory(window) => window.write8(0, self.value),
        }
        give_a_moment();
    }
}

/// Lets the machine end. What was written may only have asked for that, to be granted by another thread of a hypervisor while
/// this CPU runs on: to ask for a reset meanwhile would make one of it.
fn give_a_moment() {
    const PATIENCE: u64 = 500_000_000;
    // The clock may be what is broken: as many turns of a loop end it, too.
    const TURNS: u32 = 10_000_000;
    let start = pvops::time::now();
    for _ in 0..TURNS {
        if pvops::time::now().saturating_sub(start) > PATIENCE {
            break;
        }
        core::hint::spin_loop();
    }
}

/// ACPI 6.5, section 4.8.3.6, "Reset Register".
fn reset(fadt: &Fadt) -> Option<Write> {
    let supported = { fadt.flags }.supports_system_reset_via_fadt();
    let register = fadt.reset_register().ok().filter(|_| supported)?;
    Write::new(&register, fadt.reset_value)
}

/// ACPI 6.5, section 4.8.3.7, "Sleep Control and Status Registers".
fn sleep(fadt: &Fadt, kind: u8) -> Option<Write> {
    const SLEEP_ENABLE: u8 = 1 << 5;
    const SLEEP_TYPE_SHIFT: u32 = 2;
    let reduced = { fadt.flags }.system_is_hw_reduced_acpi();
    let register = fadt.sleep_control_register().ok().flatten().filter(|_| reduced)?;
    Write::new(&register, (kind & 7) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE)
}

/// ACPI 6.5, section 4.8.3.2.1, "PM1 Control Registers".
fn soft_off(block: Option<GenericAddress>, kind: u8) -> Option<(u16, u16)> {
    const SLEEP_ENABLE: u16 = 1 << 13;
    let block = block.filter(|block| block.address_space == AddressSpace::SystemIo)?;
    let control = u16::try_from(block.address).ok().filter(|&port| port != 0)?;
    Some((control, SLEEP_ENABLE | u16::from(kind & 7) << 10))
}

/// SLP_TYPa and SLP_TYPb out of `Name (_S5_, Package () {SLP_TYPa, SLP_TYPb, ...})`.
fn s5_sleep_types(fadt: &Fadt) -> [Option<u8>; 2] {
    acpi::bytecode_of(fadt).and_then(|aml| aml::start_of_package(aml, b"_S5_")).unwrap_or_default()
}
