//! The BIOS loader: reads kernel, command line and initrd from the FAT file system that mkimage recorded, and hands over
//! to the kernel with the BIOS's memory map and ACPI's root pointer.
//!
//! Started by `real_mode` in 64-bit mode with the first 4 GiB mapped. Built for `x86_64-unknown-none` by `cargo xtask build`.
//! Trusts the BIOS; the files are checked by the crate `loader`.
#![no_main]
#![no_std]

mod first_sector;
mod real_mode;
mod screen;
mod volume;

use core::fmt::{self, Write};
use core::ops::Range;
use core::panic::PanicInfo;
use core::slice;
use embedded_sdmmc::{Mode, VolumeIdx, VolumeManager};
use loader::{Boot, Handover, Kernel, MemoryMap, block_size};
use shared_abi::disk::{self, BIOS_LOAD, BIOS_PARAMETERS, BiosParameters};
use shared_abi::pvh::MemmapKind;
use volume::{NoTime, ReadError, Volume};

/// Where this program, its stack and the BIOS's data are.
const CONVENTIONAL: Range<u64> = 0..0x10_0000;

type Manager = VolumeManager<Volume, NoTime, 4, 4, 1>;
type Directory<'a> = embedded_sdmmc::Directory<'a, Volume, NoTime, 4, 4, 1>;

/// Why there is no kernel running.
enum Error {
    Kernel(loader::Error),
    File(&'static str, embedded_sdmmc::Error<ReadError>),
    Memory(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.fmt(f),
            Self::File(name, embedded_sdmmc::Error::DeviceError(error)) => {
                write!(f, "cannot read {}/{name}: {error}", disk::FOLDER)
            }
            Self::File(name, error) => write!(f, "cannot read {}/{name}: {error:?}", disk::FOLDER),
            Self::Memory(bytes) => write!(f, "this machine has no {bytes} bytes of free memory below 4 GiB"),
        }
    }
}

#[unsafe(no_mangle)]
extern "sysv64" fn bios_main() -> ! {
    let Err(error) = load();
    let _ = writeln!(screen::Screen, "ringside loader: {error}");
    halt()
}

fn load() -> Result<core::convert::Infallible, Error> {
    let map = memory();
    // SAFETY: mkimage's parameters, in the first sector, which the BIOS has loaded there.
    let medium = unsafe { ((BIOS_LOAD as usize + BIOS_PARAMETERS) as *const BiosParameters).read_unaligned() };
    let manager: Manager = VolumeManager::new(Volume::new(medium), NoTime);
    let failed = |error| Error::File("", error);
    let volume = manager.open_volume(VolumeIdx(0)).map_err(failed)?;
    let mut folder = volume.open_root_dir().map_err(failed)?;
    folder.change_dir(disk::FOLDER).map_err(failed)?;

    let mut taken = [CONVENTIONAL, 0..0, 0..0, 0..0, 0..0];
    let missing = Error::File(disk::KERNEL, embedded_sdmmc::Error::NotFound);
    let first = read(&folder, disk::KERNEL, &map, &taken)?.ok_or(missing)?;
    let mut kernel = Kernel::parse(first).map_err(Error::Kernel)?;
    taken[1] = kernel.span();
    let mut file = range_of(first);
    if file.start < taken[1].end && taken[1].start < file.end {
        // A machine with little memory: once more, now that the kernel's place is known.
        let again = read(&folder, disk::KERNEL, &map, &taken)?.unwrap_or(&[]);
        file = range_of(again);
        kernel = Kernel::parse(again).map_err(Error::Kernel)?;
    }
    taken[2] = file;
    let cmdline = read(&folder, disk::CMDLINE, &map, &taken)?.unwrap_or(&[]);
    taken[3] = range_of(cmdline);
    let cmdline = loader::cmdline(cmdline);
    let initrd = read(&folder, disk::INITRD, &map, &taken)?.filter(|file| !file.is_empty()).map(range_of);
    taken[4] = initrd.clone().unwrap_or_default();

    let size = block_size(cmdline.len()) as u64;
    let block = map.place(size, &taken).ok_or(Error::Memory(size))?;
    let boot = Boot { kernel: &kernel, cmdline, initrd, rsdp: rsdp(), map: &map };
    // SAFETY: a free place below 4 GiB, mapped where it is; the BIOS is not called any more.
    unsafe { Handover::prepare(block as *mut u8, &boot).map_err(Error::Kernel)?.go() }
}

/// What the BIOS said about memory, in the words of PVH, which are the same.
fn memory() -> MemoryMap {
    let mut map = MemoryMap::new();
    // SAFETY: filled in before we were started, and never changed since.
    let entries = unsafe {
        slice::from_raw_parts((&raw const real_mode::bios_e820).cast::<real_mode::E820Entry>(), real_mode::E820_MAX)
    };
    // SAFETY: as above.
    let count = usize::from(unsafe { real_mode::bios_e820_count });
    for entry in entries.iter().take(count).filter(|entry| entry.attributes & 1 != 0) {
        map.add(entry.addr, entry.size, MemmapKind(entry.kind));
    }
    map
}

/// Reads a file to the highest free place; `None` if it is absent.
fn read(
    folder: &Directory<'_>,
    name: &'static str,
    map: &MemoryMap,
    taken: &[Range<u64>],
) -> Result<Option<&'static [u8]>, Error> {
    let failed = |error| Error::File(name, error);
    let file = match folder.open_file_in_dir(name, Mode::ReadOnly) {
        Ok(file) => file,
        Err(embedded_sdmmc::Error::NotFound) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let len = u64::from(file.length());
    let place = map.place(len.max(1), taken).ok_or(Error::Memory(len))?;
    // SAFETY: free RAM, mapped where it is, that only this file gets.
    let bytes = unsafe {
        (place as *mut u8).write_bytes(0, len as usize);
        slice::from_raw_parts_mut(place as *mut u8, len as usize)
    };
    let mut done = 0;
    while done < bytes.len() {
        match file.read(&mut bytes[done..]).map_err(failed)? {
            0 => return Err(failed(embedded_sdmmc::Error::EndOfFile)),
            count => done += count,
        }
    }
    Ok(Some(bytes))
}

fn range_of(bytes: &[u8]) -> Range<u64> {
    let start = bytes.as_ptr().addr() as u64;
    start..start + bytes.len() as u64
}

/// ACPI's root pointer, where a BIOS puts it: the first KiB of the extended BIOS data area, or the BIOS's own 128 KiB
/// (ACPI 6.5, 5.2.5.1); 0 if not found.
fn rsdp() -> u64 {
    const EBDA_SEGMENT: usize = 0x40e;
    const RSDP: usize = 20;
    // SAFETY: a word of the BIOS data area.
    let ebda = usize::from(unsafe { (EBDA_SEGMENT as *const u16).read_volatile() }) << 4;
    let places = [ebda..ebda + 1024, 0xe_0000..0x10_0000];
    for address in places.into_iter().filter(|place| place.start >= 0x400).flat_map(|place| place.step_by(16)) {
        // SAFETY: in the first MiB, where reading does no harm.
        let bytes = unsafe { slice::from_raw_parts(address as *const u8, RSDP) };
        if bytes.starts_with(b"RSD PTR ") && bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) == 0 {
            return address as u64;
        }
    }
    0
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(screen::Screen, "ringside loader: {info}");
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: interrupts are off, so this is the end.
        unsafe { core::arch::asm!("hlt", options(nomem, nostack)) };
    }
}
