//! Switching the machine off: the board's exit port, else ACPI's soft-off state, else a reset.

use super::acpi;
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
    if ON_BOARD.load(Relaxed) {
        let code = if ending == Ending::Off { EXIT_OK } else { EXIT_PANIC };
        // SAFETY: the board's exit port ends the VM.
        unsafe { port::write_u32(EXIT_PORT, code) };
    }
    if let Some((control, value)) = soft_off() {
        // SAFETY: ACPI says that this is how to switch off.
        unsafe { port::write_u16(control, value) };
    }
    // Machines without either (QEMU's microvm without ACPI) end by a reset.
    pvops::cpu::triple_fault()
}

const SLEEP_ENABLE: u16 = 1 << 13;

/// The PM1a control port and what to write there for state S5 (ACPI 6.5, "Sleeping States").
fn soft_off() -> Option<(u16, u16)> {
    let tables = acpi::tables(RSDP.load(Relaxed))?;
    let fadt = tables.find_table::<Fadt>().ok()?;
    let control = u16::try_from(fadt.pm1a_control_block().ok()?.address).ok()?;
    let dsdt = tables.dsdt().ok()?;
    let address = crate::mm::paging::map_device(dsdt.address as u64, u64::from(dsdt.length))?;
    // SAFETY: just mapped, and nobody writes tables.
    let aml = unsafe { core::slice::from_raw_parts(address as *const u8, dsdt.length as usize) };
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
