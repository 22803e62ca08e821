//! The machine around the CPU: where virtio devices and interrupt chips are, and how to switch it off.

pub mod acpi;
pub mod aml;
pub mod interrupts;
pub mod mmio;
pub mod pci;
pub mod power;
pub mod registers;

/// Masks the two 8259 interrupt controllers of a PC: all interrupts come through the APICs.
pub fn mask_pic() {
    for port in [0x21, 0xa1] {
        // SAFETY: the PIC touches no memory; a masked line cannot do harm.
        unsafe { pvops::port::write_u8(port, 0xff) };
    }
}
