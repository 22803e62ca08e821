//! Where virtio-mmio devices are: the board's slots, `virtio_mmio.device=SIZE@ADDRESS:LINE[:ID]` on the command line
//! (Linux `drivers/virtio/virtio_mmio.c` defines the format; QEMU's microvm and Firecracker pass it), or what ACPI declares
//! (`aml`).

use crate::cmdline::Cmdline;
use alloc::vec::Vec;
use pvops::event::Trigger;
use shared_abi::board;

/// A register block and its interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// GSI.
    pub line: u32,
    /// How the line signals.
    pub trigger: Trigger,
}

/// All slots, the board's first, ACPI's last. A description that cannot be read is logged and left out. Lines signal by
/// edges, as the board's do, where ACPI does not say otherwise: Linux takes it so for those on its command line.
pub fn slots(board_slots: u32, cmdline: Cmdline, declared: Vec<Slot>) -> impl Iterator<Item = Slot> {
    let on_board = (0..board_slots).map(|slot| Slot {
        address: board::VIRTIO_MMIO_BASE + u64::from(slot) * board::VIRTIO_MMIO_STRIDE,
        size: board::VIRTIO_MMIO_STRIDE,
        line: board::VIRTIO_MMIO_GSI + slot,
        trigger: Trigger::Edge,
    });
    let says: Vec<Slot> = declared.clone();
    let named = cmdline.words().filter_map(|word| word.strip_prefix("virtio_mmio.device=")).filter_map(move |text| {
        let mut slot = parse(text);
        if let Some(slot) = &mut slot
            && let Some(same) = says.iter().find(|other| (other.address, other.line) == (slot.address, slot.line))
        {
            slot.trigger = same.trigger;
        }
        if slot.is_none() {
            log::warn!("virtio_mmio.device={text}: not SIZE@ADDRESS:LINE");
        }
        slot
    });
    on_board.chain(named).chain(declared)
}

fn parse(text: &str) -> Option<Slot> {
    let (size, rest) = text.split_once('@')?;
    let mut parts = rest.split(':');
    let slot = Slot {
        size: number(size)?,
        address: number(parts.next()?)?,
        line: u32::try_from(number(parts.next()?)?).ok()?,
        trigger: Trigger::Edge,
    };
    (slot.size > 0 && slot.address > 0).then_some(slot)
}

/// A number in decimal or hexadecimal, with an optional K, M or G.
fn number(text: &str) -> Option<u64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(factor)
}
