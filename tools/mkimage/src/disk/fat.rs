//! The parts of a FAT file system that fatfs does not show: entries of folders and of the table as they are, and where on the
//! disk a file lies. The volume may be anybody's.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

pub(super) const ENTRY: usize = 32;
pub(super) const DELETED: u8 = 0xe5;
pub(super) const ATTRIBUTES: usize = 11;
pub(super) const LONG_NAME: u8 = 0x0f;
pub(super) const FOLDER: u8 = 0x10;

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

/// Bytes of the table that are read at once.
const WINDOW: u64 = 1 << 16;
/// Bytes of the largest folder: its entries are counted with 16 bits (section 6).
const FOLDER_MAX: usize = ENTRY << 16;

/// A volume.
pub(crate) struct Volume<T> {
    pub(super) disk: T,
    pub(super) root: Root,
    /// Clusters have the numbers from 2 to below this.
    pub(super) end: u32,
    fat: Range<u64>,
    /// Bits of an entry of the table.
    bits: u32,
    data: u64,
    cluster_bytes: u64,
    /// A part of the table, and where it starts.
    window: (u64, Vec<u8>),
}

/// The root folder: a place of its own, or a chain of clusters as any other.
#[derive(Clone, Copy)]
pub(super) enum Root {
    Region { start: u64, bytes: usize },
    Cluster(u32),
}

/// Where a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First byte in the volume.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) len: u32,
}

pub(super) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl<T: Read + Seek> Volume<T> {
    /// Looks at the boot sector, whose numbers must agree with each other and the size of the disk.
    pub(crate) fn open(mut disk: T) -> io::Result<Self> {
        let len = disk.seek(SeekFrom::End(0))?;
        let mut bytes = [0; size_of::<BootSector>()];
        disk.seek(SeekFrom::Start(0))?;
        disk.read_exact(&mut bytes)?;
        let boot: BootSector = zerocopy::transmute!(bytes);
        let sector = u64::from(boot.sector_bytes.get());
        let cluster_bytes = sector * u64::from(boot.cluster_sectors);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !boot.cluster_sectors.is_power_of_two() {
            return Err(damaged("its sectors or clusters have an odd size"));
        }
        let is_fat32 = boot.fat_sectors_16.get() == 0;
        let fat_sectors = if is_fat32 { boot.fat_sectors_32.get() } else { boot.fat_sectors_16.get().into() };
        let sectors = if boot.sectors_16 == 0 { boot.sectors_32.get() } else { boot.sectors_16.get().into() };
        let fat = u64::from(boot.reserved_sectors.get()) * sector;
        let fat = fat..fat + u64::from(fat_sectors) * sector;
        let behind_fats = fat.start + u64::from(boot.fats) * (fat.end - fat.start);
        let root_bytes = usize::from(boot.root_entries.get()) * ENTRY;
        let data = behind_fats + (root_bytes as u64).next_multiple_of(sector);
        let volume = u64::from(sectors) * sector;
        if volume > len || data >= volume {
            return Err(damaged(format!("its parts reach to byte {}, it ends at {len}", volume.max(data))));
        }
        let clusters = (volume - data) / cluster_bytes;
        // The number of clusters alone says what kind it is (section 3.5).
        let bits = match clusters {
            0..4085 => 12,
            4085..65_525 => 16,
            65_525..=0x0fff_fff5 => 32,
            _ => return Err(damaged(format!("it has {clusters} clusters"))),
        };
        let fat_bits = (fat.end - fat.start) * 8;
        if boot.fats == 0 || is_fat32 != (bits == 32) || fat_bits < (clusters + 2) * u64::from(bits) {
            return Err(damaged(format!("its table is not one of {clusters} clusters")));
        }
        let root = if is_fat32 {
            Root::Cluster(boot.root_cluster.get())
        } else {
            Root::Region { start: behind_fats, bytes: root_bytes }
        };
        let (end, window) = (clusters as u32 + 2, Default::default());
        Ok(Self { disk, root, end, fat, bits, data, cluster_bytes, window })
    }

    /// The first byte of a cluster.
    pub(crate) fn cluster(&self, number: u32) -> u64 {
        self.data + u64::from(number).saturating_sub(2) * self.cluster_bytes
    }

    /// The first cluster of an entry; 0 if it has none.
    pub(super) fn cluster_of(&self, entry: &[u8]) -> u32 {
        let low = u32::from_le_bytes([entry[26], entry[27], 0, 0]);
        // Something else stood there before FAT32 (section 6).
        if self.bits == 32 { low | u32::from_le_bytes([0, 0, entry[20], entry[21]]) } else { low }
    }

    pub(super) fn clusters_for(&self, bytes: u32) -> u64 {
        u64::from(bytes).div_ceil(self.cluster_bytes)
    }

    pub(super) fn read_root(&mut self) -> io::Result<Vec<u8>> {
        match self.root {
            Root::Cluster(first) => self.read_folder(first),
            Root::Region { start, bytes } => self.read(start, bytes),
        }
    }

    /// The entries of a folder.
    pub(super) fn read_folder(&mut self, first: u32) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut cluster = Some(first);
        while let Some(number) = cluster {
            if content.len() >= FOLDER_MAX {
                return Err(damaged("a folder has more than 65536 entries"));
            }
            cluster = self.next(number)?;
            content.extend(self.read(self.cluster(number), self.cluster_bytes as usize)?);
        }
        Ok(content)
    }

    /// The cluster after one; `None` after the last.
    pub(super) fn next(&mut self, cluster: u32) -> io::Result<Option<u32>> {
        if !(2..self.end).contains(&cluster) {
            return Err(damaged(format!("there is no cluster {cluster}")));
        }
        let bit = u64::from(cluster) * u64::from(self.bits);
        let entry = self.table(self.fat.start + bit / 8)?;
        let entry = match self.bits {
            12 => entry >> (bit % 8) & 0xfff,
            16 => entry & 0xffff,
            _ => entry & 0x0fff_ffff,
        };
        // The last eight values say "end" (section 4).
        let end = (1 << self.bits.min(28)) - 8;
        Ok((entry < end).then_some(entry))
    }

    /// Four bytes of the table, or as many as are left and zeros.
    fn table(&mut self, at: u64) -> io::Result<u32> {
        let (start, bytes) = &self.window;
        let wanted = (self.fat.end - at).min(4);
        if at < *start || at + wanted > start + bytes.len() as u64 {
            self.window = (at, self.read(at, (self.fat.end - at).min(WINDOW) as usize)?);
        }
        let (start, bytes) = &self.window;
        let rest = &bytes[(at - start) as usize..];
        Ok((0..4).fold(0, |word, index| word | u32::from(rest.get(index).copied().unwrap_or(0)) << (8 * index)))
    }

    /// The one piece that a file lies in, by its path in 8.3 names; `None` if it is absent, empty or in several pieces.
    pub(crate) fn extent(&mut self, path: &[&str]) -> io::Result<Option<Extent>> {
        let Some((name, folders)) = path.split_last() else { return Ok(None) };
        let mut content = self.read_root()?;
        for folder in folders {
            let Some(entry) = entry_of(&content, folder) else { return Ok(None) };
            content = self.read_folder(self.cluster_of(entry))?;
        }
        let Some(entry) = entry_of(&content, name) else { return Ok(None) };
        let (first, len) = (self.cluster_of(entry), len_of(entry));
        if len == 0 {
            return Ok(None);
        }
        for cluster in (first..self.end).take(self.clusters_for(len) as usize - 1) {
            if self.next(cluster)? != Some(cluster + 1) {
                return Ok(None);
            }
        }
        Ok(Some(Extent { start: self.cluster(first), len }))
    }

    fn read(&mut self, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; bytes];
        self.disk.seek(SeekFrom::Start(at))?;
        self.disk.read_exact(&mut content)?;
        Ok(content)
    }
}

/// Bytes of a file, by its entry.
pub(super) fn len_of(entry: &[u8]) -> u32 {
    u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]])
}

/// The entry of a folder by its 8.3 name.
fn entry_of<'a>(folder: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let name = format!("{stem:8}{extension:3}").to_ascii_uppercase();
    let mut entries = folder.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0);
    entries.find(|entry| entry[ATTRIBUTES] != LONG_NAME && entry.starts_with(name.as_bytes()))
}
