//! Odd values of configuration fields.

use super::liar::Draw;
use shared_abi::virtio::{DeviceType, balloon, blk, console, net};
use std::mem::offset_of;

/// A field: its name, offset, bytes, and values that are odd.
struct Field(&'static str, usize, usize, &'static [u64]);

const ALL: u64 = u64::MAX;

const BLOCK: &[Field] = &[
    Field("capacity", offset_of!(blk::Config, capacity), 8, &[0, 1, 7, 1 << 55, ALL]),
    Field("size_max", offset_of!(blk::Config, size_max), 4, &[0, 1, ALL]),
    Field("seg_max", offset_of!(blk::Config, seg_max), 4, &[0, 1, ALL]),
    Field("blk_size", offset_of!(blk::Config, blk_size), 4, &[0, 3, 511, 1 << 31, ALL]),
    Field("physical_block_exp", offset_of!(blk::Config, physical_block_exp), 1, &[31, 64, ALL]),
    Field("num_queues", offset_of!(blk::Config, num_queues), 2, &[0, 300, ALL]),
    Field("max_discard_sectors", offset_of!(blk::Config, max_discard_sectors), 4, &[0, 1, ALL]),
    Field("max_discard_seg", offset_of!(blk::Config, max_discard_seg), 4, &[0, ALL]),
    Field("discard_sector_alignment", offset_of!(blk::Config, discard_sector_alignment), 4, &[0, 3, ALL]),
    Field("max_write_zeroes_sectors", offset_of!(blk::Config, max_write_zeroes_sectors), 4, &[0, 1, ALL]),
    Field("max_write_zeroes_seg", offset_of!(blk::Config, max_write_zeroes_seg), 4, &[0, ALL]),
];
const NET: &[Field] = &[
    Field("mac", offset_of!(net::Config, mac), 6, &[0, 1, ALL]),
    Field("status", offset_of!(net::Config, status), 2, &[0, 2, ALL]),
    Field("max_virtqueue_pairs", offset_of!(net::Config, max_virtqueue_pairs), 2, &[0, ALL]),
    Field("mtu", offset_of!(net::Config, mtu), 2, &[0, 1, 67, ALL]),
];
const BALLOON: &[Field] = &[
    Field("num_pages", offset_of!(balloon::Config, num_pages), 4, &[0, 1, 1000, 1 << 31, ALL]),
    Field("actual", offset_of!(balloon::Config, actual), 4, &[1, ALL]),
    Field("free_page_hint_cmd_id", offset_of!(balloon::Config, free_page_hint_cmd_id), 4, &[1, ALL]),
    Field("poison_val", offset_of!(balloon::Config, poison_val), 4, &[ALL]),
];
const CONSOLE: &[Field] = &[
    Field("cols", offset_of!(console::Config, cols), 2, &[0, 1, ALL]),
    Field("rows", offset_of!(console::Config, rows), 2, &[0, 1, ALL]),
    Field("max_nr_ports", offset_of!(console::Config, max_nr_ports), 4, &[0, ALL]),
];

/// A field with an odd value.
pub(super) struct OddField {
    pub(super) name: &'static str,
    pub(super) offset: usize,
    pub(super) bytes: Vec<u8>,
}

/// Draws a field and an odd value for it; `None` for a device without a configuration.
pub(super) fn odd_field(device_type: DeviceType, draw: &mut Draw) -> Option<OddField> {
    let fields = match device_type {
        DeviceType::BLOCK => BLOCK,
        DeviceType::NET => NET,
        DeviceType::BALLOON => BALLOON,
        DeviceType::CONSOLE => CONSOLE,
        _ => return None,
    };
    let Field(name, offset, len, values) = fields[draw.below(fields.len() as u32) as usize];
    let value = values[draw.below(values.len() as u32) as usize];
    Some(OddField { name, offset, bytes: value.to_le_bytes()[..len].to_vec() })
}

/// Puts odd fields over what was read at `offset`.
pub(super) fn overlay(fields: &[(usize, Vec<u8>)], offset: usize, data: &mut [u8]) {
    for (start, bytes) in fields {
        for (at, byte) in (*start..).zip(bytes) {
            if let Some(seen) = at.checked_sub(offset).and_then(|at| data.get_mut(at)) {
                *seen = *byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_fields_cover_what_was_read_and_nothing_else() {
        let fields = [(4, vec![1, 2]), (9, vec![3])];
        let read = |offset, len| {
            let mut data = vec![0; len];
            overlay(&fields, offset, &mut data);
            data
        };
        assert_eq!(read(0, 12), [0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0]);
        assert_eq!((read(5, 2), read(0, 4), read(9, 1)), (vec![2, 0], vec![0; 4], vec![3]));
    }
}
