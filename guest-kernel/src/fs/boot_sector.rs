//! Boot sectors of FAT (Microsoft, "FAT: General Overview of On-Disk Format", version 1.03), as far as `fat` needs them: to
//! know one, and to show a file system with large sectors to a library that knows those of 512 bytes only.

/// Bytes of a sector as the library knows it.
const SECTOR: usize = 512;
const BYTES_PER_SECTOR: usize = 11;
const SECTORS_PER_CLUSTER: usize = 13;
const RESERVED: usize = 14;
const ROOT_ENTRIES: usize = 17;
const TOTAL_16: usize = 19;
const FAT_SIZE_16: usize = 22;
const HIDDEN: usize = 28;
const TOTAL_32: usize = 32;
const FAT_SIZE_32: usize = 36;
const INFO: usize = 48;
const BACKUP: usize = 50;
/// Sectors of a cluster at most.
const CLUSTER_MAX: u32 = 128;
/// Bytes of an entry of the root directory.
const ROOT_ENTRY: usize = 32;

/// Whether it is one: it starts with a jump and names its type; a partition table does neither.
pub(super) fn is_fat(sector: &[u8]) -> bool {
    matches!(sector[0], 0xeb | 0xe9) && (&sector[54..57] == b"FAT" || &sector[82..85] == b"FAT")
}

/// Bytes of the file system's sectors, as it says.
pub(super) fn sector_size(boot: &[u8]) -> usize {
    get16(boot, BYTES_PER_SECTOR) as usize
}

/// Makes the boot sector that of the same file system in sectors of 512 bytes: everything in it lies where it lay, counted
/// in smaller units. `None` if that has no numbers for it.
pub(super) fn rescale(boot: &mut [u8; SECTOR]) -> Option<()> {
    let size = sector_size(boot);
    let factor = u32::try_from(size / SECTOR).ok().filter(|factor| factor.is_power_of_two())?;
    let scale16 = |boot: &mut [u8; SECTOR], at: usize| {
        let value = u16::try_from(get16(boot, at).checked_mul(factor)?).ok()?;
        boot[at..at + 2].copy_from_slice(&value.to_le_bytes());
        Some(())
    };
    let scale32 = |boot: &mut [u8; SECTOR], at: usize| {
        let value = get32(boot, at).checked_mul(factor)?;
        boot[at..at + 4].copy_from_slice(&value.to_le_bytes());
        Some(())
    };
    // The root directory is whole sectors of either size.
    if !size.is_multiple_of(SECTOR) || !(get16(boot, ROOT_ENTRIES) as usize * ROOT_ENTRY).is_multiple_of(size) {
        return None;
    }
    let cluster = u32::from(boot[SECTORS_PER_CLUSTER]) * factor;
    if cluster > CLUSTER_MAX {
        return None;
    }
    boot[SECTORS_PER_CLUSTER] = cluster as u8;
    boot[BYTES_PER_SECTOR..BYTES_PER_SECTOR + 2].copy_from_slice(&(SECTOR as u16).to_le_bytes());
    scale16(boot, RESERVED)?;
    // A number that has two fields is in the larger one if the smaller is 0.
    let total = get16(boot, TOTAL_16);
    if total != 0 {
        boot[TOTAL_16..TOTAL_16 + 2].fill(0);
        boot[TOTAL_32..TOTAL_32 + 4].copy_from_slice(&total.to_le_bytes());
    }
    scale32(boot, TOTAL_32)?;
    scale32(boot, HIDDEN)?;
    if get16(boot, FAT_SIZE_16) != 0 {
        return scale16(boot, FAT_SIZE_16);
    }
    scale32(boot, FAT_SIZE_32)?;
    for at in [INFO, BACKUP] {
        // All ones: absent.
        if get16(boot, at) != 0xffff {
            scale16(boot, at)?;
        }
    }
    Some(())
}

fn get16(boot: &[u8], at: usize) -> u32 {
    u32::from(boot[at]) | u32::from(boot[at + 1]) << 8
}

fn get32(boot: &[u8], at: usize) -> u32 {
    get16(boot, at) | get16(boot, at + 2) << 16
}
