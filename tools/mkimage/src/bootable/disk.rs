//! The `disk` format: GPT, protective MBR with the start of the BIOS loader, BIOS boot partition, EFI system partition.
//! The map is in [`shared_abi::disk`].

use super::Content;
use super::esp::{self, Shape};
use crate::iso9660::BLOCK;
use crate::sparse::Sparse;
use crate::{Error, Result, size};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::{PartRecord, ProtectiveMBR};
use gpt::partition::Partition;
use gpt::{GptConfig, partition_types};
use shared_abi::disk::{BIOS_FIRST, BIOS_FIRST_PART, BiosParameters, ESP_FIRST, SECTOR};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

/// Sectors of the GPT's copy at the end: the header, and 128 entries of 128 bytes.
const GPT_COPY: u64 = 33;
/// The default size, if all fits.
const DEFAULT_SIZE: u64 = 64 << 20;
const ALIGN: u64 = 1 << 20;
/// fatfs counts the bits of an allocation table in 32 bits, which is enough for 2^27 clusters of 4 KiB.
const LARGEST: u64 = 512 << 30;

/// The least size for a file system.
pub(super) fn least(shape: &Shape) -> u64 {
    (ESP_FIRST * SECTOR + shape.bytes() + GPT_COPY * SECTOR).next_multiple_of(ALIGN)
}

/// Makes the disk, for a device with so many bytes or for a file. On a larger device the partitions are where they would be
/// in a file, and only the table's copy is at the device's end (UEFI 2.10, 5.3.1).
pub(super) fn compose(content: &Content<'_>, device: Option<u64>) -> Result<Sparse> {
    let (bytes, files) = content.weight()?;
    let least = least(&Shape::of_disk(esp::size_for(bytes, files)));
    let bytes = content.image.size.unwrap_or(least.max(DEFAULT_SIZE));
    let range =
        || format!("with these files between {} and {} are possible", size::display(least), size::display(LARGEST));
    if bytes < least {
        return Err(Error::DiskSize { size: bytes, how: "small", range: range() });
    }
    if bytes > LARGEST {
        return Err(Error::DiskSize { size: bytes, how: "large", range: range() });
    }
    let bytes = bytes.next_multiple_of(SECTOR);
    // A partition ends on a whole MiB, as it starts.
    let esp_end = (bytes - GPT_COPY * SECTOR) / ALIGN * ALIGN;
    lay_out(content, room(device, bytes)?, &Shape::of_disk(esp_end - ESP_FIRST * SECTOR))
}

/// The bytes of all of a medium for so many bytes: as many in a file, all that a device has.
pub(super) fn room(device: Option<u64>, bytes: u64) -> Result<u64> {
    let has = device.unwrap_or(bytes) / SECTOR * SECTOR;
    if has < bytes { Err(Error::DeviceTooSmall { has, needs: bytes }) } else { Ok(has) }
}

/// Sectors of a CD's block.
pub(super) const BLOCK_SECTORS: u64 = BLOCK / SECTOR;

/// What a disk and an ISO image have in common: all but the latter's own file system.
pub(super) fn lay_out(content: &Content<'_>, bytes: u64, shape: &Shape) -> Result<Sparse> {
    let mut disk = Sparse::new(bytes);
    let loader = &content.loaders.bios;
    if loader.len() as u64 > (ESP_FIRST - BIOS_FIRST) * SECTOR {
        return Err(Error::BadBundle { what: "the BIOS loader is larger than its partition" });
    }
    let sectors = loader.len() as u64 / SECTOR;
    let from_cd = BiosParameters {
        rest_first: BIOS_FIRST / BLOCK_SECTORS + 1,
        rest_sectors: sectors.saturating_sub(BLOCK_SECTORS).next_multiple_of(BLOCK_SECTORS) as u32,
        block_shift: BLOCK.ilog2(),
        volume_first: ESP_FIRST,
        volume_sectors: shape.sectors,
        ..BiosParameters::default()
    };
    let from_disk = BiosParameters {
        rest_first: BIOS_FIRST + 1,
        rest_sectors: (sectors - 1) as u32,
        block_shift: SECTOR.ilog2(),
        ..from_cd
    };
    let failed = |why| Error::Compose { what: "the partition table", why };
    // Around the partitions nothing may be left of what a device had before: no other table, no mark of a file system.
    let esp_end = ESP_FIRST * SECTOR + shape.bytes();
    clear(&mut disk, 0..ESP_FIRST * SECTOR).map_err(failed)?;
    clear(&mut disk, esp_end.max(bytes.saturating_sub(ALIGN))..bytes).map_err(failed)?;
    let mbr = protective_mbr(&content.loaders.bios_for(from_disk), bytes / SECTOR);
    mbr.overwrite_lba0(&mut disk).map_err(|error| failed(io::Error::other(error)))?;
    write_table(&mut disk, content, ESP_FIRST + shape.sectors - 1).map_err(failed)?;
    disk.seek(SeekFrom::Start(BIOS_FIRST * SECTOR)).map_err(failed)?;
    disk.write_all(&content.loaders.bios_for(from_cd)).map_err(failed)?;
    esp::write(&mut disk, ESP_FIRST * SECTOR, shape, content)?;
    Ok(disk)
}

fn clear(disk: &mut Sparse, range: Range<u64>) -> io::Result<()> {
    disk.seek(SeekFrom::Start(range.start))?;
    io::copy(&mut io::repeat(0).take(range.end - range.start), disk).map(drop)
}

/// One partition of type 0xee over all of the disk (UEFI 2.10, 5.2.3), and code before it.
fn protective_mbr(bios: &[u8], sectors: u64) -> ProtectiveMBR {
    let mut mbr = ProtectiveMBR::new();
    let mut code = [0; BIOS_FIRST_PART];
    code.copy_from_slice(&bios[..BIOS_FIRST_PART]);
    mbr.set_bootcode(code);
    mbr.set_partition(0, PartRecord::new_protective(Some(u32::try_from(sectors - 1).unwrap_or(u32::MAX))));
    mbr
}

fn write_table(disk: &mut Sparse, content: &Content<'_>, esp_last: u64) -> io::Result<()> {
    let partition = |name: &str, kind, first_lba, last_lba| Partition {
        part_type_guid: kind,
        part_guid: content.guid(name),
        first_lba,
        last_lba,
        flags: 0,
        name: name.to_owned(),
    };
    let partitions = BTreeMap::from([
        (1, partition("BIOS loader", partition_types::BIOS, BIOS_FIRST, ESP_FIRST - 1)),
        (2, partition("EFI system", partition_types::EFI, ESP_FIRST, esp_last)),
    ]);
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(disk, Some(content.guid("disk"))).map_err(io::Error::other)?;
    table.update_partitions(partitions).map_err(io::Error::other)?;
    table.write().map_err(io::Error::other)?;
    Ok(())
}
