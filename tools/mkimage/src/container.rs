//! Disks in files of other hypervisors, as inputs: qemu-img makes a raw disk of them.
//!
//! Such a file can name others, from which the disk's content comes: a backing file, a data file, extents. One from a stranger
//! would then hand out the user's files, or have qemu-img open devices and network addresses. So what names other files is
//! refused, before qemu-img sees it wherever looking at it would already open them.

use crate::output::Unfinished;
use crate::{Error, Result, qemu_img, size};
use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;
use tempfile::Builder;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, big_endian, little_endian};

/// The largest disk that is taken out of a container: a file of a few bytes can claim to hold any size.
const DISK_MAX: u64 = 64 << 30;
/// How much content comes out of a file, in its own bytes: compressed clusters make many of few.
const GROWTH: u64 = 16;
/// What is always taken.
const CONTENT_LEAST: u64 = 1 << 30;
/// The largest text descriptor; QEMU reads no more.
const DESCRIPTOR_MAX: u64 = 1 << 20;

/// A container format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    /// QEMU's.
    Qcow2,
    /// Hyper-V's.
    Vhdx,
    /// VMware's: one file.
    Vmdk,
    /// VMware's: a text that names the files with the content.
    VmdkDescriptor,
}

/// The start of a qcow2 file (QEMU, docs/interop/qcow2, "Header").
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Qcow2Header {
    magic: [u8; 4],
    version: big_endian::U32,
    backing_file_offset: big_endian::U64,
    others: [u8; 56],
    /// Of version 3.
    incompatible_features: big_endian::U64,
}

/// Bit of `incompatible_features`.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;

/// The start of a VMDK file (VMware Virtual Disk Format 5.0, "Hosted Sparse Extent Header").
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct VmdkHeader {
    magic: [u8; 4],
    version: little_endian::U32,
    flags: little_endian::U32,
    capacity: little_endian::U64,
}

impl Container {
    /// Which one starts so.
    pub(crate) fn recognise(start: &[u8]) -> Option<Self> {
        [
            (b"QFI\xfb".as_slice(), Self::Qcow2),
            (b"vhdxfile", Self::Vhdx),
            (b"KDMV", Self::Vmdk),
            (b"# Disk DescriptorFile", Self::VmdkDescriptor),
        ]
        .into_iter()
        .find_map(|(magic, container)| start.starts_with(magic).then_some(container))
    }

    /// qemu-img's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vhdx => "vhdx",
            Self::Vmdk | Self::VmdkDescriptor => "vmdk",
        }
    }

    /// The disk in the container at `path`, which starts with `start`, in a temporary file without a name.
    pub(crate) fn unpack(self, path: &Path, start: &[u8]) -> Result<File> {
        let format = self.name();
        let refused = |why: String| Error::BadContainer { path: path.into(), format, why };
        let failed = |source: io::Error| refused(source.to_string());
        let others = |what: &str| refused(format!("{what}; only a disk that is whole in itself is taken"));
        if let Some(what) = self.names_others(path, start).map_err(failed)? {
            return Err(others(what));
        }
        // From the root on: a colon in a relative path would make qemu-img take its beginning for a protocol.
        let place = path.canonicalize().map_err(failed)?;
        let info = qemu_img::info(format, &place).map_err(|failure| failure.about(format, failed))?;
        if let Some(name) = info.backing_filename.as_deref().or(info.data_file()) {
            return Err(others(&format!("it names another file, {name:?}")));
        }
        if info.virtual_size > DISK_MAX {
            let (bytes, most) = (info.virtual_size, size::display(DISK_MAX));
            return Err(refused(format!("the disk in it has {bytes} bytes; at most {most} are taken")));
        }
        let raw = Unfinished::new(Builder::new().prefix("mkimage-"), &env::temp_dir()).map_err(failed)?;
        let bytes = fs::metadata(&place).map_err(failed)?.len();
        let most = CONTENT_LEAST.max(bytes.saturating_mul(GROWTH));
        let done = qemu_img::convert((format, &place), ("raw", raw.path()), most, &mut |_| {});
        done.map_err(|failure| failure.about(format, failed))?;
        // Opened again, lest it has become another file; dropping the first one takes away the name.
        File::open(raw.path()).map_err(failed)
    }

    /// What in the file would make qemu-img open others as soon as it looks at it.
    fn names_others(self, path: &Path, start: &[u8]) -> io::Result<Option<&'static str>> {
        Ok(match self {
            Self::Qcow2 => Qcow2Header::read_from_prefix(start).ok().and_then(|(header, _)| header.names_others()),
            Self::Vmdk => {
                VmdkHeader::lacks_size(start).then_some("it has no size, so that its content is in other files")
            }
            Self::VmdkDescriptor => descriptor_names_others(path)?,
            Self::Vhdx => None,
        })
    }
}

impl Qcow2Header {
    fn names_others(&self) -> Option<&'static str> {
        if self.backing_file_offset.get() != 0 {
            Some("it names a backing file")
        } else if self.version.get() >= 3 && self.incompatible_features.get() & EXTERNAL_DATA_FILE != 0 {
            Some("its data are in another file")
        } else {
            None
        }
    }
}

impl VmdkHeader {
    /// Whether a file is one without a size, which QEMU reads as one more descriptor.
    fn lacks_size(start: &[u8]) -> bool {
        Container::recognise(start) == Some(Container::Vmdk)
            && Self::read_from_prefix(start).is_ok_and(|(header, _)| header.capacity.get() == 0)
    }
}

/// A descriptor always names other files. Those in its folder belong to it; a text without slash and colon can name no others.
fn descriptor_names_others(path: &Path) -> io::Result<Option<&'static str>> {
    let mut text = Vec::new();
    File::open(path)?.take(DESCRIPTOR_MAX).read_to_end(&mut text)?;
    // QEMU fills up the file with NUL, and reads until there.
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
    if text.iter().any(|byte| b"/\\:".contains(byte)) {
        return Ok(Some("it names files in other places"));
    }
    let folder = path.canonicalize()?.parent().map(Path::to_owned).unwrap_or_default();
    // Whatever stands between two quotation marks may be a name, also where the marks do not pair.
    for name in String::from_utf8_lossy(&text).split('"').filter(|name| !name.is_empty()) {
        let extent = folder.join(name);
        let Ok(metadata) = fs::symlink_metadata(&extent) else { continue };
        if !metadata.is_file() {
            return Ok(Some("it names something that is no regular file"));
        }
        if VmdkHeader::lacks_size(&start_of(&mut File::open(&extent)?)?) {
            return Ok(Some("one of its files has no size, so that its content is in others"));
        }
    }
    Ok(None)
}

/// Why the file at `path` is not shown to qemu-img, if it is a container that would have it open others.
///
/// # Errors
/// When the file, or one of its folder that it names, cannot be read.
pub fn names_others(file: &mut File, path: &Path) -> io::Result<Option<&'static str>> {
    let start = start_of(file)?;
    Container::recognise(&start).map_or(Ok(None), |container| container.names_others(path, &start))
}

/// The first bytes of a file, enough for [`Container::recognise`] and [`Container::unpack`]; the position is the start again.
pub(crate) fn start_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start)
}
