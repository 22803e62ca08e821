//! What makes a disk a CD: its ISO 9660 file system and its boot catalogue. The image may be anybody's.

use crate::iso9660::{
    BLOCK, BootDescriptor, BootEntry, DescriptorHeader, DirectoryRecord, EL_TORITO, FIRST_DESCRIPTOR, FLAG_DIRECTORY,
    IDENTIFIER, PARENT, PLATFORM_BIOS, PLATFORM_UEFI, PrimaryDescriptor, SELF, SectionHeader, ValidationEntry,
    descriptor,
};
use crate::{Error, Result, medium};
use serde::Serialize;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use zerocopy::FromBytes;

/// Most descriptors that are read; a handful is usual.
const DESCRIPTORS_MAX: u64 = 64;
/// Limits of bytes of a directory, of entries, and of depth: no image of ours comes near.
const DIRECTORY_MAX: u32 = 1 << 20;
const ENTRIES_MAX: usize = 1 << 16;
const DEPTH_MAX: usize = 32;

/// An ISO 9660 file system.
#[derive(Debug, Serialize)]
pub struct IsoReport {
    /// Volume identifier.
    pub label: String,
    /// Volume set identifier.
    pub volume_set: String,
    /// When it was made: year, month, day, hour, minute, second and hundredths as digits.
    pub created: String,
    /// Blocks of 2048 bytes.
    pub blocks: u32,
    /// The boot catalogue.
    pub boot: Vec<BootEntryReport>,
    /// Files with their names of ISO 9660; a folder's ends with a slash.
    pub files: Vec<IsoFileReport>,
}

/// An entry of the boot catalogue.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct BootEntryReport {
    /// "BIOS", "UEFI" or the number.
    pub platform: String,
    /// Whether firmware may boot it.
    pub bootable: bool,
    /// Medium that is emulated, 0: none.
    pub emulation: u8,
    /// Segment that a BIOS loads it to, 0: 0x7c0.
    pub load_segment: u16,
    /// Sectors of 512 bytes that are loaded; of UEFI's, 0: all to the end.
    pub sectors: u16,
    /// First block.
    pub first_block: u32,
}

/// A file.
#[derive(Debug, Serialize)]
pub struct IsoFileReport {
    /// Path in the file system.
    pub path: String,
    /// Bytes.
    pub bytes: u32,
    /// First block.
    pub first_block: u32,
}

fn damaged(what: impl Display) -> Error {
    Error::BadDisk { what: format!("its ISO 9660 file system does not read: {what}") }
}

/// Looks at a file; `None` if it is no ISO image.
pub(super) fn read(file: &mut File) -> Result<Option<IsoReport>> {
    let bytes = medium::bytes(file).map_err(damaged)?;
    let mut image = Image { file, bytes };
    let Ok(first) = image.block(FIRST_DESCRIPTOR) else { return Ok(None) };
    let (header, _) = DescriptorHeader::read_from_prefix(&first).map_err(damaged)?;
    if header.identifier != IDENTIFIER {
        return Ok(None);
    }
    let (mut primary, mut boot) = (None, Vec::new());
    for number in FIRST_DESCRIPTOR.. {
        let block = image.block(number).map_err(damaged)?;
        let (header, _) = DescriptorHeader::read_from_prefix(&block).map_err(damaged)?;
        if header.identifier != IDENTIFIER || number == FIRST_DESCRIPTOR + DESCRIPTORS_MAX {
            return Err(damaged("its volume descriptors do not end"));
        }
        match header.kind {
            descriptor::TERMINATOR => break,
            descriptor::PRIMARY if primary.is_none() => {
                primary = Some(PrimaryDescriptor::read_from_prefix(&block).map_err(damaged)?.0);
            }
            descriptor::BOOT => {
                let (record, _) = BootDescriptor::read_from_prefix(&block).map_err(damaged)?;
                if record.system.starts_with(EL_TORITO) {
                    boot = catalogue(&image.block(record.catalogue.get().into()).map_err(damaged)?)?;
                }
            }
            _ => {}
        }
    }
    let primary = primary.ok_or_else(|| damaged("it has no primary volume descriptor"))?;
    let block_bytes = primary.block_bytes.little.get();
    if u64::from(block_bytes) != BLOCK {
        return Err(damaged(format!("it has blocks of {block_bytes} bytes")));
    }
    let blocks = primary.blocks.little.get();
    if u64::from(blocks) * BLOCK > bytes {
        return Err(damaged(format!("it ends at byte {}, the file at {bytes}", u64::from(blocks) * BLOCK)));
    }
    Ok(Some(IsoReport {
        label: text(&primary.volume),
        volume_set: text(&primary.volume_set),
        created: text(&primary.created[..16]),
        blocks,
        boot,
        files: image.files(&primary.root)?,
    }))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned()
}

struct Image<'a> {
    file: &'a mut File,
    bytes: u64,
}

impl Image<'_> {
    fn block(&mut self, number: u64) -> io::Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.file.seek(SeekFrom::Start(number * BLOCK))?;
        self.file.read_exact(&mut block)?;
        Ok(block)
    }

    fn files(&mut self, root: &DirectoryRecord) -> Result<Vec<IsoFileReport>> {
        let mut files = Vec::new();
        let mut folders = vec![(*root, String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            let content = self.extent(&folder)?;
            for block in content.chunks(BLOCK as usize) {
                for (record, name) in records(block)? {
                    if name == SELF || name == PARENT {
                        continue;
                    }
                    let name = String::from_utf8_lossy(name);
                    let path = format!("{prefix}{}", name.strip_suffix(";1").unwrap_or(&name));
                    let (bytes, first_block) = (record.bytes.little.get(), record.extent.little.get());
                    if u64::from(first_block) * BLOCK + u64::from(bytes) > self.bytes {
                        return Err(damaged(format!("{path:?} lies past its end")));
                    }
                    if record.flags & FLAG_DIRECTORY == 0 {
                        files.push(IsoFileReport { path, bytes, first_block });
                    } else {
                        let path = format!("{path}/");
                        files.push(IsoFileReport { path: path.clone(), bytes: 0, first_block });
                        // A damaged image may have a folder that contains itself.
                        if depth < DEPTH_MAX {
                            folders.push((record, path, depth + 1));
                        }
                    }
                }
            }
            if files.len() > ENTRIES_MAX {
                return Err(damaged(format!("it has more than {ENTRIES_MAX} files")));
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn extent(&mut self, folder: &DirectoryRecord) -> Result<Vec<u8>> {
        let bytes = folder.bytes.little.get();
        if bytes > DIRECTORY_MAX {
            return Err(damaged(format!("a folder has {bytes} bytes")));
        }
        let mut content = vec![0; bytes as usize];
        self.file.seek(SeekFrom::Start(u64::from(folder.extent.little.get()) * BLOCK)).map_err(damaged)?;
        self.file.read_exact(&mut content).map_err(damaged)?;
        Ok(content)
    }
}

/// The records in a block of a directory, with their names.
fn records(mut block: &[u8]) -> Result<Vec<(DirectoryRecord, &[u8])>> {
    let mut records = Vec::new();
    // A record does not cross blocks; 0 where there are no more in this one (6.8.1.1).
    while let Some(len) = block.first().filter(|len| **len != 0) {
        let cut_off = || damaged("a directory record is cut off");
        let (record, rest) = block.split_at_checked((*len).into()).ok_or_else(cut_off)?;
        let (header, names) = DirectoryRecord::read_from_prefix(record).map_err(|_| cut_off())?;
        records.push((header, names.get(..header.name_len.into()).ok_or_else(cut_off)?));
        block = rest;
    }
    Ok(records)
}

/// The entries of a boot catalogue in one block.
fn catalogue(block: &[u8]) -> Result<Vec<BootEntryReport>> {
    let (validation, mut rest) = ValidationEntry::read_from_prefix(block).map_err(damaged)?;
    if validation.header != ValidationEntry::HEADER || validation.key != ValidationEntry::KEY || validation.sum() != 0 {
        return Err(damaged("its boot catalogue is invalid"));
    }
    let mut entries = Vec::new();
    let mut section = Some((validation.platform, 1));
    while let Some((platform, count)) = section.take() {
        for _ in 0..count {
            let (entry, after) =
                BootEntry::read_from_prefix(rest).map_err(|_| damaged("its boot catalogue is long"))?;
            rest = after;
            entries.push(BootEntryReport {
                platform: match platform {
                    PLATFORM_BIOS => "BIOS".into(),
                    PLATFORM_UEFI => "UEFI".into(),
                    other => format!("{other:#04x}"),
                },
                bootable: entry.indicator == BootEntry::BOOTABLE,
                emulation: entry.medium,
                load_segment: entry.segment.get(),
                sectors: entry.sectors.get(),
                first_block: entry.first.get(),
            });
        }
        if let Ok((header, after)) = SectionHeader::read_from_prefix(rest)
            && matches!(header.indicator, SectionHeader::MORE | SectionHeader::LAST)
        {
            section = Some((header.platform, header.entries.get()));
            rest = after;
        }
    }
    Ok(entries)
}

impl Display for IsoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, volume_set, created, blocks, boot, files } = self;
        writeln!(f, "ISO 9660      {label:?}, set {volume_set:?}, made {created}, {blocks} blocks of {BLOCK}")?;
        for entry in boot {
            let BootEntryReport { platform, bootable, emulation, load_segment, sectors, first_block } = entry;
            write!(f, "El Torito     {platform}, ")?;
            if !bootable {
                write!(f, "not bootable, ")?;
            }
            match emulation {
                0 => write!(f, "no emulation")?,
                other => write!(f, "emulation {other}")?,
            }
            if *load_segment != 0 {
                write!(f, ", to segment {load_segment:#x}")?;
            }
            writeln!(f, ", {sectors} sectors from block {first_block}")?;
        }
        for file in files {
            writeln!(f, "  {:>12}  {}, from block {}", file.bytes, file.path.escape_debug(), file.first_block)?;
        }
        Ok(())
    }
}
