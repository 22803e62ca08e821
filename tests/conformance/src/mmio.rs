//! Virtio over MMIO: the registers themselves.

use super::device::{Dev, Target};
use super::raw::{Dir, Queue, link};
use super::registers::Regs;
use super::transport::{Bus, each, live, still_live};
use super::{Context, End, Row, Verdict, equal, error, holds, skip};
use alloc::format;
use frontends::transport::Registers;
use guest_kernel::platform::registers::Window;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::{MAGIC, Register, VERSION};

pub const ROWS: &[Row] = crate::transport_code!("mmio", Bus::Mmio;
    "magic-reads-virt" => |cx| registers(cx, |window| {
        equal("MagicValue", MAGIC, Regs::mmio_read(window, Register::MagicValue))
    }),
    "version-is-2" => |cx| registers(cx, |window| {
        equal("Version", VERSION, Regs::mmio_read(window, Register::Version))
    }),
    "device-id-is-stable" => |cx| each(cx, Bus::Mmio, |target| constant(target, Register::DeviceId)),
    "vendor-id-is-stable" => |cx| each(cx, Bus::Mmio, |target| constant(target, Register::VendorId)),
    "constants-refuse-writes" => constants_refuse_writes,
    "reserved-offsets-are-harmless" => reserved_offsets_are_harmless,
    "write-only-registers-are-harmless-to-read" => write_only_registers_are_harmless_to_read,
    "absent-shared-memory-has-length-all-ones" => absent_shared_memory_has_length_all_ones,
    "acknowledging-nothing-is-harmless" => acknowledging_nothing_is_harmless,
    "used-buffer-sets-interrupt-status" => |cx| used(cx, |_, window| {
        equal("bit 0 of InterruptStatus", 1, Regs::mmio_read(window, Register::InterruptStatus) & 1)
    }),
    "acknowledge-clears-interrupt-status" => |cx| used(cx, |_, window| {
        Regs::mmio_write(window, Register::InterruptAck, 1);
        equal("InterruptStatus", 0, Regs::mmio_read(window, Register::InterruptStatus))
    }),
    "acknowledge-clears-only-its-bits" => |cx| used(cx, |_, window| {
        Regs::mmio_write(window, Register::InterruptAck, 2);
        equal("bit 0 of InterruptStatus", 1, Regs::mmio_read(window, Register::InterruptStatus) & 1)
    }),
    "reset-clears-interrupt-status" => |cx| used(cx, |dev, window| {
        holds(dev.target.reset(), "status after a reset", 0, dev.regs().status())?;
        equal("InterruptStatus", 0, Regs::mmio_read(window, Register::InterruptStatus))
    }),
);

fn window(target: &Target) -> Result<&Window, End> {
    match &target.regs {
        Regs::Mmio(window) => Ok(window),
        Regs::Pci(..) => Err(error("not a virtio-mmio device")),
    }
}

fn registers(cx: &Context, check: fn(&Window) -> Verdict) -> Verdict {
    each(cx, Bus::Mmio, |_| Ok(()))?;
    let windows = cx.targets.iter().filter_map(|target| window(target).ok());
    windows.into_iter().try_for_each(check)
}

fn constant(target: &Target, register: Register) -> Verdict {
    let window = window(target)?;
    let before = Regs::mmio_read(window, register);
    holds(target.reset(), "status after a reset", 0, target.regs.status())?;
    equal(&format!("{register:?}"), before, Regs::mmio_read(window, register))
}

const CONSTANTS: [Register; 4] = [Register::MagicValue, Register::Version, Register::DeviceId, Register::VendorId];

fn constants_refuse_writes(cx: &Context) -> Verdict {
    each(cx, Bus::Mmio, |target| {
        let window = window(target)?;
        for register in CONSTANTS {
            let before = Regs::mmio_read(window, register);
            Regs::mmio_write(window, register, u32::MAX);
            equal(&format!("{register:?}"), before, Regs::mmio_read(window, register))?;
        }
        Ok(())
    })
}

fn reserved_offsets_are_harmless(cx: &Context) -> Verdict {
    each(cx, Bus::Mmio, |target| {
        let (dev, _queue) = live(target)?;
        for offset in [0x018, 0x048, 0x068, 0x0d0] {
            window(target)?.read32(offset);
            window(target)?.write32(offset, u32::MAX);
        }
        still_live(&dev)
    })
}

fn write_only_registers_are_harmless_to_read(cx: &Context) -> Verdict {
    each(cx, Bus::Mmio, |target| {
        let (dev, _queue) = live(target)?;
        for register in [
            Register::QueueSel,
            Register::QueueNotify,
            Register::InterruptAck,
            Register::QueueDescLow,
            Register::QueueDriverHigh,
            Register::QueueDeviceLow,
        ] {
            Regs::mmio_read(window(target)?, register);
        }
        still_live(&dev)
    })
}

fn absent_shared_memory_has_length_all_ones(cx: &Context) -> Verdict {
    each(cx, Bus::Mmio, |target| {
        let window = window(target)?;
        Regs::mmio_write(window, Register::ShmSel, 200);
        equal("SHMLenLow", u32::MAX, Regs::mmio_read(window, Register::ShmLenLow))?;
        equal("SHMLenHigh", u32::MAX, Regs::mmio_read(window, Register::ShmLenHigh))
    })
}

fn acknowledging_nothing_is_harmless(cx: &Context) -> Verdict {
    each(cx, Bus::Mmio, |target| {
        let (dev, _queue) = live(target)?;
        Regs::mmio_write(window(target)?, Register::InterruptAck, 3);
        equal("InterruptStatus", 0, Regs::mmio_read(window(target)?, Register::InterruptStatus))?;
        still_live(&dev)
    })
}

/// Looks at the registers right behind a used buffer: the entropy device is the one that can use a buffer of any kind.
fn used(cx: &Context, check: fn(&Dev<'_>, &Window) -> Verdict) -> Verdict {
    let target = cx.device(DeviceType::RNG)?;
    let window = window(target).map_err(|_| skip("there is no virtio-mmio entropy device"))?;
    let dev = Dev::with_features(target, 0)?;
    let mut queue: Queue = dev.queue(0, 8)?;
    dev.start()?;
    let buf = dev.buffer(64)?;
    let head = queue.chain(0, &[link(&buf, Dir::In)]);
    // With interrupts off nothing but this code acknowledges.
    queue.send(&dev, head);
    queue.wait()?;
    super::raw::wait_until(1_000_000_000, || Regs::mmio_read(window, Register::InterruptStatus) != 0);
    check(&dev, window)
}
