//! The board: the platform that the host program `ringside` gives its guest.
//!
//! ```text
//! 0x0000_0000 .. min(memory, 3 GiB)   RAM (boot data in the first MiB, initrd at its top)
//! 0xd000_0000 + n * 0x1000            virtio-mmio slot n, interrupt on GSI 5 + n
//! 0xfec0_0000                         I/O APIC, 24 pins
//! 0xfee0_0000                         local APICs
//! 0x1_0000_0000 ..                    the rest of RAM
//! port 0x064                          reset by a keyboard controller's command
//! port 0x3f8, GSI 4                   16550 (COM1)
//! port 0x604                          exit port
//! port 0xcf9                          reset control register
//! ```
//!
//! There is no PCI, no PIT and no ACPI. KVM's interrupt chip brings two 8259 that nobody programs, wired to LINT0 of the local
//! APIC: a guest masks that pin, or a line arrives a second time as the number of its 8259 input. The guest recognizes the board by the hypervisor CPUID leaf
//! [`CPUID_SIGNATURE`], which the host places at a multiple of 0x100 above KVM's own leaves.

/// End of the RAM below the device window; more memory continues at [`HIGH_RAM`].
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM continues that does not fit below [`LOW_RAM_END`].
pub const HIGH_RAM: u64 = 0x1_0000_0000;

/// First virtio-mmio register block.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Distance between two virtio-mmio slots, and the size of one.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Number of virtio-mmio slots.
pub const VIRTIO_MMIO_SLOTS: u32 = 16;
/// GSI of slot 0; slot n has GSI `VIRTIO_MMIO_GSI + n`. Edge triggered, active high.
pub const VIRTIO_MMIO_GSI: u32 = 5;

/// I/O APIC registers.
pub const IO_APIC_BASE: u64 = 0xfec0_0000;
/// Pins of the I/O APIC: pin n is GSI n.
pub const IO_APIC_PINS: u32 = 24;
/// Local APIC registers at reset.
pub const LOCAL_APIC_BASE: u64 = 0xfee0_0000;

/// First port of the 16550 UART.
pub const COM1_PORT: u16 = 0x3f8;
/// GSI of the UART. Edge triggered, active high.
pub const COM1_GSI: u32 = 4;

/// A 32-bit write of an [`exit`](EXIT_OK) code here ends the VM; the code becomes the exit status of the host program.
pub const EXIT_PORT: u16 = 0x604;
/// The guest powered off in good order.
pub const EXIT_OK: u32 = 0;
/// The guest panicked; it has said why on its console.
pub const EXIT_PANIC: u32 = 1;

/// The reset control register: a byte with [`RESET_CONTROL_CPU`] resets the machine.
pub const RESET_CONTROL_PORT: u16 = 0xcf9;
/// Resets the processor.
pub const RESET_CONTROL_CPU: u8 = 1 << 2;
/// Command port of a keyboard controller of which nothing is there but the reset line.
pub const KEYBOARD_PORT: u16 = 0x64;
/// Its command that resets the machine.
pub const KEYBOARD_RESET: u8 = 0xfe;

/// Guest physical address of the PVH start info.
pub const START_INFO_ADDR: u64 = 0x6000;
/// Guest physical address of the PVH module list.
pub const MODLIST_ADDR: u64 = 0x6040;
/// Guest physical address of the PVH memory map.
pub const MEMMAP_ADDR: u64 = 0x7000;
/// Guest physical address of the command line.
pub const CMDLINE_ADDR: u64 = 0x2_0000;
/// Longest command line, with its terminating NUL.
pub const CMDLINE_MAX: usize = 0x1_0000;

/// EBX, ECX, EDX of the board's CPUID leaf, in this order; EAX is its highest leaf ([`CPUID_BOARD`]).
pub const CPUID_SIGNATURE: [u8; 12] = *b"RingsideHost";
/// The board's CPUID leaves start here when KVM's are at 0x4000_0000.
pub const CPUID_BASE: u32 = 0x4000_0100;
/// Offset from the base leaf: EAX = [`REVISION`], EBX = number of virtio-mmio slots in use (slots `0..n`).
pub const CPUID_BOARD: u32 = 1;
/// Revision of this page.
pub const REVISION: u32 = 1;
