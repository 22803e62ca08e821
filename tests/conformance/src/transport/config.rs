//! The configuration space of a device.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::transport::{Bus, each},
    crate::support::{equal, skip},
    alloc::format,
    code::*,
};

/// The checks of a bus.
macro_rules! of {
    ($group:literal, $bus:expr) => {
        checks![
            Check {
                name: concat!($group, "/config-is-stable"),
                rule: "Configuration does not change while its generation stays",
                clause: "4.1.4.3.1 Device Requirements: Common configuration structure layout; 4.2.2.1 Device Requirements: MMIO \
            Device Register Layout",
                method: "Read all of it twice between two reads of the generation",
                expectation: "Equal when the generation is",
                run: |cx| each(cx, $bus, |target| {
                    let _dev = Dev::with_features(target, 0)?;
                    let (first, before) = config(target);
                    let (second, after) = config(target);
                    if first != second {
                        return Err(skip("the configuration changed meanwhile"));
                    }
                    equal("configuration", before, after)
                }),
            },
            Check {
                name: concat!($group, "/config-reads-alike-by-width"),
                rule: "Fields can be read byte by byte, which no driver does",
                clause: "4.2.2.2 Driver Requirements: MMIO Device Register Layout; 4.1.3.1 Driver Requirements: PCI \
            Device Layout",
                method: "Compare 32-bit reads of the first 8 bytes with 8-bit and 16-bit reads",
                expectation: "The same bytes",
                level: Should,
                run: |cx| each(cx, $bus, |target| {
                    let _dev = Dev::with_features(target, 0)?;
                    let regs = &target.regs;
                    for at in (0..config_len(target).min(8)).step_by(4) {
                        let word = regs.config_read(at, 4);
                        let bytes = (0..4).fold(0, |word, n| word | regs.config_read(at + n, 1) << (8 * n));
                        let halves = regs.config_read(at, 2) | regs.config_read(at + 2, 2) << 16;
                        equal(&format!("bytes of the configuration at {at}"), word, bytes)?;
                        equal(&format!("halves of the configuration at {at}"), word, halves)?;
                    }
                    Ok(())
                }),
            },
            Check {
                name: concat!($group, "/config-before-features-ok-is-readable"),
                rule: "A driver may read any field of what is offered before it sets FEATURES_OK",
                clause: "2.5.2 Device Requirements: Device Configuration Space",
                method: "Read the fields after DRIVER, then after FEATURES_OK with their features accepted",
                expectation: "Equal while the generation stays",
                run: |cx| each(cx, $bus, |target| {
                    let dev = Dev::new(target)?;
                    let fields = fields(target, dev.offered);
                    let (generation, before) = read(target, &fields);
                    drop(dev);
                    let _dev = Dev::with_features(target, fields.iter().fold(0, |all, field| all | field.features))?;
                    let (now, after) = read(target, &fields);
                    let differs = (0..fields.len()).find(|&n| before[n] != after[n]).filter(|_| generation == now);
                    let Some(n) = differs else { return Ok(()) };
                    equal(&format!("the configuration at {}", fields[n].at), after[n], before[n])
                }),
            },
        ]
    };
}

/// On virtio-mmio.
pub(crate) const MMIO: &[Check] = of!("mmio", Bus::Mmio);
/// On virtio-pci.
pub(crate) const PCI: &[Check] = of!("pci", Bus::Pci);

#[cfg(feature = "guest")]
mod code {
    use crate::support::device::Target;
    use alloc::vec::Vec;
    use core::mem::offset_of;
    use shared_abi::virtio::{DeviceType, blk, console, net};

    /// A field of a configuration.
    pub struct Field {
        /// With these features offered it is there.
        pub features: u64,
        pub at: usize,
        len: usize,
    }

    /// Features, and the fields that depend on them: from an offset on, of these lengths.
    type Fields = (u64, usize, &'static [usize]);

    const BLOCK: [Fields; 10] = [
        (0, 0, &[4, 4]),
        (blk::Features::SIZE_MAX.bits(), offset_of!(blk::Config, size_max), &[4]),
        (blk::Features::SEG_MAX.bits(), offset_of!(blk::Config, seg_max), &[4]),
        (blk::Features::GEOMETRY.bits(), offset_of!(blk::Config, cylinders), &[2, 1, 1]),
        (blk::Features::BLK_SIZE.bits(), offset_of!(blk::Config, blk_size), &[4]),
        (blk::Features::TOPOLOGY.bits(), offset_of!(blk::Config, physical_block_exp), &[1, 1, 2, 4]),
        // The cache mode depends on what is accepted.
        (blk::Features::MQ.bits(), offset_of!(blk::Config, num_queues), &[2]),
        (blk::Features::DISCARD.bits(), offset_of!(blk::Config, max_discard_sectors), &[4, 4, 4]),
        (blk::Features::WRITE_ZEROES.bits(), offset_of!(blk::Config, max_write_zeroes_sectors), &[4, 4, 1]),
        (blk::Features::SECURE_ERASE.bits(), offset_of!(blk::Config, max_secure_erase_sectors), &[4, 4, 4]),
    ];
    const NET: [Fields; 4] = [
        (net::Features::MAC.bits(), 0, &[1; 6]),
        (net::Features::STATUS.bits(), offset_of!(net::Config, status), &[2]),
        (net::Features::MQ.union(net::Features::CTRL_VQ).bits(), offset_of!(net::Config, max_virtqueue_pairs), &[2]),
        (net::Features::MTU.bits(), offset_of!(net::Config, mtu), &[2]),
    ];
    const CONSOLE: [Fields; 2] = [
        (console::Features::SIZE.bits(), 0, &[2, 2]),
        (console::Features::MULTIPORT.bits(), offset_of!(console::Config, max_nr_ports), &[4]),
    ];
    const BALLOON: [Fields; 1] = [(0, 0, &[4, 4])];

    /// The fields of a device that offers these features.
    pub fn fields(target: &Target, offered: u64) -> Vec<Field> {
        let known: &[Fields] = match target.device_type {
            DeviceType::BLOCK => &BLOCK,
            DeviceType::NET => &NET,
            DeviceType::CONSOLE => &CONSOLE,
            DeviceType::BALLOON => &BALLOON,
            _ => &[],
        };
        let mut fields = Vec::new();
        for &(features, start, lens) in known.iter().filter(|(features, ..)| offered & features == *features) {
            let mut at = start;
            for &len in lens {
                fields.push(Field { features, at, len });
                at += len;
            }
        }
        fields.retain(|field| field.at + field.len <= target.regs.config_len());
        fields
    }

    /// The generation, and what stands in fields.
    pub fn read(target: &Target, fields: &[Field]) -> (u32, Vec<u32>) {
        let generation = target.regs.config_generation();
        (generation, fields.iter().map(|field| target.regs.config_read(field.at, field.len)).collect())
    }

    /// Bytes of the configuration that a type of device has for certain.
    pub fn config_len(target: &Target) -> usize {
        let known = match target.device_type {
            DeviceType::BLOCK => core::mem::offset_of!(blk::Config, num_queues),
            DeviceType::NET => core::mem::offset_of!(net::Config, status),
            DeviceType::BALLOON => 8,
            _ => 0,
        };
        known.min(target.regs.config_len()) & !3
    }

    pub fn config(target: &Target) -> (u32, Vec<u32>) {
        let generation = target.regs.config_generation();
        (generation, (0..config_len(target)).step_by(4).map(|at| target.regs.config_read(at, 4)).collect())
    }
}
