//! Switching the machine off: by the hypervisor, else the board's exit port, else ACPI's soft-off state by either of its
//! registers, else a reset: by ACPI's reset register, else by a fault that cannot be delivered.

use super::{acpi, aml};
use ::acpi::PhysicalMapping;
use ::acpi::address::{AddressSpace, GenericAddress};
use ::acpi::fadt::Fadt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use pvops::port;
use shared_abi::board::{EXIT_OK, EXIT_PANIC, EXIT_PORT};

static ON_BOARD: AtomicBool = AtomicBool::new(false);

/// How the kernel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In good order.
    Off,
    /// After a panic or an exception.
    Panic,
}

/// Remembers what there is to switch off with.
pub fn init(on_board: bool) {
    ON_BOARD.store(on_board, Relaxed);
}

/// Ends the machine.
pub fn end(ending: Ending) -> ! {
    pvops::irq::disable();
    if ending == Ending::Panic {
        pvops::vmm::crash();
    }
    if ON_BOARD.load(Relaxed) {
        let code = if ending == Ending::Off { EXIT_OK } else { EXIT_PANIC };
        // SAFETY: the board's exit port ends the VM.
        unsafe { port::write_u32(EXIT_PORT, code) };
    }
    let soft_off = soft_off();
    if ending == Ending::Off {
        pvops::vmm::power_off(soft_off.map(|(_, value)| value));
    }
    if let Some((control, value)) = soft_off {
        // SAFETY: ACPI says that this is how to switch off.
        unsafe { port::write_u16(control, value) };
    }
    sleep();
    // Machines without any of it (QEMU's microvm without ACPI) end by a reset.
    reset();
    pvops::cpu::triple_fault()
}

/// Writes what the FADT says to where it says (ACPI 6.5, "Reset Register").
fn reset() {
    let Some(fadt) = fadt() else { return };
    if !{ fadt.flags }.supports_system_reset_via_fadt() {
        return;
    }
    if let Ok(register) = fadt.reset_register() {
        write_register(&register, fadt.reset_value);
    }
}

/// Writes what switches the machine off to the sleep control register of hardware-reduced ACPI, if there is one (ACPI 6.5,
/// section 4.8.3.7).
fn sleep() {
    const SLEEP_ENABLE: u8 = 1 << 5;
    const SLEEP_TYPE_SHIFT: u32 = 2;
    let Some(fadt) = fadt() else { return };
    let (Ok(Some(register)), Some(kind)) = (fadt.sleep_control_register(), s5_sleep_type()) else { return };
    if { fadt.flags }.system_is_hw_reduced_acpi() && register.address != 0 {
        write_register(&register, (kind & 7) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
    }
}

/// Writes a byte to a port or to memory, and gives the machine a moment.
fn write_register(register: &GenericAddress, value: u8) {
    const PATIENCE: u32 = 1_000_000;
    match register.address_space {
        // SAFETY: ACPI says that this ends the machine.
        AddressSpace::SystemIo => unsafe { port::write_u8(register.address as u16, value) },
        AddressSpace::SystemMemory => {
            let Some(register) = crate::mm::paging::map_device(register.address, 1) else { return };
            // SAFETY: as above, and just mapped.
            unsafe { (register as *mut u8).write_volatile(value) };
        }
        _ => return,
    }
    (0..PATIENCE).for_each(|_| core::hint::spin_loop());
}

const SLEEP_ENABLE: u16 = 1 << 13;

/// The PM1a control port and what to write there for state S5 (ACPI 6.5, "Sleeping States").
fn soft_off() -> Option<(u16, u16)> {
    let fadt = fadt()?;
    let control = u16::try_from(fadt.pm1a_control_block().ok()?.address).ok().filter(|&port| port != 0)?;
    Some((control, SLEEP_ENABLE | u16::from(s5_sleep_type()?) << 10))
}

fn fadt() -> Option<PhysicalMapping<acpi::Handler, Fadt>> {
    acpi::tables()?.find_table().ok()
}

/// SLP_TYPa out of `Name (_S5_, Package () {SLP_TYPa, ...})`.
fn s5_sleep_type() -> Option<u8> {
    aml::first_of_package(acpi::bytecode()?, b"_S5_")
}
