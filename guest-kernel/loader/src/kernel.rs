//! The kernel's ELF file. Every offset is checked before use.

use crate::Error;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::Note;
use shared_abi::pvh::{NOTE_OWNER, NOTE_PHYS32_ENTRY};

/// Loadable segments that a kernel may have.
pub(crate) const SEGMENTS_MAX: usize = 16;

/// A part of the file and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'data> {
    /// Its bytes.
    pub bytes: &'data [u8],
    /// Its physical address.
    pub paddr: u64,
    /// Bytes in memory; those after the file's are zero.
    pub memory: u64,
}

/// A kernel that has been looked through.
#[derive(Debug)]
pub struct Kernel<'data> {
    /// What to load.
    pub segments: heapless::Vec<Segment<'data>, SEGMENTS_MAX>,
    /// The 32-bit PVH entry.
    pub entry: u32,
}

impl<'data> Kernel<'data> {
    /// Looks through a file.
    ///
    /// # Errors
    /// What makes it impossible to start.
    pub fn parse(data: &'data [u8]) -> Result<Self, Error> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(data).map_err(|_| Error::NotElf)?;
        if file.ehdr.class != Class::ELF64 || file.ehdr.e_machine != EM_X86_64 {
            return Err(Error::NotElf);
        }
        let mut segments = heapless::Vec::new();
        let mut entry = None;
        for header in file.segments().ok_or(Error::Damaged("program headers"))? {
            if header.p_type == PT_LOAD && header.p_memsz > 0 {
                let bytes =
                    file.segment_data(&header).map_err(|_| Error::Damaged("a segment lies outside the file"))?;
                let (paddr, memory) = (header.p_paddr, header.p_memsz);
                // The boot protocol starts in 32-bit mode: nothing above 4 GiB could be reached.
                if (bytes.len() as u64) > memory || paddr.checked_add(memory).is_none_or(|end| end > 1 << 32) {
                    return Err(Error::Damaged("a segment has an impossible size"));
                }
                let segment = Segment { bytes, paddr, memory };
                segments.push(segment).map_err(|_| Error::Damaged("too many segments"))?;
            } else if header.p_type == PT_NOTE {
                for note in file.segment_data_as_notes(&header).map_err(|_| Error::Damaged("notes"))? {
                    let Note::Unknown(note) = note else { continue };
                    if note.name == NOTE_OWNER && note.n_type == u64::from(NOTE_PHYS32_ENTRY) {
                        entry = note.desc.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
                    }
                }
            }
        }
        let entry = entry.ok_or(Error::NoPvhNote)?;
        if !segments.iter().any(|segment| u64::from(entry).wrapping_sub(segment.paddr) < segment.bytes.len() as u64) {
            return Err(Error::Damaged("the PVH entry is in no segment"));
        }
        Ok(Self { segments, entry })
    }

    /// From the first physical address to the end, exclusive.
    pub fn span(&self) -> Range<u64> {
        let start = self.segments.iter().map(|segment| segment.paddr).min().unwrap_or(0);
        let end = self.segments.iter().map(|segment| segment.paddr + segment.memory).max().unwrap_or(0);
        start..end
    }
}
