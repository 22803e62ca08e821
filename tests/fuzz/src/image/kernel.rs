//! A kernel's ELF file: the host's loader, the reader of `mkimage`, and an image made of it.

use super::file;
use crate::assert_one_line;
use host_backend::vmm::loader::{self, Sources};
use host_backend::vmm::memory::{self, GuestRam};
use mkimage::bundle::Bundle;
use mkimage::image;
use mkimage::inspect::inspect;
use mkimage::kernel::Kernel;
use shared_abi::board::{CMDLINE_ADDR, MEMMAP_ADDR, START_INFO_ADDR};
use shared_abi::pvh::START_MAGIC;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of the guest.
const MEMORY: usize = 4 << 20;
const PAGE: usize = 4096;
const CMDLINE: &str = "tour x=1";

pub(crate) fn run(bytes: &[u8]) {
    let (mut file, path) = file();
    file.write_all(bytes).unwrap_or_else(|error| panic!("the system takes no file: {error}"));
    load(bytes, &path);
    if let Err(error) = inspect(&path) {
        assert_one_line(&error.to_string());
    }
    let Ok(kernel) = Kernel::parse(bytes) else { return };
    // Each reads another part, and may find damage in it.
    let _ = (kernel.physical_end(), kernel.loaded_sections(), kernel.functions());
    if let Ok(image) = image::build(bytes, CMDLINE, vec![7; 100]) {
        check_image(&image);
    }
}

/// Puts the kernel into memory: nothing is written but its segments and the boot data.
fn load(bytes: &[u8], path: &Path) {
    thread_local! {
        static RAM: GuestRam = memory::map(MEMORY as u64).unwrap_or_else(|error| panic!("{error}"));
    }
    RAM.with(|ram| {
        memory::clear(ram).unwrap_or_else(|error| panic!("{error}"));
        let kernel = loader::open(path).unwrap_or_else(|error| panic!("the kernel was just written: {error}"));
        match loader::load(ram, &mut Sources { kernel, initrd: None, cmdline: CMDLINE.into() }) {
            Ok(entry) => check_loaded(ram, bytes, entry),
            Err(error) => assert_one_line(&error.to_string()),
        }
    });
}

fn check_loaded(ram: &GuestRam, bytes: &[u8], entry: u32) {
    let segments = segments(bytes);
    assert!(segments.iter().any(|segment| segment.contains(&entry.into())), "the entry {entry:#x} is nowhere");
    let magic: u32 = ram.read_obj(GuestAddress(START_INFO_ADDR)).unwrap_or_default();
    assert_eq!(magic, START_MAGIC);
    let mut cmdline = [0; CMDLINE.len()];
    assert!(ram.read_slice(&mut cmdline, GuestAddress(CMDLINE_ADDR)).is_ok() && cmdline == *CMDLINE.as_bytes());
    let ours = [START_INFO_ADDR..MEMMAP_ADDR + PAGE as u64, CMDLINE_ADDR..CMDLINE_ADDR + PAGE as u64];
    let written = |page: u64| {
        let end = page + PAGE as u64;
        ours.iter().chain(&segments).any(|range| page < range.end && range.start < end)
    };
    let mut content = [0; PAGE];
    for page in (0..MEMORY as u64).step_by(PAGE) {
        let read = ram.read_slice(&mut content, GuestAddress(page)).is_ok();
        assert!(read && (written(page) || content == [0; PAGE]), "something was written at {page:#x}");
    }
}

/// The physical addresses of the loadable segments, as the program headers have them.
fn segments(bytes: &[u8]) -> Vec<Range<u64>> {
    let number = |at: usize, len: usize| {
        let part = bytes.get(at..at + len).unwrap_or_default();
        part.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let headers = (0..number(56, 2)).map(|index| (number(32, 8) + index * 56) as usize);
    let loads = headers.filter(|header| number(*header, 4) == 1);
    loads.map(|header| number(header + 24, 8)..number(header + 24, 8) + number(header + 40, 8)).collect()
}

/// An image made of any kernel is one that the reader takes, with all that was put in.
fn check_image(image: &[u8]) {
    let ours = |error: mkimage::Error| -> ! { panic!("our own image does not read: {error}") };
    let kernel = Kernel::parse(image).unwrap_or_else(|error| ours(error));
    let slot = kernel.slot().unwrap_or_else(|error| ours(error)).slot;
    let range = kernel.physical_range(slot.paddr, slot.len).unwrap_or_else(|| panic!("the bundle is nowhere"));
    let bundle = Bundle::parse(&image[range]).unwrap_or_else(|error| ours(error));
    assert_eq!((bundle.cmdline.as_str(), bundle.initrd.len()), (CMDLINE, 100));
    kernel.pvh_entry().unwrap_or_else(|error| ours(error));
}
