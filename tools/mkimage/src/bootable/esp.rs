//! The EFI system partition: FAT32, on an ISO image mostly FAT16, with the loader for UEFI, kernel, command line and initrd,
//! and what the user adds.

use super::Content;
use crate::disk::{self, dots};
use crate::{Error, Result};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::StreamSlice;
use shared_abi::disk::{CMDLINE, EFI_LOADER, FOLDER, INITRD, KERNEL, SECTOR};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;

/// Fewer clusters would be FAT16 (FAT specification, 3.5), and a few more make no difference to those who count badly.
const CLUSTERS_MIN: u64 = 65_525 + 16;
/// Reserved sectors of FAT32.
const RESERVED: u64 = 32;
/// Not the name of a folder: some readers find the label when they look for that.
const VOLUME_LABEL: [u8; 11] = *b"RINGSIDEESP";

/// How large the file system is, and its clusters.
pub(crate) struct Shape {
    /// Its size in sectors.
    pub(crate) sectors: u64,
    cluster: u64,
    kind: FatType,
}

impl Shape {
    /// FAT32 of so many bytes, for a disk.
    pub(crate) fn of_disk(bytes: u64) -> Self {
        // The largest clusters up to 4 KiB that are enough of them.
        let fits = |cluster: &u64| bytes / (cluster + 8) >= CLUSTERS_MIN + RESERVED;
        let cluster = [4096, 2048, 1024].into_iter().find(fits).unwrap_or(SECTOR);
        Self { sectors: bytes / SECTOR, cluster, kind: FatType::Fat32 }
    }

    /// One that takes files of so many bytes, for an ISO image: every cluster starts a block, and it is no larger than it
    /// must be, so that it is FAT16 up to 2 GiB.
    ///
    /// Each of the two tables has an even number of sectors and is full, so that what goes before the clusters (one sector,
    /// tables, 31 sectors of the root folder; 8 sectors and tables in FAT32) is a multiple of four sectors.
    pub(crate) fn of_iso(bytes: u64, files: u64) -> Self {
        let tables = |cluster: u64, per_sector: u64| {
            let clusters = bytes.div_ceil(cluster) + 2 * files + 64;
            (clusters + 2).div_ceil(per_sector).next_multiple_of(2)
        };
        let sectors = |before: u64, table: u64, per_sector: u64, cluster: u64| {
            before + 2 * table + (table * per_sector - 2) * (cluster / SECTOR)
        };
        let kind = FatType::Fat16;
        for cluster in (11..=15).map(|shift| 1 << shift) {
            let table = tables(cluster, 256).max(FAT16_TABLE.start);
            if table < FAT16_TABLE.end {
                return Self { sectors: sectors(1 + ROOT_SECTORS, table, 256, cluster), cluster, kind };
            }
        }
        let cluster = 1 << 15;
        let table = tables(cluster, 128).max((CLUSTERS_MIN + 2).div_ceil(128).next_multiple_of(2));
        Self { sectors: sectors(8, table, 128, cluster), cluster, kind: FatType::Fat32 }
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.sectors * SECTOR
    }
}

/// Sectors that a table of FAT16 has, so that the clusters are clearly neither few enough for FAT12 nor enough for FAT32.
const FAT16_TABLE: Range<u64> = 18..256;
/// Sectors of FAT16's root folder.
const ROOT_SECTORS: u64 = 31;
const ROOT_ENTRIES: u16 = ROOT_SECTORS as u16 * 16;

/// The least bytes of FAT32 that takes files of so many bytes.
pub(crate) fn size_for(bytes: u64, files: u64) -> u64 {
    let clusters = (bytes / SECTOR + 2 * files + 64).max(CLUSTERS_MIN);
    // Two tables of four bytes for each cluster.
    (RESERVED + clusters + 2 * (clusters * 4).div_ceil(SECTOR) + 64) * SECTOR
}

/// Makes the file system from byte `start` of a disk on.
pub(crate) fn write<T: Read + Write + Seek>(
    disk: &mut T,
    start: u64,
    shape: &Shape,
    content: &Content<'_>,
) -> Result<()> {
    let end = start + shape.bytes();
    let failed = |why| Error::Compose { what: "the EFI system partition", why };
    let mut slice = StreamSlice::new(&mut *disk, start, end).map_err(failed)?;
    fatfs::format_volume(&mut slice, options(shape, content.volume_id())).map_err(failed)?;
    slice.seek(SeekFrom::Start(0)).map_err(failed)?;
    let volume =
        FileSystem::new(slice, FsOptions::new().time_provider(content.image.time.provider())).map_err(failed)?;
    fill(&volume, content, end)?;
    // Counts the free clusters, which FAT32 keeps on the disk.
    volume.stats().map_err(failed)?;
    volume.unmount().map_err(failed)?;
    dots::repair(StreamSlice::new(disk, start, end).map_err(failed)?).map_err(failed)
}

fn options(shape: &Shape, id: u32) -> FormatVolumeOptions {
    FormatVolumeOptions::new()
        .fat_type(shape.kind)
        .bytes_per_cluster(shape.cluster as u32)
        .max_root_dir_entries(ROOT_ENTRIES)
        .volume_id(id)
        .volume_label(VOLUME_LABEL)
        // The number has 32 bits; `disk::LARGEST` sees to it.
        .total_sectors(shape.sectors as u32)
}

fn fill<T: Read + Write + Seek>(volume: &FileSystem<T>, content: &Content<'_>, size: u64) -> Result<()> {
    let root = volume.root_dir();
    let stored = |path: &str| {
        let path = PathBuf::from(path);
        move |_: io::Error| Error::DiskFull { path, size }
    };
    let mut folder = root.clone();
    for name in &EFI_LOADER[..2] {
        folder = folder.create_dir(name).map_err(stored(name))?;
    }
    root.create_dir(FOLDER).map_err(stored(FOLDER))?;
    let cmdline = format!("{}\n", content.image.cmdline);
    let (kernel, initrd) = (content.kernel.as_slice(), content.image.initrd.as_slice());
    let loader = EFI_LOADER.join("/");
    let of_ours = |name| format!("{FOLDER}/{name}");
    for (path, bytes) in [
        (loader, content.loaders.efi.as_slice()),
        (of_ours(KERNEL), kernel),
        (of_ours(CMDLINE), cmdline.as_bytes()),
        (of_ours(INITRD), initrd),
    ] {
        if bytes.is_empty() {
            continue;
        }
        let mut file = root.create_file(&path).map_err(stored(&path))?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(stored(&path))?;
    }
    match &content.image.files {
        Some(folder) => disk::copy_tree(volume, folder, size),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fat::Volume;
    use crate::iso9660::BLOCK;
    use crate::sparse::Sparse;

    #[test]
    fn every_cluster_of_a_volume_for_an_iso_image_starts_a_block_and_there_are_enough() {
        const MIB: u64 = 1 << 20;
        for (mib, kind) in [
            (0, FatType::Fat16),
            (9, FatType::Fat16),
            (126, FatType::Fat16),
            (127, FatType::Fat16),
            (1000, FatType::Fat16),
            (2023, FatType::Fat16),
            (2024, FatType::Fat32),
            (5000, FatType::Fat32),
            (300_000, FatType::Fat32),
        ] {
            let shape = Shape::of_iso(mib * MIB, 100);
            let mut disk = Sparse::new(shape.bytes());
            fatfs::format_volume(&mut disk, options(&shape, 1)).unwrap();
            let volume = Volume::open(&mut disk).unwrap();
            let first = volume.cluster(2);
            assert!(first.is_multiple_of(BLOCK) && shape.cluster.is_multiple_of(BLOCK), "{mib}: {first}");
            disk.seek(SeekFrom::Start(0)).unwrap();
            let volume = FileSystem::new(disk, FsOptions::new()).unwrap();
            let stats = volume.stats().unwrap();
            assert_eq!(volume.fat_type(), kind, "{mib}");
            assert!(u64::from(stats.free_clusters()) * shape.cluster >= mib * MIB + 200 * shape.cluster, "{mib}");
        }
    }
}
