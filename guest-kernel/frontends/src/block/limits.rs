//! What a block device can do, out of its features and its configuration.
//!
//! A field that cannot be right either is an error, or has a fallback that works with any device: the fallbacks are
//! stated here, in one place.

use crate::device::Device;
use crate::error::InitError;
use crate::transport::Transport;
use core::mem::offset_of;
use virtio_abi::blk::{Config, Features, SECTOR_SIZE};

/// Bytes that one ring request transfers at most, whatever the device allows: its length must fit 32 bits.
const PART_MAX: u32 = 1 << 30;
/// More sectors than this have no address in bytes.
const CAPACITY_MAX: u64 = u64::MAX / SECTOR_SIZE as u64;
/// The largest block size that makes sense.
const BLOCK_MAX: u32 = 64 << 10;

macro_rules! at {
    ($field:ident) => {
        offset_of!(Config, $field)
    };
}

/// The limits, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) features: Features,
    pub(super) capacity: u64,
    /// Bytes; a power of two, at least a sector.
    pub(super) block_size: u32,
    /// Bytes of a data segment; whole sectors.
    pub(super) segment_len: u32,
    /// Data segments of a request, at least 1.
    pub(super) segments: u16,
    /// Sectors of a discard, at least 1.
    pub(super) discard: u32,
    /// Sectors that the cuts of a large discard are aligned to, at least 1.
    pub(super) discard_alignment: u32,
    /// Sectors of a write-zeroes, at least 1.
    pub(super) write_zeroes: u32,
    /// The device may free what it zeroes.
    pub(super) may_unmap: bool,
}

impl Limits {
    /// Reads the fields that the features make valid, and those only.
    pub(super) fn read<T: Transport>(device: &Device<T>, segments: u16) -> Result<Self, InitError> {
        if device.config_len() < size_of::<u64>() {
            return Err(InitError::BadConfig { field: "length", value: device.config_len() as u64 });
        }
        let features = Features::from_bits_truncate(device.features());
        let config = device.config(|fields| {
            let mut config = Config { capacity: fields.u64(at!(capacity)), ..Config::default() };
            if features.contains(Features::SIZE_MAX) {
                config.size_max = fields.u32(at!(size_max));
            }
            if features.contains(Features::SEG_MAX) {
                config.seg_max = fields.u32(at!(seg_max));
            }
            if features.contains(Features::BLK_SIZE) {
                config.blk_size = fields.u32(at!(blk_size));
            }
            if features.contains(Features::DISCARD) {
                config.max_discard_sectors = fields.u32(at!(max_discard_sectors));
                config.discard_sector_alignment = fields.u32(at!(discard_sector_alignment));
            }
            if features.contains(Features::WRITE_ZEROES) {
                config.max_write_zeroes_sectors = fields.u32(at!(max_write_zeroes_sectors));
                config.write_zeroes_may_unmap = fields.u8(at!(write_zeroes_may_unmap));
            }
            config
        })?;
        Self::check(features, &config, segments)
    }

    fn check(features: Features, config: &Config, segments: u16) -> Result<Self, InitError> {
        check_capacity(config.capacity)?;
        let segment_len = if features.contains(Features::SIZE_MAX) { config.size_max.min(PART_MAX) } else { PART_MAX };
        let segment_len = segment_len - segment_len % SECTOR_SIZE as u32;
        if segment_len == 0 {
            return Err(InitError::BadConfig { field: "size_max", value: config.size_max.into() });
        }
        let mut block_size = config.blk_size;
        let makes_sense = block_size.is_power_of_two() && (SECTOR_SIZE as u32..=BLOCK_MAX).contains(&block_size);
        if features.contains(Features::BLK_SIZE) && !makes_sense {
            log::warn!("block: a block size of {block_size} makes no sense, taking {SECTOR_SIZE}");
            block_size = 0;
        }
        if features.contains(Features::SEG_MAX) && config.seg_max == 0 {
            log::warn!("block: a limit of 0 segments makes no sense, taking 1");
        }
        let seg_max = if features.contains(Features::SEG_MAX) { config.seg_max.max(1) } else { u32::MAX };
        // Segments are only needed to get over a limit on their size.
        let needed = if segment_len == PART_MAX { 1 } else { segments.max(1) };
        let mut limits = Self {
            features,
            capacity: 0,
            block_size: block_size.max(SECTOR_SIZE as u32),
            segment_len,
            segments: needed.min(u16::try_from(seg_max).unwrap_or(u16::MAX)),
            discard: no_limit_if_zero(config.max_discard_sectors),
            discard_alignment: config.discard_sector_alignment.max(1),
            write_zeroes: no_limit_if_zero(config.max_write_zeroes_sectors),
            may_unmap: config.write_zeroes_may_unmap != 0,
        };
        limits.set_capacity(config.capacity);
        // Cuts are between blocks.
        limits.discard = limits.whole(limits.discard).max(limits.block_sectors());
        limits.write_zeroes = limits.whole(limits.write_zeroes).max(limits.block_sectors());
        if limits.transfer() == 0 {
            return Err(InitError::BadConfig { field: "blk_size", value: limits.block_size.into() });
        }
        Ok(limits)
    }

    /// Takes a capacity; what is no whole block at its end cannot be used.
    pub(super) fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity - capacity % u64::from(self.block_sectors());
    }

    /// Sectors that one ring request transfers at most: whole blocks.
    pub(super) fn transfer(&self) -> u32 {
        let len = u64::from(self.segment_len) * u64::from(self.segments);
        self.whole(len.min(PART_MAX.into()) as u32 / SECTOR_SIZE as u32)
    }

    fn block_sectors(&self) -> u32 {
        self.block_size / SECTOR_SIZE as u32
    }

    fn whole(&self, sectors: u32) -> u32 {
        sectors - sectors % self.block_sectors()
    }
}

/// The capacity, if it can be one.
pub(super) fn check_capacity(capacity: u64) -> Result<u64, InitError> {
    if capacity > CAPACITY_MAX {
        return Err(InitError::BadConfig { field: "capacity", value: capacity });
    }
    Ok(capacity)
}

/// Devices that have no limit say 0.
fn no_limit_if_zero(sectors: u32) -> u32 {
    if sectors == 0 { u32::MAX } else { sectors }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(features: Features, config: Config) -> Result<Limits, InitError> {
        Limits::check(features, &config, 30)
    }

    #[test]
    fn a_segment_size_below_a_sector_is_an_error() {
        for size_max in [0, 1, 511] {
            let config = Config { size_max, ..Config::default() };
            let error = InitError::BadConfig { field: "size_max", value: size_max.into() };
            assert_eq!(check(Features::SIZE_MAX, config), Err(error));
            assert!(check(Features::empty(), config).is_ok(), "not valid without its feature");
        }
    }

    #[test]
    fn a_capacity_without_an_address_is_an_error_and_zero_is_none() {
        let config = Config { capacity: u64::MAX, ..Config::default() };
        assert_eq!(check(Features::empty(), config), Err(InitError::BadConfig { field: "capacity", value: u64::MAX }));
        assert_eq!(check(Features::empty(), Config::default()).unwrap().capacity, 0);
    }

    #[test]
    fn an_impossible_block_size_falls_back_to_a_sector() {
        for (blk_size, taken) in [(0, 512), (1, 512), (256, 512), (4095, 512), (512, 512), (4096, 4096)] {
            let config = Config { blk_size, ..Config::default() };
            assert_eq!(check(Features::BLK_SIZE, config).unwrap().block_size, taken);
        }
    }

    #[test]
    fn zero_segments_fall_back_to_one() {
        let config = Config { seg_max: 0, size_max: 4096, ..Config::default() };
        let limits = check(Features::SEG_MAX | Features::SIZE_MAX, config).unwrap();
        assert_eq!((limits.segments, limits.transfer()), (1, 8));
    }

    #[test]
    fn the_transfer_limit_is_the_product_of_the_segment_limits_in_whole_sectors() {
        let config = Config { seg_max: 3, size_max: 1500, ..Config::default() };
        let limits = check(Features::SEG_MAX | Features::SIZE_MAX, config).unwrap();
        assert_eq!((limits.segment_len, limits.segments, limits.transfer()), (1024, 3, 6));
        assert_eq!(check(Features::empty(), config).unwrap().transfer(), PART_MAX / 512);
    }

    #[test]
    fn range_limits_of_zero_are_no_limits() {
        let limits = check(Features::DISCARD | Features::WRITE_ZEROES, Config::default()).unwrap();
        assert_eq!((limits.discard, limits.write_zeroes, limits.discard_alignment), (u32::MAX, u32::MAX, 1));
    }
}
