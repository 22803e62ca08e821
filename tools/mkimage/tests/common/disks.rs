//! What becomes a bootable disk, and the program that makes it.

use super::Fixture;
use mkimage::bootable::{Format, Image};
use mkimage::loaders::{BIOS_FILE, EFI_FILE, LINUX_FILE, Loaders};
use mkimage::output::Existing;
use object::elf;
use object::pod::bytes_of;
use object::{LittleEndian as LE, U32, U64};
use shared_abi::bzimage::{ENTRY, MAGIC, field};
use shared_abi::disk::{BIOS_LOAD, BIOS_MAGIC, BIOS_PARAMETERS};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Loaders that boot nothing.
pub(crate) fn loaders() -> Loaders {
    let mut bios = vec![0x90; 3 * 512];
    bios[BIOS_PARAMETERS..BIOS_PARAMETERS + 8].copy_from_slice(&BIOS_MAGIC);
    bios[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut linux = vec![0x91; 2 * 512];
    linux[field::HEADER..field::HEADER + 4].copy_from_slice(b"HdrS");
    linux[ENTRY - MAGIC.len()..ENTRY].copy_from_slice(&MAGIC);
    Loaders { efi: b"MZ, if it were one".to_vec(), bios, linux }
}

/// What goes into a disk of 64 MiB.
pub(crate) fn image() -> Image {
    let initrd = vec![7; 3000];
    let kernel = Fixture::default().build();
    Image { kernel, cmdline: "tour x=1".into(), initrd, loaders: Some(loaders()), ..Image::default() }
}

/// The bytes of an image made in a folder, with files of that folder's.
pub(crate) fn built(format: Format, image: &Image, folder: &Path, name: &str) -> Vec<u8> {
    let (files, output) = (folder.join("files of ").join(name), folder.join(name));
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("file"), "content").unwrap();
    let image = Image { files: Some(files), ..image.clone() };
    image.write(format, &output, Existing::Keep, &mut |_, _| {}).unwrap();
    fs::read(output).unwrap()
}

/// Puts what the program needs into a folder: `kernel` and `loaders/`.
pub(crate) fn prepare(folder: &Path) {
    let Loaders { efi, bios, linux } = loaders();
    let place = folder.join("loaders");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join(EFI_FILE), efi).unwrap();
    // The others come as the linker makes them.
    for (name, bytes, address) in [(BIOS_FILE, bios, BIOS_LOAD), (LINUX_FILE, linux, 0)] {
        fs::write(place.join(name), linked(&bytes, address)).unwrap();
    }
    fs::write(folder.join("kernel"), Fixture::default().build()).unwrap();
}

/// Runs the program in a folder: exit code, and what it says on standard error.
pub(crate) fn program(args: &[&str], folder: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mkimage")).args(args).current_dir(folder).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// An ELF file with one segment.
fn linked(bytes: &[u8], address: u64) -> Vec<u8> {
    let headers = size_of::<elf::FileHeader64<LE>>() as u16;
    let segment_len = size_of::<elf::ProgramHeader64<LE>>() as u16;
    let len = U64::new(LE, bytes.len() as u64);
    let segment = elf::ProgramHeader64 {
        p_type: U32::new(LE, elf::PT_LOAD),
        p_flags: U32::new(LE, elf::PF_R | elf::PF_X),
        p_offset: U64::new(LE, (headers + segment_len).into()),
        p_vaddr: U64::new(LE, address),
        p_paddr: U64::new(LE, address),
        p_filesz: len,
        p_memsz: len,
        p_align: U64::new(LE, 1),
    };
    let header = Fixture::default().header(1, 0, 0);
    [bytes_of(&header), bytes_of(&segment), bytes].concat()
}
