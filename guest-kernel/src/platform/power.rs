//! Switching the machine off: by the hypervisor, else the board's exit port, else ACPI's soft-off state, else a reset: by
//! ACPI's reset register, else by a fault that cannot be delivered.

use super::acpi;
use ::acpi::address::{AddressSpace, GenericAddress};
use ::acpi::fadt::Fadt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use pvops::port;
use shared_abi::board::{EXIT_OK, EXIT_PANIC, EXIT_PORT};

static ON_BOARD: AtomicBool = AtomicBool::new(false);
static RSDP: AtomicU64 = AtomicU64::new(0);

/// How the kernel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In good order.
    Off,
    /// After a panic or an exception.
    Panic,
}

/// Remembers what there is to switch off with.
pub fn init(on_board: bool, rsdp: u64) {
    ON_BOARD.store(on_board, Relaxed);
    RSDP.store(rsdp, Relaxed);
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
    // Machines without either (QEMU's microvm without ACPI) end by a reset.
    reset();
    pvops::cpu::triple_fault()
}

/// Writes what the FADT says to where it says (ACPI 6.5, "Reset Register"): a port or memory. The machine may take a moment.
fn reset() {
    const PATIENCE: u32 = 1_000_000;
    let Some(tables) = acpi::tables(RSDP.load(Relaxed)) else { return };
    let Ok(fadt) = tables.find_table::<Fadt>() else { return };
    if !{ fadt.flags }.supports_system_reset_via_fadt() {
        return;
    }
    let value = fadt.reset_value;
    match fadt.reset_register() {
        Ok(GenericAddress { address_space: AddressSpace::SystemIo, address, .. }) => {
            // SAFETY: ACPI says that this resets the machine.
            unsafe { port::write_u8(address as u16, value) };
        }
        Ok(GenericAddress { address_space: AddressSpace::SystemMemory, address, .. }) => {
            let Some(register) = crate::mm::paging::map_device(address, 1) else { return };
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
    let tables = acpi::tables(RSDP.load(Relaxed))?;
    let fadt = tables.find_table::<Fadt>().ok()?;
    let control = u16::try_from(fadt.pm1a_control_block().ok()?.address).ok()?;
    let aml = acpi::bytecode(RSDP.load(Relaxed))?;
    Some((control, SLEEP_ENABLE | s5_sleep_type(aml)? << 10))
}

/// SLP_TYPa out of `Name (_S5_, Package () {SLP_TYPa, ...})`: name, package op, length, element count, first element.
fn s5_sleep_type(aml: &[u8]) -> Option<u16> {
    const PACKAGE: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    let name = aml.windows(4).position(|window| window == b"_S5_")?;
    let [PACKAGE, length, rest @ ..] = aml.get(name + 4..)? else { return None };
    // The top bits of the length count further length bytes; the element count follows.
    let first = rest.get(usize::from(length >> 6) + 1..)?;
    match first {
        [BYTE_PREFIX, value, ..] => Some(u16::from(*value)),
        [value @ 0..=1, ..] => Some(u16::from(*value)),
        _ => None,
    }
}
