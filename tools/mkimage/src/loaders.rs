//! The loaders that go onto bootable disks. `cargo xtask build` makes them; this finds them and cuts the BIOS loader out
//! of its ELF file.

use crate::kernel::file_range;
use crate::{Error, Result};
use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use shared_abi::bzimage;
use shared_abi::disk::{BIOS_LOAD, BIOS_MAGIC, BIOS_PARAMETERS, BiosParameters, SECTOR};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

/// The UEFI loader's file in the folder of loaders.
pub const EFI_FILE: &str = "loader-efi.efi";
/// The BIOS loader's file in the folder of loaders.
pub const BIOS_FILE: &str = "loader-bios";
/// The file of a bzImage's setup part in the folder of loaders.
pub const LINUX_FILE: &str = "loader-linux";
/// The folder of loaders, next to the program.
pub const FOLDER: &str = "loaders";

/// The loaders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaders {
    /// The UEFI application.
    pub efi: Vec<u8>,
    /// The BIOS loader as it lies in memory from [`BIOS_LOAD`] on, whole sectors.
    pub bios: Vec<u8>,
    /// The setup part of a bzImage, whole sectors.
    pub linux: Vec<u8>,
}

impl Loaders {
    /// Reads them from a folder.
    ///
    /// # Errors
    /// When one is missing or is no loader.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|why| Error::Read { path, why })
        };
        let bad = |name: &str, what: &'static str| Error::BadLoader { path: folder.join(name), what };
        let (efi, bios) = (read(EFI_FILE)?, read(BIOS_FILE)?);
        if !efi.starts_with(b"MZ") {
            return Err(bad(EFI_FILE, "it is no UEFI application"));
        }
        let bios = flatten(&bios, BIOS_LOAD).filter(|flat| is_bios_loader(flat));
        let bios = bios.ok_or_else(|| bad(BIOS_FILE, "it is no BIOS loader of this version"))?;
        let linux = flatten(&read(LINUX_FILE)?, 0).filter(|flat| is_setup_part(flat));
        let linux = linux.ok_or_else(|| bad(LINUX_FILE, "it is no setup part of this version"))?;
        Ok(Self { efi, bios, linux })
    }

    /// The default folder to search: next to the program, or where the release build
    /// is next to that of the program.
    ///
    /// # Errors
    /// [`Error::NoLoaders`].
    pub fn find() -> Result<PathBuf> {
        let program = env::current_exe().unwrap_or_default();
        let folder = program.parent().unwrap_or(Path::new("."));
        let places = [folder.join(FOLDER), folder.join("../release").join(FOLDER)];
        places.into_iter().find(|place| place.join(EFI_FILE).exists()).ok_or(Error::NoLoaders(folder.join(FOLDER)))
    }

    /// The BIOS loader, with the parameters of its medium.
    pub(crate) fn bios_for(&self, parameters: BiosParameters) -> Vec<u8> {
        let parameters = BiosParameters { magic: BIOS_MAGIC, ..parameters };
        let mut bytes = self.bios.clone();
        let end = BIOS_PARAMETERS + size_of::<BiosParameters>();
        if let Some(place) = bytes.get_mut(BIOS_PARAMETERS..end) {
            place.copy_from_slice(parameters.as_bytes());
        }
        bytes
    }
}

/// What a loader's segments hold from an address on, in whole sectors.
fn flatten(data: &[u8], load: u64) -> Option<Vec<u8>> {
    // More than conventional memory is no loader.
    const END: u64 = 0xa_0000;
    let header = FileHeader64::<LE>::parse(data).ok()?;
    let mut flat = Vec::new();
    for segment in header.program_headers(LE, data).ok()?.iter().filter(|s| s.p_type(LE) == elf::PT_LOAD) {
        let range = file_range(data, segment.p_offset(LE), segment.p_filesz(LE))?;
        let start = segment.p_paddr(LE).checked_sub(load)?;
        let end = start.checked_add(range.len() as u64).filter(|end| *end <= END - load)?;
        flat.resize(flat.len().max(end as usize), 0);
        flat[start as usize..end as usize].copy_from_slice(&data[range]);
    }
    flat.resize(flat.len().next_multiple_of(SECTOR as usize), 0);
    Some(flat)
}

fn is_bios_loader(flat: &[u8]) -> bool {
    let has_parameters = flat.get(BIOS_PARAMETERS..).is_some_and(|at| at.starts_with(&BIOS_MAGIC));
    has_parameters && flat.get(510..512) == Some(&[0x55, 0xaa])
}

fn is_setup_part(flat: &[u8]) -> bool {
    let header = flat.get(bzimage::field::HEADER..).is_some_and(|at| at.starts_with(b"HdrS"));
    let entry = flat.get(bzimage::ENTRY - bzimage::MAGIC.len()..).is_some_and(|at| at.starts_with(&bzimage::MAGIC));
    header && entry && flat.len() <= bzimage::SETUP_MAX
}
