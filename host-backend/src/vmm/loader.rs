//! Puts a PVH kernel, its initrd, its command line and the PVH start info into guest memory.
//!
//! linux-loader copies and finds the entry; before that, everything the file says about addresses is checked here, so
//! that each way of being wrong has its own message. The files are not trusted. They are open already: a machine that
//! starts again can no longer open any.

use super::memory::{GuestRam, ranges};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use shared_abi::board::{CMDLINE_ADDR, CMDLINE_MAX, LOW_RAM_END, MEMMAP_ADDR, MODLIST_ADDR, START_INFO_ADDR};
use shared_abi::pvh::{MemmapEntry, MemmapKind, ModlistEntry, START_INFO_VERSION, START_MAGIC, StartInfo};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Start info, module list and memory map: the pages that no kernel may occupy.
const BOOT_DATA: Range<u64> = START_INFO_ADDR..MEMMAP_ADDR + 0x1000;
/// More program headers than any kernel has.
const PROGRAM_HEADERS_MAX: u16 = 64;
/// The initrd starts above the first MiB.
const INITRD_MIN: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NotAFile,
    #[error("not an ELF file")]
    NotElf,
    #[error("not a 64-bit little-endian x86-64 ELF file")]
    WrongElf,
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
    #[error("no PVH entry: the ELF file has no note 18 of owner \"Xen\" (XEN_ELFNOTE_PHYS32_ENTRY)")]
    NoPvhNote,
    #[error("the PVH entry {0:#x} is in none of the file's segments")]
    EntryOutside(u64),
    #[error("segment {start:#x}..{end:#x} does not fit the guest's {mib} MiB of memory; give it more with --mem")]
    OutsideMemory { start: u64, end: u64, mib: u64 },
    #[error("segment {0:#x}..{1:#x} overlaps {2} at {3:#x}..{4:#x}")]
    Overlap(u64, u64, &'static str, u64, u64),
    #[error("initrd: {0}")]
    Initrd(String),
    #[error("command line of {0} bytes is too long: the most is {max}", max = CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
    #[error("command line has a NUL in it")]
    CmdlineNul,
    #[error("load: {0}")]
    Load(String),
}

/// What to load, as often as the machine starts.
#[derive(Debug)]
pub struct Sources {
    /// The ELF file.
    pub kernel: File,
    /// Module 0, with its name for messages.
    pub initrd: Option<(PathBuf, File)>,
    /// The command line, without NUL.
    pub cmdline: String,
}

/// Loads everything and returns the 32-bit entry point.
///
/// # Errors
/// [`Error`]; guest memory is then in no particular state.
pub fn load(memory: &GuestRam, sources: &mut Sources) -> Result<u32, Error> {
    if sources.cmdline.len() >= CMDLINE_MAX {
        return Err(Error::CmdlineTooLong(sources.cmdline.len()));
    }
    if sources.cmdline.contains('\0') {
        return Err(Error::CmdlineNul);
    }
    let kernel = &mut sources.kernel;
    let cmdline = CMDLINE_ADDR..CMDLINE_ADDR + sources.cmdline.len() as u64 + 1;
    let segments = check_kernel(memory, kernel, &cmdline)?;
    let loaded = Elf::load(memory, None, kernel, None).map_err(|error| Error::Load(error.to_string()))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else { return Err(Error::NoPvhNote) };
    if !segments.iter().any(|segment| segment.contains(&entry.0)) {
        return Err(Error::EntryOutside(entry.0));
    }
    let initrd = sources.initrd.as_mut();
    let initrd = initrd.map(|(path, file)| load_initrd(memory, path, file, &segments, &cmdline)).transpose()?;
    write_boot_data(memory, &sources.cmdline, initrd)?;
    // The note's descriptor is read as 32 bits.
    Ok(entry.0 as u32)
}

/// Opens a regular file; anything else might block or never end.
///
/// # Errors
/// [`Error::NotAFile`], and those of the system.
pub fn open(path: &Path) -> Result<File, Error> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::NotAFile);
    }
    Ok(File::open(path)?)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ElfHeader {
    magic: [u8; 4],
    class: u8,
    data: u8,
    ident: [u8; 10],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    phoff: u64,
    shoff: u64,
    flags: u32,
    ehsize: u16,
    phentsize: u16,
    phnum: u16,
    shentsize: u16,
    shnum: u16,
    shstrndx: u16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

const PT_LOAD: u32 = 1;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;

/// Checks everything the file says about addresses and returns the segments' ranges in guest memory.
fn check_kernel(memory: &GuestRam, file: &mut File, cmdline: &Range<u64>) -> Result<Vec<Range<u64>>, Error> {
    let file_len = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut header = ElfHeader::new_zeroed();
    match file.read_exact(header.as_mut_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && header.magic != *b"\x7fELF" => {
            return Err(Error::NotElf);
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Error::Damaged("it ends inside its header"));
        }
        other => other?,
    }
    if header.magic != *b"\x7fELF" {
        return Err(Error::NotElf);
    }
    if (header.class, header.data, header.machine) != (CLASS_64, LITTLE_ENDIAN, MACHINE_X86_64) {
        return Err(Error::WrongElf);
    }
    if usize::from(header.phentsize) != size_of::<ProgramHeader>() {
        return Err(Error::Damaged("its program headers have an unknown size"));
    }
    if header.phnum > PROGRAM_HEADERS_MAX {
        return Err(Error::Damaged("it has too many program headers"));
    }
    file.seek(SeekFrom::Start(header.phoff))?;
    let mut segments: Vec<Range<u64>> = Vec::new();
    for _ in 0..header.phnum {
        let mut segment = ProgramHeader::new_zeroed();
        file.read_exact(segment.as_mut_bytes()).map_err(|_| Error::Damaged("it ends inside its program headers"))?;
        if segment.offset.checked_add(segment.filesz).is_none_or(|end| end > file_len) {
            return Err(Error::Damaged("a segment goes beyond the end of the file"));
        }
        if segment.kind != PT_LOAD || segment.memsz == 0 {
            continue;
        }
        if segment.filesz > segment.memsz {
            return Err(Error::Damaged("a segment is larger in the file than in memory"));
        }
        let range = segment.paddr..segment.paddr.saturating_add(segment.memsz);
        check_segment(memory, &range, &segments, cmdline)?;
        segments.push(range);
    }
    if segments.is_empty() { Err(Error::Damaged("it has nothing to load")) } else { Ok(segments) }
}

fn check_segment(
    memory: &GuestRam,
    range: &Range<u64>,
    earlier: &[Range<u64>],
    cmdline: &Range<u64>,
) -> Result<(), Error> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if !memory.check_range(GuestAddress(range.start), len) {
        return Err(Error::OutsideMemory { start: range.start, end: range.end, mib: size(memory) >> 20 });
    }
    let others = earlier.iter().map(|other| ("another segment", other));
    let boot = [("the boot data", &BOOT_DATA), ("the command line", cmdline)];
    for (what, other) in others.chain(boot) {
        if overlap(range, other) {
            return Err(Error::Overlap(range.start, range.end, what, other.start, other.end));
        }
    }
    Ok(())
}

/// Loads the initrd page aligned at the top of low RAM and returns its range.
fn load_initrd(
    memory: &GuestRam,
    path: &Path,
    file: &mut File,
    kernel: &[Range<u64>],
    cmdline: &Range<u64>,
) -> Result<Range<u64>, Error> {
    let bad = |why: String| Error::Initrd(format!("{}: {why}", path.display()));
    let len = file.seek(SeekFrom::End(0)).and_then(|len| file.rewind().map(|()| len));
    let len = len.map_err(|error| bad(error.to_string()))?;
    let top = size(memory).min(LOW_RAM_END);
    let start = top.checked_sub(len).map(|start| start / PAGE * PAGE).filter(|start| *start >= INITRD_MIN);
    let Some(start) = start else {
        return Err(bad(format!("{len} bytes do not fit the guest's memory; give it more with --mem")));
    };
    if len == 0 {
        return Err(bad("it is empty".into()));
    }
    let range = start..start + len;
    if kernel.iter().chain([cmdline]).any(|other| overlap(&range, other)) {
        return Err(bad(format!("at {start:#x} it would overlap the kernel; give the guest more with --mem")));
    }
    memory.read_exact_volatile_from(GuestAddress(start), file, len as usize).map_err(|error| bad(error.to_string()))?;
    Ok(range)
}

fn write_boot_data(memory: &GuestRam, cmdline: &str, initrd: Option<Range<u64>>) -> Result<(), Error> {
    let put = |bytes: &[u8], at: u64| {
        memory.write_slice(bytes, GuestAddress(at)).map_err(|error| Error::Load(error.to_string()))
    };
    let map: Vec<_> = ranges(size(memory))
        .into_iter()
        .map(|(addr, len)| MemmapEntry { addr: addr.0, size: len as u64, kind: MemmapKind::RAM, reserved: 0 })
        .collect();
    let info = StartInfo {
        magic: START_MAGIC,
        version: START_INFO_VERSION,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: if initrd.is_some() { MODLIST_ADDR } else { 0 },
        cmdline_paddr: CMDLINE_ADDR,
        memmap_paddr: MEMMAP_ADDR,
        memmap_entries: map.len() as u32,
        ..StartInfo::default()
    };
    put(info.as_bytes(), START_INFO_ADDR)?;
    put(map.as_bytes(), MEMMAP_ADDR)?;
    put(cmdline.as_bytes(), CMDLINE_ADDR)?;
    put(&[0], CMDLINE_ADDR + cmdline.len() as u64)?;
    if let Some(range) = initrd {
        let module = ModlistEntry { paddr: range.start, size: range.end - range.start, ..ModlistEntry::default() };
        put(module.as_bytes(), MODLIST_ADDR)?;
    }
    Ok(())
}

fn size(memory: &GuestRam) -> u64 {
    memory.iter().map(GuestMemoryRegion::len).sum()
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
