//! The EFI system partition: FAT32 with the loader for UEFI, kernel, command line and initrd, and what the user adds.

use super::Content;
use crate::disk::{self, dots};
use crate::{Error, Result};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::StreamSlice;
use shared_abi::disk::{CMDLINE, EFI_LOADER, FOLDER, INITRD, KERNEL, SECTOR};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// Fewer clusters would be FAT16 (FAT specification, 3.5), and a few more make no difference to those who count badly.
const CLUSTERS_MIN: u64 = 65_525 + 16;
/// Reserved sectors of FAT32.
const RESERVED: u64 = 32;
/// Not the name of a folder: some readers find the label when they look for that.
const VOLUME_LABEL: [u8; 11] = *b"RINGSIDEESP";

/// The least bytes of a partition that takes files of so many bytes.
pub(crate) fn size_for(bytes: u64, files: u64) -> u64 {
    let clusters = (bytes / SECTOR + 2 * files + 64).max(CLUSTERS_MIN);
    // Two tables of four bytes for each cluster.
    (RESERVED + clusters + 2 * (clusters * 4).div_ceil(SECTOR) + 64) * SECTOR
}

/// Makes the file system in `start..end` of a disk.
pub(crate) fn write<T: Read + Write + Seek>(disk: &mut T, start: u64, end: u64, content: &Content<'_>) -> Result<()> {
    let size = end - start;
    let failed = |source| Error::Compose { what: "the EFI system partition", source };
    let mut slice = StreamSlice::new(&mut *disk, start, end).map_err(failed)?;
    fatfs::format_volume(&mut slice, options(size, content)).map_err(failed)?;
    slice.seek(SeekFrom::Start(0)).map_err(failed)?;
    let volume =
        FileSystem::new(slice, FsOptions::new().time_provider(content.image.time.provider())).map_err(failed)?;
    fill(&volume, content, end)?;
    // Counts the free clusters, which FAT32 keeps on the disk.
    volume.stats().map_err(failed)?;
    volume.unmount().map_err(failed)?;
    dots::repair(StreamSlice::new(disk, start, end).map_err(failed)?).map_err(failed)
}

fn options(size: u64, content: &Content<'_>) -> FormatVolumeOptions {
    // The largest clusters up to 4 KiB that are enough of them.
    let fits = |cluster: &u64| size / (cluster + 8) >= CLUSTERS_MIN + RESERVED;
    let cluster = [4096, 2048, 1024].into_iter().find(fits).unwrap_or(SECTOR);
    FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(cluster as u32)
        .volume_id(content.volume_id())
        .volume_label(VOLUME_LABEL)
        // The number has 32 bits; `disk::LARGEST` sees to it.
        .total_sectors((size / SECTOR) as u32)
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
