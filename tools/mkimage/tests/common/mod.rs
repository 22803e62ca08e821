//! A small kernel ELF made from scratch, with every part that mkimage looks at, for tests to spoil.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod disks;

use object::elf;
use object::pod::bytes_of;
use object::{LittleEndian as LE, U16, U32, U64};
use shared_abi::bundle::{KERNEL_VIRTUAL_BASE, SLOT_SECTION, Slot};
use zerocopy::IntoBytes;

/// Physical address of the fixture's code.
pub(crate) const TEXT: u64 = 0x10_0000;
/// Physical address of its data.
pub(crate) const DATA: u64 = 0x10_2000;
/// Bytes of its data in memory.
pub(crate) const DATA_MEMORY: u64 = 0x2345;

/// What can be spoilt.
pub(crate) struct Fixture {
    pub(crate) machine: elf::Machine,
    pub(crate) with_note: bool,
    pub(crate) entry: u32,
    pub(crate) slot_section: &'static str,
    pub(crate) slot: Vec<u8>,
}

impl Default for Fixture {
    fn default() -> Self {
        let slot = Slot::EMPTY.as_bytes().to_vec();
        Self { machine: elf::EM_X86_64, with_note: true, entry: TEXT as u32, slot_section: SLOT_SECTION, slot }
    }
}

struct Section {
    name: &'static str,
    kind: elf::SectionType,
    flags: elf::SectionFlags,
    address: u64,
    offset: usize,
    size: usize,
    link: u32,
    entry_size: u64,
}

impl Fixture {
    /// The file: code at `TEXT`, the slot and more at `DATA`, a note, symbols, a debug section.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 0x1000];
        // Code, followed by the note in the same segment.
        file.extend_from_slice(&[0xf4; 64]);
        let mut note = Vec::new();
        for word in [4, 4, 18] {
            note.extend_from_slice(&u32::to_le_bytes(word));
        }
        note.extend_from_slice(b"Xen\0");
        note.extend_from_slice(&self.entry.to_le_bytes());
        // A text of 8 bytes, which could be taken for a number.
        for word in [4, 8, 5] {
            note.extend_from_slice(&u32::to_le_bytes(word));
        }
        note.extend_from_slice(b"Xen\0xen-3.0\0");
        let note_at = file.len();
        file.extend_from_slice(&note);
        let text_len = file.len() - 0x1000;
        file.resize(0x2000, 0);
        let slot_at = file.len();
        file.extend_from_slice(&self.slot);
        file.extend_from_slice(b"data after the slot");
        let data_len = file.len() - 0x2000;
        let debug_at = file.len();
        file.extend_from_slice(&[0xdd; 5000]);

        let (strings, symbols) = symbols();
        let symbols_at = file.len();
        file.extend_from_slice(&symbols);
        let strings_at = file.len();
        file.extend_from_slice(&strings);

        let alloc = elf::SHF_ALLOC;
        let none = elf::SectionFlags(0);
        let virt = |paddr| KERNEL_VIRTUAL_BASE + paddr;
        let mut sections = vec![
            section("", elf::SHT_NULL, none, 0, 0, 0),
            section(".text", elf::SHT_PROGBITS, alloc | elf::SHF_EXECINSTR, virt(TEXT), 0x1000, 64),
            section(self.slot_section, elf::SHT_PROGBITS, alloc, virt(DATA), slot_at, self.slot.len()),
            section(".bss", elf::SHT_NOBITS, alloc, virt(DATA + data_len as u64), 0, DATA_MEMORY as usize - data_len),
            section(".debug_info", elf::SHT_PROGBITS, none, 0, debug_at, 5000),
            section(".strtab", elf::SHT_STRTAB, none, 0, strings_at, strings.len()),
            Section {
                link: 5,
                entry_size: 24,
                ..section(".symtab", elf::SHT_SYMTAB, none, 0, symbols_at, symbols.len())
            },
        ];
        let mut names = vec![0];
        let mut name_offsets = Vec::new();
        let names_at = file.len();
        sections.push(section(".shstrtab", elf::SHT_STRTAB, none, 0, names_at, 0));
        for section in &sections {
            name_offsets.push(names.len() as u32);
            names.extend_from_slice(section.name.as_bytes());
            names.push(0);
        }
        sections.last_mut().unwrap().size = names.len();
        file.extend_from_slice(&names);
        file.resize(file.len().next_multiple_of(8), 0);
        let headers_at = file.len();
        for (section, name) in sections.iter().zip(name_offsets) {
            file.extend_from_slice(bytes_of(&elf::SectionHeader64 {
                sh_name: U32::new(LE, name),
                sh_type: U32::new(LE, section.kind),
                sh_flags: U64::new(LE, section.flags),
                sh_addr: U64::new(LE, section.address),
                sh_offset: U64::new(LE, section.offset as u64),
                sh_size: U64::new(LE, section.size as u64),
                sh_link: U32::new(LE, section.link),
                sh_info: U32::new(LE, 0),
                sh_addralign: U64::new(LE, 1),
                sh_entsize: U64::new(LE, section.entry_size),
            }));
        }

        let mut segments = vec![
            segment(elf::PT_LOAD, elf::PF_R | elf::PF_X, 0x1000, TEXT, text_len as u64, text_len as u64),
            segment(elf::PT_LOAD, elf::PF_R | elf::PF_W, 0x2000, DATA, data_len as u64, DATA_MEMORY),
        ];
        if self.with_note {
            let paddr = TEXT + note_at as u64 - 0x1000;
            let len = note.len() as u64;
            let mut header = segment(elf::PT_NOTE, elf::PF_R, note_at as u64, paddr, len, len);
            header.p_align = U64::new(LE, 4);
            segments.push(header);
        }
        let header = self.header(segments.len(), headers_at, sections.len());
        let mut start = bytes_of(&header).to_vec();
        segments.iter().for_each(|segment| start.extend_from_slice(bytes_of(segment)));
        file[..start.len()].copy_from_slice(&start);
        file
    }

    fn header(&self, segments: usize, section_headers_at: usize, sections: usize) -> elf::FileHeader64<LE> {
        elf::FileHeader64 {
            e_ident: elf::Ident {
                magic: elf::ELFMAG,
                class: elf::ELFCLASS64,
                data: elf::ELFDATA2LSB,
                version: elf::EV_CURRENT,
                os_abi: elf::ELFOSABI_NONE,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: U16::new(LE, elf::ET_EXEC),
            e_machine: U16::new(LE, self.machine),
            e_version: U32::new(LE, 1),
            e_entry: U64::new(LE, KERNEL_VIRTUAL_BASE + TEXT),
            e_phoff: U64::new(LE, 64),
            e_shoff: U64::new(LE, section_headers_at as u64),
            e_flags: U32::new(LE, elf::FileFlags(0)),
            e_ehsize: U16::new(LE, 64),
            e_phentsize: U16::new(LE, 56),
            e_phnum: U16::new(LE, segments as u16),
            e_shentsize: U16::new(LE, 64),
            e_shnum: U16::new(LE, sections as u16),
            e_shstrndx: U16::new(LE, elf::SymbolSection((sections as u16).saturating_sub(1))),
        }
    }
}

fn section(
    name: &'static str,
    kind: elf::SectionType,
    flags: elf::SectionFlags,
    address: u64,
    offset: usize,
    size: usize,
) -> Section {
    Section { name, kind, flags, address, offset, size, link: 0, entry_size: 0 }
}

fn segment(
    kind: elf::ProgramType,
    flags: elf::ProgramFlags,
    offset: u64,
    paddr: u64,
    file: u64,
    memory: u64,
) -> elf::ProgramHeader64<LE> {
    elf::ProgramHeader64 {
        p_type: U32::new(LE, kind),
        p_flags: U32::new(LE, flags),
        p_offset: U64::new(LE, offset),
        p_vaddr: U64::new(LE, KERNEL_VIRTUAL_BASE + paddr),
        p_paddr: U64::new(LE, paddr),
        p_filesz: U64::new(LE, file),
        p_memsz: U64::new(LE, memory),
        p_align: U64::new(LE, 0x1000),
    }
}

/// String table and symbol table: two functions (one mangled), a label at the first's address, a data symbol.
fn symbols() -> (Vec<u8>, Vec<u8>) {
    const FUNC: u8 = 2;
    const OBJECT: u8 = 1;
    const NOTYPE: u8 = 0;
    let mut strings = vec![0];
    let mut symbols = vec![0; 24];
    for (name, kind, section, paddr) in [
        ("_ZN12guest_kernel4main17h0123456789abcdefE", FUNC, 1, TEXT + 0x10),
        ("start", NOTYPE, 1, TEXT),
        ("a_label", NOTYPE, 1, TEXT + 0x10),
        ("some_data", OBJECT, 2, DATA),
        ("some_constant", NOTYPE, 2, DATA + 8),
    ] {
        symbols.extend_from_slice(bytes_of(&elf::Sym64::<LE> {
            st_name: U32::new(LE, strings.len() as u32),
            st_info: elf::SymbolInfo(1 << 4 | kind),
            st_other: Default::default(),
            st_shndx: U16::new(LE, elf::SymbolSection(section)),
            st_value: U64::new(LE, KERNEL_VIRTUAL_BASE + paddr),
            st_size: U64::new(LE, 8),
        }));
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    (strings, symbols)
}
