//! A kernel ELF, checked: what `image` rewrites and `inspect` shows.
//!
//! Trusts nothing in the file; every range that it hands out lies inside.

use crate::bundle::{Function, NAMES_MAX};
use crate::{Error, Result, size};
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym};
use object::{LittleEndian as LE, SectionIndex};
use shared_abi::bundle::{KERNEL_VIRTUAL_BASE, SLOT_MAGIC, SLOT_SECTION, Slot, VERSION};
use shared_abi::pvh;
use shared_abi::xen::note;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;
use zerocopy::FromBytes;

/// Bytes of the largest file that is taken for a kernel: one with the largest initrd in it.
const LARGEST: u64 = crate::initrd::LARGEST + (256 << 20);
/// Bytes of the largest note segment: what is in one is a few numbers and names.
const NOTES_MAX: u64 = 1 << 20;

/// Reads a kernel's file.
///
/// # Errors
/// When it cannot be read, is no file, or is larger than any kernel.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |why| Error::Read { path: path.into(), why };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(Error::OddFile(path.into()));
    }
    let too_large = |bytes| Error::InputTooLarge { path: path.into(), bytes, most: size::display(LARGEST) };
    if metadata.len() > LARGEST {
        return Err(too_large(metadata.len()));
    }
    let mut data = Vec::new();
    // It may grow meanwhile.
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut data)).map_err(unreadable)?;
    if data.len() as u64 > LARGEST { Err(too_large(data.len() as u64)) } else { Ok(data) }
}

/// Header of a 64-bit little-endian file.
pub type Header = FileHeader64<LE>;
/// A segment.
pub type Segment = ProgramHeader64<LE>;
/// A section.
pub type Section = SectionHeader64<LE>;

/// An ELF note.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// The owner that defines the type.
    pub owner: String,
    /// The type.
    pub kind: u32,
    /// The type's name, where the owner is Xen.
    pub name: Option<&'static str>,
    /// The descriptor as a number, where it has 4 or 8 bytes.
    pub value: Option<u64>,
    /// The descriptor as text, where it is text that ends with NUL.
    pub text: Option<String>,
    /// Length of the descriptor.
    pub len: usize,
}

/// The slot for the bundle, and where in the file it is.
#[derive(Clone, Copy, Debug)]
pub struct PlacedSlot {
    /// As it is in the file.
    pub slot: Slot,
    /// Offset in the file.
    pub offset: usize,
}

/// A kernel file that has been looked through.
#[derive(Debug)]
pub struct Kernel<'data> {
    /// The whole file.
    pub data: &'data [u8],
    /// Its header.
    pub header: &'data Header,
    /// Its program headers.
    pub segments: &'data [Segment],
    /// All notes of all note segments.
    pub notes: Vec<Note>,
    sections: SectionTable<'data, Header>,
}

impl<'data> Kernel<'data> {
    /// Looks through an ELF file for x86-64.
    ///
    /// # Errors
    /// When it is not one, or when a part of it lies outside the file.
    pub fn parse(data: &'data [u8]) -> Result<Self> {
        let Some(ident) = data.get(..20).filter(|start| start.starts_with(&elf::ELFMAG)) else {
            return Err(Error::NotElf);
        };
        let machine = u16::from_le_bytes([ident[18], ident[19]]);
        let (class, encoding) = (ident[4], ident[5]);
        if (class, encoding, machine) != (elf::ELFCLASS64.0, elf::ELFDATA2LSB.0, elf::EM_X86_64.0) {
            let found = format!("an ELF file of class {class}, encoding {encoding}, machine {machine}");
            return Err(Error::OtherMachine { found });
        }
        let header = Header::parse(data).map_err(damaged("the file header"))?;
        let segments = header.program_headers(LE, data).map_err(damaged("the program headers"))?;
        for (index, segment) in segments.iter().enumerate() {
            check_segment(data, index, segment)?;
        }
        let sections = header.sections(LE, data).map_err(damaged("the section headers"))?;
        let notes = read_notes(data, segments)?;
        Ok(Self { data, header, segments, notes, sections })
    }

    /// The segments that a loader puts into memory.
    pub fn loads(&self) -> impl Iterator<Item = &'data Segment> + use<'data> {
        self.segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD)
    }

    /// The 32-bit physical entry of the PVH protocol.
    ///
    /// # Errors
    /// [`Error::NoPvhNote`], [`Error::EntryOutside`].
    pub fn pvh_entry(&self) -> Result<u64> {
        let is_entry = |note: &&Note| note.owner == "Xen" && note.kind == pvh::NOTE_PHYS32_ENTRY;
        let entry = self.notes.iter().find(is_entry).and_then(|note| note.value).ok_or(Error::NoPvhNote)?;
        let holds_entry = |load: &Segment| {
            load.p_flags(LE).contains(elf::PF_X)
                && entry.checked_sub(load.p_paddr(LE)).is_some_and(|offset| offset < load.p_filesz(LE))
        };
        if !self.loads().any(holds_entry) || u32::try_from(entry).is_err() {
            return Err(Error::EntryOutside { entry });
        }
        Ok(entry)
    }

    /// The first physical address after all segments.
    ///
    /// # Errors
    /// [`Error::NothingToLoad`].
    pub fn physical_end(&self) -> Result<u64> {
        let end = |load: &Segment| load.p_paddr(LE) + load.p_memsz(LE);
        self.loads().map(end).max().ok_or(Error::NothingToLoad)
    }

    /// The sections that are part of the loaded kernel, with their names.
    ///
    /// # Errors
    /// When a name lies outside the string table.
    pub fn loaded_sections(&self) -> Result<Vec<(&'data str, &'data Section)>> {
        let mut found = Vec::new();
        for section in self.sections.iter().filter(|section| section.sh_flags(LE).contains(elf::SHF_ALLOC)) {
            let name = self.sections.section_name(LE, section).map_err(damaged("a section name"))?;
            let name = str::from_utf8(name).map_err(|error| bad(format!("a section name: {error}")))?;
            found.push((name, section));
        }
        Ok(found)
    }

    /// The file range of a section of that name.
    ///
    /// # Errors
    /// When it lies outside the file.
    pub fn section_range(&self, name: &str) -> Result<Option<Range<usize>>> {
        let Some((_, section)) = self.sections.section_by_name(LE, name.as_bytes()) else { return Ok(None) };
        let Some((offset, size)) = section.file_range(LE) else { return Ok(None) };
        file_range(self.data, offset, size)
            .map(Some)
            .ok_or_else(|| bad(format!("section {name} lies outside the file")))
    }

    /// The slot that takes the bundle.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::BadSlot`].
    pub fn slot(&self) -> Result<PlacedSlot> {
        let unusable = |what: String| Error::BadSlot { what };
        let range = self.section_range(SLOT_SECTION)?.ok_or(Error::NoSlot)?;
        // An image keeps only sections that are loaded: this one would be gone from it.
        let section = self.sections.section_by_name(LE, SLOT_SECTION.as_bytes());
        if !section.is_some_and(|(_, section)| section.sh_flags(LE).contains(elf::SHF_ALLOC)) {
            return Err(unusable("its section is not one that is loaded".into()));
        }
        let slot = Slot::read_from_bytes(&self.data[range.clone()])
            .map_err(|_| unusable(format!("it has {} bytes, not {}", range.len(), size_of::<Slot>())))?;
        if slot.magic != SLOT_MAGIC {
            return Err(unusable("it does not start with its magic".into()));
        }
        if slot.version != VERSION {
            return Err(unusable(format!("it has version {}, this mkimage writes {VERSION}", slot.version)));
        }
        Ok(PlacedSlot { slot, offset: range.start })
    }

    /// The file range that is loaded at these physical addresses.
    pub fn physical_range(&self, paddr: u64, len: u64) -> Option<Range<usize>> {
        self.loads().find_map(|load| {
            let start = paddr.checked_sub(load.p_paddr(LE))?;
            let end = start.checked_add(len)?;
            (end <= load.p_filesz(LE)).then(|| file_range(self.data, load.p_offset(LE) + start, len))?
        })
    }

    /// The named code of the kernel, demangled, ascending, one name for an address.
    ///
    /// # Errors
    /// When the symbol table lies outside the file.
    pub fn functions(&self) -> Result<Vec<Function>> {
        let symbols = self.sections.symbols(LE, self.data, elf::SHT_SYMTAB).map_err(damaged("the symbol table"))?;
        let (mut found, mut total) = (BTreeMap::new(), 0);
        for symbol in symbols.iter() {
            let kind = symbol.st_type();
            if kind != elf::STT_FUNC && !(kind == elf::STT_NOTYPE && self.is_code(symbol.st_shndx(LE).0)) {
                continue;
            }
            let Some(address) = symbol.st_value(LE).checked_sub(KERNEL_VIRTUAL_BASE) else { continue };
            let Ok(address) = u32::try_from(address) else { continue };
            let name = symbols.symbol_name(LE, symbol).map_err(damaged("a symbol name"))?;
            // Many may name one place.
            total += name.len();
            if total > NAMES_MAX {
                return Err(bad("its symbols' names are longer than 64 MiB together".into()));
            }
            let name = String::from_utf8_lossy(name);
            if name.is_empty() || name.starts_with(".L") {
                continue;
            }
            let name = format!("{:#}", rustc_demangle::demangle(&name));
            // A function beats a label at the same address; then the first in byte order, so that order never matters.
            let rank = (kind != elf::STT_FUNC, name);
            let best = found.entry(address).or_insert_with(|| rank.clone());
            if rank < *best {
                *best = rank;
            }
        }
        Ok(found.into_iter().map(|(address, (_, name))| Function { address, name }).collect())
    }

    fn is_code(&self, section: u16) -> bool {
        let section = self.sections.section(SectionIndex(section.into()));
        section.is_ok_and(|section| section.sh_flags(LE).contains(elf::SHF_EXECINSTR))
    }
}

/// `offset..offset + len` if that lies in `data`.
pub(crate) fn file_range(data: &[u8], offset: u64, len: u64) -> Option<Range<usize>> {
    let end = offset.checked_add(len)?;
    (end <= data.len() as u64).then_some(offset as usize..end as usize)
}

fn check_segment(data: &[u8], index: usize, segment: &Segment) -> Result<()> {
    let (offset, filesz) = (segment.p_offset(LE), segment.p_filesz(LE));
    if file_range(data, offset, filesz).is_none() {
        return Err(bad(format!(
            "segment {index} has {filesz:#x} bytes at {offset:#x}, the file ends at {:#x}",
            data.len()
        )));
    }
    if segment.p_type(LE) != elf::PT_LOAD {
        return Ok(());
    }
    let (paddr, memsz, align) = (segment.p_paddr(LE), segment.p_memsz(LE), segment.p_align(LE));
    if memsz < filesz || paddr.checked_add(memsz).is_none() {
        return Err(bad(format!("segment {index} has {filesz:#x} bytes in {memsz:#x} bytes of memory at {paddr:#x}")));
    }
    if align > 1 && (!align.is_power_of_two() || align > 1 << 30) {
        return Err(bad(format!("segment {index} has alignment {align:#x}")));
    }
    Ok(())
}

fn read_notes(data: &[u8], segments: &[Segment]) -> Result<Vec<Note>> {
    let mut found = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        if segment.p_type(LE) == elf::PT_NOTE && segment.p_filesz(LE) > NOTES_MAX {
            let bytes = segment.p_filesz(LE);
            return Err(bad(format!("segment {index} has {bytes} bytes of notes; at most {NOTES_MAX} are read")));
        }
        let Some(mut notes) = segment.notes(LE, data).map_err(damaged("the notes"))? else { continue };
        while let Some(note) = notes.next().map_err(damaged("the notes"))? {
            let desc = note.desc();
            let value = match desc.len() {
                4 => desc.try_into().ok().map(|bytes| u32::from_le_bytes(bytes).into()),
                8 => desc.try_into().ok().map(u64::from_le_bytes),
                _ => None,
            };
            let owner = String::from_utf8_lossy(note.name()).into_owned();
            let kind = note.n_type(LE).0;
            let name = note::NAMES.get(kind as usize).copied().filter(|_| owner == "Xen");
            found.push(Note { owner, kind, name, value, text: text(desc), len: desc.len() });
        }
    }
    Ok(found)
}

/// Printable characters, at least one, then a NUL.
fn text(desc: &[u8]) -> Option<String> {
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let (_, text) = desc.split_last().filter(|(last, text)| **last == 0 && !text.is_empty())?;
    text.iter().all(printable).then(|| String::from_utf8_lossy(text).into_owned())
}

fn damaged(part: &'static str) -> impl Fn(object::read::Error) -> Error {
    move |error| bad(format!("{part}: {error}"))
}

fn bad(what: String) -> Error {
    Error::BadElf { what }
}
