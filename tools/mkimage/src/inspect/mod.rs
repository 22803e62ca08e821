//! What is in an image or a disk: `mkimage inspect`.

mod disk;
mod iso;

pub use disk::{BootReport, ContainerReport, DiskReport, FileReport, PartitionKind, PartitionReport, VolumeReport};
pub use iso::{BootEntryReport, IsoFileReport, IsoReport};

use crate::bundle::Bundle;
use crate::disk::{BOOT_SIGNATURE, SECTOR};
use crate::kernel::{self, Kernel, Note};
use crate::medium::{self, Medium};
use crate::{Error, Result};
use object::LittleEndian as LE;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use pvops::table::Op;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

/// Section of the kernel with one record for each patch site: its place (4 bytes), the number of its operation (2 bytes),
/// its length, what it may change. `pvops::site` defines it.
const SITES_SECTION: &str = "pvops_sites";
const SITE_BYTES: usize = size_of::<pvops::site::Site>();

/// What a file is.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Report {
    /// An ELF kernel or image.
    Elf(ElfReport),
    /// A disk with a partition table, an ISO image, or both.
    Disk(DiskReport),
}

/// What an ELF kernel or image holds.
#[derive(Debug, Serialize)]
pub struct ElfReport {
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Entry point of the ELF header.
    pub entry: u64,
    /// Entry point of the PVH protocol.
    pub pvh_entry: Option<u64>,
    /// All notes.
    pub notes: Vec<Note>,
    /// Program headers.
    pub segments: Vec<SegmentReport>,
    /// What mkimage put in; absent from a kernel as linked.
    pub bundle: Option<BundleReport>,
    /// Patch sites by operation; absent from a kernel without.
    pub patch_sites: Option<BTreeMap<String, usize>>,
}

/// A program header.
#[derive(Debug, Serialize)]
pub struct SegmentReport {
    /// LOAD, NOTE or the number.
    pub kind: String,
    /// r, w, x.
    pub flags: String,
    /// Offset in the file.
    pub offset: u64,
    /// Virtual address.
    pub vaddr: u64,
    /// Physical address.
    pub paddr: u64,
    /// Bytes in the file.
    pub file_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
}

/// What a bundle holds.
#[derive(Debug, Serialize)]
pub struct BundleReport {
    /// Physical address.
    pub paddr: u64,
    /// Bytes.
    pub bytes: u64,
    /// Default command line.
    pub cmdline: String,
    /// Bytes of the initrd, 0: none.
    pub initrd_bytes: usize,
    /// Functions with a name.
    pub symbols: usize,
}

/// Looks into a file.
///
/// # Errors
/// When it cannot be read, is neither ELF nor disk, or is damaged.
pub fn inspect(path: &Path) -> Result<Report> {
    let unreadable = |why| Error::Read { path: path.into(), why };
    let Medium { mut file, container } = medium::open(path)?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(SECTOR).read_to_end(&mut start).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    if start.starts_with(&elf::ELFMAG) && container.is_none() {
        drop(file);
        inspect_elf(&kernel::read(path)?).map(Report::Elf)
    } else {
        let iso = iso::read(&mut file)?;
        if iso.is_none() && (start.len() as u64 != SECTOR || !start.ends_with(&BOOT_SIGNATURE)) {
            return Err(Error::Unknown(path.into()));
        }
        let container = container.map(|container| disk::inspect_container(container, path)).transpose()?;
        let report = disk::inspect_disk(&mut file, &start, iso, path)?;
        Ok(Report::Disk(DiskReport { container, ..report }))
    }
}

/// What [`inspect`] reads of a disk, but for digests of all of it: the file system of a CD, and the partitions.
///
/// # Errors
/// When it is damaged.
pub fn structures(file: &mut File) -> Result<(Option<IsoReport>, Vec<PartitionReport>)> {
    let damaged = |why: io::Error| Error::BadDisk { what: why.to_string() };
    let mut start = Vec::new();
    file.rewind().and_then(|()| Read::by_ref(file).take(SECTOR).read_to_end(&mut start)).map_err(damaged)?;
    start.resize(SECTOR as usize, 0);
    let iso = iso::read(file)?;
    let partitions = disk::inspect_partitions(file, &start)?;
    Ok((iso, partitions))
}

fn inspect_elf(data: &[u8]) -> Result<ElfReport> {
    let kernel = Kernel::parse(data)?;
    let pvh_entry = match kernel.pvh_entry() {
        Ok(entry) => Some(entry),
        Err(Error::NoPvhNote) => None,
        Err(error) => return Err(error),
    };
    let bundle = match kernel.slot() {
        Ok(placed) if placed.slot.paddr != 0 => {
            let (paddr, bytes) = (placed.slot.paddr, placed.slot.len);
            let outside = Error::BadBundle { what: "it lies in no segment" };
            let range = kernel.physical_range(paddr, bytes).ok_or(outside)?;
            let bundle = Bundle::parse(&data[range])?;
            let initrd_bytes = bundle.initrd.len();
            Some(BundleReport { paddr, bytes, cmdline: bundle.cmdline, initrd_bytes, symbols: bundle.functions.len() })
        }
        Ok(_) | Err(Error::NoSlot) => None,
        Err(error) => return Err(error),
    };
    let segments = kernel.segments.iter().map(|segment| SegmentReport {
        kind: match segment.p_type(LE) {
            elf::PT_LOAD => "LOAD".into(),
            elf::PT_NOTE => "NOTE".into(),
            elf::PT_GNU_STACK => "STACK".into(),
            other => format!("{:#x}", other.0),
        },
        flags: [(elf::PF_R, 'r'), (elf::PF_W, 'w'), (elf::PF_X, 'x')]
            .map(|(flag, letter)| if segment.p_flags(LE).contains(flag) { letter } else { '-' })
            .iter()
            .collect(),
        offset: segment.p_offset(LE),
        vaddr: segment.p_vaddr(LE),
        paddr: segment.p_paddr(LE),
        file_bytes: segment.p_filesz(LE),
        memory_bytes: segment.p_memsz(LE),
    });
    Ok(ElfReport {
        sha256: hex(&Sha256::digest(data)),
        bytes: data.len() as u64,
        entry: kernel.header.e_entry(LE),
        pvh_entry,
        segments: segments.collect(),
        bundle,
        patch_sites: kernel.section_range(SITES_SECTION)?.map(|range| count_sites(&data[range])),
        notes: kernel.notes,
    })
}

fn count_sites(records: &[u8]) -> BTreeMap<String, usize> {
    let mut sites = BTreeMap::new();
    for record in records.chunks_exact(SITE_BYTES) {
        let number = u16::from_le_bytes([record[4], record[5]]);
        let name = Op::from_number(number).map_or(format!("unknown ({number})"), |op| op.name().into());
        *sites.entry(name).or_insert(0) += 1;
    }
    sites
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(report) => report.fmt(f),
            Self::Disk(report) => report.fmt(f),
        }
    }
}

impl Display for ElfReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "type          ELF kernel{}", if self.bundle.is_some() { " with bundle" } else { "" })?;
        writeln!(f, "bytes         {}", self.bytes)?;
        writeln!(f, "sha256        {}", self.sha256)?;
        writeln!(f, "entry         {:#x}", self.entry)?;
        match self.pvh_entry {
            Some(entry) => writeln!(f, "PVH entry     {entry:#x}")?,
            None => writeln!(f, "PVH entry     none")?,
        }
        for note in &self.notes {
            let Note { owner, kind, name, value, text, len } = note;
            let owner = owner.escape_debug();
            match name {
                Some(name) => write!(f, "note          {owner} {name}: ")?,
                None => write!(f, "note          {owner} {kind}: ")?,
            }
            match (text, value) {
                (Some(text), _) => writeln!(f, "{text:?}")?,
                (None, Some(value)) => writeln!(f, "{value:#x}")?,
                (None, None) => writeln!(f, "{len} bytes")?,
            }
        }
        if let Some(bundle) = &self.bundle {
            writeln!(f, "bundle        {} bytes at {:#x}", bundle.bytes, bundle.paddr)?;
            writeln!(f, "command line  {:?}", bundle.cmdline)?;
            writeln!(f, "initrd        {} bytes", bundle.initrd_bytes)?;
            writeln!(f, "symbols       {}", bundle.symbols)?;
        }
        if let Some(sites) = &self.patch_sites {
            writeln!(f, "patch sites   {}", sites.values().sum::<usize>())?;
            for (name, count) in sites {
                writeln!(f, "  {name:<24} {count:>5}")?;
            }
        }
        writeln!(
            f,
            "\n{:<6} {:<5} {:>10} {:>18} {:>10} {:>10} {:>10}",
            "kind", "flags", "offset", "vaddr", "paddr", "file", "memory"
        )?;
        for segment in &self.segments {
            let SegmentReport { kind, flags, offset, vaddr, paddr, file_bytes, memory_bytes } = segment;
            writeln!(
                f,
                "{kind:<6} {flags:<5} {offset:>#10x} {vaddr:>#18x} {paddr:>#10x} {file_bytes:>#10x} {memory_bytes:>#10x}"
            )?;
        }
        Ok(())
    }
}
