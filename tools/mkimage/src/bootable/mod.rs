//! Bootable images in all formats: [`Image`] is what goes in, [`Image::write`] makes a file of it.
//!
//! Called by the `mkimage` program, by `cargo xtask` and by the tests.

mod disk;
mod esp;
pub mod extract;
mod iso;

use crate::bundle::check_cmdline;
use crate::device::{self, Device};
pub use crate::format::Format;
use crate::kernel::{self, Kernel};
use crate::loaders::Loaders;
use crate::output::{self, Existing, Unfinished};
pub use crate::progress::{Bytes, Progress, Step};
use crate::sparse::Sparse;
use crate::time::Timestamp;
use crate::{Error, Result, bzimage, image, initrd, qemu_img};
use sha2::{Digest, Sha256};
use shared_abi::disk::CMDLINE_MAX;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::Builder;
use uuid::Uuid;

/// What goes into an image.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The kernel: as it was linked, an image of the format `elf`, or any ELF with a PVH entry.
    pub kernel: Vec<u8>,
    /// The command line.
    pub cmdline: String,
    /// The initrd; empty: none.
    pub initrd: Vec<u8>,
    /// A folder of more files for the EFI system partition.
    pub files: Option<PathBuf>,
    /// Bytes of a disk; otherwise what is needed, at least 64 MiB. An ISO image always has what is needed.
    pub size: Option<u64>,
    /// For disks.
    pub loaders: Option<Loaders>,
    /// The time stamp of all files.
    pub time: Timestamp,
}

impl Image {
    /// Reads a kernel, and an initrd from a file or folder.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn read(kernel: &Path, cmdline: &str, initrd: Option<&Path>) -> Result<Self> {
        let initrd = initrd.map(initrd::load).transpose()?.unwrap_or_default();
        let kernel = kernel::read(kernel)?;
        Ok(Self { kernel, cmdline: cmdline.into(), initrd, ..Self::default() })
    }

    /// Makes the file.
    ///
    /// # Errors
    /// Whatever is wrong with what goes in; then there is no output.
    pub fn write(&self, format: Format, output: &Path, existing: Existing, progress: Progress<'_>) -> Result<()> {
        format.check_output(output, &[], existing)?;
        let device = device::is_device(output).then(|| Device::open(output)).transpose()?;
        progress(Step::Composing, Bytes::UNKNOWN);
        let failed = |why| Error::Write { path: output.into(), why };
        if matches!(format, Format::Elf | Format::BzImage) {
            let mut bytes = image::build_or_take(&self.kernel, &self.cmdline, self.initrd.clone(), format)?;
            if format == Format::BzImage {
                let loaders = self.loaders.as_ref().ok_or_else(|| Error::NoLoaders(PathBuf::new()))?;
                bytes = bzimage::build(&bytes, &loaders.linux)?;
            }
            return output::write(output, 0o777, |file| file.write_all(&bytes).map_err(failed));
        }
        let disk = self.compose(format, device.as_ref().map(Device::bytes))?;
        if let Some(device) = device {
            return device.write(&disk, progress);
        }
        if let Some(name) = format.of_qemu_img() {
            return write_converted(&disk, name, output, progress);
        }
        output::write(output, 0o666, |file| write_sparse(file, &disk, progress).map_err(failed))
    }

    /// The disk in memory, for a device with so many bytes or for a file; an ISO image for the format `iso`.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn compose(&self, format: Format, device: Option<u64>) -> Result<Sparse> {
        let content = Content::new(self)?;
        if format == Format::Iso { iso::compose(&content, device) } else { disk::compose(&content, device) }
    }
}

/// What is not zeros goes to the file; the rest are holes.
fn write_sparse(file: &mut File, disk: &Sparse, progress: Progress<'_>) -> io::Result<()> {
    file.set_len(disk.len())?;
    let mut done = 0;
    for (at, bytes) in disk.pieces() {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        done += bytes.len() as u64;
        progress(Step::Writing, Bytes { done, total: disk.used() });
    }
    Ok(())
}

/// An image that has been looked through.
struct Content<'a> {
    image: &'a Image,
    /// With its symbols, where it takes them.
    kernel: Vec<u8>,
    loaders: &'a Loaders,
    /// Of all that goes in: where identifiers come from that others make up by chance.
    digest: [u8; 32],
}

impl<'a> Content<'a> {
    fn new(image: &'a Image) -> Result<Self> {
        let kernel = Kernel::parse(&image.kernel)?;
        kernel.pvh_entry()?;
        check_cmdline(&image.cmdline)?;
        if image.cmdline.len() + 1 >= CMDLINE_MAX {
            let what = format!("has {} bytes; at most {} fit on a disk", image.cmdline.len(), CMDLINE_MAX - 2);
            return Err(Error::BadCommandLine { what });
        }
        let kernel = match kernel.slot() {
            Ok(placed) if placed.slot.paddr == 0 => image::build(&image.kernel, "", Vec::new())?,
            // An image already, or another kernel.
            Ok(_) | Err(Error::NoSlot) => image.kernel.clone(),
            Err(error) => return Err(error),
        };
        let loaders = image.loaders.as_ref().ok_or_else(|| Error::NoLoaders(PathBuf::new()))?;
        let mut hash = Sha256::new();
        let time = image.time.seconds().to_le_bytes();
        for part in [&kernel, image.cmdline.as_bytes(), &image.initrd, &loaders.efi, &loaders.bios, &time] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(Self { image, kernel, loaders, digest: hash.finalize().into() })
    }

    /// Bytes and number of all files.
    fn weight(&self) -> Result<(u64, u64)> {
        let mut bytes =
            [&self.kernel, &self.image.initrd, &self.loaders.efi].map(|part| part.len() as u64).iter().sum();
        let mut files = 8;
        if let Some(folder) = &self.image.files {
            for (_, path) in initrd::walk(folder)? {
                let metadata = fs::metadata(&path).map_err(|why| Error::Read { path, why })?;
                bytes += if metadata.is_file() { metadata.len() } else { 0 };
                files += 1;
            }
        }
        Ok((bytes, files))
    }

    /// An identifier that is always the same for the same content.
    fn guid(&self, name: &str) -> Uuid {
        let digest = Sha256::new().chain_update(self.digest).chain_update(name).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    fn volume_id(&self) -> u32 {
        u32::from_le_bytes([self.digest[0], self.digest[1], self.digest[2], self.digest[3]])
    }
}

/// Writes a disk in the format of another hypervisor: raw, then converted by qemu-img.
fn write_converted(disk: &Sparse, format: &str, output: &Path, progress: Progress<'_>) -> Result<()> {
    let failed = |why| Error::Write { path: output.into(), why };
    let folder = output::folder_of(output);
    let mut raw = Unfinished::new(Builder::new().prefix(".mkimage-"), folder).map_err(failed)?;
    write_sparse(raw.file(), disk, progress).map_err(failed)?;
    output::write_path(output, 0o666, |converted| {
        let total = disk.used();
        let done = qemu_img::convert(("raw", raw.path()), (format, converted), u64::MAX, &mut |share| {
            progress(Step::Converting, Bytes { done: (share * total as f64) as u64, total });
        });
        done.map_err(|failure| failure.about(format, failed))
    })
}
