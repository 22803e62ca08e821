//! The `elf` format: the kernel, rewritten, with the bundle as one more loadable segment.
//!
//! ```text
//! file header, program headers, (padding, segment)..., notes outside them, section names, section headers
//! ```
//!
//! Debug information and symbol tables are left out; the function names travel in the bundle.

use crate::bundle::Bundle;
use crate::format::Format;
use crate::kernel::{self, Header, Kernel, Section, Segment};
use crate::{Error, Result, initrd, output};
use object::elf;
use object::pod::bytes_of;
use object::read::elf::{ProgramHeader, SectionHeader};
use object::{LittleEndian as LE, U16, U32, U64};
use shared_abi::bundle::{KERNEL_VIRTUAL_BASE, Slot};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use zerocopy::IntoBytes;

const PAGE: u64 = 4096;
/// The kernel's addresses end here: the top 2 GiB of the address space.
const PHYSICAL_LIMIT: u64 = KERNEL_VIRTUAL_BASE.wrapping_neg();

/// Reads a kernel and an initrd, and writes an image.
///
/// # Errors
/// Whatever is wrong with the input; then there is no output.
pub fn write(kernel: &Path, cmdline: &str, initrd: Option<&Path>, output: &Path) -> Result<()> {
    let inputs: Vec<&Path> = initrd.into_iter().chain([kernel]).collect();
    output::check(output, &inputs)?;
    let data = kernel::read(kernel)?;
    let initrd = initrd.map(initrd::load).transpose()?.unwrap_or_default();
    let image = build(&data, cmdline, initrd).map_err(|error| error.of(kernel))?;
    let failed = |why| Error::Write { path: output.into(), why };
    output::write(output, 0o777, |file| file.write_all(&image).map_err(failed))
}

/// The bytes of an image made of a kernel, a default command line and an initrd (empty: none).
///
/// # Errors
/// Whatever is wrong with the input.
pub fn build(kernel: &[u8], cmdline: &str, initrd: Vec<u8>) -> Result<Vec<u8>> {
    let kernel = Kernel::parse(kernel)?;
    let paddr = kernel.physical_end()?.next_multiple_of(PAGE);
    kernel.pvh_entry()?;
    let placed = kernel.slot()?;
    if placed.slot.paddr != 0 {
        return Err(Error::AlreadyAnImage { paddr: placed.slot.paddr });
    }
    let bundle = Bundle { cmdline: cmdline.into(), initrd, functions: kernel.functions()? }.compose()?;
    let len = bundle.len() as u64;
    let end = paddr + len;
    if end > PHYSICAL_LIMIT {
        return Err(Error::TooLarge { end });
    }

    let mut layout = Layout::new(&kernel);
    layout.copy_segments(&kernel)?;
    layout.append_bundle(&bundle, paddr);
    let slot = Slot { paddr, len, ..placed.slot };
    let at = layout
        .moved(placed.offset, size_of::<Slot>())
        .ok_or_else(|| Error::BadSlot { what: "it is in no loadable segment".into() })?;
    layout.bytes[at..at + size_of::<Slot>()].copy_from_slice(slot.as_bytes());
    layout.copy_section_headers(&kernel)?;
    Ok(layout.finish(&kernel))
}

/// The same; but for a bzImage an image that is one already is taken as it is, unless something is to be added to it.
///
/// # Errors
/// The same.
pub(crate) fn build_or_take(kernel: &[u8], cmdline: &str, initrd: Vec<u8>, format: Format) -> Result<Vec<u8>> {
    match build(kernel, cmdline, initrd.clone()) {
        Err(Error::AlreadyAnImage { .. }) if format == Format::BzImage && cmdline.is_empty() && initrd.is_empty() => {
            Ok(kernel.to_vec())
        }
        built => built,
    }
}

/// The new file, growing.
struct Layout {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    names: Vec<u8>,
    section_headers_at: u64,
    /// Old file ranges of the loadable segments and where they went.
    moves: Vec<(Range<usize>, usize)>,
}

impl Layout {
    fn new(kernel: &Kernel<'_>) -> Self {
        let kept = kernel.segments.iter().filter(|segment| keeps(segment)).count();
        let headers = size_of::<Header>() + (kept + 1) * size_of::<Segment>();
        Self {
            bytes: vec![0; headers],
            segments: Vec::new(),
            sections: Vec::new(),
            names: vec![0],
            section_headers_at: 0,
            moves: Vec::new(),
        }
    }

    fn copy_segments(&mut self, kernel: &Kernel<'_>) -> Result<()> {
        // Loadable ones first: the others may lie inside them.
        for load in kernel.loads() {
            let range = range_of(load);
            let offset = self.append(&kernel.data[range.clone()], load.p_vaddr(LE), load.p_align(LE));
            self.moves.push((range, offset));
        }
        let mut loads = 0;
        for segment in kernel.segments.iter().filter(|segment| keeps(segment)) {
            let range = range_of(segment);
            let offset = if segment.p_type(LE) == elf::PT_LOAD {
                loads += 1;
                self.moves[loads - 1].1
            } else if let Some(offset) = self.moved(range.start, range.len()) {
                offset
            } else {
                self.append(&kernel.data[range], 0, segment.p_align(LE))
            };
            self.segments.push(Segment { p_offset: U64::new(LE, offset as u64), ..*segment });
        }
        Ok(())
    }

    fn append_bundle(&mut self, bundle: &[u8], paddr: u64) {
        let vaddr = KERNEL_VIRTUAL_BASE + paddr;
        let offset = self.append(bundle, vaddr, PAGE);
        let len = U64::new(LE, bundle.len() as u64);
        self.segments.push(Segment {
            p_type: U32::new(LE, elf::PT_LOAD),
            p_flags: U32::new(LE, elf::PF_R),
            p_offset: U64::new(LE, offset as u64),
            p_vaddr: U64::new(LE, vaddr),
            p_paddr: U64::new(LE, paddr),
            p_filesz: len,
            p_memsz: len,
            p_align: U64::new(LE, PAGE),
        });
    }

    /// Sections keep their names, for inspection and disassembly.
    fn copy_section_headers(&mut self, kernel: &Kernel<'_>) -> Result<()> {
        self.sections.push(empty_section());
        for (name, section) in kernel.loaded_sections()? {
            let offset = match section.file_range(LE) {
                None => self.bytes.len(),
                Some((offset, len)) => match self.moved(offset as usize, len as usize) {
                    Some(offset) => offset,
                    None => continue,
                },
            };
            let sh_name = U32::new(LE, self.names.len() as u32);
            self.names.extend_from_slice(name.as_bytes());
            self.names.push(0);
            // Links point into the old table.
            let none = U32::new(LE, 0);
            self.sections.push(Section {
                sh_name,
                sh_offset: U64::new(LE, offset as u64),
                sh_link: none,
                sh_info: none,
                ..*section
            });
        }
        let sh_name = U32::new(LE, self.names.len() as u32);
        self.names.extend_from_slice(b".shstrtab\0");
        let names = std::mem::take(&mut self.names);
        let offset = self.append(&names, 0, 1);
        self.sections.push(Section {
            sh_name,
            sh_type: U32::new(LE, elf::SHT_STRTAB),
            sh_offset: U64::new(LE, offset as u64),
            sh_size: U64::new(LE, names.len() as u64),
            sh_addralign: U64::new(LE, 1),
            ..empty_section()
        });
        let headers: Vec<u8> = self.sections.iter().flat_map(|section| bytes_of(section).to_vec()).collect();
        self.section_headers_at = self.append(&headers, 0, 8) as u64;
        Ok(())
    }

    fn finish(mut self, kernel: &Kernel<'_>) -> Vec<u8> {
        let sections = self.sections.len() as u16;
        let header = Header {
            e_phoff: U64::new(LE, size_of::<Header>() as u64),
            e_phentsize: U16::new(LE, size_of::<Segment>() as u16),
            e_phnum: U16::new(LE, self.segments.len() as u16),
            e_shoff: U64::new(LE, self.section_headers_at),
            e_shentsize: U16::new(LE, size_of::<Section>() as u16),
            e_shnum: U16::new(LE, sections),
            e_shstrndx: U16::new(LE, elf::SymbolSection(sections - 1)),
            ..*kernel.header
        };
        let mut start = bytes_of(&header).to_vec();
        self.segments.iter().for_each(|segment| start.extend_from_slice(bytes_of(segment)));
        self.bytes[..start.len()].copy_from_slice(&start);
        self.bytes
    }

    /// Appends at the next offset that equals `address` modulo `align`.
    fn append(&mut self, part: &[u8], address: u64, align: u64) -> usize {
        let align = align.max(1);
        let offset = self.bytes.len() as u64;
        let offset = offset + address.wrapping_sub(offset) % align;
        self.bytes.resize(offset as usize, 0);
        self.bytes.extend_from_slice(part);
        offset as usize
    }

    /// Where a range of the old file went with its segment.
    fn moved(&self, offset: usize, len: usize) -> Option<usize> {
        let end = offset.checked_add(len)?;
        let (old, new) = self.moves.iter().find(|(old, _)| old.start <= offset && end <= old.end)?;
        Some(new + offset - old.start)
    }
}

/// What a static kernel needs of its program headers.
fn keeps(segment: &Segment) -> bool {
    matches!(segment.p_type(LE), elf::PT_LOAD | elf::PT_NOTE | elf::PT_GNU_STACK)
}

/// [`Kernel::parse`] has checked that this lies in the file.
fn range_of(segment: &Segment) -> Range<usize> {
    let (offset, len) = segment.file_range(LE);
    offset as usize..(offset + len) as usize
}

fn empty_section() -> Section {
    let (word, long) = (U32::new(LE, 0), U64::new(LE, 0));
    Section {
        sh_name: word,
        sh_type: U32::new(LE, elf::SHT_NULL),
        sh_flags: U64::new(LE, elf::SectionFlags(0)),
        sh_addr: long,
        sh_offset: long,
        sh_size: long,
        sh_link: word,
        sh_info: word,
        sh_addralign: long,
        sh_entsize: long,
    }
}
