//! Puts `.` and `..` where they belong. fatfs 0.3 gives them long names, so that they are the second and the fourth
//! entry of a folder; the FAT specification (section 6.5) and fsck want them first and second, and in the `..` of a
//! folder in the root the cluster 0, also where the root has a cluster.
//!
//! Runs on a volume that this program has just made, and trusts it.

use std::io::{self, Read, Seek, SeekFrom, Write};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const ENTRY: usize = 32;
const DELETED: u8 = 0xe5;
const ATTRIBUTES: usize = 11;
const LONG_NAME: u8 = 0x0f;
const FOLDER: u8 = 0x10;

/// The start of a FAT boot sector (section 3.1 and, from `fat_sectors_32` on, 3.3).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BootSector {
    jump: [u8; 3],
    oem: [u8; 8],
    sector_bytes: U16,
    cluster_sectors: u8,
    reserved_sectors: U16,
    fats: u8,
    root_entries: U16,
    sectors_16: U16,
    media: u8,
    fat_sectors_16: U16,
    geometry: [u8; 4],
    hidden_sectors: U32,
    sectors_32: U32,
    fat_sectors_32: U32,
    flags: U16,
    version: U16,
    root_cluster: U32,
}

struct Volume<T> {
    disk: T,
    fat: u64,
    is_fat32: bool,
    root: Root,
    data: u64,
    cluster_bytes: u64,
}

enum Root {
    Region { start: u64, bytes: usize },
    Cluster(u32),
}

/// Reorders the first entries of every folder but the root.
pub(crate) fn repair<T: Read + Write + Seek>(disk: T) -> io::Result<()> {
    let mut volume = Volume::open(disk)?;
    let mut folders = folders_in(&volume.read_root()?);
    while let Some(first) = folders.pop() {
        let content = volume.read_chain(first)?;
        folders.extend(folders_in(&content));
        if let Some(mut start) = reordered(&content) {
            if matches!(volume.root, Root::Cluster(root) if root == cluster_of(&start[ENTRY..])) {
                start[ENTRY + 20..ENTRY + 22].fill(0);
                start[ENTRY + 26..ENTRY + 28].fill(0);
            }
            let at = volume.cluster(first);
            volume.disk.seek(SeekFrom::Start(at))?;
            volume.disk.write_all(&start)?;
        }
    }
    volume.disk.flush()
}

/// Clusters of the folders in a folder.
fn folders_in(content: &[u8]) -> Vec<u32> {
    content
        .chunks_exact(ENTRY)
        .take_while(|entry| entry[0] != 0)
        .filter(|entry| entry[0] != DELETED && entry[0] != b'.')
        .filter(|entry| entry[ATTRIBUTES] != LONG_NAME && entry[ATTRIBUTES] & FOLDER != 0)
        .map(cluster_of)
        .collect()
}

fn cluster_of(entry: &[u8]) -> u32 {
    u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]])
}

/// `long name, ., long name, ..` as `., .., deleted, deleted`; `None` if it is in order.
fn reordered(content: &[u8]) -> Option<Vec<u8>> {
    let mut entries: Vec<&[u8]> = content.chunks_exact(ENTRY).take(4).collect();
    if entries.first()?[ATTRIBUTES] != LONG_NAME {
        return None;
    }
    entries.sort_by_key(|entry| entry[ATTRIBUTES] == LONG_NAME);
    let mut start = entries.concat();
    start[2 * ENTRY] = DELETED;
    start[3 * ENTRY] = DELETED;
    Some(start)
}

impl<T: Read + Write + Seek> Volume<T> {
    fn open(mut disk: T) -> io::Result<Self> {
        let mut bytes = [0; size_of::<BootSector>()];
        disk.seek(SeekFrom::Start(0))?;
        disk.read_exact(&mut bytes)?;
        let boot: BootSector = zerocopy::transmute!(bytes);
        let sector = u64::from(boot.sector_bytes.get());
        let is_fat32 = boot.fat_sectors_16.get() == 0;
        let fat_sectors = if is_fat32 { boot.fat_sectors_32.get() } else { boot.fat_sectors_16.get().into() };
        let fat = u64::from(boot.reserved_sectors.get()) * sector;
        let behind_fats = fat + u64::from(boot.fats) * u64::from(fat_sectors) * sector;
        let root_bytes = usize::from(boot.root_entries.get()) * ENTRY;
        let root = if is_fat32 {
            Root::Cluster(boot.root_cluster.get())
        } else {
            Root::Region { start: behind_fats, bytes: root_bytes }
        };
        let data = behind_fats + (root_bytes as u64).next_multiple_of(sector);
        Ok(Self { disk, fat, is_fat32, root, data, cluster_bytes: sector * u64::from(boot.cluster_sectors) })
    }

    fn cluster(&self, number: u32) -> u64 {
        self.data + u64::from(number).saturating_sub(2) * self.cluster_bytes
    }

    fn read_root(&mut self) -> io::Result<Vec<u8>> {
        match self.root {
            Root::Cluster(first) => self.read_chain(first),
            Root::Region { start, bytes } => self.read(start, bytes),
        }
    }

    fn read_chain(&mut self, first: u32) -> io::Result<Vec<u8>> {
        let (width, end) = if self.is_fat32 { (4, 0x0fff_fff8) } else { (2, 0xfff8) };
        let mut content = Vec::new();
        let mut cluster = first;
        while (2..end).contains(&cluster) {
            content.extend(self.read(self.cluster(cluster), self.cluster_bytes as usize)?);
            let mut next = self.read(self.fat + u64::from(cluster) * width, width as usize)?;
            next.resize(4, 0);
            cluster = u32::from_le_bytes([next[0], next[1], next[2], next[3]]) & 0x0fff_ffff;
        }
        Ok(content)
    }

    fn read(&mut self, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; bytes];
        self.disk.seek(SeekFrom::Start(at))?;
        self.disk.read_exact(&mut content)?;
        Ok(content)
    }
}
