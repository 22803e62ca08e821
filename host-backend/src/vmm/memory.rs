//! Guest RAM: which ranges exist for a memory size, and their anonymous mappings.
//!
//! Private anonymous memory, so that a page costs nothing until the guest touches it and `MADV_DONTNEED` gives it back.

use shared_abi::board::{HIGH_RAM, LOW_RAM_END};
use std::io;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// The guest's memory.
pub type GuestRam = GuestMemoryMmap<()>;

/// Least memory of a guest: the boot data lies in the first MiB.
pub const MIN_BYTES: u64 = 2 << 20;
/// Most memory of a guest, whatever the machine has.
pub const MAX_BYTES: u64 = 256 << 30;

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Less than [`MIN_BYTES`].
    #[error("memory of {0} bytes is too small: the least is {min} MiB", min = MIN_BYTES >> 20)]
    TooSmall(u64),
    /// More than the machine or the board can have.
    #[error("memory of {asked} MiB is too large: the most on this machine is {most} MiB")]
    TooLarge {
        /// MiB asked for.
        asked: u64,
        /// MiB that are possible.
        most: u64,
    },
    /// Not a multiple of the page size.
    #[error("memory of {0} bytes is not a multiple of 4096")]
    Unaligned(u64),
    /// The system refused the mapping.
    #[error("map {mib} MiB of guest memory: {source}")]
    Map {
        /// MiB asked for.
        mib: u64,
        /// What the system said.
        source: vm_memory::mmap::FromRangesError,
    },
}

/// The ranges of RAM for a memory size: below the device window, and the rest above 4 GiB.
pub fn ranges(bytes: u64) -> Vec<(GuestAddress, usize)> {
    let low = bytes.min(LOW_RAM_END);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(HIGH_RAM), (bytes - low) as usize));
    }
    ranges
}

/// Checks a memory size against the board's limits and the machine's memory.
///
/// # Errors
/// [`Error::TooSmall`], [`Error::TooLarge`], [`Error::Unaligned`].
pub fn check_size(bytes: u64) -> Result<(), Error> {
    let most = MAX_BYTES.min(machine_memory());
    if bytes < MIN_BYTES {
        Err(Error::TooSmall(bytes))
    } else if bytes > most {
        Err(Error::TooLarge { asked: bytes >> 20, most: most >> 20 })
    } else if !bytes.is_multiple_of(4096) {
        Err(Error::Unaligned(bytes))
    } else {
        Ok(())
    }
}

/// Maps guest memory of a size that [`check_size`] accepts.
///
/// # Errors
/// Those of [`check_size`], and [`Error::Map`].
pub fn map(bytes: u64) -> Result<GuestRam, Error> {
    check_size(bytes)?;
    GuestRam::from_ranges(&ranges(bytes)).map_err(|source| Error::Map { mib: bytes >> 20, source })
}

/// Makes all of guest memory zero again, and gives it back to the system until it is touched.
///
/// # Errors
/// Those of the system.
pub fn clear(memory: &GuestRam) -> io::Result<()> {
    for region in memory.iter() {
        // SAFETY: the region is an anonymous private mapping of this size, to which the host holds no references.
        if unsafe { libc::madvise(region.as_ptr().cast(), region.len() as usize, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn machine_memory() -> u64 {
    // SAFETY: sysconf reads no memory of ours.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGE_SIZE)) };
    match (u64::try_from(pages), u64::try_from(size)) {
        (Ok(pages), Ok(size)) => pages.saturating_mul(size),
        _ => MAX_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_at_the_device_window() {
        assert_eq!(ranges(128 << 20), [(GuestAddress(0), 128 << 20)]);
        assert_eq!(ranges(3 << 30), [(GuestAddress(0), 3 << 30)]);
        assert_eq!(ranges(5 << 30), [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 2 << 30)]);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(matches!(map(0), Err(Error::TooSmall(0))));
        assert!(matches!(map(4096), Err(Error::TooSmall(_))));
        assert!(matches!(map(u64::MAX), Err(Error::TooLarge { .. })));
        assert!(matches!(map(1 << 50), Err(Error::TooLarge { .. })));
        assert!(matches!(map((16 << 20) + 1), Err(Error::Unaligned(_))));
    }
}
