//! Tests of the loader: every way in which a kernel file can be wrong.

use super::*;
use crate::sample::{LOAD_ADDRESS, pvh_elf};
use crate::vmm::memory;
use proptest::prelude::*;
use std::io::Write;

const MEMORY: u64 = 4 << 20;
/// Offsets in the ELF file of `pvh_elf`.
const FIRST_SEGMENT: usize = 64;
const PADDR: usize = FIRST_SEGMENT + 24;
const FILESZ: usize = FIRST_SEGMENT + 32;
const MEMSZ: usize = FIRST_SEGMENT + 40;
const NOTE_TYPE: usize = 64 + 2 * 56 + 8;
const NOTE_ENTRY: usize = 64 + 2 * 56 + 16;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn load_bytes(bytes: &[u8]) -> Result<u32, Error> {
    let kernel = file(bytes);
    load(&memory::map(MEMORY).unwrap(), &mut sources(&kernel, None, ""))
}

fn sources(kernel: &tempfile::NamedTempFile, initrd: Option<&Path>, cmdline: &str) -> Sources {
    let initrd = initrd.map(|path| (path.to_owned(), File::open(path).unwrap()));
    Sources { kernel: kernel.reopen().unwrap(), initrd, cmdline: cmdline.into() }
}

fn patched(at: usize, value: u64) -> Vec<u8> {
    let mut elf = pvh_elf(&[0xf4; 16]);
    elf[at..at + 8].copy_from_slice(&value.to_le_bytes());
    elf
}

#[test]
fn a_kernel_is_loaded_with_its_boot_data() {
    let kernel = file(&pvh_elf(&[0xf4; 16]));
    let initrd = file(b"module");
    let ram = memory::map(MEMORY).unwrap();
    let mut sources = sources(&kernel, Some(initrd.path()), "quiet x=1");
    // A machine that starts again loads the same files once more.
    for _ in 0..2 {
        assert_eq!(load(&ram, &mut sources).unwrap(), LOAD_ADDRESS);
    }
    let read = |address, len| {
        let mut bytes = vec![0; len];
        ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    };
    assert_eq!(read(LOAD_ADDRESS.into(), 16), [0xf4; 16]);
    let info = StartInfo::read_from_bytes(&read(START_INFO_ADDR, size_of::<StartInfo>())).unwrap();
    assert_eq!((info.magic, info.version, info.nr_modules, info.memmap_entries), (START_MAGIC, 1, 1, 1));
    assert_eq!(read(info.cmdline_paddr, 10), b"quiet x=1\0");
    let module = ModlistEntry::read_from_bytes(&read(info.modlist_paddr, size_of::<ModlistEntry>())).unwrap();
    assert_eq!((module.paddr, module.size), (MEMORY - PAGE, 6));
    assert_eq!(read(module.paddr, 6), b"module");
    let map = MemmapEntry::read_from_bytes(&read(info.memmap_paddr, size_of::<MemmapEntry>())).unwrap();
    assert_eq!((map.addr, map.size, map.kind), (0, MEMORY, MemmapKind::RAM));
}

#[test]
fn a_file_that_is_no_elf_is_refused() {
    for bytes in [&b""[..], b"#!/bin/sh", b"\x7fEL", &[0; 4096]] {
        assert!(matches!(load_bytes(bytes), Err(Error::NotElf)));
    }
    assert!(matches!(load_bytes(b"\x7fELF"), Err(Error::Damaged(_))));
    assert!(matches!(open(Path::new("/")), Err(Error::NotAFile)));
}

#[test]
fn an_elf_of_another_machine_is_refused() {
    let mut elf = pvh_elf(&[0xf4]);
    elf[18] = 0xb7;
    assert!(matches!(load_bytes(&elf), Err(Error::WrongElf)));
    elf[18] = 62;
    elf[4] = 1;
    assert!(matches!(load_bytes(&elf), Err(Error::WrongElf)));
}

#[test]
fn a_kernel_without_a_pvh_note_is_refused() {
    let mut elf = pvh_elf(&[0xf4; 16]);
    elf[NOTE_TYPE] = 17;
    assert!(matches!(load_bytes(&elf), Err(Error::NoPvhNote)));
}

#[test]
fn an_entry_outside_the_kernel_is_refused() {
    let mut elf = pvh_elf(&[0xf4; 16]);
    elf[NOTE_ENTRY + 3] = 0x40;
    assert!(matches!(load_bytes(&elf), Err(Error::EntryOutside(_))));
}

#[test]
fn a_kernel_larger_than_memory_is_refused() {
    for elf in [patched(MEMSZ, MEMORY), patched(MEMSZ, u64::MAX), patched(PADDR, MEMORY), patched(PADDR, u64::MAX - 1)]
    {
        let error = load_bytes(&elf).unwrap_err();
        assert!(matches!(error, Error::OutsideMemory { .. }), "{error}");
    }
}

#[test]
fn a_kernel_over_the_boot_data_is_refused() {
    for address in [START_INFO_ADDR, MEMMAP_ADDR, START_INFO_ADDR - 8, CMDLINE_ADDR] {
        let error = load_bytes(&patched(PADDR, address)).unwrap_err();
        assert!(matches!(error, Error::Overlap(..)), "{address:#x}: {error}");
    }
}

#[test]
fn segments_that_overlap_are_refused() {
    // The note's program header becomes a second segment over the first.
    let mut elf = pvh_elf(&[0xf4; 16]);
    let second = FIRST_SEGMENT + 56;
    elf[second] = 1;
    elf[second + 24..second + 32].copy_from_slice(&u64::from(LOAD_ADDRESS + 8).to_le_bytes());
    assert!(matches!(load_bytes(&elf), Err(Error::Overlap(_, _, "another segment", ..))));
}

#[test]
fn a_truncated_kernel_is_refused() {
    let elf = pvh_elf(&[0xf4; 4096]);
    assert!(matches!(load_bytes(&elf[..1000]), Err(Error::Damaged(_))));
    assert!(matches!(load_bytes(&elf[..100]), Err(Error::Damaged(_))));
    assert!(matches!(load_bytes(&patched(FILESZ, u64::MAX)), Err(Error::Damaged(_))));
}

#[test]
fn an_initrd_that_does_not_fit_is_refused() {
    let kernel = file(&pvh_elf(&[0xf4; 16]));
    let with = |initrd: &Path| load(&memory::map(MEMORY).unwrap(), &mut sources(&kernel, Some(initrd), ""));
    for len in [0, MEMORY, MEMORY - (1 << 20), MEMORY * 100] {
        let initrd = file(&[]);
        initrd.as_file().set_len(len).unwrap();
        let error = with(initrd.path()).unwrap_err();
        assert!(matches!(error, Error::Initrd(_)), "{len}: {error}");
    }
}

#[test]
fn a_command_line_that_does_not_fit_is_refused() {
    let kernel = file(&pvh_elf(&[0xf4; 16]));
    let with = |cmdline: &str| load(&memory::map(MEMORY).unwrap(), &mut sources(&kernel, None, cmdline));
    assert!(matches!(with(&"x".repeat(CMDLINE_MAX)), Err(Error::CmdlineTooLong(_))));
    assert!(with(&"x".repeat(CMDLINE_MAX - 1)).is_ok());
    assert!(matches!(with("a\0b"), Err(Error::CmdlineNul)));
}

proptest! {
    /// A damaged kernel loads or is refused; it never panics.
    #[test]
    fn damaged_kernels_never_hurt_the_host(at in 0usize..220, value: u64) {
        let mut elf = pvh_elf(&[0xf4; 64]);
        let end = elf.len().min(at + 8);
        elf[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        let _ = load_bytes(&elf);
    }
}
