//! The `disk` format: GPT, protective MBR with the start of the BIOS loader, BIOS boot partition, EFI system partition.
//! The map is in [`shared_abi::disk`].

use super::{Content, esp};
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
/// The size that a user gets who asks for none, if all fits.
const DEFAULT_SIZE: u64 = 64 << 20;
const ALIGN: u64 = 1 << 20;
/// fatfs counts the bits of an allocation table in 32 bits, which is enough for 2^27 clusters of 4 KiB.
const LARGEST: u64 = 512 << 30;

/// The least size for the content.
fn least(content: &Content<'_>) -> Result<u64> {
    let (bytes, files) = content.weight()?;
    Ok((ESP_FIRST * SECTOR + esp::size_for(bytes, files) + GPT_COPY * SECTOR).next_multiple_of(ALIGN))
}

/// Makes the disk, for a device with so many bytes or for a file. On a larger device the partitions are where they would be
/// in a file, and only the table's copy is at the device's end (UEFI 2.10, 5.3.1).
pub(crate) fn compose(content: &Content<'_>, device: Option<u64>) -> Result<Sparse> {
    let least = least(content)?;
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
    let all = device.unwrap_or(bytes) / SECTOR * SECTOR;
    if all < bytes {
        return Err(Error::DeviceTooSmall { has: all, needs: bytes });
    }
    let mut disk = Sparse::new(all);
    // A partition ends on a whole MiB, as it starts.
    let esp_end = (bytes - GPT_COPY * SECTOR) / ALIGN * ALIGN;
    let sectors = all / SECTOR;
    let esp_last = esp_end / SECTOR - 1;

    let bios = content.loaders.bios_for(BiosParameters {
        rest_first: BIOS_FIRST,
        rest_sectors: (content.loaders.bios.len() as u64 / SECTOR - 1) as u32,
        block_shift: SECTOR.ilog2(),
        volume_first: ESP_FIRST,
        volume_sectors: esp_last + 1 - ESP_FIRST,
        ..BiosParameters::default()
    });
    if bios.len() as u64 - SECTOR > (ESP_FIRST - BIOS_FIRST) * SECTOR {
        return Err(Error::BadBundle { what: "the BIOS loader is larger than its partition" });
    }
    let failed = |source| Error::Compose { what: "the partition table", source };
    // Around the partitions nothing may be left of what a device had before: no other table, no mark of a file system.
    clear(&mut disk, 0..ESP_FIRST * SECTOR).map_err(failed)?;
    clear(&mut disk, esp_end.max(all.saturating_sub(ALIGN))..all).map_err(failed)?;
    protective_mbr(&bios, sectors).overwrite_lba0(&mut disk).map_err(|error| failed(io::Error::other(error)))?;
    write_table(&mut disk, content, esp_last).map_err(failed)?;
    disk.seek(SeekFrom::Start(BIOS_FIRST * SECTOR)).map_err(failed)?;
    disk.write_all(&bios[SECTOR as usize..]).map_err(failed)?;
    esp::write(&mut disk, ESP_FIRST * SECTOR, esp_end, content)?;
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
