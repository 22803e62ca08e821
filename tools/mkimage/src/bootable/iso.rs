//! The `iso` format: the layout of a disk, and in its gap below 1 MiB what makes it a CD.
//!
//! ```text
//! block 16   primary volume descriptor, boot record, terminator     (of 2048 bytes, from 32 KiB on; the GPT ends before)
//! block 19   path tables: little-endian, big-endian
//! block 21   directories: root, EFI, RINGSIDE, EFI/BOOT
//! block 25   boot catalogue: BIOS loader at 1 MiB, EFI system partition at 2 MiB
//! ```
//!
//! The directories' files are those in the EFI system partition: its clusters are blocks, so nothing is there twice.

use super::esp::Shape;
use super::{Content, disk};
use crate::disk::LARGEST;
use crate::disk::fat::{Extent, Volume};
use crate::iso9660::{
    BLOCK, BootDescriptor, BootEntry, Both16, Both32, DescriptorHeader, DirectoryRecord, EL_TORITO, FIRST_DESCRIPTOR,
    FLAG_DIRECTORY, PARENT, PLATFORM_BIOS, PLATFORM_UEFI, PrimaryDescriptor, SELF, SectionHeader, ValidationEntry,
    descriptor,
};
use crate::sparse::Sparse;
use crate::time::Timestamp;
use crate::{Error, Result, size};
use fscommon::StreamSlice;
use shared_abi::disk::{BIOS_FIRST, CMDLINE, EFI_LOADER, ESP_FIRST, FOLDER, INITRD, KERNEL, SECTOR};
use std::io::{self, Seek, SeekFrom, Write};
use zerocopy::{FromZeros, IntoBytes};

const LABEL: &str = "RINGSIDE";
const PATH_TABLE_LITTLE: u64 = FIRST_DESCRIPTOR + 3;
const PATH_TABLE_BIG: u64 = PATH_TABLE_LITTLE + 1;
const DIRECTORIES: u64 = PATH_TABLE_BIG + 1;
const CATALOGUE: u64 = DIRECTORIES + 4;
/// In the order of the path table (6.9.1): by depth, then parent, then name. Names, and indexes of parents.
const TREE: [(&str, usize); CATALOGUE as usize - DIRECTORIES as usize] =
    [("", 0), (EFI_LOADER[0], 0), (FOLDER, 0), (EFI_LOADER[1], 1)];
/// Files, by their directory and then in the order of their names (9.3).
const FILES: [(usize, &str); 4] = [(2, CMDLINE), (2, INITRD), (2, KERNEL), (3, EFI_LOADER[2])];

/// Makes the image.
pub(super) fn compose(content: &Content<'_>, device: Option<u64>) -> Result<Sparse> {
    let (bytes, files) = content.weight()?;
    let shape = Shape::of_iso(bytes, files);
    let size = disk::least(&shape);
    if size > LARGEST {
        let range = format!("at most {} are possible", size::display(LARGEST));
        return Err(Error::DiskSize { size, how: "large", range });
    }
    let mut image = disk::lay_out(content, disk::room(device, size)?, &shape)?;
    let failed = |why| Error::Compose { what: "the ISO 9660 file system", why };
    write(&mut image, size, content, &shape).map_err(failed)?;
    Ok(image)
}

/// Writes the file system; it has `size` bytes, whatever else there is on a device.
fn write(image: &mut Sparse, size: u64, content: &Content<'_>, shape: &Shape) -> io::Result<()> {
    let esp = ESP_FIRST * SECTOR;
    let mut volume = Volume::open(StreamSlice::new(&mut *image, esp, esp + shape.bytes())?)?;
    let mut directories: [Vec<u8>; TREE.len()] = std::array::from_fn(|index| start_of(index, TREE[index].1, content));
    for (index, (name, parent)) in TREE.iter().enumerate().skip(1) {
        directories[*parent].extend(directory(index, name.to_ascii_uppercase().as_bytes(), content));
    }
    for (index, name) in FILES {
        let path: Vec<&str> = path_of(index).into_iter().chain([name]).collect();
        if let Some(Extent { start, len }) = volume.extent(&path)? {
            let name = format!("{};1", name.to_ascii_uppercase());
            directories[index].extend(record(name.as_bytes(), block_of(esp + start)?, len, 0, content));
        }
    }
    let mut put = |block: u64, bytes: &[u8]| {
        image.seek(SeekFrom::Start(block * BLOCK))?;
        image.write_all(bytes)
    };
    for (block, bytes) in (DIRECTORIES..).zip(&directories) {
        put(block, bytes)?;
    }
    let path_table = path_table(u32::to_le_bytes, u16::to_le_bytes);
    put(PATH_TABLE_LITTLE, &path_table)?;
    put(PATH_TABLE_BIG, &self::path_table(u32::to_be_bytes, u16::to_be_bytes))?;
    put(CATALOGUE, &catalogue(shape))?;
    let mut boot = BootDescriptor::new_zeroed();
    boot.header = DescriptorHeader::new(descriptor::BOOT);
    boot.system[..EL_TORITO.len()].copy_from_slice(EL_TORITO);
    boot.catalogue.set(CATALOGUE as u32);
    put(FIRST_DESCRIPTOR + 1, boot.as_bytes())?;
    put(FIRST_DESCRIPTOR + 2, DescriptorHeader::new(descriptor::TERMINATOR).as_bytes())?;
    put(FIRST_DESCRIPTOR, primary(content, block_of(size)?, path_table.len() as u32).as_bytes())
}

/// The block that starts at a byte.
fn block_of(byte: u64) -> io::Result<u32> {
    let block = u32::try_from(byte / BLOCK).ok().filter(|_| byte.is_multiple_of(BLOCK));
    block.ok_or_else(|| io::Error::other(format!("byte {byte} is not the start of a block")))
}

fn path_of(mut index: usize) -> Vec<&'static str> {
    let mut path = Vec::new();
    while index != 0 {
        path.insert(0, TREE[index].0);
        index = TREE[index].1;
    }
    path
}

fn primary(content: &Content<'_>, blocks: u32, path_table_bytes: u32) -> PrimaryDescriptor {
    let date = descriptor_date(content.image.time);
    // "Not specified" (8.4.26.1).
    let mut none = [b'0'; 17];
    none[16] = 0;
    let root = directory_record(1, block_of_directory(0), BLOCK as u32, FLAG_DIRECTORY, content);
    PrimaryDescriptor {
        header: DescriptorHeader::new(descriptor::PRIMARY),
        system: text(""),
        volume: text(LABEL),
        blocks: Both32::new(blocks),
        set_size: Both16::new(1),
        sequence: Both16::new(1),
        block_bytes: Both16::new(BLOCK as u16),
        path_table_bytes: Both32::new(path_table_bytes),
        path_table_little: (PATH_TABLE_LITTLE as u32).into(),
        path_table_big: (PATH_TABLE_BIG as u32).into(),
        root,
        volume_set: text(&content.guid("volume set").simple().to_string().to_ascii_uppercase()),
        publisher: text(""),
        preparer: text("MKIMAGE"),
        application: text("RINGSIDE"),
        copyright_file: text(""),
        abstract_file: text(""),
        bibliographic_file: text(""),
        created: date,
        modified: date,
        expires: none,
        effective: none,
        structure_version: 1,
        ..PrimaryDescriptor::new_zeroed()
    }
}

/// Filled up with spaces (7.4.3.2).
fn text<const LEN: usize>(text: &str) -> [u8; LEN] {
    std::array::from_fn(|index| text.as_bytes().get(index).copied().unwrap_or(b' '))
}

fn block_of_directory(index: usize) -> u32 {
    (DIRECTORIES + index as u64) as u32
}

/// The records of a directory itself and of its parent.
fn start_of(index: usize, parent: usize, content: &Content<'_>) -> Vec<u8> {
    [directory(index, SELF, content), directory(parent, PARENT, content)].concat()
}

fn directory(index: usize, name: &[u8], content: &Content<'_>) -> Vec<u8> {
    record(name, block_of_directory(index), BLOCK as u32, FLAG_DIRECTORY, content)
}

fn record(name: &[u8], extent: u32, bytes: u32, flags: u8, content: &Content<'_>) -> Vec<u8> {
    let header = directory_record(name.len(), extent, bytes, flags, content);
    let mut record = [header.as_bytes(), name].concat();
    record.resize(header.len.into(), 0);
    record
}

fn directory_record(name: usize, extent: u32, bytes: u32, flags: u8, content: &Content<'_>) -> DirectoryRecord {
    DirectoryRecord {
        len: (size_of::<DirectoryRecord>() + name).next_multiple_of(2) as u8,
        attribute_blocks: 0,
        extent: Both32::new(extent),
        bytes: Both32::new(bytes),
        date: record_date(content.image.time),
        flags,
        unit: 0,
        gap: 0,
        sequence: Both16::new(1),
        name_len: name as u8,
    }
}

/// Of all directories (9.4), in one of the byte orders; parents are counted from 1.
fn path_table(number: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let mut table = Vec::new();
    for (index, (name, parent)) in TREE.iter().enumerate() {
        let name = if index == 0 { SELF.to_vec() } else { name.to_ascii_uppercase().into_bytes() };
        table.extend([name.len() as u8, 0]);
        table.extend(number(block_of_directory(index)));
        table.extend(short(*parent as u16 + 1));
        table.extend(&name);
        table.resize(table.len().next_multiple_of(2), 0);
    }
    table
}

fn catalogue(shape: &Shape) -> Vec<u8> {
    let mut validation = ValidationEntry::new_zeroed();
    validation.header = ValidationEntry::HEADER;
    validation.platform = PLATFORM_BIOS;
    validation.id[..LABEL.len()].copy_from_slice(LABEL.as_bytes());
    validation.key = ValidationEntry::KEY;
    validation.checksum.set(validation.sum().wrapping_neg());
    let block = |sector: u64| (sector * SECTOR / BLOCK) as u32;
    // One block, whatever the loader has: some BIOSes load no more. What is in it loads the rest.
    let bios = BootEntry::new(disk::BLOCK_SECTORS as u16, block(BIOS_FIRST));
    let mut section = SectionHeader::new_zeroed();
    section.indicator = SectionHeader::LAST;
    section.platform = PLATFORM_UEFI;
    section.entries.set(1);
    // 0 when it has more than can be said: all up to the end (UEFI 2.10, 13.3.2.1).
    let uefi = BootEntry::new(u16::try_from(shape.sectors).unwrap_or(0), block(ESP_FIRST));
    [validation.as_bytes(), bios.as_bytes(), section.as_bytes(), uefi.as_bytes()].concat()
}

/// As directory records have it (9.1.5).
fn record_date(time: Timestamp) -> [u8; 7] {
    let ([year, month, day], [hour, minute, second]) = time.civil();
    [year - 1900, month, day, hour, minute, second, 0].map(|part| part as u8)
}

/// As volume descriptors have it (8.4.26.1): digits to hundredths of a second, and the zone, UTC.
fn descriptor_date(time: Timestamp) -> [u8; 17] {
    let ([year, month, day], [hour, minute, second]) = time.civil();
    let digits = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}00");
    let mut date = [0; 17];
    date[..digits.len()].copy_from_slice(digits.as_bytes());
    date
}
