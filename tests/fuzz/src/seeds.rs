//! What the disks of the target `disk` are made of.

use mkimage::bootable::{Format, Image};
use mkimage::loaders::Loaders;
use shared_abi::bundle::{KERNEL_VIRTUAL_BASE, SLOT_SECTION, Slot};
use shared_abi::bzimage::{ENTRY, MAGIC, field};
use shared_abi::disk::{BIOS_MAGIC, BIOS_PARAMETERS};
use zerocopy::IntoBytes;

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const TEXT: u64 = 0x10_0000;

/// What becomes a bootable disk, with loaders that boot nothing.
pub(crate) fn image(format: Format) -> Image {
    let mut bios = vec![0x90; 3 * 512];
    bios[BIOS_PARAMETERS..BIOS_PARAMETERS + 8].copy_from_slice(&BIOS_MAGIC);
    bios[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut linux = vec![0x91; 2 * 512];
    linux[field::HEADER..field::HEADER + 4].copy_from_slice(b"HdrS");
    linux[ENTRY - MAGIC.len()..ENTRY].copy_from_slice(&MAGIC);
    let loaders = Some(Loaders { efi: b"MZ, if it were one".to_vec(), bios, linux });
    let size = (format == Format::Disk).then_some(40 << 20);
    Image { kernel: kernel(), cmdline: "tour x=1".into(), initrd: initrd(), loaders, size, ..Image::default() }
}

/// An archive with a folder, a file and a link.
pub(crate) fn initrd() -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in
        [("bin", 0o040_755, ""), ("bin/run", 0o100_755, "#!"), ("link", 0o120_777, "bin/run"), ("./a", 0o100_644, "a")]
    {
        let entry = cpio::newc::Builder::new(name).mode(mode).nlink(1).ino(name.len() as u32);
        let mut entry = entry.write(&mut archive, content.len() as u32);
        let written = std::io::Write::write_all(&mut entry, content.as_bytes());
        written.and_then(|()| entry.finish().map(drop)).unwrap_or_else(|error| panic!("{error}"));
    }
    cpio::newc::trailer(&mut archive).unwrap_or_else(|error| panic!("{error}"));
    archive
}

/// The smallest kernel with all that `mkimage` looks at: code, a PVH note, a slot for the bundle, symbols and sections.
pub(crate) fn kernel() -> Vec<u8> {
    let code_at = HEADER + 2 * SEGMENT;
    let code = [[0xf4; 16].as_slice(), &note(TEXT as u32 + code_at as u32)].concat();
    let slot_at = code_at + code.len();
    let symbols_at = slot_at + size_of::<Slot>();
    let symbols = [[0; 24].as_slice(), &symbol(1, 0x12, TEXT + code_at as u64), &symbol(7, 0x10, TEXT)].concat();
    let strings = b"\0start\0label\0";
    let strings_at = symbols_at + symbols.len();
    let sections_names = ["", ".text", SLOT_SECTION, ".symtab", ".strtab"];
    let names = sections_names.iter().flat_map(|name| name.bytes().chain([0])).collect::<Vec<_>>();
    let names_at = strings_at + strings.len();
    let headers_at = (names_at + names.len()).next_multiple_of(8);

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0];
    words(&mut file, &[TEXT + code_at as u64, HEADER as u64, headers_at as u64]);
    file.extend([0; 4]);
    halves(&mut file, &[HEADER, SEGMENT, 2, 64, sections_names.len(), 4]);
    segment(&mut file, (1, 7), 0, TEXT, headers_at);
    segment(&mut file, (4, 4), code_at + 16, TEXT + code_at as u64 + 16, code.len() - 16);
    file.extend(&code);
    file.extend(Slot::EMPTY.as_bytes());
    file.extend(&symbols);
    file.extend(strings);
    file.extend(&names);
    file.resize(headers_at, 0);
    let mut name = 0;
    for (index, (kind, flags, at, len, link)) in [
        (0_u32, 0_u64, 0, 0, 0),
        (1, 6, code_at, 16, 0),
        (1, 2, slot_at, size_of::<Slot>(), 0),
        (2, 0, symbols_at, symbols.len(), 4),
        (3, 0, strings_at, strings.len() + names.len(), 0),
    ]
    .into_iter()
    .enumerate()
    {
        // One table of names for symbols and sections.
        file.extend([(strings.len() + name) as u32, kind].iter().flat_map(|word| word.to_le_bytes()));
        words(&mut file, &[flags, KERNEL_VIRTUAL_BASE + TEXT + at as u64, at as u64, len as u64, link, 1]);
        words(&mut file, &[if kind == 2 { 24 } else { 0 }]);
        name += sections_names[index].len() + 1;
    }
    file
}

fn note(entry: u32) -> Vec<u8> {
    let numbers = [4_u32, 4, 18].iter().flat_map(|word| word.to_le_bytes());
    numbers.chain(*b"Xen\0").chain(entry.to_le_bytes()).collect()
}

fn symbol(name: u32, info: u8, address: u64) -> Vec<u8> {
    let mut symbol = name.to_le_bytes().to_vec();
    symbol.extend([info, 0, 1, 0]);
    words(&mut symbol, &[KERNEL_VIRTUAL_BASE + address, 8]);
    symbol
}

fn words(file: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| file.extend(word.to_le_bytes()));
}

fn halves(file: &mut Vec<u8>, halves: &[usize]) {
    halves.iter().for_each(|half| file.extend((*half as u16).to_le_bytes()));
}

fn segment(file: &mut Vec<u8>, (kind, flags): (u32, u32), offset: usize, address: u64, len: usize) {
    file.extend(kind.to_le_bytes().into_iter().chain(flags.to_le_bytes()));
    let (offset, len) = (offset as u64, len as u64);
    words(file, &[offset, KERNEL_VIRTUAL_BASE + address, address, len, len, 4]);
}
