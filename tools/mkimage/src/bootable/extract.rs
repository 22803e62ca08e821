//! What is in a bootable disk: kernel, command line and initrd. For `mkimage extract`, `mkimage inspect` and `ringside run
//! --image`. The disk may be anybody's: sizes are checked before memory is taken.

use crate::disk::check;
use crate::{Error, Result, initrd, medium};
use fatfs::{FileSystem, FsOptions};
use fscommon::{BufStream, StreamSlice};
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::{partition, partition_types};
use shared_abi::disk::{CMDLINE, CMDLINE_MAX, FOLDER, INITRD, KERNEL, SECTOR};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Larger than any kernel that its 2 GiB could hold.
const FILE_MAX: u64 = initrd::LARGEST;

/// Bytes of an entry of a GPT in all tables that are in use.
const GPT_ENTRY: u32 = 128;
/// Entries of a GPT, at most; 128 are usual.
const GPT_ENTRIES_MAX: u32 = 1024;

/// The parts of a bootable disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The kernel's ELF file.
    pub kernel: Vec<u8>,
    /// The command line, without white space at its end; empty if absent.
    pub cmdline: String,
    /// The initrd, if there is one.
    pub initrd: Option<Vec<u8>>,
}

/// Takes the parts out of a disk.
///
/// # Errors
/// When it cannot be read, has no EFI system partition of ours, or is damaged.
pub fn extract(path: &Path) -> Result<Parts> {
    let mut file = medium::open(path)?.file;
    let partitions = partitions(&mut file).ok_or_else(|| Error::NotBootable(path.into()))?;
    let esp = partitions.into_iter().find(GptEntry::is_esp);
    let esp = esp.ok_or_else(|| Error::NotBootable(path.into()))?;
    let volume = open_volume(&mut file, esp.first * SECTOR, (esp.last + 1) * SECTOR)?;
    from_volume(&volume)?.ok_or_else(|| Error::NotBootable(path.into()))
}

impl Parts {
    /// Writes the parts as files into a folder, which is made.
    ///
    /// # Errors
    /// When a file exists or cannot be written.
    pub fn write(&self, folder: &Path, existing: crate::output::Existing) -> Result<()> {
        use crate::output;
        use std::io::Write;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |why| Error::Write { path, why }
        };
        fs::create_dir_all(folder).map_err(failed(folder))?;
        let cmdline = format!("{}\n", self.cmdline);
        let initrd = self.initrd.as_deref();
        let files = [(KERNEL, Some(&*self.kernel)), (CMDLINE, Some(cmdline.as_bytes())), (INITRD, initrd)];
        for (name, _) in files.iter().filter(|(_, bytes)| bytes.is_some()) {
            output::check(&folder.join(name), &[])?;
            output::check_existing(&folder.join(name), existing)?;
        }
        for (name, bytes) in files {
            let path = folder.join(name);
            if let Some(bytes) = bytes {
                output::write(&path, 0o666, |file| file.write_all(bytes).map_err(failed(&path)))?;
            }
        }
        Ok(())
    }
}

/// An entry of a GPT.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "inspect"), expect(dead_code, reason = "inspect shows all of it"))]
pub(crate) struct GptEntry {
    pub(crate) kind: String,
    pub(crate) guid: String,
    pub(crate) name: String,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl GptEntry {
    /// Whether it is an EFI system partition.
    pub(crate) fn is_esp(&self) -> bool {
        self.kind == partition_types::EFI.guid.to_string()
    }
}

/// The partitions of a disk with a GPT that lie on the disk, in their order.
pub(crate) fn partitions(file: &mut File) -> Option<Vec<GptEntry>> {
    let sectors = medium::bytes(file).ok()? / SECTOR;
    let header = gpt_header(file, sectors)?;
    let table = partition::file_read_partitions(file, &header, LogicalBlockSize::Lb512).ok()?;
    let entries = table.values().filter(|entry| entry.is_used());
    let entries = entries.filter(|entry| entry.first_lba <= entry.last_lba && entry.last_lba < sectors);
    let entries = entries.map(|entry| GptEntry {
        kind: entry.part_type_guid.guid.to_string(),
        guid: entry.part_guid.to_string(),
        name: entry.name.clone(),
        first: entry.first_lba,
        last: entry.last_lba,
    });
    Some(entries.collect())
}

/// The first header of a GPT, or its copy at the end where that is damaged; none whose table the crate must not see: it panics
/// at entries of another size, and reads as many as there are said to be.
fn gpt_header(file: &mut File, sectors: u64) -> Option<Header> {
    let first = read_header_from_arbitrary_device(file, LogicalBlockSize::Lb512);
    let header = first.ok().or_else(|| {
        // Where the last sector is the second of a disk.
        let start = sectors.checked_sub(2)? * SECTOR;
        let mut end = StreamSlice::new(file, start, start + 2 * SECTOR).ok()?;
        read_header_from_arbitrary_device(&mut end, LogicalBlockSize::Lb512).ok()
    })?;
    (header.part_size == GPT_ENTRY && header.num_parts <= GPT_ENTRIES_MAX).then_some(header)
}

/// A FAT file system on a disk.
pub(crate) type Volume<'a> = FileSystem<BufStream<StreamSlice<&'a mut File>>>;

/// What is wrong with a FAT file system.
pub(crate) fn damaged(error: io::Error) -> Error {
    Error::BadDisk { what: format!("its FAT file system does not read: {error}") }
}

/// Opens a FAT file system, once it is known to be sound.
pub(crate) fn open_volume(file: &mut File, start: u64, end: u64) -> Result<Volume<'_>> {
    check::check(StreamSlice::new(&mut *file, start, end).map_err(damaged)?).map_err(damaged)?;
    let slice = StreamSlice::new(file, start, end).map_err(damaged)?;
    FileSystem::new(BufStream::new(slice), FsOptions::new()).map_err(damaged)
}

/// Takes the parts out of a FAT file system; `None` where there is no kernel.
pub(crate) fn from_volume(volume: &Volume<'_>) -> Result<Option<Parts>> {
    let root = volume.root_dir();
    let read = |name: &str, most: u64| -> Result<Option<Vec<u8>>> {
        let mut file = match root.open_file(&format!("{FOLDER}/{name}")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(error)),
        };
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut file).take(most + 1).read_to_end(&mut bytes).map_err(damaged)?;
        if read as u64 > most {
            return Err(Error::BadDisk { what: format!("{FOLDER}/{name} has more than {most} bytes") });
        }
        Ok(Some(bytes))
    };
    let Some(kernel) = read(KERNEL, FILE_MAX)? else { return Ok(None) };
    let cmdline = read(CMDLINE, CMDLINE_MAX as u64)?.unwrap_or_default();
    let cmdline =
        String::from_utf8(cmdline).map_err(|_| Error::BadDisk { what: format!("{FOLDER}/{CMDLINE} is not UTF-8") })?;
    let initrd = read(INITRD, FILE_MAX)?;
    Ok(Some(Parts { kernel, cmdline: cmdline.trim_end().to_owned(), initrd }))
}
