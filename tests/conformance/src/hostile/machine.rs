//! The bus and the board: what is reached without any queue.

use super::super::registers::Regs;
use super::super::{End, error, skip};
use super::Row;
use super::access::{self, WIDTHS};
use super::trial::{DATA_AT, HEADER_AT, NEXT, STATUS_AT, Trial, Unit, WRITE};
use core::mem::offset_of;
use frontends::transport::Registers;
use guest_kernel::devices::place::Place;
use guest_kernel::platform::pci::Function;
use guest_kernel::platform::registers::Window;
use pci_types::ConfigRegionAccess;
use pvops::port;
use shared_abi::board::{COM1_PORT, EXIT_PORT, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SLOTS, VIRTIO_MMIO_STRIDE};
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::blk::RequestType;
use shared_abi::virtio::pci::{CAPABILITY_VENDOR, Capability, CommonConfig, cfg_type};

const BLOCK: DeviceType = DeviceType::BLOCK;

pub const ROWS: &[Row] = &[
    ("hostile/pci-bar-moved", BLOCK, bar_moved),
    ("hostile/pci-bus-master-off", BLOCK, |trial| {
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
    }),
    ("hostile/pci-access-window-garbage", BLOCK, access_window),
    ("hostile/pci-vector-out-of-range", BLOCK, |trial| {
        for vector in [0x7ff, 0x7fff] {
            let Regs::Pci(windows, _) = &trial.target.regs else { return Err(no_pci()) };
            let mut unit = trial.unit(0)?;
            unit.dev.regs().select_queue(0);
            for field in [offset_of!(CommonConfig, queue_msix_vector), offset_of!(CommonConfig, config_msix_vector)] {
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
    }),
    ("hostile/ports-of-nobody", BLOCK, |trial| {
        // Ports that no PC and no board of ours has a device at. Not those of COM2: kvmtool has one, on the same line.
        let nobody = (0x220..0x230).chain(0x300..0x310).chain(0xfff0..=0xffff);
        nobody.for_each(|port| touch(port, true));
        trial.revive()
    }),
    ("hostile/ports-of-wrong-width", BLOCK, wrong_width),
    ("hostile/memory-of-nobody", BLOCK, memory),
];

const COMMAND: u16 = 4;
const MEMORY_ENABLE: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;
const FIRST_BAR: u16 = 0x10;
const BARS: u16 = 6;
const CAPABILITIES: u16 = 0x34;

fn no_pci() -> End {
    skip("the device is not on PCI")
}

fn function(trial: &Trial<'_>) -> Result<Function, End> {
    match &trial.target.place {
        Place::Pci(function) => Ok(*function),
        Place::Mmio(..) => Err(no_pci()),
    }
}

fn read(function: &Function, offset: u16) -> u32 {
    // SAFETY: reading configuration space has no effect but that of the access window, which only this file uses now.
    unsafe { function.config().read(function.address, offset & !3) }
}

fn write(function: &Function, offset: u16, value: u32) {
    // SAFETY: a BAR that is moved decodes nowhere or where no memory of the kernel's is: RAM is decoded before PCI.
    unsafe { function.config().write(function.address, offset & !3, value) };
}

/// A read of the first sector, not waited for.
fn request(unit: &mut Unit<'_>) {
    unit.header(RequestType::IN.0, 0);
    unit.put(0, (unit.at(HEADER_AT), 16, NEXT, 1));
    unit.put(1, (unit.at(DATA_AT), 512, WRITE | NEXT, 2));
    unit.put(2, (unit.at(STATUS_AT), 1, WRITE, 0));
    unit.fire(0);
}

fn bar_moved(trial: &mut Trial<'_>) -> Result<(), End> {
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
}

fn access_window(trial: &mut Trial<'_>) -> Result<(), End> {
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
}

fn wrong_width(trial: &mut Trial<'_>) -> Result<(), End> {
    // The scratch register keeps what is written; nothing lies behind it.
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
}

fn touch(port: u16, strings: bool) {
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

fn memory(trial: &mut Trial<'_>) -> Result<(), End> {
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
