//! The bus and the board: what is reached without any queue.

use crate::catalogue::{Check, attacks};
#[cfg(feature = "guest")]
use {
    crate::hostile::access::{self, WIDTHS},
    crate::support::registers::Regs,
    crate::support::trial::{DATA_AT, HEADER_AT, NEXT, STATUS_AT, Trial, Unit, WRITE},
    crate::support::{End, error, skip},
    code::*,
    core::mem::offset_of,
    frontends::transport::Registers,
    guest_kernel::devices::place::Place,
    guest_kernel::platform::pci::Function,
    guest_kernel::platform::registers::Window,
    pci_types::ConfigRegionAccess,
    pvops::port,
    shared_abi::board::{COM1_PORT, EXIT_PORT, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SLOTS, VIRTIO_MMIO_STRIDE},
    shared_abi::virtio::blk::RequestType,
    shared_abi::virtio::pci::{CAPABILITY_VENDOR, Capability, CommonConfig, cfg_type},
};

const PCI: &str = "4.1.4 Virtio Structure PCI Capabilities";
const MACHINE: &str = "none: of the machine, not of Virtio";

/// The checks.
pub(crate) const CHECKS: &[Check] = attacks![
    Attack {
        name: "hostile/pci-bar-moved",
        rule: "A BAR is not moved under a live device",
        clause: PCI,
        method: "With a request in flight each BAR goes to 0xffffffff, to 0 and back, decoding on and off",
        device: BLOCK,
        run: |trial| {
            let function = function(trial)?;
            let mut unit = trial.unit(0)?;
            let command = read(&function, COMMAND);
            let bars: [u32; BARS as usize] = core::array::from_fn(|bar| read(&function, FIRST_BAR + 4 * bar as u16));
            request(&mut unit);
            for value in [u32::MAX, 0, 0xfee0_0000, 0xffff_f000] {
                for decode in [command, command & !MEMORY_ENABLE] {
                    write(&function, COMMAND, decode);
                    (0..BARS).for_each(|bar| write(&function, FIRST_BAR + 4 * bar, value));
                }
            }
            write(&function, COMMAND, command & !MEMORY_ENABLE);
            (0..BARS).zip(bars).for_each(|(bar, value)| write(&function, FIRST_BAR + 4 * bar, value));
            write(&function, COMMAND, command);
            unit.settle();
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/pci-bus-master-off",
        rule: "A device that is to work is bus master",
        clause: PCI,
        method: "A request with bus mastering off, then on",
        device: BLOCK,
        run: |trial| {
            let function = function(trial)?;
            let mut unit = trial.unit(0)?;
            let command = read(&function, COMMAND);
            write(&function, COMMAND, command & !BUS_MASTER);
            request(&mut unit);
            unit.settle();
            write(&function, COMMAND, command);
            unit.queues[0].notify(&unit.dev);
            unit.settle();
            trial.judge(unit)
        },
    },
    Attack {
        name: "hostile/pci-access-window-garbage",
        rule: "The access window names a BAR and a length of 1, 2 or 4",
        clause: "4.1.4.9.2 Driver Requirements: PCI configuration access capability",
        method: "BARs 0 to 255, offsets to 2^32 - 1 and lengths 0, 3, 8, 2^32 - 1, data read and written each time",
        device: BLOCK,
        run: |trial| {
            let function = function(trial)?;
            let mut at = read(&function, CAPABILITIES) as u16 & 0xfc;
            for _ in 0..48 {
                let word = read(&function, at);
                if at == 0 || word as u8 == CAPABILITY_VENDOR && (word >> 24) as u8 == cfg_type::PCI {
                    break;
                }
                at = (word >> 8) as u16 & 0xfc;
            }
            if at == 0 {
                return Err(skip("the device has no access window"));
            }
            let data = at + size_of::<Capability>() as u16;
            for bar in [0, 1, 4, 5, 6, 0x7f, 0xff] {
                for offset in [0, 1, 0x3f, 0xfff, 0x4000, 0x7fff_ffff, u32::MAX - 3, u32::MAX] {
                    for len in [0, 1, 2, 3, 4, 8, u32::MAX] {
                        write(&function, at + offset_of!(Capability, bar) as u16, bar);
                        write(&function, at + offset_of!(Capability, offset) as u16, offset);
                        write(&function, at + offset_of!(Capability, length) as u16, len);
                        read(&function, data);
                        // Ones in the registers of a device that is reset: no address of memory.
                        write(&function, data, u32::MAX);
                    }
                }
            }
            trial.target.reset();
            trial.revive()
        },
    },
    Attack {
        name: "hostile/pci-vector-out-of-range",
        rule: "Vectors are entries of the MSI-X table",
        clause: "4.1.5.1.2 MSI-X Vector Configuration",
        method: "Vectors 0x7ff and 0x7fff for queue and configuration, then a request",
        device: BLOCK,
        run: |trial| {
            for vector in [0x7ff, 0x7fff] {
                let Regs::Pci(windows, _) = &trial.target.regs else { return Err(no_pci()) };
                let mut unit = trial.unit(0)?;
                unit.dev.regs().select_queue(0);
                for field in [offset_of!(CommonConfig, queue_msix_vector), offset_of!(CommonConfig, config_msix_vector)]
                {
                    windows.common.write16(field, vector);
                    if windows.common.read16(field) != vector {
                        trial.refused("the vector reads as another one");
                    }
                }
                request(&mut unit);
                unit.settle();
                trial.judge(unit)?;
            }
            Ok(())
        },
    },
    Attack {
        name: "hostile/ports-of-nobody",
        rule: "Ports that no device has are left alone",
        clause: MACHINE,
        method: "Reads and writes of every width, strings too, to ports that nothing has",
        device: BLOCK,
        run: |trial| {
            // Ports that no PC and no board of ours has a device at. Not those of COM2: kvmtool has one, on the same line.
            let unused = (0x220..0x230).chain(0x300..0x310).chain(0xfff0..=0xffff);
            unused.for_each(|port| touch(port, true));
            trial.revive()
        },
    },
    Attack {
        name: "hostile/ports-of-wrong-width",
        rule: "Ports are accessed by their own width",
        clause: MACHINE,
        method: "Accesses of 2 and 4 bytes to the last register of the serial port, of 1, 2 and 4 bytes at and \
            around the board's exit port",
        device: BLOCK,
        run: |trial| {
            // The scratch register keeps what is written; nothing lies after it.
            touch(COM1_PORT + 7, false);
            if trial.cx.found.board_slots.is_some() {
                // SAFETY: only a write of 32 bits ends the machine.
                unsafe {
                    port::write_u8(EXIT_PORT, 1);
                    port::write_u16(EXIT_PORT, 1);
                    port::write_u16(EXIT_PORT + 2, 1);
                    port::write_u32(EXIT_PORT + 1, 1);
                    port::read_u32(EXIT_PORT);
                }
            }
            trial.revive()
        },
    },
    Attack {
        name: "hostile/memory-of-nobody",
        rule: "Addresses that nothing has are left alone",
        clause: MACHINE,
        method: "Reads and writes of every width in the device window, where nothing is",
        device: BLOCK,
        run: memory,
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const COMMAND: u16 = 4;

    pub const MEMORY_ENABLE: u32 = 1 << 1;

    pub const BUS_MASTER: u32 = 1 << 2;

    pub const FIRST_BAR: u16 = 0x10;

    pub const BARS: u16 = 6;

    pub const CAPABILITIES: u16 = 0x34;

    pub fn no_pci() -> End {
        skip("the device is not on PCI")
    }

    pub fn function(trial: &Trial<'_>) -> Result<Function, End> {
        match &trial.target.place {
            Place::Pci(function) => Ok(*function),
            Place::Mmio(..) => Err(no_pci()),
        }
    }

    pub fn read(function: &Function, offset: u16) -> u32 {
        // SAFETY: reading configuration space has no effect but that of the access window, which only this file uses now.
        unsafe { function.config().read(function.address, offset & !3) }
    }

    pub fn write(function: &Function, offset: u16, value: u32) {
        // SAFETY: a BAR that is moved decodes nowhere or where no memory of the kernel's is: RAM is decoded before PCI.
        unsafe { function.config().write(function.address, offset & !3, value) };
    }

    /// A read of the first sector, not waited for.
    pub fn request(unit: &mut Unit<'_>) {
        unit.header(RequestType::IN.0, 0);
        unit.put(0, (unit.at(HEADER_AT), 16, NEXT, 1));
        unit.put(1, (unit.at(DATA_AT), 512, WRITE | NEXT, 2));
        unit.put(2, (unit.at(STATUS_AT), 1, WRITE, 0));
        unit.fire(0);
    }

    pub fn touch(port: u16, strings: bool) {
        // SAFETY: nothing is there, or a register that only keeps what is written.
        unsafe {
            port::read_u8(port);
            port::read_u16(port);
            port::read_u32(port);
            port::write_u8(port, 0x5a);
            port::write_u16(port, 0x5a5a);
            port::write_u32(port, 0x5a5a_5a5a);
            if strings {
                port::write_bytes(port, &[0x5a; 64]);
            }
        }
    }

    pub fn memory(trial: &mut Trial<'_>) -> Result<(), End> {
        /// Between the device windows of PCs and of our board.
        const NOBODY: u64 = 0xe000_0000;
        let last_slot = VIRTIO_MMIO_BASE + u64::from(VIRTIO_MMIO_SLOTS - 1) * VIRTIO_MMIO_STRIDE;
        let places = [Some(NOBODY), trial.cx.found.board_slots.map(|_| last_slot)];
        for address in places.into_iter().flatten() {
            let window = Window::map(address, 4096).ok_or_else(|| error("it cannot be mapped"))?;
            for width in WIDTHS {
                for offset in [0, 1, 0x70, 0xff8 - width, window.len() - width] {
                    access::write(&window, offset, width, 0x5a5a_5a5a_5a5a_5a5a);
                    access::read(&window, offset, width);
                }
            }
        }
        trial.revive()
    }
}
