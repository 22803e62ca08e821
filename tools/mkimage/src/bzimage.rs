//! The `bzimage` format: the ELF image's segments as they lie in memory from 1 MiB on, after a setup part that enters them.
//! For hypervisors that load nothing else; QEMU with SeaBIOS takes it as well.

use crate::kernel::Kernel;
use crate::{Error, Result};
use object::LittleEndian as LE;
use object::read::elf::ProgramHeader;
use shared_abi::bzimage::{ENTRY, LOAD, field};

const SECTOR: usize = 512;
/// Most bytes after the setup part: more than that is no kernel with an initrd, and has gaps.
const LARGEST: u64 = 1 << 30;

/// Makes one of an image of the format `elf` and the setup part.
///
/// # Errors
/// When a segment lies below 1 MiB, or the last ends too far above it.
pub(crate) fn build(elf: &[u8], setup: &[u8]) -> Result<Vec<u8>> {
    let kernel = Kernel::parse(elf)?;
    let entry = kernel.pvh_entry()?;
    let end = kernel.physical_end()?;
    let len = end.saturating_sub(LOAD.into());
    if len > LARGEST {
        return Err(Error::TooLarge { end });
    }
    let mut bytes = setup.to_vec();
    bytes.resize(setup.len() + len.next_multiple_of(16) as usize, 0);
    for load in kernel.loads() {
        let paddr = load.p_paddr(LE);
        let Some(at) = paddr.checked_sub(LOAD.into()) else {
            let what = format!("has a segment at {paddr:#x}, which a bzImage cannot have: it is loaded at {LOAD:#x}");
            return Err(Error::BadElf { what });
        };
        let data = load.data(LE, elf).map_err(|()| Error::BadElf { what: "a segment lies outside the file".into() })?;
        let at = setup.len() + at as usize;
        bytes[at..at + data.len()].copy_from_slice(data);
    }
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(field::SETUP_SECTORS, &[(setup.len() / SECTOR - 1) as u8]);
    put(field::SYSTEM_SIZE, &(len.div_ceil(16) as u32).to_le_bytes());
    put(field::INIT_SIZE, &(len as u32).to_le_bytes());
    put(ENTRY, &(entry as u32).to_le_bytes());
    Ok(bytes)
}
