//! What is on a disk, with a GPT or a master boot record: its partitions, the files on FAT, what a loader would start.

use super::{ElfReport, IsoReport, hex};
use crate::bootable::extract::{self, Parts, Volume, damaged};
use crate::container::Container;
use crate::disk::{BOOT_SIGNATURE, PARTITION_TABLE, PartitionEntry, SECTOR};
use crate::{Error, Result, medium, size};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::offset_of;
use std::path::Path;
use zerocopy::FromBytes;

/// The partition that keeps those who do not know GPT off.
const KIND_PROTECTIVE: u8 = 0xee;
const KIND: usize = offset_of!(PartitionEntry, kind);

/// What a disk holds.
#[derive(Debug, Serialize)]
pub struct DiskReport {
    /// What the disk is in, if that is not the file itself.
    pub container: Option<ContainerReport>,
    /// SHA-256 of the disk.
    pub sha256: String,
    /// Bytes of the disk.
    pub bytes: u64,
    /// The file system that makes it a CD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iso: Option<IsoReport>,
    /// The used entries of the partition table.
    pub partitions: Vec<PartitionReport>,
}

/// A disk's file in a format of another hypervisor.
#[derive(Debug, Serialize)]
pub struct ContainerReport {
    /// qcow2, vhdx or vmdk.
    pub format: &'static str,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct PartitionReport {
    /// What its table says about it.
    pub kind: PartitionKind,
    /// First sector.
    pub first_sector: u64,
    /// Sectors.
    pub sectors: u64,
    /// The file system, where it is FAT.
    pub volume: Option<VolumeReport>,
    /// What a loader would start from it.
    pub boot: Option<BootReport>,
}

/// A partition's entry in its table.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PartitionKind {
    /// In a master boot record: the type byte.
    Mbr(u8),
    /// In a GPT.
    Gpt {
        /// Type.
        type_guid: String,
        /// Its own identifier.
        guid: String,
        /// Name.
        name: String,
    },
}

/// What a loader would start.
#[derive(Debug, Serialize)]
pub struct BootReport {
    /// The command line.
    pub cmdline: String,
    /// Bytes of the initrd, if there is one.
    pub initrd_bytes: Option<usize>,
    /// The kernel.
    pub kernel: ElfReport,
}

/// A FAT file system.
#[derive(Debug, Serialize)]
pub struct VolumeReport {
    /// FAT12, FAT16 or FAT32.
    pub kind: String,
    /// Label.
    pub label: String,
    /// Volume id.
    pub id: u32,
    /// Bytes of a cluster.
    pub cluster_bytes: u32,
    /// Bytes free.
    pub free_bytes: u64,
    /// Its files, a folder's name ends with a slash.
    pub files: Vec<FileReport>,
}

/// A file.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Path in the file system.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
}

pub(super) fn inspect_disk(file: &mut File, record: &[u8], iso: Option<IsoReport>, path: &Path) -> Result<DiskReport> {
    let unreadable = |why| Error::Read { path: path.into(), why };
    let bytes = medium::bytes(file).map_err(unreadable)?;
    let partitions = inspect_partitions(file, record)?;
    let sha256 = digest(file).map_err(unreadable)?;
    Ok(DiskReport { container: None, sha256, bytes, iso, partitions })
}

/// The partitions of a disk that starts with `record`.
pub(super) fn inspect_partitions(file: &mut File, record: &[u8]) -> Result<Vec<PartitionReport>> {
    let bytes = medium::bytes(file).map_err(damaged)?;
    let mut partitions = Vec::new();
    // What is only a CD may have anything there.
    let record = if record.ends_with(&BOOT_SIGNATURE) { record } else { &[0; SECTOR as usize] };
    if record[PARTITION_TABLE + KIND] == KIND_PROTECTIVE {
        partitions = inspect_gpt(file)?;
    }
    for entry in record[PARTITION_TABLE..510].chunks_exact(size_of::<PartitionEntry>()) {
        let damaged = |what: String| Error::BadDisk { what };
        let entry = PartitionEntry::read_from_bytes(entry).map_err(|_| damaged("the partition table".into()))?;
        if matches!(entry.kind, 0 | KIND_PROTECTIVE) {
            continue;
        }
        let (first, sectors) = (u64::from(entry.first.get()), u64::from(entry.sectors.get()));
        let end = (first + sectors) * SECTOR;
        if end > bytes {
            return Err(damaged(format!("a partition ends at byte {end}, the disk at {bytes}")));
        }
        let volume = is_fat(entry.kind).then(|| extract::open_volume(file, first * SECTOR, end)).transpose()?;
        let volume = volume.as_ref().map(inspect_volume).transpose()?;
        let kind = PartitionKind::Mbr(entry.kind);
        partitions.push(PartitionReport { kind, first_sector: first, sectors, volume, boot: None });
    }
    Ok(partitions)
}

pub(super) fn inspect_container(container: Container, path: &Path) -> Result<ContainerReport> {
    let unreadable = |why| Error::Read { path: path.into(), why };
    let mut file = File::open(path).map_err(unreadable)?;
    let bytes = medium::bytes(&mut file).map_err(unreadable)?;
    Ok(ContainerReport { format: container.name(), sha256: digest(&mut file).map_err(unreadable)?, bytes })
}

/// SHA-256 of all of a file.
fn digest(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            len => digest.update(&buffer[..len]),
        }
    }
}

fn inspect_gpt(file: &mut File) -> Result<Vec<PartitionReport>> {
    let entries = extract::partitions(file).ok_or_else(|| Error::BadDisk { what: "its GPT does not read".into() })?;
    let mut reports = Vec::new();
    for entry in entries {
        let (start, end) = (entry.first * SECTOR, (entry.last + 1) * SECTOR);
        let (mut volume, mut boot) = (None, None);
        if entry.is_esp() {
            let esp = extract::open_volume(file, start, end)?;
            volume = Some(inspect_volume(&esp)?);
            boot = extract::from_volume(&esp)?.map(inspect_boot).transpose()?;
        }
        let kind = PartitionKind::Gpt { type_guid: entry.kind, guid: entry.guid, name: entry.name };
        let sectors = entry.last - entry.first + 1;
        reports.push(PartitionReport { kind, first_sector: entry.first, sectors, volume, boot });
    }
    Ok(reports)
}

fn inspect_boot(parts: Parts) -> Result<BootReport> {
    let kernel = super::inspect_elf(&parts.kernel)?;
    Ok(BootReport { cmdline: parts.cmdline, initrd_bytes: parts.initrd.map(|initrd| initrd.len()), kernel })
}

fn is_fat(kind: u8) -> bool {
    matches!(kind, 0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e)
}

fn inspect_volume(volume: &Volume<'_>) -> Result<VolumeReport> {
    let free = volume.stats().map_err(damaged)?.free_clusters();
    let mut files = Vec::new();
    let mut folders = vec![(volume.root_dir(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in folder.iter() {
            let entry = entry.map_err(damaged)?;
            let name = entry.file_name();
            // By the short name, as in the check: a long one may be any.
            if entry.is_dir() && matches!(entry.short_file_name_as_bytes(), b"." | b"..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.is_dir() {
                files.push(FileReport { path: format!("{path}/"), bytes: 0 });
                // More is of no use, and paths take memory.
                if depth < 64 {
                    folders.push((entry.to_dir(), format!("{path}/"), depth + 1));
                }
            } else {
                files.push(FileReport { path, bytes: entry.len() });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(VolumeReport {
        kind: format!("{:?}", volume.fat_type()).to_uppercase(),
        label: volume.volume_label(),
        id: volume.volume_id(),
        cluster_bytes: volume.cluster_size(),
        free_bytes: u64::from(free) * u64::from(volume.cluster_size()),
        files,
    })
}

impl Display for DiskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.iso.is_some() { "disk and ISO image" } else { "disk" };
        match &self.container {
            Some(ContainerReport { format, sha256, bytes }) => {
                writeln!(f, "type          {what} in {format}")?;
                writeln!(f, "{format:<14}{bytes} bytes, sha256 {sha256}")?;
            }
            None => writeln!(f, "type          {what}")?,
        }
        writeln!(f, "bytes         {} ({})", self.bytes, size::display(self.bytes))?;
        writeln!(f, "sha256        {}", self.sha256)?;
        if let Some(iso) = &self.iso {
            iso.fmt(f)?;
        }
        for partition in &self.partitions {
            let PartitionReport { kind, first_sector, sectors, volume, boot } = partition;
            write!(f, "partition     ")?;
            match kind {
                PartitionKind::Mbr(kind) => write!(f, "type {kind:#04x}")?,
                PartitionKind::Gpt { type_guid, guid, name } => {
                    write!(f, "{:?}, type {type_guid}, id {guid}", name.as_str())?;
                }
            }
            writeln!(f, ", {sectors} sectors from sector {first_sector}")?;
            let Some(volume) = volume else { continue };
            let VolumeReport { kind, label, id, cluster_bytes, free_bytes, files } = volume;
            writeln!(
                f,
                "  {kind} {:?}, id {id:08x}, clusters of {cluster_bytes}, {free_bytes} bytes free",
                label.trim()
            )?;
            for file in files {
                writeln!(f, "  {:>12}  {}", file.bytes, file.path.escape_debug())?;
            }
            let Some(BootReport { cmdline, initrd_bytes, kernel }) = boot else { continue };
            writeln!(f, "\nboots         command line {cmdline:?}, initrd {} bytes", initrd_bytes.unwrap_or(0))?;
            kernel.fmt(f)?;
        }
        Ok(())
    }
}
