//! The UEFI loader, `EFI/BOOT/BOOTX64.EFI`: reads kernel, command line and initrd from the partition that it was started
//! from, and hands over to the kernel with firmware's memory map and ACPI root pointer.
//!
//! Built for `x86_64-unknown-uefi` by `cargo xtask build`. Trusts the firmware; the files are checked by the crate `loader`.
#![no_main]
#![no_std]

use core::fmt;
use core::ops::Range;
use core::ptr;
use core::slice;
use loader::{Boot, Handover, Kernel, MemoryMap, block_size};
use shared_abi::disk;
use shared_abi::pvh::MemmapKind;
use uefi::boot::{self, AllocateType, MemoryType, PAGE_SIZE};
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode};
use uefi::table::cfg::ConfigTableEntry;
use uefi::{CStr16, Status, entry, println, system};

/// The highest address that the boot protocol reaches.
const BELOW_4_GIB: u64 = (1 << 32) - 1;

/// Why there is no kernel running.
enum Error {
    Kernel(loader::Error),
    File(&'static str, Status),
    Memory(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.fmt(f),
            Self::File(name, status) => write!(f, "cannot read {}/{name}: {status}", disk::FOLDER),
            Self::Memory(bytes) => write!(f, "this machine has no {bytes} bytes of free memory below 4 GiB"),
        }
    }
}

#[entry]
fn main() -> Status {
    let Err(error) = load();
    println!("ringside loader: {error}");
    Status::LOAD_ERROR
}

fn load() -> Result<core::convert::Infallible, Error> {
    let mut folder = open_folder().map_err(|error| Error::File(disk::KERNEL, error.status()))?;
    let file = read(&mut folder, disk::KERNEL, &(0..0))?.ok_or(Error::File(disk::KERNEL, Status::NOT_FOUND))?;
    let mut kernel = Kernel::parse(file).map_err(Error::Kernel)?;
    let span = kernel.span();
    if overlap(&span, &range_of(file)) {
        kernel = Kernel::parse(elsewhere(file, &span)?).map_err(Error::Kernel)?;
    }
    let cmdline = loader::cmdline(read(&mut folder, disk::CMDLINE, &span)?.unwrap_or(&[]));
    let initrd = read(&mut folder, disk::INITRD, &span)?.filter(|file| !file.is_empty()).map(range_of);
    drop(folder);
    let block = allocate(block_size(cmdline.len()), MemoryType::LOADER_CODE, &span)?.as_mut_ptr();
    let rsdp = rsdp();

    // Once before the way back is gone, so that an error can still be reported.
    if let Ok(map) = boot::memory_map(MemoryType::LOADER_DATA) {
        let boot = Boot { kernel: &kernel, cmdline, initrd: initrd.clone(), rsdp, map: &translate(&map) };
        // SAFETY: allocated for this, outside the span.
        unsafe { Handover::prepare(block, &boot) }.map_err(Error::Kernel)?;
    }
    // SAFETY: no protocol is open, and nothing allocates any more.
    let map = unsafe { boot::exit_boot_services(None) };
    let map = translate(&map);
    let boot = Boot { kernel: &kernel, cmdline, initrd, rsdp, map: &map };
    // SAFETY: as above; boot services have ended, so what the map calls RAM is free.
    unsafe {
        match Handover::prepare(block, &boot) {
            Ok(handover) => handover.go(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn open_folder() -> uefi::Result<Directory> {
    let mut volume = boot::get_image_file_system(boot::image_handle())?;
    let mut root = volume.open_volume()?;
    let mut buffer = [0; 16];
    let name = CStr16::from_str_with_buf(disk::FOLDER, &mut buffer).map_err(|_| Status::INVALID_PARAMETER)?;
    root.open(name, FileMode::Read, FileAttribute::empty())?.into_directory().ok_or_else(|| Status::NOT_FOUND.into())
}

/// Reads a file into pages of its own, below 4 GiB and outside a range; `None` if it is absent.
fn read(folder: &mut Directory, name: &'static str, avoid: &Range<u64>) -> Result<Option<&'static [u8]>, Error> {
    let failed = |status| Error::File(name, status);
    let mut buffer = [0; 16];
    let wide = CStr16::from_str_with_buf(name, &mut buffer).map_err(|_| failed(Status::INVALID_PARAMETER))?;
    let file = match folder.open(wide, FileMode::Read, FileAttribute::empty()) {
        Ok(file) => file,
        Err(error) if error.status() == Status::NOT_FOUND => return Ok(None),
        Err(error) => return Err(failed(error.status())),
    };
    let mut file = file.into_regular_file().ok_or_else(|| failed(Status::UNSUPPORTED))?;
    #[repr(align(8))]
    struct Info([u8; 256]);
    let mut info = Info([0; 256]);
    let info = file.get_info::<FileInfo>(&mut info.0).map_err(|error| failed(error.status()))?;
    let len = usize::try_from(info.file_size()).map_err(|_| failed(Status::BAD_BUFFER_SIZE))?;
    let bytes = allocate(len, MemoryType::LOADER_DATA, avoid)?;
    let mut done = 0;
    while done < bytes.len() {
        match file.read(&mut bytes[done..]).map_err(|error| failed(error.status()))? {
            0 => return Err(failed(Status::END_OF_FILE)),
            count => done += count,
        }
    }
    Ok(Some(bytes))
}

/// A copy outside a range.
fn elsewhere(bytes: &[u8], avoid: &Range<u64>) -> Result<&'static [u8], Error> {
    let copy = allocate(bytes.len(), MemoryType::LOADER_DATA, avoid)?;
    copy.copy_from_slice(bytes);
    Ok(copy)
}

/// Zeroed memory of so many bytes below 4 GiB, outside a range. What lies inside is kept, so that the next try gets
/// something else; all of it is free once boot services have ended.
fn allocate(len: usize, kind: MemoryType, avoid: &Range<u64>) -> Result<&'static mut [u8], Error> {
    const TRIES: usize = 64;
    let pages = len.div_ceil(PAGE_SIZE).max(1);
    for _ in 0..TRIES {
        let place = boot::allocate_pages(AllocateType::MaxAddress(BELOW_4_GIB), kind, pages);
        let place = place.map_err(|_| Error::Memory(len))?.as_ptr();
        let range = place.addr() as u64..place.addr() as u64 + (pages * PAGE_SIZE) as u64;
        if !overlap(&range, avoid) {
            // SAFETY: just allocated, and never freed.
            return unsafe {
                ptr::write_bytes(place, 0, pages * PAGE_SIZE);
                Ok(slice::from_raw_parts_mut(place, len))
            };
        }
    }
    Err(Error::Memory(len))
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn range_of(bytes: &[u8]) -> Range<u64> {
    let start = bytes.as_ptr().addr() as u64;
    start..start + bytes.len() as u64
}

/// ACPI's root pointer, of version 2 if possible; 0 if not found.
fn rsdp() -> u64 {
    system::with_config_table(|tables| {
        let find = |guid| tables.iter().find(|table| table.guid == guid);
        let table = find(ConfigTableEntry::ACPI2_GUID).or_else(|| find(ConfigTableEntry::ACPI_GUID));
        table.map_or(0, |table| table.address.addr() as u64)
    })
}

/// Firmware's map in the words of PVH: what is free once boot services have ended is RAM.
fn translate(map: &impl uefi::mem::memory_map::MemoryMap) -> MemoryMap {
    let mut translated = MemoryMap::new();
    for entry in map.entries() {
        let kind = match entry.ty {
            MemoryType::CONVENTIONAL
            | MemoryType::LOADER_CODE
            | MemoryType::LOADER_DATA
            | MemoryType::BOOT_SERVICES_CODE
            | MemoryType::BOOT_SERVICES_DATA => MemmapKind::RAM,
            MemoryType::ACPI_RECLAIM => MemmapKind::ACPI,
            MemoryType::ACPI_NON_VOLATILE => MemmapKind::NVS,
            MemoryType::UNUSABLE => MemmapKind::UNUSABLE,
            _ => MemmapKind::RESERVED,
        };
        translated.add(entry.phys_start, entry.page_count * PAGE_SIZE as u64, kind);
    }
    translated
}
